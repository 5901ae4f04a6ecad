//! Copies that come late: published before another copy of the same drafts, and stored behind it.
//!
//! A frontend publishes one thing at a time, and again what it does not know to be stored; so the queue has its
//! publishes in order, except where one overtakes another on the way, over two connections or routes. Of the
//! two the later one counts, since the frontend believes the rejections of the latest only: the earlier
//! one, decided behind it, could commit what the client was told is rejected.

use lru::LruCache;

use crate::event::ReplyTo;

/// How many connections a validator remembers the latest publish of; some 100 bytes each.
const CONNECTIONS_MAX: usize = 65_536;
/// Of how many frontends; each start of one is another.
const FRONTENDS_MAX: usize = 4096;

/// The latest publish of each connection that this validator has had drafts of, under whichever ownership.
///
/// What another validator has taken before it is not known here: a copy that is overtaken by a later one *and*
/// stored only after the slot has changed hands is decided all the same.
pub(crate) struct StalePublishFilter {
    /// Frontends by name, so that a connection is two numbers.
    frontends: LruCache<String, u64>,
    next_frontend: u64,
    latest: LruCache<(u64, u64), u64>,
}

impl StalePublishFilter {
    pub(crate) fn new() -> Self {
        // It grows with what it holds: most validators see few connections.
        Self { frontends: LruCache::unbounded(), next_frontend: 0, latest: LruCache::unbounded() }
    }

    /// Whether a later publish of the same connection was taken already.
    pub(crate) fn is_stale(&mut self, reply_to: &ReplyTo) -> bool {
        if reply_to.publish == 0 {
            return false;
        }
        let frontend = match self.frontends.get(&reply_to.frontend) {
            Some(frontend) => *frontend,
            None => {
                self.next_frontend += 1;
                self.frontends.put(reply_to.frontend.clone(), self.next_frontend);
                if self.frontends.len() > FRONTENDS_MAX {
                    self.frontends.pop_lru();
                }
                self.next_frontend
            }
        };
        let latest = self.latest.get_or_insert_mut((frontend, reply_to.connection), || 0);
        let late = reply_to.publish < *latest;
        *latest = reply_to.publish.max(*latest);
        if self.latest.len() > CONNECTIONS_MAX {
            self.latest.pop_lru();
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;

    fn from(frontend: &str, connection: u64, publish: u64) -> ReplyTo {
        let (submission, attempt, since) = (1, 1, EventId::NONE);
        let frontend = frontend.to_owned();
        ReplyTo { frontend, connection, submission, attempt, since, publish, storable_until: None }
    }

    #[test]
    fn what_was_overtaken_by_a_later_publish_of_its_connection_is_late() {
        let mut stale_publishes = StalePublishFilter::new();
        assert!(!stale_publishes.is_stale(&from("a", 1, 2)));
        assert!(stale_publishes.is_stale(&from("a", 1, 1)));
        assert!(!stale_publishes.is_stale(&from("a", 1, 2)), "the same one again is not");
        assert!(!stale_publishes.is_stale(&from("a", 2, 1)), "another connection");
        assert!(!stale_publishes.is_stale(&from("b", 1, 1)), "another frontend");
        assert!(!stale_publishes.is_stale(&from("a", 1, 0)), "not known");
    }

    #[test]
    fn it_remembers_so_many_connections_and_no_more() {
        let mut stale_publishes = StalePublishFilter::new();
        for connection in 0..70_000 {
            assert!(!stale_publishes.is_stale(&from("a", connection, 2)));
        }
        assert_eq!(stale_publishes.latest.len(), CONNECTIONS_MAX);
        assert!(stale_publishes.is_stale(&from("a", 69_999, 1)));
        assert!(!stale_publishes.is_stale(&from("a", 0, 1)), "forgotten");
        for frontend in 0..5_000 {
            assert!(!stale_publishes.is_stale(&from(&frontend.to_string(), 0, 2)));
        }
        assert_eq!(stale_publishes.frontends.len(), FRONTENDS_MAX);
        assert!(stale_publishes.is_stale(&from("4999", 0, 1)));
    }
}
