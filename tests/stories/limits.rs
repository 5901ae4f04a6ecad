//! What NATS takes is less than what was configured: said at the start, and told to clients as what it is.

use serde_json::{Value, json};

use crate::harness::cluster::{Cluster, binary};
use crate::harness::nats::NatsServer;
use crate::harness::nats_cluster::NatsCluster;
use crate::harness::process::Process;
use crate::harness::socket::Socket;
use crate::harness::temp_dir;
use crate::harness::v1::V1Client;

/// Two pieces of a snapshot fit, and little more.
const PAYLOAD_MAX: usize = 200 << 10;
const TOO_LARGE: &str = "TOO_LARGE_FOR_LOG";

/// A server whose messages, or whose account, are bounded.
async fn server(max_payload: usize, account: &str) -> NatsServer {
    NatsServer::start_with(|port| {
        format!(
            "listen: \"127.0.0.1:{port}\"\nserver_name: test\nmax_payload: {max_payload}\n\
             jetstream {{ store_dir: $STORE, sync_interval: always }}\n\
             accounts {{ app {{ jetstream: {{ {account} }}, users: [ {{ user: all, password: all }} ] }} }}\n\
             no_auth_user: all\n"
        )
    })
    .await
}

/// A backend whose frontends take larger frames than its NATS takes messages.
async fn cluster(faults: &str) -> Cluster {
    let nats = NatsCluster::of(server(PAYLOAD_MAX, "max_file: 100MB").await);
    let plan = Cluster::start().frontends(0).set("frontend.frame_bytes_max", 4 << 20);
    let mut cluster = plan.set("frontend.bad_requests_max", 100).start_on(nats).await;
    let url = cluster.nats.url();
    cluster.add_frontend_by(&url, faults).await;
    cluster
}

fn set(bytes: usize) -> Value {
    json!({ "type": "set", "payload": { "target": "todo", "value": "x".repeat(bytes) } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_that_can_never_be_stored_is_rejected_with_the_limit_and_its_neighbours_are_not() {
    let mut cluster = cluster("").await;
    let frontend = &mut cluster.frontends[0];
    frontend
        .process
        .line_with("frontend.frame_bytes_max is 4194304, and NATS takes messages of 204800 bytes")
        .await;

    let mut ann = cluster.client(0, "ann").await;
    let drafts = [("before", 10), ("large", PAYLOAD_MAX + 1), ("after", 10), ("huge", 3 << 20), ("last", 10)];
    for (draft, bytes) in drafts {
        ann.submit_as(draft, set(bytes), None).await;
    }
    for (draft, bytes) in drafts {
        if bytes < PAYLOAD_MAX {
            ann.expect_accepted(draft).await;
            continue;
        }
        let errors = ann.expect_rejected(draft, "validation_failed").await;
        assert_eq!(errors[0]["code"], TOO_LARGE);
        let message = errors[0]["message"].as_str().unwrap();
        assert!(message.contains("at most 19") && message.contains("make it smaller"), "{message}");
    }

    let mut bob = V1Client::connect(&cluster.frontends[0].url(), "bob", "project").await;
    let event = |id: &str, bytes| bob.event(id, "note", json!({ "text": "x".repeat(bytes) }));
    let batch = vec![event("b1", 10), event("b2", PAYLOAD_MAX), event("b3", 10)];
    let again = vec![event("b3", 10)];
    let items = bob.results(batch).await;
    let statuses: Vec<_> = items.iter().map(|item| item.status()).collect();
    assert_eq!(statuses, ["committed", "rejected", "not_processed"]);
    assert_eq!(items[1].result["reason"], "validation_failed");
    assert_eq!(items[1].result["errors"][0]["code"], TOO_LARGE);
    assert_eq!(bob.results(again).await[0].status(), "committed");
    assert_eq!(bob.connections.len(), 1, "it was never turned away");
}

/// Each would fit alone. They were sent as one unit of work, and that is one message.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_batch_that_is_too_large_as_a_whole_the_items_that_fit_are_committed() {
    let cluster = cluster("").await;
    let mut socket = Socket::open(&cluster.frontends[0].url()).await.unwrap();
    let message = |kind: &str, payload: Value| {
        json!({ "type": kind, "protocolVersion": "1.0", "msgId": "m", "payload": payload }).to_string()
    };
    let hello = json!({ "token": "any", "clientId": "bob", "projectId": "project" });
    socket.send_text(message("connect", hello)).await.unwrap();
    socket.expect("connected").await;
    let event = |n: usize, bytes: usize| {
        json!({
            "id": format!("e{n}"), "projectId": "project", "partition": "doc", "type": "note", "schemaVersion": 1,
            "payload": { "text": "x".repeat(bytes) }, "meta": { "clientId": "bob", "clientTs": 1 },
        })
    };
    let batch: Vec<Value> = (0..3).map(|n| event(n, PAYLOAD_MAX / 2)).collect();
    socket.send_text(message("submit_events", json!({ "events": batch }))).await.unwrap();
    let answer = socket.expect("submit_events_result").await;
    let results = answer["payload"]["results"].as_array().unwrap();
    let statuses: Vec<_> = results.iter().map(|result| result["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["committed", "rejected", "not_processed"], "{answer}");
    let error = &results[1]["errors"][0];
    assert_eq!(error["code"], "TOO_MANY_ITEMS", "{answer}");
    assert!(error["message"].as_str().unwrap().contains("send fewer events at once"), "{answer}");
    for one in batch {
        socket.send_text(message("submit_events", json!({ "events": [one] }))).await.unwrap();
        let answer = socket.expect("submit_events_result").await;
        assert_eq!(answer["payload"]["results"][0]["status"], "committed", "{answer}");
    }
}

/// Many that fit together by their payloads alone, and not with what else they have.
#[tokio::test(flavor = "multi_thread")]
async fn drafts_with_large_metadata_do_not_go_together_in_a_message_that_is_too_large() {
    let cluster = cluster("").await;
    let mut bob = V1Client::connect(&cluster.frontends[0].url(), "bob", "project").await;
    for n in 0..40 {
        let mut event = bob.event(&format!("e{n}"), "note", json!({}));
        event["meta"]["more"] = "m".repeat(20_000).into();
        bob.submit(vec![event]).await;
    }
    bob.settle().await;
    assert!(bob.batches.iter().flatten().all(|item| item.status() == "committed"));
    assert_eq!((bob.batches.len(), bob.connections.len()), (40, 1));
}

/// A frontend that looks at no size: NATS may take less than it did when the frontend looked.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_larger_than_its_draft_was_is_rejected_by_the_validator() {
    let cluster = cluster("any_size").await;
    let mut ann = cluster.client(0, "ann").await;
    let (mut refused, mut told_to_try_again) = (0, 0);
    for bytes in (PAYLOAD_MAX - 2_000..PAYLOAD_MAX).step_by(100) {
        let draft = format!("of {bytes}");
        ann.submit_as(&draft, set(bytes), None).await;
        let neighbour = format!("after {draft}");
        ann.submit_as(&neighbour, set(bytes % 7), None).await;
        match ann.answer(&draft).await {
            crate::harness::client::Answer::Accepted { .. } => {
                assert_eq!(refused, 0, "a smaller one was refused")
            }
            crate::harness::client::Answer::Rejected { reason, errors } if reason == "validation_failed" => {
                assert_eq!(errors[0]["code"], TOO_LARGE);
                refused += 1;
            }
            // Not even the draft's own message fits.
            crate::harness::client::Answer::Rejected { reason, .. } => {
                assert_eq!(reason, "unavailable");
                told_to_try_again += 1;
            }
        }
        ann.answer(&neighbour).await;
    }
    assert!(refused > 0);
    assert!(told_to_try_again > 0, "the frontend's look at the size makes no difference: the story is none");
    let counted = cluster.validators[0].counter("insieme_rejections_total").await;
    assert!(counted >= f64::from(refused), "{counted} of {refused} by the validator");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_work_with_what_nats_takes_does_not_start_and_says_what_to_do() {
    for (max_payload, account, says) in [
        (
            1 << 20,
            "max_consumers: 10",
            "max_consumers: the NATS account may have 10 consumers of a stream, and nats.slots is 64",
        ),
        (1 << 20, "max_streams: 3", "max_streams: the NATS account may have 3 streams, and 5 are needed"),
        (
            1 << 20,
            "max_mem: 1MB",
            "nats.drafts_bytes_max is 268435456, and the NATS account may hold 1048576 bytes in memory",
        ),
        // Enough for the drafts, and nothing is left for the bucket of slots.
        (
            1 << 20,
            "max_mem: 256MB",
            "max_mem: the NATS account may hold 268435456 bytes in memory, and 272695296 are needed: 268435456 for \
             undecided drafts (nats.drafts_bytes_max), and 4259840 for the bucket SLOTS",
        ),
        (
            1 << 20,
            "max_bytes_required: true",
            "max_bytes_required: the NATS account demands a bound in bytes of every stream",
        ),
        (
            100 << 10,
            "max_file: 1GB",
            "max_payload: NATS takes messages of 102400 bytes, and at least 132096 are needed",
        ),
    ] {
        let server = server(max_payload, account).await;
        let dir = temp_dir();
        let mut command = binary();
        command.args(["bootstrap", "--nats", &server.url()]);
        let mut bootstrap = Process::spawn("bootstrap", command, dir.path());
        assert!(!bootstrap.ended().await.success(), "{account}: {}", bootstrap.output());
        assert!(bootstrap.output().contains(says), "{account}: {}", bootstrap.output());
    }
}

/// What the account lets us have, its server has not: nothing says so before a stream is made.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_memory_is_not_waited_for() {
    let server = NatsServer::start_with(|port| {
        format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: $STORE, sync_interval: always, max_mem: 100MB }}\n"
        )
    })
    .await;
    let dir = temp_dir();
    let mut command = binary();
    command.args(["bootstrap", "--nats", &server.url()]);
    let mut bootstrap = Process::spawn("bootstrap", command, dir.path());
    assert!(!bootstrap.ended().await.success());
    let said = bootstrap.output();
    assert!(said.contains("DRAFTS") && said.contains("max_memory_store"), "{said}");
    assert!(!said.contains("gave up waiting"), "{said}");
}

/// The account was changed after the streams were made.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_does_not_start_when_the_account_has_become_too_small() {
    let mut cluster = cluster("").await;
    cluster.validators[0].process.kill9();
    cluster.nats.servers[0].restart_as(|before| before.replace("max_file: 100MB", "max_consumers: 10")).await;
    let output = cluster.try_run(&["validator"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("max_consumers: the NATS account may have 10"),
        "{said}"
    );
}
