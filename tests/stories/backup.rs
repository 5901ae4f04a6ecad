//! A backup made while clients write, restored into another NATS: every event that was accepted before it began is
//! there under its id, states are the same, and clients go on from where they were.

use serde_json::json;

use crate::harness::cluster::Cluster;
use crate::harness::lossy::LossyProxy;
use crate::harness::proxy::{Proxy, Reset};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_under_load_is_restored_with_every_id() {
    let cluster = Cluster::start().set("validator.snapshot_events_min", 20).await;
    let mut ann = cluster.client(0, "ann").await;
    for n in 0..120 {
        ann.commit("set", json!({ "target": format!("k{}", n % 30), "value": n })).await;
    }
    let accepted = ann.last_event_id.max(120);
    let mut writer = cluster.client(0, "bob").partition("elsewhere").steadfast().await;
    let writing = tokio::spawn(async move {
        for n in 0..400 {
            writer.submit("set", json!({ "target": "n", "value": n })).await;
            writer.settle_to(4).await;
        }
        writer.settle().await;
    });
    let dir = crate::harness::temp_dir();
    let folder = dir.path().join("backup");
    let said = cluster.run(&["backup", folder.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("backed up COMMITTED: ") && said.contains("backed up OBJ_SNAPSHOTS: "), "{said}");
    writing.await.unwrap();
    let twice = cluster.try_run(&["backup", folder.to_str().unwrap()]);
    assert!(!twice.status.success());

    let mut other = Cluster::start().validators(0).frontends(0).await;
    let refused = other.try_run(&["restore", folder.to_str().unwrap()]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("OBJ_SNAPSHOTS is there already"), "{why}");
    let client = async_nats::connect(other.nats.url()).await.unwrap();
    let js = async_nats::jetstream::new(client);
    for stream in ["COMMITTED", "OBJ_SNAPSHOTS", "KV_REVOKED", "KV_RULES"] {
        js.delete_stream(stream).await.unwrap();
    }
    // A backup that is not what was written is not restored.
    let file = folder.join("COMMITTED.tar.s2");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let refused = other.try_run(&["restore", folder.to_str().unwrap()]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("SHA-256"), "{why}");
    std::fs::write(&file, &bytes).unwrap();
    other.run(&["restore", folder.to_str().unwrap()]);
    other.run(&["bootstrap"]);
    other.add_validator("").await;
    other.add_frontend().await;

    let before = cluster.log("default");
    assert_eq!(other.log("default"), before, "every event under its id, and nothing else");
    assert_eq!(other.state_hash("default"), cluster.state_hash("default"));
    let (restored, all) = (other.log("elsewhere"), cluster.log("elsewhere"));
    assert_eq!(restored[..], all[..restored.len()]);
    other.run(&["inspect", "default"]);

    // She comes back with what she has, asks again for what was accepted long ago, and goes on.
    ann.drop_connection();
    ann.move_to(&other.frontends[0].url());
    ann.reconnect().await;
    let again = json!({ "type": "set", "payload": { "target": "k0", "value": 0 } });
    ann.submit_again("draft-1", again).await;
    assert_eq!(ann.expect_accepted("draft-1").await["eventId"], before[0]["eventId"]);
    let next = ann.commit("set", json!({ "target": "more", "value": 1 })).await;
    let next = next["eventId"].as_u64().unwrap();
    assert!(next > accepted);
    ann.caught_up(next).await;
    assert_eq!(ann.replica.hash(), other.state_hash("default").1);
}

/// Makes a backup over a proxy. Whether it says that it is made, the size of the log in it, and what else it says.
fn backed_up_by(nats: &str, fault: &str) -> (bool, u64, String) {
    let dir = crate::harness::temp_dir();
    let folder = dir.path().join("backup");
    let mut command = crate::harness::cluster::binary();
    command.args(["backup", folder.to_str().unwrap(), "--nats", nats]).env("INSIEME_FAULT", fault);
    let output = command.output().unwrap();
    let size = std::fs::metadata(folder.join("COMMITTED.tar.s2")).map_or(0, |file| file.len());
    (output.status.success(), size, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_connection_is_reset_is_no_backup() {
    let (_cluster, port, size) = filled().await;
    // A reset in the middle, in the last piece, and right before the end.
    let proxy = Proxy::start(port).await;
    for after in [size / 2, size - size / 10, size - 1_000, size + 2_000] {
        let resets = proxy.resets();
        proxy.reset(Reset::AfterTold(after));
        let (made, _, why) = backed_up_by(&proxy.url(), "");
        proxy.disarm();
        let is_whole = made && proxy.resets() == resets;
        let is_told = !made && (why.contains("replaced") || why.contains("was lost"));
        assert!(is_whole || is_told, "a reset after {after} bytes of {size}: {made}, {why}");
    }
    assert!(proxy.resets() >= 3, "{} resets", proxy.resets());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_lost_a_piece_is_no_backup() {
    let (_cluster, port, size) = filled().await;
    let proxy = LossyProxy::start(port).await;
    for fault in ["", "believe_pieces"] {
        // The piece's size comes before its number; NATS cuts pieces as it gets to read them.
        proxy.lose(1, &["$JS.SNAPSHOT.ACK.COMMITTED.", ".3 "]);
        let (made, got, why) = backed_up_by(&proxy.url(), fault);
        assert_eq!(proxy.lost(), 1);
        if fault.is_empty() {
            assert!(!made && why.contains("piece 3 was lost"), "{why}");
        } else {
            assert!(made && got < size, "without the check: {made}, {got} bytes of {size}");
        }
    }
}

/// A cluster whose backup has several pieces; the port of its NATS, and the backup's size.
async fn filled() -> (Cluster, u16, u64) {
    let cluster = Cluster::start().await;
    let mut ann = cluster.client(0, "ann").await;
    for n in 0..300 {
        // What does not compress.
        let noise: String = (0..4_000).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect();
        ann.submit("set", json!({ "target": format!("k{n}"), "value": noise })).await;
        ann.settle_to(8).await;
    }
    ann.settle().await;
    assert_eq!(cluster.log("default").len(), 300);
    let port = cluster.nats.url().rsplit(':').next().unwrap().parse().unwrap();
    let (made, size, _) = backed_up_by(&cluster.nats.url(), "");
    assert!(made && size > 500_000, "{size} bytes");
    (cluster, port, size)
}
