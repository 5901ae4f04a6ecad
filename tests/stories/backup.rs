//! A backup made while clients write, restored into another NATS: every event that was accepted before it began is
//! there under its id, states are the same, and clients go on from where they were.

use serde_json::json;

use crate::harness::cluster::Cluster;

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
    for stream in ["COMMITTED", "OBJ_SNAPSHOTS", "KV_REVOKED"] {
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
