//! Catching up: a whole partition read by a few (replay), or what was missed by everybody at once (storm).

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::dialect::{Dialect, Mark, Seen};
use crate::link::{Link, Target};
use crate::measure::{Named, Times, Watch};
use crate::report::Report;
use crate::stage::{CONNECTING_MAX, Stage, read_history};
use crate::verify::View;

/// How many requests of the writer that fills a log are under way.
const FILLING: usize = 8;
/// How long an answer or an event may take.
const WAIT: Duration = Duration::from_secs(60);

/// The numbers of a replay.
#[derive(Debug, Clone, Serialize)]
pub struct ReplayPlan {
    pub events: u32,
    pub readers: usize,
    pub bytes: usize,
    pub batch: u32,
    /// How often somebody connects anew afterwards and is told the state, one after the other.
    pub connects: usize,
}

/// The numbers of a storm.
#[derive(Debug, Clone, Serialize)]
pub struct StormPlan {
    pub clients: usize,
    pub partitions: usize,
    /// How many events each has missed.
    pub behind: u32,
    pub bytes: usize,
    pub batch: u32,
}

pub async fn replay(target: Target, run: String, plan: ReplayPlan, processes: &[Named]) -> Result<Report> {
    ensure!(target.dialect.has_history(), "this dialect has no history");
    let stage = Stage::new(target, run);
    let mut report = Report { plan: serde_json::to_value(&plan)?, ..Report::default() };
    let mut filler = Filler::new(&stage, 0).await?;
    let began = stage.now();
    filler.write(&stage, plan.events, plan.batch, plan.bytes).await?;
    report.figure("filled_per_s", rate(plan.events, stage.now() - began), "events/s");

    let watch = Watch::begin(processes)?;
    let began = stage.now();
    let mut readers = JoinSet::new();
    for number in 0..plan.readers {
        let stage = Rc::clone(&stage);
        readers.spawn_local(async move {
            let view = stage.add_view(View::new(format!("reader {number}"), 0, 0..1, None));
            let mut link = Link::open(&stage.target, stage.names(0, &format!("r{number}")), None).await?;
            link.connected(|_| Ok(())).await?;
            catch_up_by_sync(&stage, &mut link, view, 0).await
        });
    }
    finish(&stage, readers).await;
    let took = stage.now() - began;
    report.seconds = took as f64 / 1e9;
    report.processes = watch.end()?;
    report.figure("replayed_per_s", rate(plan.events, took) * plan.readers as f64, "events/s");

    let (mut connects, mut bytes_seen) = (Times::new(), 0);
    for number in 0..plan.connects {
        let began = stage.now();
        let mut link = Link::open(&stage.target, stage.names(0, &format!("s{number}")), None).await?;
        let (head, bytes) = link.connected(|_| Ok(())).await?;
        connects.record(stage.now() - began);
        bytes_seen = bytes;
        let last = stage.ledger.borrow().writers[0].ids.last().copied().unwrap_or_default();
        if head != last {
            stage.ledger.borrow_mut().findings.fail(format!("`connected` tells of {head}, not of {last}"));
        }
        link.close();
    }
    if plan.connects > 0 {
        report.figure("connected_bytes", bytes_seen as f64, "bytes");
    }
    report.time("connect", connects.percentiles());
    stage.settle_views(Duration::ZERO).await;
    report.findings = stage.ledger.borrow().findings.clone();
    Ok(report)
}

pub async fn storm(target: Target, run: String, plan: StormPlan, processes: &[Named]) -> Result<Report> {
    ensure!(target.dialect.has_history(), "this dialect has no history");
    ensure!(plan.partitions > 0, "at least one partition is needed");
    let stage = Stage::new(target, run);
    let mut report = Report { plan: serde_json::to_value(&plan)?, ..Report::default() };
    let mut fillers = Vec::new();
    for partition in 0..plan.partitions {
        fillers.push(Filler::new(&stage, partition).await?);
    }
    for filler in &mut fillers {
        filler.write(&stage, plan.batch.max(10), plan.batch, plan.bytes).await?;
    }

    // Everybody is there once and has all that there is.
    let connecting = Rc::new(Semaphore::new(CONNECTING_MAX));
    let mut clients = JoinSet::new();
    for number in 0..plan.clients {
        let (stage, connecting) = (Rc::clone(&stage), Rc::clone(&connecting));
        let partition = number % plan.partitions;
        clients.spawn_local(async move {
            let _permit = connecting.acquire().await?;
            let writer = partition as u32;
            let view =
                stage.add_view(View::new(format!("client {number}"), partition, writer..writer + 1, None));
            let mut link =
                Link::open(&stage.target, stage.names(partition, &format!("u{view}")), None).await?;
            link.connected(|_| Ok(())).await?;
            catch_up_by_sync(&stage, &mut link, view, 0).await?;
            link.close();
            anyhow::Ok((view, partition))
        });
    }
    let mut known = Vec::new();
    while let Some(client) = clients.join_next().await {
        known.push(client??);
    }

    for filler in &mut fillers {
        filler.write(&stage, plan.behind, plan.batch, plan.bytes).await?;
    }

    let watch = Watch::begin(processes)?;
    let began = stage.now();
    let times = Rc::new(std::cell::RefCell::new(Times::new()));
    let mut clients = JoinSet::new();
    for (view, partition) in known {
        let (stage, connecting, times) = (Rc::clone(&stage), Rc::clone(&connecting), Rc::clone(&times));
        clients.spawn_local(async move {
            let _permit = connecting.acquire().await?;
            let since = stage.views.borrow()[view].last;
            let names = stage.names(partition, &format!("u{view}"));
            let mut link = Link::open(&stage.target, names, Some(since)).await?;
            if stage.target.dialect == Dialect::Classic {
                catch_up_by_broadcasts(&stage, &mut link, view).await?;
            } else {
                link.connected(|_| Ok(())).await?;
                catch_up_by_sync(&stage, &mut link, view, since).await?;
            }
            times.borrow_mut().record(stage.now() - began);
            anyhow::Ok(link)
        });
    }
    let links = finish(&stage, clients).await;
    let took = stage.now() - began;
    report.seconds = took as f64 / 1e9;
    report.processes = watch.end()?;
    drop(links);
    report.figure("all_caught_up_s", report.seconds, "s");
    report.figure("clients_per_s", plan.clients as f64 / report.seconds, "clients/s");
    report.time("caught_up", times.borrow().percentiles());
    stage.settle_views(Duration::ZERO).await;
    report.findings = stage.ledger.borrow().findings.clone();
    Ok(report)
}

/// Waits for all of them; what went wrong is counted.
async fn finish<T: 'static>(stage: &Stage, mut tasks: JoinSet<Result<T>>) -> Vec<T> {
    let mut all = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(value)) => all.push(value),
            Ok(Err(error)) => stage.ledger.borrow_mut().findings.fail(format!("{error:#}")),
            Err(error) => stage.ledger.borrow_mut().findings.fail(error.to_string()),
        }
    }
    all
}

async fn catch_up_by_sync(stage: &Stage, link: &mut Link, view: usize, since: u64) -> Result<()> {
    read_history(link, since, |seen| {
        if let Seen::History { mark, id } = seen {
            stage.views.borrow_mut()[view].event(&mut stage.ledger.borrow_mut(), mark, id);
        }
        Ok(())
    })
    .await
    .map(drop)
}

/// The classic dialect sends what was missed by itself.
async fn catch_up_by_broadcasts(stage: &Stage, link: &mut Link, view: usize) -> Result<()> {
    let goal = stage.views.borrow()[view].expected(&stage.ledger.borrow());
    let mut take = |seen: Seen| match seen {
        Seen::Event { mark, id } => {
            stage.views.borrow_mut()[view].event(&mut stage.ledger.borrow_mut(), mark, id);
            Ok(())
        }
        Seen::Failure(text) => bail!("instead of events came {text}"),
        _ => Ok(()),
    };
    link.connected(&mut take).await?;
    while stage.views.borrow()[view].seen < goal {
        tokio::time::timeout(WAIT, link.ready()).await.context("no further event came")??;
        link.read(&mut take)?;
    }
    Ok(())
}

/// Writes a partition's log.
struct Filler {
    link: Link,
    number: u32,
}

impl Filler {
    async fn new(stage: &Stage, partition: usize) -> Result<Self> {
        let number = stage.ledger.borrow_mut().add_writer(partition);
        let mut link = Link::open(&stage.target, stage.names(partition, "filler"), None).await?;
        link.connected(|_| Ok(())).await?;
        Ok(Self { link, number })
    }

    async fn write(&mut self, stage: &Stage, count: u32, batch: u32, bytes: usize) -> Result<()> {
        let batch = if stage.target.dialect.has_batches() { batch } else { 1 };
        let mut left = count;
        let mut open = 0usize;
        while left > 0 || open > 0 {
            while left > 0 && open < FILLING {
                let size = batch.min(left);
                let sequence = {
                    let mut ledger = stage.ledger.borrow_mut();
                    let record = &mut ledger.writers[self.number as usize];
                    let sequence = record.intended.len() as u32;
                    record.intended.resize(record.intended.len() + size as usize, 0);
                    sequence
                };
                self.link.submit(Mark { writer: self.number, sequence }, size, bytes);
                (left, open) = (left - size, open + 1);
            }
            self.link.flush()?;
            tokio::time::timeout(WAIT, self.link.ready()).await.context("a submission has no answer")??;
            let number = self.number;
            self.link.read(|seen| {
                match seen {
                    Seen::Accepted { mark, id } => stage.ledger.borrow_mut().accepted(number, mark, id),
                    Seen::Answered => open = open.saturating_sub(1),
                    Seen::Failure(text) => bail!("a submission was answered {text}"),
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn rate(events: u32, nanos: u64) -> f64 {
    f64::from(events) / (nanos as f64 / 1e9)
}
