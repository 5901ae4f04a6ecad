//! What all connections of a run share: whom they talk to, the ledger, the views, the clock.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::task::JoinSet;

use crate::dialect::{Dialect, Names, Seen};
use crate::link::{Link, Target};
use crate::verify::{Ledger, View};

/// How many connections may be on their way at once: fewer than a listener's backlog holds.
pub const CONNECTING_MAX: usize = 256;
/// How many partitions' logs are read at once after a run.
const AUDITS_MAX: usize = 16;
/// How long such a reading may go without a page.
const PAGE_WAIT: Duration = Duration::from_secs(60);

/// What a run's connections share.
pub struct Stage {
    pub target: Target,
    /// Makes this run's ids and partitions unlike those of others on the same server.
    pub run: String,
    pub ledger: RefCell<Ledger>,
    pub views: RefCell<Vec<View>>,
    epoch: Instant,
}

impl Stage {
    pub fn new(target: Target, run: String) -> Rc<Self> {
        Rc::new(Self {
            target,
            run,
            ledger: RefCell::default(),
            views: RefCell::default(),
            epoch: Instant::now(),
        })
    }

    /// Nanoseconds of the run.
    pub fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    pub fn names(&self, partition: usize, client: &str) -> Names {
        Names {
            client: format!("{}-{partition}-{client}", self.run),
            partition: format!("{}-{partition}", self.run),
            run: self.run.clone(),
        }
    }

    /// Adds a view and gives its number.
    pub fn add_view(&self, view: View) -> usize {
        let mut views = self.views.borrow_mut();
        views.push(view);
        views.len() - 1
    }

    /// How many events all views have seen, and how many they should have.
    pub fn seen_and_expected(&self) -> (u64, u64) {
        let ledger = self.ledger.borrow();
        let views = self.views.borrow();
        views
            .iter()
            .fold((0, 0), |(seen, expected), view| (seen + view.seen, expected + view.expected(&ledger)))
    }

    /// Waits until the views have seen all that was answered, or for `wait`; then what is missing is counted.
    pub async fn settle_views(&self, wait: Duration) {
        let deadline = Instant::now() + wait;
        loop {
            let (seen, expected) = self.seen_and_expected();
            if seen >= expected || Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut ledger = self.ledger.borrow_mut();
        for view in self.views.borrow().iter() {
            view.finish(&mut ledger);
        }
    }

    /// Reads every partition's log from its beginning and compares it with what was answered.
    pub async fn audit(self: &Rc<Self>, partitions: usize, writers_each: u32) {
        // The classic dialect may answer with a state in place of events.
        let target = match self.target.dialect {
            Dialect::Classic => Target { dialect: Dialect::V1, ..self.target.clone() },
            other if other.has_history() => self.target.clone(),
            _ => return,
        };
        let mut reading = JoinSet::new();
        for partition in 0..partitions {
            if reading.len() >= AUDITS_MAX {
                self.take_result(reading.join_next().await);
            }
            let stage = Rc::clone(self);
            let target = target.clone();
            reading.spawn_local(async move { stage.audit_one(&target, partition, writers_each).await });
        }
        while let Some(result) = reading.join_next().await {
            self.take_result(Some(result));
        }
    }

    fn take_result(&self, result: Option<Result<Result<()>, tokio::task::JoinError>>) {
        let problem = match result {
            None | Some(Ok(Ok(()))) => return,
            Some(Ok(Err(error))) => format!("{error:#}"),
            Some(Err(error)) => error.to_string(),
        };
        self.ledger.borrow_mut().findings.fail(problem);
    }

    async fn audit_one(&self, target: &Target, partition: usize, writers_each: u32) -> Result<()> {
        let first = partition as u32 * writers_each;
        let mut view = View::new(
            format!("the log of partition {partition}"),
            partition,
            first..first + writers_each,
            None,
        );
        let mut link = Link::open(target, self.names(partition, "audit"), None).await?;
        link.connected(|_| Ok(())).await?;
        read_history(&mut link, 0, |seen| {
            if let Seen::History { mark, id } = seen {
                view.event(&mut self.ledger.borrow_mut(), mark, id);
            }
            Ok(())
        })
        .await?;
        link.close();
        view.finish(&mut self.ledger.borrow_mut());
        Ok(())
    }
}

/// Asks for page after page behind `since`; everything that comes goes to `on`, and the last id is given.
pub async fn read_history(
    link: &mut Link,
    since: u64,
    mut on: impl FnMut(Seen) -> Result<()>,
) -> Result<u64> {
    let mut last = since;
    loop {
        link.sync(last);
        link.flush()?;
        let mut page = None;
        while page.is_none() {
            match tokio::time::timeout(PAGE_WAIT, link.ready()).await {
                Ok(ready) => ready?,
                Err(_) => bail!("no page of history within {PAGE_WAIT:?}"),
            }
            link.read(|seen| match seen {
                Seen::Page { next, more } => {
                    page = Some((next, more));
                    Ok(())
                }
                Seen::Failure(text) => bail!("instead of a page came {text}"),
                other => on(other),
            })?;
        }
        let (next, more) = page.unwrap_or_default();
        if more && next <= last {
            bail!("a page of history that ends at {next} does not lead on from {last}");
        }
        last = last.max(next);
        if !more {
            return Ok(last);
        }
    }
}
