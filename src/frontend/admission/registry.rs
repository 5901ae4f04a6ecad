//! The connections that there are, for those who ask about them and those who end them.
//!
//! A connection is on it from the moment that it is known whose it is, before it is told anything, until it
//! ends. What is known is what the connection has anyway; going through all of them costs nothing until
//! somebody asks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::auth::Identity;
use crate::control::{ConnectionFilter, ConnectionPlace, FoundConnection, FoundConnections};
use crate::event::{ClientId, PartitionKey};
use crate::frontend::metrics;
use crate::frontend::net::AddressKey;
use crate::protocol::About;
use crate::util::sync::lock;
use crate::util::time;

/// The connections of a frontend.
#[derive(Default)]
pub(crate) struct ConnectionRegistry {
    pub(super) connections: Mutex<HashMap<u64, ConnectionInfo>>,
}

/// What is known of a connection.
pub(super) struct ConnectionInfo {
    pub(super) identity: Arc<Identity>,
    /// The partitions that it is for: one, unless its client names them.
    pub(super) partitions: Vec<PartitionKey>,
    /// The name of what it speaks.
    dialect: &'static str,
    address: AddressKey,
    pub(super) info: ClientInfo,
    pub(super) since_ms: u64,
    /// When anything was last heard from it.
    pub(super) heard_ms: Arc<AtomicU64>,
    /// Ends it; `None` when that is under way.
    disconnect: Option<oneshot::Sender<DisconnectReason>>,
}

/// Why a connection is to end, whatever it is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DisconnectReason {
    /// An operator closes it, and it is to stay away.
    Closed,
    /// An operator closes it, and it may come again.
    Reconnect,
    /// Its token was revoked.
    Revoked,
    /// Events that it was shown are gone from the log.
    LogWentBack,
    /// Other rules of the application's came in force, which may not let it in.
    OtherRules,
}

impl DisconnectReason {
    /// The name by which metrics and logs call it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reconnect => "reconnect",
            Self::Revoked => "revoked",
            Self::LogWentBack => "log_went_back",
            Self::OtherRules => "other_rules",
        }
    }
}

/// What a client says of itself: in `connect`, and in its upgrade request.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientInfo {
    pub(crate) about: About,
    pub(crate) user_agent: Option<String>,
}

/// A connection's place on the roster, until it is dropped.
pub(crate) struct Registration {
    registry: Arc<ConnectionRegistry>,
    connection: u64,
    heard_ms: Arc<AtomicU64>,
}

/// Where a connection hears that it is to end.
pub(crate) struct Disconnects(oneshot::Receiver<DisconnectReason>);

impl ConnectionRegistry {
    /// Puts a connection on the list.
    pub(crate) fn list(
        self: &Arc<Self>,
        connection: u64,
        identity: &Arc<Identity>,
        partitions: Vec<PartitionKey>,
        dialect: &'static str,
        address: AddressKey,
        info: ClientInfo,
    ) -> (Registration, Disconnects) {
        let (disconnect, dismissed) = oneshot::channel();
        let since_ms = time::now_ms();
        let heard_ms = Arc::new(AtomicU64::new(since_ms));
        let known = ConnectionInfo {
            identity: identity.clone(),
            partitions,
            dialect,
            address,
            info,
            since_ms,
            heard_ms: heard_ms.clone(),
            disconnect: Some(disconnect),
        };
        lock(&self.connections).insert(connection, known);
        (Registration { registry: self.clone(), connection, heard_ms }, Disconnects(dismissed))
    }

    /// Ends every connection that there is a reason for; tells how many.
    pub(crate) fn disconnect(
        &self,
        reason: impl Fn(&Identity, &[PartitionKey]) -> Option<DisconnectReason>,
    ) -> u64 {
        let mut count = 0;
        for known in lock(&self.connections).values_mut() {
            let Some(why) = reason(&known.identity, &known.partitions) else { continue };
            // One that is ending anyway hears nothing, and counts for nothing.
            if known.disconnect.take().is_some_and(|disconnect| disconnect.send(why).is_ok()) {
                metrics::count_by(metrics::DISMISSED, "reason", why.as_str());
                count += 1;
            }
        }
        count
    }

    /// All of them: whose each is, and the partitions that it is for.
    pub(crate) fn all(&self) -> Vec<(u64, Arc<Identity>, Vec<PartitionKey>)> {
        let connections = lock(&self.connections);
        let all = connections.iter();
        all.map(|(connection, known)| (*connection, known.identity.clone(), known.partitions.clone()))
            .collect()
    }

    /// Ends a connection, unless it goes on under another identity by now.
    pub(crate) fn end(&self, connection: u64, of: &Arc<Identity>, why: DisconnectReason) {
        let mut connections = lock(&self.connections);
        let known = connections.get_mut(&connection).filter(|known| Arc::ptr_eq(&known.identity, of));
        let disconnect = known.and_then(|known| known.disconnect.take());
        if disconnect.is_some_and(|disconnect| disconnect.send(why).is_ok()) {
            metrics::count_by(metrics::DISMISSED, "reason", why.as_str());
        }
    }

    /// Finds the connections of the frontend of this name that are asked for, in the order of their places; at
    /// most as many as asked for, and as fit in so many bytes, though always one.
    pub(crate) fn find(
        &self,
        filter: &ConnectionFilter,
        frontend: &str,
        bytes_max: usize,
    ) -> FoundConnections {
        let connections = lock(&self.connections);
        let (mut answer, mut clients) = (FoundConnections::default(), HashSet::new());
        let mut first: BTreeMap<(&ClientId, u64), &ConnectionInfo> = BTreeMap::new();
        for (connection, known) in connections.iter().filter(|(_, known)| known.is_asked_for(filter)) {
            let client = &known.identity.client_id;
            answer.total += 1;
            clients.insert(client);
            if filter.after.as_ref().is_some_and(|after| !is_behind(after, client, frontend, *connection)) {
                continue;
            }
            first.insert((client, *connection), known);
            if first.len() > filter.limit {
                first.pop_last();
                answer.more = true;
            }
        }
        answer.clients = clients.len() as u64;
        let mut bytes = 0;
        for ((_, connection), known) in first {
            let partitions = known.partitions_for(filter);
            bytes += known.cost(partitions);
            if bytes > bytes_max && !answer.found.is_empty() {
                answer.more = true;
                break;
            }
            answer.found.push(known.told(connection, partitions));
        }
        answer
    }
}

/// Whether a connection stands behind a place.
fn is_behind(after: &ConnectionPlace, client: &ClientId, frontend: &str, connection: u64) -> bool {
    (client, frontend, connection) > (&after.client, after.frontend.as_str(), after.connection)
}

impl ConnectionInfo {
    fn is_asked_for(&self, filter: &ConnectionFilter) -> bool {
        filter.partition.as_ref().is_none_or(|partition| self.partitions.contains(partition))
            && filter.client.as_ref().is_none_or(|client| self.identity.client_id == *client)
            && filter.user.as_ref().is_none_or(|user| self.identity.user_id.as_ref() == Some(user))
    }

    /// Roughly how many bytes it takes to tell of it: what a client may choose can be escaped, to six bytes each.
    fn cost(&self, partitions: &[PartitionKey]) -> usize {
        let Identity { client_id, user_id, token_id, .. } = &*self.identity;
        let chosen = std::iter::once(client_id.as_str())
            .chain(partitions.iter().map(PartitionKey::as_str))
            .chain(user_id.as_deref())
            .chain(token_id.as_deref())
            .map(str::len)
            .sum::<usize>();
        // Metadata is JSON already: of that only quotes and line ends are escaped.
        let ClientInfo { about: About { version, metadata }, user_agent } = &self.info;
        let said = version.iter().chain(user_agent).map(String::len).sum::<usize>();
        400 + 6 * (chosen + said) + 2 * metadata.as_ref().map_or(0, String::len)
    }

    /// Its partitions that are told to who asks so: who asks for a partition's connections may not know of others.
    fn partitions_for<'a>(&'a self, filter: &'a ConnectionFilter) -> &'a [PartitionKey] {
        filter.partition.as_ref().map_or(&self.partitions, std::slice::from_ref)
    }

    fn told(&self, connection: u64, partitions: &[PartitionKey]) -> FoundConnection {
        FoundConnection {
            client: self.identity.client_id.clone(),
            connection,
            user: self.identity.user_id.clone(),
            partition: partitions.first().cloned(),
            partitions: partitions.to_vec(),
            dialect: self.dialect.to_owned(),
            address: self.address.to_string(),
            since_ms: self.since_ms,
            token_id: self.identity.token_id.clone(),
            expires_at: self.identity.expires_at,
            version: self.info.about.version.clone(),
            user_agent: self.info.user_agent.clone(),
            metadata: self.info.about.metadata.clone(),
            last_heartbeat_ms: self.heard_ms.load(Ordering::Relaxed),
        }
    }
}

impl Disconnects {
    /// Where nothing is ever heard.
    pub(crate) fn none() -> Self {
        Self(oneshot::channel().1)
    }

    /// Waits until the connection is to end; for ever if it is not. Cancel safe; once it has told, no more.
    pub(crate) async fn next(&mut self) -> DisconnectReason {
        match (&mut self.0).await {
            Ok(why) => why,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Registration {
    /// Something was heard from the client.
    pub(crate) fn heard(&self) {
        self.heard_ms.store(time::now_ms(), Ordering::Relaxed);
    }

    /// The connection is for these partitions from now on.
    pub(crate) fn set_partitions(&self, partitions: Vec<PartitionKey>) {
        if let Some(known) = lock(&self.registry.connections).get_mut(&self.connection) {
            known.partitions = partitions;
        }
    }

    /// The connection goes on under another identity, of the same client.
    pub(crate) fn refresh(&self, identity: &Arc<Identity>) {
        if let Some(known) = lock(&self.registry.connections).get_mut(&self.connection) {
            known.identity = identity.clone();
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut connections = lock(&self.registry.connections);
        connections.remove(&self.connection);
        if connections.capacity() > 1024 && connections.len() < connections.capacity() / 8 {
            let room = 2 * connections.len();
            connections.shrink_to(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn identity(client: &str) -> Arc<Identity> {
        Arc::new(Identity {
            client_id: ClientId::new(client).unwrap(),
            user_id: Some("u".repeat(100)),
            permissions: Vec::new(),
            roles: Vec::new(),
            claims: None,
            partitions: None,
            expires_at: Some(7),
            ends_at: None,
            token_id: None,
            issued_at: None,
        })
    }

    fn partition(name: &str) -> PartitionKey {
        PartitionKey::new(name).unwrap()
    }

    fn registry(of: &[(u64, &str, &str)]) -> (Arc<ConnectionRegistry>, Vec<(Registration, Disconnects)>) {
        let registry = Arc::new(ConnectionRegistry::default());
        let address = AddressKey::of([10, 0, 0, 1].into());
        let listed = of.iter().map(|(number, client, of)| {
            let about = About::new(Some(format!("1.{number}")), Some("{}"));
            let info = ClientInfo { about, user_agent: Some("agent".to_owned()) };
            registry.list(*number, &identity(client), vec![partition(of)], "v1", address, info)
        });
        let listed = listed.collect();
        (registry, listed)
    }

    fn found(answer: &FoundConnections) -> Vec<(String, u64)> {
        answer.found.iter().map(|found| (found.client.as_str().to_owned(), found.connection)).collect()
    }

    #[test]
    fn connections_are_found_in_order_and_page_by_page() {
        let (registry, _listed) =
            registry(&[(1, "b", "p"), (2, "a", "p"), (3, "b", "q"), (4, "a", "p"), (5, "c", "p")]);
        let mut filter = ConnectionFilter { partition: Some(partition("p")), limit: 3, ..Default::default() };
        let first = registry.find(&filter, "f", 1 << 20);
        assert_eq!((first.total, first.clients, first.more), (4, 3, true));
        assert_eq!(found(&first), [("a".into(), 2), ("a".into(), 4), ("b".into(), 1)]);
        let told = &first.found[0];
        assert_eq!(
            (told.dialect.as_str(), told.address.as_str(), told.expires_at),
            ("v1", "10.0.0.1", Some(7))
        );
        let said = [&told.version, &told.user_agent, &told.metadata].map(|said| said.as_deref().unwrap());
        assert_eq!((said, told.last_heartbeat_ms), (["1.2", "agent", "{}"], told.since_ms));
        let after = |frontend: &str, connection| {
            let (client, frontend) = (ClientId::new("a").unwrap(), frontend.to_owned());
            Some(ConnectionPlace { client, frontend, connection })
        };
        filter.after = after("f", 2);
        assert_eq!(
            found(&registry.find(&filter, "f", 1 << 20)),
            [("a".into(), 4), ("b".into(), 1), ("c".into(), 5)]
        );
        // Places are ordered over all frontends.
        filter.after = after("e", 9);
        assert_eq!(registry.find(&filter, "f", 1 << 20).found.len(), 3);
        filter.after = after("g", 1);
        assert_eq!(found(&registry.find(&filter, "f", 1 << 20)), [("b".into(), 1), ("c".into(), 5)]);
        filter.after = None;
        filter.client = Some(ClientId::new("b").unwrap());
        assert_eq!(found(&registry.find(&filter, "f", 1 << 20)), [("b".into(), 1)]);
        filter.user = Some("u".repeat(100));
        assert_eq!(registry.find(&filter, "f", 1 << 20).total, 1);
        filter.user = Some("u".to_owned());
        assert_eq!(registry.find(&filter, "f", 1 << 20).total, 0);
    }

    #[test]
    fn an_answer_has_a_size_and_who_is_gone_is_not_in_it() {
        let (registry, mut listed) = registry(&[(1, "a", "p"), (2, "b", "p"), (3, "c", "p")]);
        let filter = ConnectionFilter { limit: 10, ..Default::default() };
        let small = registry.find(&filter, "f", 1);
        assert_eq!((found(&small), small.more, small.total), (vec![("a".into(), 1)], true, 3));
        listed.remove(0);
        listed[0].0.refresh(&identity("b2"));
        let all = registry.find(&filter, "f", 1 << 20);
        assert_eq!((found(&all), all.more), (vec![("b2".into(), 2), ("c".into(), 3)], false));
    }

    #[tokio::test]
    async fn a_connection_is_dismissed_once_and_hears_why() {
        let (registry, mut listed) = registry(&[(1, "a", "p"), (2, "a", "q"), (3, "b", "p")]);
        let (_gone, dismissals) = listed.remove(1);
        drop(dismissals);
        let is_a = |identity: &Identity, _: &[PartitionKey]| {
            (identity.client_id.as_str() == "a").then_some(DisconnectReason::Reconnect)
        };
        assert_eq!(registry.disconnect(is_a), 1);
        assert_eq!(registry.disconnect(is_a), 0);
        assert_eq!(listed[0].1.next().await, DisconnectReason::Reconnect);
        assert!(listed[1].1.next().now_or_never().is_none());
    }
}
