//! The clients that are connected: the connections of the roster, by client id.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;

use super::registry::{ConnectionInfo, ConnectionRegistry};
use crate::control::{ClientFilter, FoundClient, FoundClients};
use crate::event::ClientId;
use crate::util::sync::lock;

/// The most versions that are told: of a client, and of all.
const VERSIONS_OF_CLIENT_MAX: usize = 8;
const VERSIONS_MAX: usize = 32;

impl ConnectionRegistry {
    /// Finds the clients that are asked for, in the order of their ids; at most as many as asked for, and as fit in so
    /// many bytes, though always one. Goes through all connections.
    pub(crate) fn clients(&self, filter: &ClientFilter, bytes_max: usize) -> FoundClients {
        let connections = lock(&self.connections);
        let mut clients: BTreeMap<&ClientId, Vec<&ConnectionInfo>> = BTreeMap::new();
        let mut versions: HashMap<&str, u64> = HashMap::new();
        let mut answer = FoundClients::default();
        for known in connections.values().filter(|known| is_asked_for(known, filter)) {
            clients.entry(&known.identity.client_id).or_default().push(known);
            *versions.entry(version_of(known)).or_default() += 1;
            answer.connections += 1;
        }
        answer.total = clients.len() as u64;
        answer.versions = versions.into_iter().map(|(version, count)| (version.to_owned(), count)).collect();
        answer.versions.sort_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then(a.cmp(b)));
        answer.versions.truncate(VERSIONS_MAX);
        let mut bytes = 0;
        let is_after = |client: &ClientId| filter.after.as_ref().is_none_or(|after| client > after);
        for (client, of) in clients.into_iter().filter(|(client, _)| is_after(client)) {
            let found = found(client, &of);
            bytes += cost(&found);
            if answer.found.len() >= filter.limit || (bytes > bytes_max && !answer.found.is_empty()) {
                answer.more = true;
                break;
            }
            answer.found.push(found);
        }
        answer
    }
}

fn is_asked_for(known: &ConnectionInfo, filter: &ClientFilter) -> bool {
    filter.partition.as_ref().is_none_or(|partition| known.partitions.contains(partition))
        && filter.version.as_ref().is_none_or(|version| version_of(known) == version)
}

/// The version that a client says it is; empty where it says none.
fn version_of(known: &ConnectionInfo) -> &str {
    known.info.about.version.as_deref().unwrap_or_default()
}

fn found(client: &ClientId, connections: &[&ConnectionInfo]) -> FoundClient {
    let mut versions: Vec<&str> = connections.iter().map(|known| version_of(known)).collect();
    versions.sort_unstable();
    versions.dedup();
    versions.truncate(VERSIONS_OF_CLIENT_MAX);
    FoundClient {
        client: client.clone(),
        user: connections.iter().find_map(|known| known.identity.user_id.clone()),
        connections: connections.len() as u64,
        versions: versions.into_iter().map(str::to_owned).collect(),
        since_ms: connections.iter().map(|known| known.since_ms).min().unwrap_or_default(),
        last_heartbeat_ms: connections
            .iter()
            .map(|known| known.heard_ms.load(Ordering::Relaxed))
            .max()
            .unwrap_or_default(),
    }
}

/// Roughly how many bytes it takes to tell of it: what a client may choose can be escaped, to six bytes each.
fn cost(found: &FoundClient) -> usize {
    let chosen = [found.client.as_str()].into_iter().chain(found.user.as_deref());
    let chosen =
        chosen.chain(found.versions.iter().map(String::as_str)).map(|text| text.len() + 1).sum::<usize>();
    200 + 6 * chosen
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::registry::{ClientInfo, Disconnects, Registration};
    use super::*;
    use crate::auth::Identity;
    use crate::event::PartitionKey;
    use crate::frontend::net::AddressKey;
    use crate::protocol::About;

    fn registry(of: &[(&str, &str, &str)]) -> (Arc<ConnectionRegistry>, Vec<(Registration, Disconnects)>) {
        let registry = Arc::new(ConnectionRegistry::default());
        let listed = (1..).zip(of).map(|(number, (client, partition, version))| {
            let identity = Identity {
                client_id: ClientId::new(*client).unwrap(),
                user_id: None,
                permissions: Vec::new(),
                roles: Vec::new(),
                claims: None,
                partitions: None,
                expires_at: None,
                ends_at: None,
                token_id: None,
                issued_at: None,
            };
            let partition = PartitionKey::new(*partition).unwrap();
            let about = ClientInfo { about: About::new(Some((*version).to_owned()), None), user_agent: None };
            let address = AddressKey::of([10, 0, 0, 1].into());
            registry.list(number, &Arc::new(identity), vec![partition], "classic", address, about)
        });
        let listed = listed.collect();
        (registry, listed)
    }

    fn ids(answer: &FoundClients) -> Vec<&str> {
        answer.found.iter().map(|found| found.client.as_str()).collect()
    }

    #[test]
    fn clients_are_found_in_order_with_what_they_run_and_page_by_page() {
        let (registry, listed) =
            registry(&[("b", "p", "1"), ("a", "p", "2"), ("b", "q", "2"), ("c", "q", "1"), ("b", "p", "2")]);
        listed[2].0.heard();
        let mut filter = ClientFilter { limit: 2, ..ClientFilter::default() };
        let first = registry.clients(&filter, 1 << 20);
        assert_eq!((first.total, first.connections, first.more, ids(&first)), (3, 5, true, vec!["a", "b"]));
        assert_eq!(first.versions, [("2".to_owned(), 3), ("1".to_owned(), 2)]);
        let b = &first.found[1];
        assert_eq!((b.connections, &b.versions), (3, &vec!["1".to_owned(), "2".to_owned()]));
        assert!(b.since_ms > 0 && b.last_heartbeat_ms >= b.since_ms);
        filter.after = Some(ClientId::new("b").unwrap());
        let rest = registry.clients(&filter, 1 << 20);
        assert_eq!((ids(&rest), rest.more, rest.total), (vec!["c"], false, 3));
        filter.after = None;
        filter.partition = Some(PartitionKey::new("q").unwrap());
        assert_eq!(ids(&registry.clients(&filter, 1 << 20)), ["b", "c"]);
        filter.version = Some("1".to_owned());
        assert_eq!(ids(&registry.clients(&filter, 1 << 20)), ["c"]);
        assert_eq!(ids(&registry.clients(&ClientFilter { limit: 9, ..ClientFilter::default() }, 1)), ["a"]);
    }

    #[test]
    fn whatever_versions_clients_claim_only_so_many_are_told() {
        let names: Vec<String> = (0..200).map(|n| n.to_string()).collect();
        let of: Vec<_> = names.iter().map(|version| ("a", "p", version.as_str())).collect();
        let (registry, _listed) = registry(&of);
        let answer = registry.clients(&ClientFilter { limit: 9, ..ClientFilter::default() }, 1 << 20);
        assert_eq!(
            (answer.versions.len(), answer.found[0].versions.len()),
            (VERSIONS_MAX, VERSIONS_OF_CLIENT_MAX)
        );
        assert!(About::new(Some("v".repeat(65)), Some(&" ".repeat(1_025))) == About::default());
    }
}
