//! What is counted is counted by few names, however many clients and partitions there are.

use std::collections::BTreeSet;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::cluster::Cluster;
use crate::harness::process::Process;
use crate::harness::until;

/// The names and labels of what is served; the kinds and explanations are left out.
fn series(text: &str) -> BTreeSet<String> {
    let body = text.split_once("\r\n\r\n").map_or(text, |(_, body)| body);
    let lines = body.lines().filter(|line| line.starts_with("insieme_") || line.starts_with("process_"));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

/// Where a process serves its metrics.
async fn address(process: &mut Process) -> String {
    let line = process.line_with("metrics and health are served").await;
    line.split_once("address=").map_or("", |(_, address)| address.trim()).to_owned()
}

/// What is served there.
async fn served(address: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Everybody comes to a partition of their own, writes something that passes and something that does not,
/// and leaves.
async fn everybody_works(cluster: &Cluster, names: std::ops::Range<usize>) {
    for name in names {
        let mut client =
            cluster.client(0, &format!("somebody-{name}")).partition(&format!("somewhere-{name}")).await;
        let draft = client.submit("set", json!({ "target": "a", "value": name })).await;
        assert!(client.answer(&draft).await.is_accepted());
        let draft = client.submit("set", json!({ "target": "a.__proto__", "value": name })).await;
        assert!(!client.answer(&draft).await.is_accepted());
        client.drop_connection();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_series_does_not_grow_with_clients_and_partitions() {
    let mut cluster =
        Cluster::start().set("metrics.store_look_ms", 100).set("metrics.listen", "127.0.0.1:0").await;
    let validator_at = address(&mut cluster.validators[0].process).await;
    let frontend_at = address(&mut cluster.frontends[0].process).await;
    everybody_works(&cluster, 0..5).await;
    until("the store to be looked at", async || {
        let text = served(&validator_at).await;
        text.contains("insieme_stream_bytes{stream=\"COMMITTED\"}").then_some(())
    })
    .await;
    let (validator, frontend) = (served(&validator_at).await, served(&frontend_at).await);
    let before = (series(&validator), series(&frontend));
    assert!(before.0.len() > 100 && before.1.len() > 100, "{} {}", before.0.len(), before.1.len());
    everybody_works(&cluster, 5..45).await;
    let (validator, frontend) = (served(&validator_at).await, served(&frontend_at).await);
    for (before, after) in [(&before.0, series(&validator)), (&before.1, series(&frontend))] {
        let new: Vec<_> = after.difference(before).collect();
        assert!(new.len() < 40, "{} series more: {new:?}", new.len());
        let named = after.iter().find(|series| series.contains("somebody") || series.contains("somewhere"));
        assert!(named.is_none(), "a series is labelled by who or where: {named:?}");
    }
    // What happened was counted.
    for (text, line) in [
        (&frontend, "insieme_connections_opened_total 45"),
        (&frontend, "insieme_acceptances_sent_total 45"),
        (&frontend, "insieme_stage_duration_seconds_count{stage=\"stored\"} "),
        (&frontend, "insieme_stage_duration_seconds_count{stage=\"seen\"} 45"),
        (&frontend, "insieme_rejections_sent_total{reason=\"validation_failed\"} 45"),
        (&frontend, "insieme_ready 1"),
        (&frontend, "insieme_drafts_pending 0"),
        (&validator, "insieme_events_committed_total 45"),
        (&validator, "insieme_stage_duration_seconds_count{stage=\"decided\"} 90"),
        (&validator, "insieme_draft_queued_duration_seconds_count 90"),
        (&validator, "insieme_slots_configured 64"),
        (&validator, "insieme_nats_connected 1"),
        (&validator, "insieme_store_bytes "),
        (&validator, "process_resident_memory_bytes "),
    ] {
        assert!(text.lines().any(|told| told.starts_with(line)), "{line} is not in {text}");
    }
    assert!(validator.contains("insieme_rejections_total{code="), "{validator}");
}
