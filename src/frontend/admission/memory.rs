//! The memory that clients can make this frontend hold, counted against one budget each: the connection's, the client
//! id's, and the process's.
//!
//! What is held is said by a [`Hold`], which gives it back when it is dropped. Holds are counted in pages, so that what
//! is small, as nearly everything is, costs no more than a comparison. A connection at its budget or at its client's is
//! not read from. At the process's, those who hold more than a little are not read from; what can be read from the log
//! again gives way ([`Memory::wants_room`]), and where that is not enough the connection that holds most is closed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::event::ClientId;
use crate::frontend::metrics;
use crate::frontend::settings::FrontendSettings;
use crate::util::sync::lock;

/// What is held is counted in these.
const PAGE_BYTES: usize = 4 * 1024;
/// What a connection may hold though the process has no room.
const LITTLE_BYTES: usize = 16 * 1024;
/// The parts of the process's budget that one client id, and one connection, may have.
const CLIENT_PART: usize = 8;
const CONNECTION_PART: usize = 64;
/// How often one that waits for room looks for it.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The budget of the process.
pub(crate) struct Memory {
    bytes_max: usize,
    client_bytes_max: usize,
    connection_bytes_max: usize,
    used: AtomicUsize,
    clients: Mutex<HashMap<ClientId, Weak<AtomicUsize>>>,
    accounts: Mutex<HashMap<u64, Weak<Account>>>,
    tight: Notify,
}

/// What one connection holds.
pub(crate) struct Account {
    memory: Arc<Memory>,
    connection: u64,
    client_id: ClientId,
    client: Arc<AtomicUsize>,
    used: AtomicUsize,
    gives_way: CancellationToken,
}

/// Some bytes that are held, until this is dropped.
pub(crate) struct Hold {
    holder: Holder,
    bytes: usize,
}

enum Holder {
    /// What all connections share.
    Shared(Arc<Memory>),
    Connection(Arc<Account>),
}

impl Memory {
    pub(crate) fn new(settings: &FrontendSettings) -> Arc<Self> {
        let bytes_max = settings.memory_bytes_max;
        // One frame as it came and one as it was understood always have room.
        let connection_bytes_max = (bytes_max / CONNECTION_PART).max(2 * settings.frame_bytes_max);
        Arc::new(Self {
            bytes_max,
            client_bytes_max: (bytes_max / CLIENT_PART).max(connection_bytes_max),
            connection_bytes_max,
            used: AtomicUsize::new(0),
            clients: Mutex::default(),
            accounts: Mutex::default(),
            tight: Notify::new(),
        })
    }

    /// The account of a connection.
    pub(crate) fn account(self: &Arc<Self>, connection: u64, client_id: &ClientId) -> Arc<Account> {
        let mut clients = lock(&self.clients);
        let known = clients.get(client_id).and_then(Weak::upgrade);
        let client = known.unwrap_or_else(|| {
            let client = Arc::new(AtomicUsize::new(0));
            clients.insert(client_id.clone(), Arc::downgrade(&client));
            client
        });
        drop(clients);
        let account = Arc::new(Account {
            memory: self.clone(),
            connection,
            client_id: client_id.clone(),
            client,
            used: AtomicUsize::new(0),
            gives_way: CancellationToken::new(),
        });
        lock(&self.accounts).insert(connection, Arc::downgrade(&account));
        account
    }

    /// To say what all connections share.
    pub(crate) fn shared(self: &Arc<Self>) -> Hold {
        Hold { holder: Holder::Shared(self.clone()), bytes: 0 }
    }

    fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.used() >= self.bytes_max
    }

    /// Whether what can be read from the log again should give way: while a quarter is left.
    pub(crate) fn wants_room(&self) -> bool {
        self.used() >= self.bytes_max / 4 * 3
    }

    /// Whether something of so many bytes may be kept only because it may be asked for again.
    pub(crate) fn may_keep(&self, bytes: usize) -> bool {
        bytes <= self.bytes_max / 4
    }

    /// Has the connection that holds most end, if it is worth it.
    fn dismiss_largest(&self) {
        let accounts: Vec<_> = lock(&self.accounts).values().filter_map(Weak::upgrade).collect();
        let is_there = |account: &&Arc<Account>| !account.gives_way.is_cancelled();
        let largest = accounts.iter().filter(is_there).max_by_key(|account| account.used());
        if let Some(largest) = largest.filter(|largest| largest.used() > LITTLE_BYTES) {
            metrics::count(metrics::MEMORY_CLOSED);
            tracing::warn!(
                connection = largest.connection,
                client = %largest.client_id,
                bytes = largest.used(),
                "the frontend's memory is full; the connection that holds most of it is closed"
            );
            largest.gives_way.cancel();
        }
    }

    /// Makes room whenever there is too little, until told to stop.
    pub(crate) async fn keep_room(self: Arc<Self>, holder: Arc<impl GivesWay>, stop: CancellationToken) {
        while stop.run_until_cancelled(self.tight.notified()).await.is_some() {
            while self.wants_room() && !stop.is_cancelled() {
                let before = self.used();
                holder.give_way(&self).await;
                if self.is_full() {
                    self.dismiss_largest();
                } else if self.used() >= before {
                    break;
                }
                tokio::time::sleep(LOOK_EVERY / 2).await;
            }
            // Not at every page that is held more, where nothing can give way.
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// What holds memory that can be read from the log again.
pub(crate) trait GivesWay: Send + Sync + 'static {
    /// Frees memory until [`Memory::wants_room`] says that there is enough, or nothing is left to free.
    fn give_way(&self, memory: &Memory) -> impl Future<Output = ()> + Send;
}

impl Account {
    /// To say what the connection holds.
    pub(crate) fn hold(self: &Arc<Self>) -> Hold {
        Hold { holder: Holder::Connection(self.clone()), bytes: 0 }
    }

    fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether the connection may not hold more just now.
    pub(crate) fn is_full(&self) -> bool {
        let used = self.used();
        used >= self.memory.connection_bytes_max
            || used > 0 && self.client.load(Ordering::Relaxed) >= self.memory.client_bytes_max
            || used > LITTLE_BYTES && self.memory.is_full()
    }

    /// Whether so many bytes more, which nothing but the client's word frees again, leave half of what the connection and
    /// its client may hold: more of them, and nothing would ever be read again.
    pub(crate) fn has_room_to_keep(&self, bytes: usize) -> bool {
        self.used() + bytes <= self.memory.connection_bytes_max / 2
            && self.client.load(Ordering::Relaxed) + bytes <= self.memory.client_bytes_max / 2
    }

    /// How many bytes more the connection may hold, whatever others hold.
    pub(crate) fn left(&self) -> usize {
        self.memory.connection_bytes_max.saturating_sub(self.used())
    }

    /// Waits until it may hold more. Cancel safe.
    pub(crate) async fn room(&self) {
        while self.is_full() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until it has to end because the process has no room. Cancel safe.
    pub(crate) async fn gives_way(&self) {
        self.gives_way.cancelled().await;
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        lock(&self.memory.accounts).remove(&self.connection);
        let mut clients = lock(&self.memory.clients);
        // The last of its client's: another one would hold the same count.
        if Arc::strong_count(&self.client) == 1 {
            clients.remove(&self.client_id);
        }
    }
}

impl Hold {
    /// Says how many bytes are held now.
    pub(crate) fn set(&mut self, bytes: usize) {
        let bytes = bytes / PAGE_BYTES * PAGE_BYTES;
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes == before {
            return;
        }
        let memory = match &self.holder {
            Holder::Shared(memory) => memory,
            Holder::Connection(account) => {
                for count in [&account.used, &*account.client] {
                    change(count, before, bytes);
                }
                &account.memory
            }
        };
        change(&memory.used, before, bytes);
        metrics::hot().memory_bytes.increment(bytes as f64 - before as f64);
        if bytes > before && memory.wants_room() {
            memory.tight.notify_one();
        }
    }

    /// Waits until its holder may hold more. Cancel safe.
    pub(crate) async fn room(&self) {
        if let Holder::Connection(account) = &self.holder {
            account.room().await;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.set(0);
    }
}

fn change(count: &AtomicUsize, before: usize, now: usize) {
    if now > before {
        count.fetch_add(now - before, Ordering::Relaxed);
    } else {
        count.fetch_sub(before - now, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(bytes_max: usize) -> Arc<Memory> {
        Memory::new(&FrontendSettings {
            memory_bytes_max: bytes_max,
            frame_bytes_max: 16 * 1024,
            ..FrontendSettings::default()
        })
    }

    fn client(id: &str) -> ClientId {
        ClientId::new(id).unwrap()
    }

    #[test]
    fn what_is_held_is_counted_three_times_and_given_back() {
        let memory = memory(64 << 20);
        let account = memory.account(1, &client("a"));
        let mut hold = account.hold();
        hold.set(PAGE_BYTES - 1);
        assert_eq!(memory.used(), 0, "what is small is not counted");
        hold.set(10 * PAGE_BYTES + 5);
        assert_eq!((account.used(), memory.used()), (10 * PAGE_BYTES, 10 * PAGE_BYTES));
        let mut shared = memory.shared();
        shared.set(PAGE_BYTES);
        hold.set(2 * PAGE_BYTES);
        assert_eq!((account.used(), memory.used()), (2 * PAGE_BYTES, 3 * PAGE_BYTES));
        drop((hold, account, shared));
        assert_eq!(memory.used(), 0);
        assert!(lock(&memory.accounts).is_empty() && lock(&memory.clients).is_empty());
    }

    #[test]
    fn what_stays_leaves_half_to_what_comes_and_goes() {
        let memory = memory(64 << 20);
        let accounts: Vec<_> = (0..20).map(|n| memory.account(n, &client("a"))).collect();
        let mut holds: Vec<_> = accounts.iter().map(Account::hold).collect();
        holds[0].set((512 << 10) - PAGE_BYTES);
        assert!(accounts[0].has_room_to_keep(PAGE_BYTES) && !accounts[0].has_room_to_keep(2 * PAGE_BYTES));
        for hold in &mut holds[..8] {
            hold.set(512 << 10);
        }
        assert!(!accounts[9].has_room_to_keep(PAGE_BYTES), "all of its client's");
        assert!(!accounts[9].is_full(), "what comes and goes has room");
        let other = memory.account(99, &client("b"));
        assert!(other.has_room_to_keep(PAGE_BYTES));
    }

    #[test]
    fn a_connection_a_client_and_the_process_each_have_a_budget() {
        let memory = memory(64 << 20);
        let accounts: Vec<_> = (0..10).map(|n| memory.account(n, &client("a"))).collect();
        let mut holds: Vec<_> = accounts.iter().map(Account::hold).collect();
        holds[0].set(1 << 20);
        assert!(accounts[0].is_full() && !accounts[1].is_full());
        for hold in &mut holds {
            hold.set((1 << 20) - PAGE_BYTES);
        }
        assert!(accounts[1].is_full(), "all of its client's");
        let other = memory.account(99, &client("b"));
        let mut of_other = other.hold();
        of_other.set(2 * LITTLE_BYTES);
        assert!(!other.is_full() && !memory.is_full());
        let mut shared = memory.shared();
        shared.set(64 << 20);
        assert!(other.is_full());
        of_other.set(LITTLE_BYTES);
        assert!(!other.is_full(), "who holds little goes on");
        memory.dismiss_largest();
        let ended = accounts.iter().filter(|account| account.gives_way.is_cancelled()).count();
        assert_eq!(ended, 1);
        assert!(!other.gives_way.is_cancelled());
    }
}
