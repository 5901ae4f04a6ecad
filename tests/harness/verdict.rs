//! What must be true when clients have written while something died, and all is well again.

use tokio::task::JoinHandle;

use super::client::Client;
use super::cluster::Cluster;

/// Each writer submitted the values from 0 up to `drafts`, one after the other. Every draft was accepted, and is in the
/// log once and in its client's order; everyone was sent all events since it came, and has the state.
pub async fn nothing_lost_nothing_doubled(cluster: &Cluster, writers: Vec<JoinHandle<Client>>, drafts: u64) {
    let mut clients = Vec::new();
    for writer in writers {
        clients.push(writer.await.unwrap());
    }
    for mut client in clients {
        assert_eq!(client.answers.len() as u64, drafts);
        assert!(client.answers.values().all(|answer| answer.is_accepted()), "{:?}", client.answers);
        let log = cluster.log(&client.partition);
        let mine: Vec<u64> = log
            .iter()
            .filter(|event| event["clientId"] == client.id.as_str())
            .map(|event| event["payload"]["value"].as_u64().unwrap())
            .collect();
        assert_eq!(mine, (0..drafts).collect::<Vec<_>>(), "{}'s drafts, each once and in order", client.id);
        client.caught_up(log.last().unwrap()["eventId"].as_u64().unwrap()).await;
        let ids: Vec<u64> = log.iter().map(|event| event["eventId"].as_u64().unwrap()).collect();
        assert_eq!(client.event_ids(), ids[ids.len() - client.events.len()..]);
        assert_eq!(client.replica.hash(), cluster.state_hash(&client.partition).1);
    }
}
