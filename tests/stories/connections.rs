//! Who is connected, over all frontends: asked of them at that moment, whatever has become of some of them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::admin::Operator;
use crate::harness::backend::{Backend, token};
use crate::harness::socket::Socket;
use crate::harness::until;

/// Of each connection its client and its frontend.
fn who(answer: &Value) -> Vec<(String, String)> {
    let connections = answer["connections"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    connections.iter().map(|one| (text(&one["client"]), text(&one["frontend"]))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(client, frontend)| ((*client).to_owned(), (*frontend).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_the_connections_of_a_partition_and_of_a_client_on_all_frontends() {
    let backend = Backend::start().await;
    let ops = backend.operator();
    let ann = backend.client(0, "ann", json!({ "userId": "u-ann", "jti": "t-1" })).await;
    let _ann_too = backend.client(1, "ann", json!({})).await;
    let mut bob = backend.client(1, "bob", json!({})).await;
    let _elsewhere = backend.client(1, "ann", json!({})).partition("else where/é").await;
    let mut cid = backend.v1_socket(0, "cid", &token("cid", json!({}))).await;
    cid.expect("connected").await;

    let all = ops.get("/partitions/default/connections").await.json();
    let expected = pairs(&[("ann", "f0"), ("ann", "f1"), ("bob", "f1"), ("cid", "f0")]);
    assert_eq!(who(&all), expected, "{all}");
    assert_eq!((&all["total"], &all["next"], &all["complete"]), (&json!(4), &Value::Null, &json!(true)));
    let frontends = json!([
        { "id": "f0", "connections": 2, "clients": 2 }, { "id": "f1", "connections": 2, "clients": 2 },
    ]);
    assert_eq!(all["frontends"], frontends);
    let first = &all["connections"][0];
    assert_eq!((&first["user"], &first["tokenId"]), (&json!("u-ann"), &json!("t-1")), "{first}");
    assert_eq!((&first["dialect"], &first["address"]), (&json!("classic"), &json!("127.0.0.1")), "{first}");
    assert_eq!(all["connections"][3]["dialect"], "v1");
    assert!(first["since"].as_u64().unwrap() > 0 && first["expiresAt"].as_u64().unwrap() > 0, "{first}");
    // The number by which the frontend's log lines call it.
    let number = first["connection"].as_str().unwrap();
    assert!(backend.frontends[0].0.output().contains(number), "{number}");

    // Page by page.
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = ops.get(&format!("/partitions/default/connections?limit=1{after}")).await.json();
        seen.extend(who(&page));
        assert_eq!(page["total"], 4);
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(seen, expected);

    // Of a client, wherever it is.
    let of_ann = ops.get("/clients/ann").await.json();
    assert_eq!(who(&of_ann), pairs(&[("ann", "f0"), ("ann", "f1"), ("ann", "f1")]), "{of_ann}");
    assert_eq!(of_ann["connections"][2]["partition"], "else where/é");
    let nobody = ops.get("/clients/no%20body").await.json();
    assert_eq!((&nobody["client"], &nobody["total"]), (&json!("no body"), &json!(0)), "{nobody}");

    // Who has gone is gone.
    drop(ann);
    bob.drop_connection();
    until("two connections to be gone", async || {
        let left = ops.get("/partitions/default/connections").await.json();
        (who(&left) == pairs(&[("ann", "f1"), ("cid", "f0")])).then_some(())
    })
    .await;

    // Whoever may not, does not see them.
    let confined = token("eve", json!({ "permissions": ["admin"], "partition": "default" }));
    let confined = Operator::new(&backend.address, Some(&confined));
    assert_eq!(confined.get("/partitions/default/connections").await.status, 200);
    for path in ["/partitions/other/connections", "/clients/ann", "/processes"] {
        confined.get(path).await.expect_problem(403, "forbidden");
        let client = Operator::new(&backend.address, Some(&token("eve", json!({}))));
        client.get(path).await.expect_problem(403, "forbidden");
    }
    for query in ["after=xyz", "limit=0", "limit=201", "from=1"] {
        let path = format!("/partitions/default/connections?{query}");
        ops.get(&path).await.expect_problem(400, "bad_request");
    }
    ops.get(&format!("/clients/{}", "x".repeat(257))).await.expect_problem(400, "bad_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_which_versions_are_out_there_and_when_each_client_was_last_heard() {
    let backend = Backend::start().await;
    let ops = backend.operator();
    let connect = async |frontend: usize, id: &str, version: &str, metadata: Value| {
        let mut socket = Socket::open(&backend.frontends[frontend].1).await.unwrap();
        let token = token(id, json!({}));
        let said = json!({ "clientId": id, "version": version, "token": token, "metadata": metadata });
        socket.send("connect", said).await.unwrap();
        socket.expect("connected").await;
        socket
    };
    let metadata = json!({ "userAgent": "Firefox", "nested": { "$serde_json::private::RawValue": "{" } });
    let mut ann = connect(0, "ann", "0.0.8", metadata.clone()).await;
    let _ann_too = connect(1, "ann", "0.0.9", json!({ "pad": "x".repeat(1_024) })).await;
    let _bob = connect(1, "bob", &"9".repeat(65), Value::Null).await;
    let mut cid = backend.v1_socket(0, "cid", &token("cid", json!({}))).await;
    cid.expect("connected").await;

    let clients = ops.get("/clients").await.json();
    let ids = |answer: &Value| {
        let clients = answer["clients"].as_array().unwrap_or_else(|| panic!("{answer}"));
        clients.iter().map(|one| one["client"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (ids(&clients), &clients["connections"]),
        (["ann", "bob", "cid"].map(String::from).to_vec(), &json!(4))
    );
    let first = &clients["clients"][0];
    assert_eq!(
        (&first["versions"], &first["connections"]),
        (&json!(["0.0.8", "0.0.9"]), &json!(2)),
        "{first}"
    );
    assert_eq!(first["frontends"].as_array().unwrap().len(), 2);
    let versions = json!([
        // What says none, or more than is kept.
        { "version": "", "connections": 2 },
        { "version": "0.0.8", "connections": 1 },
        { "version": "0.0.9", "connections": 1 },
    ]);
    assert_eq!(
        (&clients["versions"], &clients["complete"], &clients["next"]),
        (&versions, &json!(true), &Value::Null)
    );
    assert_eq!(ids(&ops.get("/clients?version=0.0.8&partition=default").await.json()), ["ann"]);
    let page = ops.get("/clients?limit=2").await.json();
    assert_eq!((ids(&page).len(), &page["next"]), (2, &json!("bob")));
    assert_eq!(ids(&ops.get("/clients?limit=2&after=bob").await.json()), ["cid"]);

    // All connections, with what each said of itself.
    let all = ops.get("/connections").await.json();
    assert_eq!((who(&all).len(), &all["total"]), (4, &json!(4)), "{all}");
    let found = |answer: &Value, client: &str| {
        let connections = answer["connections"].as_array().unwrap();
        connections.iter().find(|one| one["client"] == client).cloned().unwrap()
    };
    let of_ann = found(&all, "ann");
    let said: Value =
        serde_json::from_str(of_ann["metadata"].as_str().unwrap().replace("$serde", "serde").as_str())
            .unwrap();
    assert_eq!((&of_ann["version"], &said["userAgent"]), (&json!("0.0.8"), &json!("Firefox")), "{of_ann}");
    let second = all["connections"].as_array().unwrap().iter().find(|one| one["version"] == "0.0.9").unwrap();
    assert_eq!(second["metadata"], Value::Null, "longer than is kept");
    assert_eq!(found(&all, "bob")["version"], Value::Null, "longer than is kept");

    // Heard of later, whatever it sends.
    let before = of_ann["lastHeartbeat"].as_u64().unwrap();
    assert!(before >= of_ann["since"].as_u64().unwrap(), "{of_ann}");
    until("ann to be heard of", async || {
        ann.expect_alive().await;
        let all = ops.get("/connections").await.json();
        (found(&all, "ann")["lastHeartbeat"].as_u64().unwrap() > before).then_some(())
    })
    .await;

    let confined = token("eve", json!({ "permissions": ["admin"], "partition": "default" }));
    for path in ["/clients", "/connections"] {
        Operator::new(&backend.address, Some(&confined)).get(path).await.expect_problem(403, "forbidden");
    }
    ops.get("/clients?after=").await.expect_problem(400, "bad_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_stands_still_is_named_and_not_waited_for() {
    let mut backend = Backend::start().await;
    let ops = backend.operator();
    let _ann = backend.client(0, "ann", json!({})).await;
    let _bob = backend.client(1, "bob", json!({})).await;
    let ask = async || ops.get("/partitions/default/connections").await.json();
    until("everybody to be there", async || (who(&ask().await).len() == 2).then_some(())).await;

    // Stopped where it stands: it may still come back.
    backend.frontends[1].0.pause();
    let began = Instant::now();
    let answer = ask().await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(who(&answer), pairs(&[("ann", "f0")]), "{answer}");
    assert_eq!((&answer["complete"], &answer["missing"][0]["id"]), (&json!(false), &json!("f1")), "{answer}");
    let seen = ops.get("/processes").await.json();
    let ids = |seen: &Value| {
        let processes = seen["processes"].as_array().unwrap().clone();
        processes.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&seen)[0], "f0", "{seen}");

    // It goes on, and is there again.
    backend.frontends[1].0.resume();
    until("the frontend to be there again", async || {
        let answer = ask().await;
        (answer["complete"] == true && who(&answer).len() == 2).then_some(())
    })
    .await;

    // A new one is asked without anybody being told of it; one that was killed is soon not missed any more, and
    // one that goes in order at once.
    let third = backend.add_frontend().await;
    let _cid = backend.client(third, "cid", json!({})).await;
    until("the third to be seen", async || {
        (who(&ask().await) == pairs(&[("ann", "f0"), ("bob", "f1"), ("cid", "f2")])).then_some(())
    })
    .await;
    backend.frontends[1].0.kill9();
    until("the killed one not to be missed", async || {
        let answer = ask().await;
        (answer["complete"] == true && who(&answer) == pairs(&[("ann", "f0"), ("cid", "f2")])).then_some(())
    })
    .await;
    backend.frontends[0].0.signal(libc::SIGTERM);
    backend.frontends[0].0.ended().await;
    let answer = ask().await;
    assert_eq!((who(&answer), &answer["complete"]), (pairs(&[("cid", "f2")]), &json!(true)), "{answer}");

    // Without NATS nobody can be asked.
    backend.nats.kill9();
    let refused = ops.get("/partitions/default/connections").await;
    refused.expect_problem(503, "unavailable");
    backend.nats.restart().await;
    until("NATS to be back", async || {
        let answer = ops.get("/partitions/default/connections").await;
        (answer.status == 200 && who(&answer.json()) == pairs(&[("cid", "f2")])).then_some(())
    })
    .await;
}
