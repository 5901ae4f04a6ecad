//! The feeds of a frontend: made when a partition's first watcher comes, ended a while after the last left.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::partition::{Feed, Shared};
use super::task;
use crate::event::PartitionKey;
use crate::frontend::admission::memory::{GivesWay, Memory};
use crate::frontend::metrics::{Counted, FEEDS};
use crate::util::sync::lock;

/// The feeds.
pub(crate) struct Feeds {
    shared: Arc<Shared>,
    feeds: Mutex<HashMap<PartitionKey, Arc<Feed>>>,
}

/// A feed, watched for as long as this lives.
pub(crate) struct Watched(Arc<Feed>);

impl Deref for Watched {
    type Target = Arc<Feed>;
    fn deref(&self) -> &Arc<Feed> {
        &self.0
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.0.watchers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.shared.unwatched.fetch_add(1, Ordering::AcqRel);
            // The task counts its idle time from here.
            self.0.request_check();
        }
    }
}

impl Feeds {
    pub(crate) fn new(shared: Shared) -> Arc<Self> {
        Arc::new(Self { shared: Arc::new(shared), feeds: Mutex::default() })
    }

    /// The feed of a partition, which is started if need be. It may not have reached the log yet.
    pub(crate) fn watch(self: &Arc<Self>, partition: &PartitionKey) -> Watched {
        let mut feeds = lock(&self.feeds);
        let mut is_new = false;
        let feed = feeds.entry(partition.clone()).or_insert_with(|| {
            is_new = true;
            let feed = Arc::new(Feed::new(self.shared.clone(), partition.clone()));
            let (task, feeds, stop) = (feed.clone(), self.clone(), self.shared.tasks.stop.child_token());
            self.shared.tasks.tracker.spawn(async move {
                let _counted = Counted::one(FEEDS);
                task::run(&task, &|| feeds.retire(&task), &stop).await;
            });
            feed
        });
        if feed.watchers.fetch_add(1, Ordering::AcqRel) == 0 && !is_new {
            self.shared.unwatched.fetch_sub(1, Ordering::AcqRel);
        }
        Watched(feed.clone())
    }

    /// Takes out a feed that nobody watches. False when somebody came meanwhile.
    pub(crate) fn retire(&self, feed: &Arc<Feed>) -> bool {
        let mut feeds = lock(&self.feeds);
        if feed.has_watchers() {
            return false;
        }
        if feeds.remove(&feed.partition).is_some() {
            self.shared.unwatched.fetch_sub(1, Ordering::AcqRel);
        }
        true
    }

    /// Tells all feeds to end.
    pub(crate) fn cancel(&self) {
        self.shared.tasks.stop.cancel();
    }

    /// Ends all feeds, and waits for that.
    pub(crate) async fn stop(&self) {
        self.cancel();
        self.shared.tasks.tracker.close();
        self.shared.tasks.tracker.wait().await;
        lock(&self.feeds).clear();
    }
}

impl GivesWay for Feeds {
    /// Lets go what can be read from the log again, until there is room: the states that nobody has asked for longest,
    /// then half of the pages, then half of the longest rings.
    async fn give_way(&self, memory: &Memory) {
        let feeds: Vec<Arc<Feed>> = lock(&self.feeds).values().cloned().collect();
        let kept_since = |feed: &Arc<Feed>| Some((feed.warm.try_lock().ok()?.kept_since()?, feed.clone()));
        let mut states: Vec<_> = feeds.iter().filter_map(kept_since).collect();
        states.sort_by_key(|(used, _)| *used);
        for (_, feed) in states {
            if !memory.wants_room() {
                return;
            }
            feed.let_state_go().await;
        }
        if memory.wants_room() {
            self.shared.pages.give_way();
        }
        let mut rings: Vec<_> = feeds.iter().map(|feed| (feed.ring().bytes(), feed)).collect();
        rings.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        for (_, feed) in rings {
            if !memory.wants_room() {
                return;
            }
            feed.let_half_of_the_ring_go();
        }
    }
}
