//! How many bytes a client id is answered with in a second: `sync` and the state at `connect`, which cost a client a
//! few bytes to ask for. What others commit is not counted: a client cannot help it.
//!
//! An answer is paid for after it was given, so that it may have any size; until it is paid, its client's connections
//! are not read from.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::event::ClientId;
use crate::util::sync::lock;

/// For how many seconds' bytes a client that has been quiet is answered at once.
const SECONDS_AT_ONCE: f64 = 4.0;

/// The allowances of all clients.
pub(crate) struct Outflow {
    /// 0 for no limit.
    bytes_per_second: f64,
    /// When each client that has used any of its allowance will have all of it again.
    whole_at: Mutex<HashMap<ClientId, Instant>>,
}

impl Outflow {
    pub(crate) fn new(bytes_per_second_max: u32) -> Self {
        Self { bytes_per_second: f64::from(bytes_per_second_max), whole_at: Mutex::default() }
    }

    /// A client is answered with so many bytes.
    pub(crate) fn take(&self, client: &ClientId, bytes: usize) {
        if self.bytes_per_second == 0.0 {
            return;
        }
        let now = Instant::now();
        let time = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        let mut whole_at = lock(&self.whole_at);
        let at = whole_at.get(client).copied().unwrap_or(now).max(now) + time;
        whole_at.insert(client.clone(), at);
    }

    /// When the client is answered again; `None` for at once.
    pub(crate) fn not_before(&self, client: &ClientId) -> Option<Instant> {
        let at = lock(&self.whole_at).get(client).copied()?;
        let from = at.checked_sub(Duration::from_secs_f64(SECONDS_AT_ONCE))?;
        (from > Instant::now()).then_some(from)
    }

    /// Forgets clients whose allowance is whole again.
    pub(crate) fn forget_idle(&self) {
        let now = Instant::now();
        let mut whole_at = lock(&self.whole_at);
        whole_at.retain(|_, at| *at > now);
        whole_at.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_is_paid_for_in_time() {
        let (outflow, client) = (Outflow::new(1_000_000), ClientId::new("a").unwrap());
        outflow.take(&client, 3_900_000);
        assert_eq!(outflow.not_before(&client), None);
        outflow.take(&client, 20_000_000);
        let wait = outflow.not_before(&client).unwrap() - Instant::now();
        assert!(wait > Duration::from_secs(19) && wait < Duration::from_secs(20), "{wait:?}");
        assert_eq!(outflow.not_before(&ClientId::new("b").unwrap()), None);
        outflow.forget_idle();
        assert!(outflow.not_before(&client).is_some());

        let unlimited = Outflow::new(0);
        unlimited.take(&client, usize::MAX);
        assert_eq!(unlimited.not_before(&client), None);
    }
}
