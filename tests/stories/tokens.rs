//! Who may come in, for how long, and to do what: tokens against real processes, good ones and all the bad
//! ones that somebody might try.

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::harness::cluster::{Cluster, Frontend, Plan, binary};
use crate::harness::key_server::{KeyServer, Mood};
use crate::harness::socket::Socket;
use crate::harness::tokens::{SECRET, TestKey, claims, forged, key_set, now_s, rsa_file, rsa_public_pem};
use crate::harness::{DEADLINE, temp_dir, until};

/// A backend that takes tokens signed with the stories' secret, and the folder that the secret lies in.
fn with_secret() -> (Plan, tempfile::TempDir) {
    let dir = temp_dir();
    let file = dir.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    (Cluster::start().set("auth.secret_file", file.display()), dir)
}

fn secret() -> TestKey {
    TestKey::secret(SECRET)
}

/// Says `connect` and gives the answer.
pub(super) async fn connect(
    frontend: &Frontend,
    client: &str,
    partition: &str,
    token: Option<&str>,
) -> (Socket, Value) {
    let mut socket = Socket::open(&frontend.url()).await.unwrap();
    let mut payload = json!({ "clientId": client, "version": "test", "partition": partition });
    if let Some(token) = token {
        payload["token"] = token.into();
    }
    socket.send("connect", payload).await.unwrap();
    let answer = socket.receive().await.unwrap();
    (socket, answer)
}

async fn connected(frontend: &Frontend, client: &str, token: &str) -> Socket {
    let (socket, answer) = connect(frontend, client, "default", Some(token)).await;
    assert_eq!(answer["type"], "connected", "{answer}");
    socket
}

fn v1(kind: &str, payload: Value) -> String {
    json!({ "type": kind, "protocolVersion": "1.0", "msgId": kind, "payload": payload }).to_string()
}

/// Says `connect` in the v1 dialect and gives the answer.
pub(super) async fn connect_v1(frontend: &Frontend, client: &str, token: &str) -> (Socket, Value) {
    let mut socket = Socket::open(&frontend.url()).await.unwrap();
    let payload = json!({ "clientId": client, "projectId": "default", "token": token });
    socket.send_text(v1("connect", payload)).await.unwrap();
    let answer = socket.receive().await.unwrap();
    (socket, answer)
}

/// Submits one event and gives the answer's kind, and its reason where it has one.
pub(super) async fn submit(socket: &mut Socket, draft: &str, kind: &str, payload: Value) -> (String, String) {
    let event = json!({ "type": kind, "payload": payload });
    let id = socket.send("submit_event", json!({ "draftId": draft, "event": event })).await.unwrap();
    loop {
        let message = socket.receive().await.unwrap();
        if message["replyTo"] == id.as_str() {
            let reason = message["payload"]["reason"].as_str().unwrap_or_default().to_owned();
            return (message["type"].as_str().unwrap().to_owned(), reason);
        }
    }
}

fn set(target: &str) -> Value {
    json!({ "target": target, "value": 1 })
}

/// Every bad token, what is wrong with it, and what is said of it.
#[tokio::test(flavor = "multi_thread")]
async fn every_bad_token_is_refused_in_both_dialects_for_what_is_wrong_with_it() {
    let (plan, _dir) = with_secret();
    let plan = plan.set("auth.issuer", "us").set("auth.audience", "them").set("auth.leeway_s", 2);
    let cluster = plan.await;
    let frontend = &cluster.frontends[0];
    let good = json!({ "iss": "us", "aud": "them" });
    let with = |changes: Value| {
        let mut all = good.clone();
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        secret().token("mallory", all)
    };
    let all = claims("mallory", good.clone());
    let valid = with(json!({}));
    let (head, rest) = valid.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let mut more = all.clone();
    more["partition"] = json!("another");
    let other_body = forged(&json!({}), &more, "").split('.').nth(1).unwrap().to_owned();
    let now = now_s();
    let attacks = [
        ("none at all", String::new(), "missing", "a token is required"),
        ("alg: none", forged(&json!({ "alg": "none" }), &all, ""), "malformed", "cannot be read"),
        ("alg: None", forged(&json!({ "alg": "None" }), &all, ""), "malformed", "cannot be read"),
        ("no signature", format!("{head}.{body}."), "signature", "signature is wrong"),
        ("no third part", format!("{head}.{body}"), "malformed", "cannot be read"),
        ("tampered payload", format!("{head}.{other_body}.{signature}"), "signature", "signature is wrong"),
        (
            "another secret",
            TestKey::secret("another secret than theirs").sign(&all),
            "signature",
            "signature is wrong",
        ),
        ("another algorithm", TestKey::rsa("a").sign(&all), "algorithm", "algorithm is not the key's"),
        (
            "a key of its own",
            forged(&json!({ "alg": "ES256", "jwk": TestKey::ec().jwk() }), &all, signature),
            "algorithm",
            "algorithm is not the key's",
        ),
        (
            "critical header",
            forged(&json!({ "alg": "HS256", "crit": ["b64"], "b64": false }), &all, signature),
            "critical_header",
            "critical",
        ),
        ("expired", with(json!({ "exp": now - 60 })), "expired", "has expired"),
        ("no end", with(json!({ "exp": null })), "missing_claim", "no `exp`"),
        ("an end that is none", with(json!({ "exp": "never" })), "mistyped_claim", "`exp` is not a number"),
        ("not valid yet", with(json!({ "nbf": now + 60 })), "not_yet_valid", "not valid yet"),
        ("wrong audience", with(json!({ "aud": "others" })), "audience", "another audience"),
        ("no audience", with(json!({ "aud": null })), "missing_claim", "no `aud`"),
        ("wrong issuer", with(json!({ "iss": "others" })), "issuer", "another issuer"),
        ("no issuer", with(json!({ "iss": null })), "missing_claim", "no `iss`"),
        ("other client's", with(json!({ "clientId": "alice" })), "other_client", "another client's"),
        ("no client", with(json!({ "clientId": null })), "missing_claim", "no `clientId`"),
        ("client as number", with(json!({ "clientId": 5 })), "mistyped_claim", "`clientId` is not a text"),
        (
            "permissions as text",
            with(json!({ "permissions": "*" })),
            "mistyped_claim",
            "`permissions` is not a list",
        ),
        ("giant", with(json!({ "pad": "x".repeat(9_000) })), "too_long", "longer than 8192 bytes"),
        ("not a token", "Bearer of good news".to_owned(), "malformed", "cannot be read"),
        ("dots", ".".repeat(5000), "malformed", "cannot be read"),
        ("other scripts", "ä.ö.ü".to_owned(), "malformed", "cannot be read"),
    ];
    for (what, token, reason, says) in &attacks {
        let label = format!("reason=\"{reason}\"");
        let before = frontend.metric("insieme_tokens_refused_total", &label).await;
        let (mut socket, answer) = connect(frontend, "mallory", "default", Some(token)).await;
        assert_eq!(answer["payload"]["code"], "auth_failed", "{what}: {answer}");
        let message = answer["payload"]["message"].as_str().unwrap();
        assert!(message.contains(says), "{what}: {message}");
        assert!(token.len() < 20 || !message.contains(token.as_str()), "{what}: {message}");
        assert_eq!(socket.expect_closed().await, 1008, "{what}");
        let (mut socket, answer) = connect_v1(frontend, "mallory", token).await;
        assert_eq!(answer["payload"]["code"], "auth_failed", "{what}: {answer}");
        assert_eq!(answer["payload"]["message"], message, "{what}");
        assert_eq!(socket.expect_closed().await, 1008, "{what}");
        assert_eq!(frontend.metric("insieme_tokens_refused_total", &label).await, before + 2.0, "{what}");
        println!("{what:<22} auth_failed, closed 1008: {message}");
    }
    // The same with nothing wrong gets in, and the answer to the attacks has cost nobody anything.
    connected(frontend, "mallory", &valid).await;
    let logged = frontend.process.output();
    assert!(!logged.contains(signature) && !logged.contains(body), "a token was logged");
    // Each is said once, with its reason.
    for reason in attacks.iter().map(|(_, _, reason, _)| reason) {
        let said = logged.matches(&format!("reason=\"{reason}\"")).count();
        let made = 2 * attacks.iter().filter(|attack| attack.2 == *reason).count();
        assert_eq!(said, made, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_key_is_never_taken_for_a_secret() {
    let dir = temp_dir();
    let file = dir.path().join("public.pem");
    let pem = rsa_public_pem("a");
    std::fs::write(&file, &pem).unwrap();
    let cluster = Cluster::start().set("auth.public_key_file", file.display()).await;
    let frontend = &cluster.frontends[0];
    let confused = TestKey::secret(std::str::from_utf8(&pem).unwrap()).token("mallory", json!({}));
    let trimmed = TestKey::secret(std::str::from_utf8(&pem).unwrap().trim()).token("mallory", json!({}));
    for token in [confused, trimmed, TestKey::rsa("b").token("mallory", json!({}))] {
        let (mut socket, answer) = connect(frontend, "mallory", "default", Some(&token)).await;
        assert_eq!(answer["payload"]["code"], "auth_failed", "{answer}");
        assert_eq!(socket.expect_closed().await, 1008);
    }
    connected(frontend, "alice", &TestKey::rsa("a").token("alice", json!({}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_for_its_partitions_and_read_is_what_coming_in_needs() {
    let (plan, _dir) = with_secret();
    let cluster = plan.await;
    let frontend = &cluster.frontends[0];
    let token = secret().token("ann", json!({ "partition": ["own", "team-*"] }));
    for partition in ["own", "team-", "team-7"] {
        let (_, answer) = connect(frontend, "ann", partition, Some(&token)).await;
        assert_eq!(answer["type"], "connected", "{partition}: {answer}");
    }
    for partition in ["", "default", "owned", "ow", "team", "*", "team-*/../own"] {
        let (mut socket, answer) = connect(frontend, "ann", partition, Some(&token)).await;
        let is_covered = partition.starts_with("team-");
        if is_covered {
            assert_eq!(answer["type"], "connected", "{partition}: {answer}");
            continue;
        }
        assert_eq!(answer["payload"]["code"], "forbidden", "{partition}: {answer}");
        // It may try another one.
        socket
            .send("connect", json!({ "clientId": "ann", "version": "t", "partition": "own" }))
            .await
            .unwrap();
        assert_eq!(socket.receive().await.unwrap()["payload"]["code"], "auth_failed");
    }
    let blind = secret().token("bob", json!({ "permissions": ["set"] }));
    let (_, answer) = connect(frontend, "bob", "default", Some(&blind)).await;
    assert_eq!(answer["payload"]["code"], "forbidden", "{answer}");
    let (mut socket, answer) = connect_v1(frontend, "bob", &blind).await;
    assert_eq!(answer["payload"]["code"], "forbidden", "{answer}");
    assert_eq!(socket.expect_closed().await, 1008);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_permit_what_the_configuration_says_and_only_on_its_targets() {
    let (plan, _dir) = with_secret();
    let roles = r#"{ guest = ["read"], editor = ["read", "set:doc.*", "treePush:list"] }"#;
    let cluster = plan.set("auth.roles", roles).await;
    let frontend = &cluster.frontends[0];
    let token = |client: &str, roles: Value| {
        secret().token(client, json!({ "permissions": null, "roles": roles, "userId": "u" }))
    };
    let mut guest = connected(frontend, "guest", &token("guest", json!(["guest"]))).await;
    let forbidden = ("event_rejected".to_owned(), "forbidden".to_owned());
    let accepted = ("event_accepted".to_owned(), String::new());
    assert_eq!(submit(&mut guest, "1", "set", set("doc.a")).await, forbidden);
    guest.send("sync", json!({ "sinceEventId": 0 })).await.unwrap();
    guest.expect("sync_response").await;

    let mut editor = connected(frontend, "editor", &token("editor", json!(["editor", "unknown"]))).await;
    assert_eq!(submit(&mut editor, "1", "set", set("doc.a")).await, accepted);
    assert_eq!(submit(&mut editor, "2", "set", set("document")).await, forbidden);
    assert_eq!(submit(&mut editor, "3", "unset", json!({ "target": "doc.a" })).await, forbidden);
    let push = json!({ "target": "list", "value": { "id": "x" } });
    assert_ne!(submit(&mut editor, "4", "treePush", push).await, forbidden);
    // The guest may see what it may not do.
    assert_eq!(guest.expect("broadcast").await["payload"]["event"]["userId"], "u");

    let (_, answer) = connect(frontend, "x", "default", Some(&token("x", json!(["unknown"])))).await;
    assert_eq!(answer["payload"]["code"], "forbidden", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_its_token_and_not_before() {
    let (plan, _dir) = with_secret();
    let cluster = plan.set("auth.leeway_s", 1).await;
    let frontend = &cluster.frontends[0];
    let began = Instant::now();
    let exp = now_s() + 2;
    let token = |client: &str| secret().token(client, json!({ "exp": exp }));
    let mut classic = connected(frontend, "ann", &token("ann")).await;
    let (mut published, answer) = connect_v1(frontend, "bob", &token("bob")).await;
    assert_eq!(answer["type"], "connected", "{answer}");
    for socket in [&mut classic, &mut published] {
        let message = socket.receive().await.unwrap();
        assert_eq!(message["type"], "error", "{message}");
        assert_eq!(message["payload"]["code"], "auth_failed", "{message}");
        assert_eq!(message["payload"]["message"], "the token has expired");
        assert_eq!(socket.expect_closed().await, 1008);
    }
    // A whole second of the two may have passed already; the leeway is on top.
    assert!(now_s() > exp, "closed before the token's end and the leeway");
    assert!(began.elapsed().as_secs() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_floods_does_not_outlive_its_token() {
    let (plan, _dir) = with_secret();
    let cluster = plan.set("auth.leeway_s", 0).await;
    let frontend = &cluster.frontends[0];
    let mut socket = connected(frontend, "ann", &secret().token("ann", json!({ "exp": now_s() + 2 }))).await;
    let closed = async {
        loop {
            for _ in 0..50 {
                if socket.send("heartbeat", json!({})).await.is_err() {
                    return;
                }
            }
            while let Some(received) = socket.try_receive() {
                match received {
                    Ok(message) if message["type"] == "heartbeat" => {}
                    Ok(message) => assert_eq!(message["payload"]["code"], "auth_failed", "{message}"),
                    Err(_) => return,
                }
            }
        }
    };
    timeout(DEADLINE, closed).await.expect("the connection goes on without a good token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_token_keeps_a_connection_and_changes_what_it_may_do() {
    let (plan, _dir) = with_secret();
    let cluster = plan.set("auth.leeway_s", 0).await;
    let frontend = &cluster.frontends[0];
    let short = |changes: Value| {
        let mut all = json!({ "exp": now_s() + 3, "userId": "u" });
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        secret().token("ann", all)
    };
    let long = now_s() + 600;
    let mut socket = connected(frontend, "ann", &short(json!({ "permissions": ["read"] }))).await;
    let (mut published, _) = connect_v1(frontend, "ann", &short(json!({}))).await;
    assert_eq!(submit(&mut socket, "1", "set", set("a")).await.1, "forbidden");
    let fresh = short(json!({ "exp": long }));
    let id = socket.send("refresh_token", json!({ "token": fresh })).await.unwrap();
    let refreshed = socket.expect("token_refreshed").await;
    assert_eq!(refreshed["replyTo"], id);
    assert_eq!(refreshed["payload"], json!({ "exp": long }));
    published.send_text(v1("refresh_token", json!({ "token": fresh }))).await.unwrap();
    let refreshed = published.expect("token_refreshed").await;
    assert_eq!(
        (&refreshed["msgId"], &refreshed["payload"]),
        (&json!("refresh_token"), &json!({ "exp": long }))
    );
    published.send_text(v1("refresh_token", json!({}))).await.unwrap();
    published.expect_error("bad_request").await;

    // What it may do is new; and the old token's end passes without a word.
    assert_eq!(submit(&mut socket, "1", "set", set("a")).await.0, "event_accepted");
    tokio::time::sleep_until(Instant::now() + std::time::Duration::from_secs(4)).await;
    assert_eq!(submit(&mut socket, "2", "set", set("b")).await.0, "event_accepted");
    published.expect("event_broadcast").await;

    // Less than before is taken too.
    let less = secret().token("ann", json!({ "permissions": ["read"], "exp": long }));
    socket.send("refresh_token", json!({ "token": less })).await.unwrap();
    loop {
        let message = socket.receive().await.unwrap();
        if message["type"] == "token_refreshed" {
            break;
        }
        assert_eq!(message["type"], "broadcast", "{message}");
    }
    assert_eq!(submit(&mut socket, "3", "set", set("c")).await.1, "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_token_that_is_not_good_ends_the_connection() {
    let (plan, _dir) = with_secret();
    let cluster = plan.await;
    let frontend = &cluster.frontends[0];
    let cases = [
        (secret().token("bob", json!({})), "auth_failed", "another client's"),
        (secret().token("ann", json!({ "userId": "eve" })), "auth_failed", "another user's"),
        (secret().token("ann", json!({ "exp": now_s() - 60 })), "auth_failed", "expired"),
        (TestKey::secret("another secret than theirs").token("ann", json!({})), "auth_failed", "signature"),
        (secret().token("ann", json!({ "permissions": ["set"] })), "forbidden", "does not permit"),
        (secret().token("ann", json!({ "partition": "another" })), "forbidden", "does not permit"),
    ];
    for (token, code, says) in cases {
        let good = secret().token("ann", json!({ "userId": "ann" }));
        let mut socket = connected(frontend, "ann", &good).await;
        let id = socket.send("refresh_token", json!({ "token": token })).await.unwrap();
        let message = socket.expect_error(code).await;
        assert_eq!(message["replyTo"], id);
        assert!(message["payload"]["message"].as_str().unwrap().contains(says), "{message}");
        assert_eq!(socket.expect_closed().await, 1008);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_made_on_the_command_line_opens_the_door() {
    let (plan, dir) = with_secret();
    let cluster = plan.set("auth.audience", "dev").await;
    let frontend = &cluster.frontends[0];
    let secret_file = dir.path().join("secret");
    let make = |arguments: &[&str]| {
        let output = binary().arg("token").args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (String::from_utf8(output.stdout).unwrap().trim().to_owned(), output.status.success(), said)
    };
    let secret_file = secret_file.to_str().unwrap();
    let settings = format!("auth.secret_file={secret_file}");
    let configured = ["--set", &settings, "--set", "auth.audience=dev"];
    let (token, made, said) =
        make(&[&configured[..], &["--client", "me", "--permission", "read,set:a.*"]].concat());
    assert!(made, "{said}");
    let mut socket = connected(frontend, "me", &token).await;
    assert_eq!(submit(&mut socket, "1", "set", set("a.b")).await.0, "event_accepted");
    assert_eq!(submit(&mut socket, "2", "set", set("b")).await.1, "forbidden");

    let given = [
        "--secret-file",
        secret_file,
        "--audience",
        "dev",
        "--client",
        "me",
        "--permission",
        "*",
        "--lifetime",
    ];
    let (token, ..) = make(&[&given[..], &["5m", "--partition", "p-*", "--id", "t-1"]].concat());
    assert_eq!(connect(frontend, "me", "p-1", Some(&token)).await.1["type"], "connected");
    assert_eq!(connect(frontend, "me", "q", Some(&token)).await.1["payload"]["code"], "forbidden");
    let (early, ..) = make(&[&given[..], &["5m", "--not-before", "2m"]].concat());
    let (_, answer) = connect(frontend, "me", "p", Some(&early)).await;
    assert!(answer["payload"]["message"].as_str().unwrap().contains("not valid yet"), "{answer}");

    let rsa = rsa_file("a");
    let rsa_public = rsa_file("a.pub");
    let nonsense: [(&[&str], &str); 10] = [
        (&["--client", "me", "--permission", "read"], "--secret-file"),
        (&["--client", "me", "--secret-file", secret_file], "at least --permission read"),
        (&["--client", "", "--secret-file", secret_file, "--permission", "read"], "--client"),
        (&["--client", "me", "--secret-file", "/nowhere", "--permission", "read"], "/nowhere"),
        (&["--client", "me", "--key-file", secret_file, "--permission", "read"], "not a private key"),
        (
            &["--client", "me", "--key-file", rsa_public.to_str().unwrap(), "--permission", "read"],
            "not a private",
        ),
        (&["--client", "me", "--secret-file", secret_file, "--permission", "set:"], "no target"),
        (&["--client", "me", "--secret-file", secret_file, "--permission", "read", "--lifetime", "9"], "90m"),
        (&["--client", "me", "--secret-file", secret_file, "--role", "a", "--partition", "*a"], "at the end"),
        (
            &["--client", "me", "--secret-file", secret_file, "--role", "a", "--not-before", "2h"],
            "not before the token's end",
        ),
    ];
    for (arguments, says) in nonsense {
        let (token, made, said) = make(arguments);
        assert!(!made && token.is_empty() && said.contains(says), "{arguments:?}: {said}");
    }
    let with_key = ["--client", "me", "--key-file", rsa.to_str().unwrap(), "--permission", "read"];
    let (token, made, _) = make(&with_key);
    assert!(made && token.split('.').count() == 3);
}

/// A backend that takes the keys from there. A look is asked for by an unknown key, or comes late.
fn with_url(server: &KeyServer) -> Plan {
    Cluster::start()
        .set("auth.jwks_url", &server.url)
        .set("auth.jwks_refresh_s", 3600)
        .set("auth.jwks_retry_s", 1)
        .set("auth.jwks_timeout_ms", 2000)
}

/// The code with which a token is refused, or none.
async fn refused(frontend: &Frontend, token: &str) -> Option<String> {
    let (_, answer) = connect(frontend, "ann", "default", Some(token)).await;
    answer["payload"]["code"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_in_a_published_set_checks_the_tokens_of_its_name_and_no_others() {
    let (rsa, ec, ed) = (TestKey::rsa("a").named("r"), TestKey::ec().named("e"), TestKey::ed().named("d"));
    let shared = TestKey::secret("a secret that is published").named("s");
    let mut for_secrecy = TestKey::rsa("b").named("x").jwk();
    for_secrecy["use"] = "enc".into();
    let mut set: Value = serde_json::from_str(&key_set(&[&rsa, &ec, &ed, &shared])).unwrap();
    set["keys"].as_array_mut().unwrap().push(for_secrecy);
    let server = KeyServer::start(Mood::Set(set.to_string())).await;
    let cluster = with_url(&server).await;
    let frontend = &cluster.frontends[0];
    for key in [&rsa, &ec, &ed] {
        connected(frontend, "ann", &key.token("ann", json!({}))).await;
    }
    let all = claims("ann", json!({}));
    let public = set["keys"][0]["n"].as_str().unwrap();
    let attacks = [
        ("a key for another use", TestKey::rsa("b").named("x").sign(&all), "not known"),
        ("a secret that was published", shared.sign(&all), "not known"),
        ("another key's name", TestKey::ec().named("r").sign(&all), "algorithm is not the key's"),
        ("another key under the name", TestKey::ec().named("e").sign(&all), "signature is wrong"),
        (
            "a public key as a secret",
            TestKey::secret(public).named("r").sign(&all),
            "algorithm is not the key's",
        ),
        ("an unknown name", TestKey::rsa("a").named("new").sign(&all), "not known"),
        ("no name, secret", TestKey::secret(SECRET).sign(&all), "algorithm is not the key's"),
        ("a giant name", TestKey::rsa("a").named(&"k".repeat(3000)).sign(&all), "not known"),
        ("a name for the file system", TestKey::rsa("b").named("../../e").sign(&all), "not known"),
        ("alg: none", forged(&json!({ "alg": "none", "kid": "r" }), &all, ""), "cannot be read"),
        (
            "keys from elsewhere",
            forged(&json!({ "alg": "RS256", "kid": "n", "jku": "http://127.0.0.1:1/" }), &all, "AA"),
            "not known",
        ),
    ];
    for (what, token, says) in attacks {
        let (mut socket, answer) = connect(frontend, "ann", "default", Some(&token)).await;
        assert_eq!(answer["payload"]["code"], "auth_failed", "{what}: {answer}");
        let message = answer["payload"]["message"].as_str().unwrap();
        assert!(message.contains(says), "{what}: {message}");
        assert_eq!(socket.expect_closed().await, 1008, "{what}");
        println!("{what:<28} auth_failed, closed 1008: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_while_clients_go_on() {
    let (old, new) = (TestKey::rsa("a").named("old"), TestKey::ec().named("new"));
    let server = KeyServer::start(Mood::Set(key_set(&[&old]))).await;
    let cluster = with_url(&server).await;
    let frontend = &cluster.frontends[0];
    let mut client = cluster.client(0, "ann").token(old.token("ann", json!({}))).await;
    client.commit("set", set("before")).await;

    // The issuer adds a key; a token that names it makes the frontend fetch, at once.
    server.change(Mood::Set(key_set(&[&old, &new])));
    until("a token of the new key to be taken", async || {
        refused(frontend, &new.token("ann", json!({}))).await.is_none().then_some(())
    })
    .await;
    client.commit("set", set("between")).await;
    // A client that is connected changes over without a break.
    client.send("refresh_token", json!({ "token": new.token("ann", json!({})) })).await;
    while client.step().await["type"] != "token_refreshed" {}

    // The issuer takes the old one away; that is seen at the next fetch.
    server.change(Mood::Set(key_set(&[&new])));
    until("a token of the old key to be refused", async || {
        refused(frontend, &TestKey::ec().named("unknown").token("ann", json!({}))).await;
        refused(frontend, &old.token("ann", json!({}))).await.map(|code| assert_eq!(code, "auth_failed"))
    })
    .await;
    client.commit("set", set("after")).await;
    assert_eq!(client.connections, 1);
    assert_eq!(frontend.metric("insieme_keys_in_force", "").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_in_trouble_changes_nothing_for_the_keys_that_there_are() {
    let (known, other) = (TestKey::ec().named("known"), TestKey::ec().named("other"));
    let server = KeyServer::start(Mood::Set(key_set(&[&known]))).await;
    let elsewhere = KeyServer::start(Mood::Set(key_set(&[&other]))).await;
    let cluster = with_url(&server).set("auth.jwks_timeout_ms", 500).await;
    let frontend = &cluster.frontends[0];
    let (good, unknown) = (known.token("ann", json!({})), other.token("ann", json!({})));
    assert_eq!(refused(frontend, &good).await, None);
    let moods = [
        ("an error", Mood::Status("500 Internal Server Error", key_set(&[&other]))),
        (
            "elsewhere",
            Mood::Status(
                Box::leak(format!("302 Found\r\nlocation: {}", elsewhere.url).into_boxed_str()),
                String::new(),
            ),
        ),
        ("no set", Mood::Set("<html>come back later</html>".to_owned())),
        ("an empty set", Mood::Set(r#"{"keys":[]}"#.to_owned())),
        ("a set without end", Mood::Endless),
        ("silence", Mood::Silent),
    ];
    for (what, mood) in moods {
        let failures = frontend.metric("insieme_key_looks_total", "failed").await;
        server.change(mood);
        // As long as the issuer cannot be asked, nobody knows whether the token is good.
        until("a look that fails", async || {
            let code = refused(frontend, &unknown).await;
            assert!(matches!(code.as_deref(), Some("auth_failed" | "unavailable")), "{what}: {code:?}");
            let failed = frontend.metric("insieme_key_looks_total", "failed").await > failures;
            (failed && code.as_deref() == Some("unavailable")).then_some(())
        })
        .await;
        assert_eq!(refused(frontend, &good).await, None, "{what}");
        let (mut socket, answer) = connect_v1(frontend, "ann", &unknown).await;
        assert_eq!(answer["payload"]["code"], "server_error", "{what}: {answer}");
        assert_eq!(socket.expect_closed().await, 1013, "{what}");
    }
    assert_eq!(elsewhere.asked(), 0, "a redirect was followed");
    assert!(frontend.process.output().contains("the keys for tokens cannot be had"));
    // When the issuer is well again, so are we, by ourselves.
    server.change(Mood::Set(key_set(&[&known, &other])));
    until("a token of the new key", async || refused(frontend, &unknown).await.is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_do_not_make_a_frontend_ask_more_often_than_it_may() {
    let known = TestKey::ec().named("known");
    let server = KeyServer::start(Mood::Set(key_set(&[&known]))).await;
    let cluster = with_url(&server).set("auth.jwks_retry_s", 3600).await;
    let frontend = &cluster.frontends[0];
    assert_eq!(refused(frontend, &known.token("ann", json!({}))).await, None);
    for n in 0..40 {
        let token = TestKey::ec().named(&format!("guess-{n}")).token("ann", json!({}));
        assert_eq!(refused(frontend, &token).await.as_deref(), Some("auth_failed"));
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_without_keys_yet_is_not_ready_and_says_so_to_clients() {
    let key = TestKey::ec().named("k");
    let server = KeyServer::start(Mood::Status("503 Service Unavailable", String::new())).await;
    let cluster = with_url(&server).await;
    let frontend = &cluster.frontends[0];
    let (mut socket, answer) = connect(frontend, "ann", "default", Some(&key.token("ann", json!({})))).await;
    assert_eq!(answer["payload"]["code"], "unavailable", "{answer}");
    let ready = frontend.url().replace("ws://", "http://").replace("/ws", "/readyz");
    let is_ready = || binary().args(["health", &ready]).output().unwrap().status.success();
    assert!(!is_ready());
    // What is wrong with a token whatever the keys is said all the same.
    assert_eq!(refused(frontend, "no token").await.as_deref(), Some("auth_failed"));
    server.change(Mood::Set(key_set(&[&key])));
    until("the frontend to be ready", async || is_ready().then_some(())).await;
    // On the connection that had to wait.
    let payload = json!({ "clientId": "ann", "version": "t", "token": key.token("ann", json!({})) });
    socket.send("connect", payload).await.unwrap();
    socket.expect("connected").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_over_tls_only_from_whom_the_configured_authority_vouches_for() {
    let key = TestKey::ec().named("k");
    let (honest, impostor) =
        (KeyServer::start_tls(Mood::Set(key_set(&[&key]))).await, KeyServer::start_tls(Mood::Silent).await);
    let dir = temp_dir();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, honest.ca_pem.as_ref().unwrap()).unwrap();
    let cluster = with_url(&honest).set("auth.jwks_ca_file", ca_file.display()).await;
    assert_eq!(refused(&cluster.frontends[0], &key.token("ann", json!({}))).await, None);
    let cluster = with_url(&impostor).set("auth.jwks_ca_file", ca_file.display()).await;
    let code = refused(&cluster.frontends[0], &key.token("ann", json!({}))).await;
    assert_eq!(code.as_deref(), Some("unavailable"));
    assert_eq!(impostor.asked(), 0);
    assert!(cluster.frontends[0].process.output().contains("certificate"), "the reason is not told");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_keys_are_taken_when_they_change_and_not_when_they_are_broken() {
    let (old, new) = (TestKey::ec().named("old"), TestKey::ed().named("new"));
    let shared = TestKey::secret("a secret in a file of our own").named("shared");
    let dir = temp_dir();
    let file = dir.path().join("keys.json");
    std::fs::write(&file, key_set(&[&old])).unwrap();
    let cluster = Cluster::start().set("auth.jwks_file", file.display()).set("auth.keys_poll_ms", 100).await;
    let frontend = &cluster.frontends[0];
    let mut client = cluster.client(0, "ann").token(old.token("ann", json!({}))).await;
    std::fs::write(&file, "{\"keys\":[").unwrap();
    frontend_says(frontend, "the keys for tokens cannot be had").await;
    assert_eq!(refused(frontend, &old.token("ann", json!({}))).await, None);
    std::fs::write(&file, key_set(&[&new, &shared])).unwrap();
    until("the new keys to be taken", async || {
        refused(frontend, &new.token("ann", json!({}))).await.is_none().then_some(())
    })
    .await;
    assert_eq!(refused(frontend, &shared.token("ann", json!({}))).await, None);
    assert_eq!(refused(frontend, &old.token("ann", json!({}))).await.as_deref(), Some("auth_failed"));
    client.commit("set", set("still")).await;
    // A file that goes away takes nobody's key away either.
    std::fs::remove_file(&file).unwrap();
    until("the missing file to be noticed", async || {
        frontend.process.output().contains("No such file").then_some(())
    })
    .await;
    assert_eq!(refused(frontend, &new.token("ann", json!({}))).await, None);
}

async fn frontend_says(frontend: &Frontend, text: &str) {
    until(text, async || frontend.process.output().contains(text).then_some(())).await;
}

#[test]
fn what_cannot_be_a_source_of_keys_is_told_at_the_start() {
    let dir = temp_dir();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let private = std::fs::read_to_string(rsa_file("a")).unwrap();
    let cases = [
        (vec![format!("auth.secret_file={}", file("short", "short"))], "at least 16 bytes"),
        (vec![format!("auth.public_key_file={}", file("private", &private))], "this is a private key"),
        (vec![format!("auth.jwks_file={}", file("empty", r#"{"keys":[]}"#))], "it is empty"),
        (
            vec![format!("auth.jwks_file={}", file("none", r#"{"keys":[{"kty":"new"}]}"#))],
            "no key of the set",
        ),
        (vec!["auth.jwks_file=/nowhere/at/all".to_owned()], "/nowhere/at/all: No such file"),
        (vec!["auth.jwks_url=http://issuer.example/keys".to_owned()], "only from this machine"),
        (vec!["auth.jwks_url=https://a:b@issuer.example/keys".to_owned()], "user or password"),
        (
            vec!["auth.jwks_url=https://issuer.example/".to_owned(), "auth.secret_file=x".to_owned()],
            "auth.secret_file and auth.jwks_url exclude each other",
        ),
        (vec!["auth.jwks_ca_file=/x".to_owned()], "no auth.jwks_url that it could be for"),
        (vec!["auth.leeway_s=86400".to_owned()], "auth.leeway_s: at most 600"),
        (vec!["auth.jwks_retry_s=0".to_owned()], "auth.jwks_retry_s: at least 1"),
        (
            vec![r#"auth.roles={ editor = ["set:"] }"#.to_owned()],
            "auth.roles: editor: \"set:\" is no permission",
        ),
    ];
    for (settings, says) in cases {
        let mut command = binary();
        command.arg("check-config");
        for setting in &settings {
            command.arg("--set").arg(setting);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(says), "{settings:?}: {said}");
        assert!(!said.contains("a:b@"), "{said}");
    }
}
