//! Bare JetStream: what the engine itself does on this machine, for what we make of it to be read against.
//!
//! The same two hops as a draft's: it is published to a work queue without waiting for the disk, a worker
//! takes it off and publishes it to the log under the check of the partition's last sequence, and the log
//! repeats it on a live subject, which ends the round. Nothing is decided, no state is kept, no WebSocket
//! is spoken. Per partition one commit is under way at a time, as the check demands.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::jetstream::{self, consumer, stream};
use async_nats::{HeaderMap, header};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::measure::{Named, Times, Watch};
use crate::report::Report;
use crate::stage::Stage;

/// How many drafts the worker takes at once.
const PULL: usize = 500;

/// The numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    pub partitions: usize,
    pub in_flight: usize,
    pub bytes: usize,
    pub warmup_s: f64,
    pub seconds: f64,
}

struct Pipe {
    stage: Rc<Stage>,
    plan: Plan,
    window: Cell<(u64, u64)>,
    times: RefCell<Times>,
    committed: Cell<u64>,
    stopped: Cell<bool>,
    /// Per partition: the times of what is under way, and what wakes its writer.
    open: Vec<RefCell<VecDeque<u64>>>,
    wake: Vec<Notify>,
    drafts: String,
    log: String,
    live: String,
}

pub async fn run(nats: &str, stage: Rc<Stage>, plan: Plan, processes: &[Named]) -> Result<Report> {
    let frontend = async_nats::connect(nats).await.with_context(|| format!("connecting to {nats}"))?;
    let validator = async_nats::connect(nats).await?;
    let run = stage.run.clone();
    let pipe = Rc::new(Pipe {
        plan: plan.clone(),
        window: Cell::new((u64::MAX, u64::MAX)),
        times: RefCell::new(Times::new()),
        committed: Cell::new(0),
        stopped: Cell::new(false),
        open: (0..plan.partitions).map(|_| RefCell::default()).collect(),
        wake: (0..plan.partitions).map(|_| Notify::new()).collect(),
        drafts: format!("{run}drafts"),
        log: format!("{run}log"),
        live: format!("{run}live"),
        stage,
    });
    let context = jetstream::new(validator.clone());
    let drafts = pipe.make_streams(&context).await?;

    let mut tasks = JoinSet::new();
    let live = frontend.subscribe(format!("{}.>", pipe.live)).await?;
    frontend.flush().await?;
    tasks.spawn_local(Rc::clone(&pipe).watch(live));
    tasks.spawn_local(Rc::clone(&pipe).work(context.clone(), drafts));
    for partition in 0..plan.partitions {
        tasks.spawn_local(Rc::clone(&pipe).write(frontend.clone(), partition));
    }
    let from = pipe.stage.now() + (plan.warmup_s * 1e9) as u64;
    tokio::time::sleep(Duration::from_secs_f64(plan.warmup_s)).await;
    let watch = Watch::begin(processes)?;
    pipe.window.set((from, from + (plan.seconds * 1e9) as u64));
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs_f64(plan.seconds)) => {}
        Some(ended) = tasks.join_next() => bail!("a part ended: {:?}", ended?.err()),
    }
    pipe.stopped.set(true);
    let mut report =
        Report { plan: serde_json::to_value(&plan)?, seconds: plan.seconds, ..Report::default() };
    report.processes = watch.end()?;
    report.figure("events", pipe.committed.get() as f64, "events");
    report.figure("events_per_s", pipe.committed.get() as f64 / plan.seconds, "events/s");
    report.time("answer", pipe.times.borrow().percentiles());
    tasks.abort_all();
    for name in [&pipe.drafts, &pipe.log] {
        context.delete_stream(name).await.with_context(|| format!("deleting the stream {name}"))?;
    }
    Ok(report)
}

impl Pipe {
    async fn make_streams(&self, context: &jetstream::Context) -> Result<consumer::PullConsumer> {
        let log = stream::Config {
            name: self.log.clone(),
            subjects: vec![format!("{}.>", self.log)],
            republish: Some(stream::Republish {
                source: format!("{}.>", self.log),
                destination: format!("{}.>", self.live),
                headers_only: false,
            }),
            ..stream::Config::default()
        };
        context.create_stream(log).await.context("making the log")?;
        let drafts = stream::Config {
            name: self.drafts.clone(),
            subjects: vec![format!("{}.>", self.drafts)],
            retention: stream::RetentionPolicy::WorkQueue,
            persist_mode: Some(stream::PersistenceMode::Async),
            ..stream::Config::default()
        };
        let drafts = context.create_stream(drafts).await.context("making the queue")?;
        let consumer = consumer::pull::Config {
            durable_name: Some("worker".to_owned()),
            max_ack_pending: 100_000,
            ..consumer::pull::Config::default()
        };
        drafts.create_consumer(consumer).await.context("making the queue's consumer")
    }

    async fn write(self: Rc<Self>, client: async_nats::Client, partition: usize) -> Result<()> {
        let subject = format!("{}.{partition}", self.drafts);
        let payload = Bytes::from(vec![b'x'; self.plan.bytes]);
        while !self.stopped.get() {
            while self.open[partition].borrow().len() < self.plan.in_flight {
                self.open[partition].borrow_mut().push_back(self.stage.now());
                client.publish(subject.clone(), payload.clone()).await?;
            }
            self.wake[partition].notified().await;
        }
        std::future::pending().await
    }

    async fn work(self: Rc<Self>, context: jetstream::Context, drafts: consumer::PullConsumer) -> Result<()> {
        let mut drafts =
            drafts.stream().max_messages_per_batch(PULL).messages().await.context("pulling drafts")?;
        let mut partitions = JoinSet::new();
        let mut queues: HashMap<String, tokio::sync::mpsc::UnboundedSender<jetstream::Message>> =
            HashMap::new();
        while let Some(draft) = drafts.next().await {
            let draft = draft?;
            let partition = draft.subject.rsplit('.').next().unwrap_or_default().to_owned();
            let queue = queues.entry(partition.clone()).or_insert_with(|| {
                let (queue, queued) = tokio::sync::mpsc::unbounded_channel();
                partitions.spawn_local(commit(context.clone(), format!("{}.{partition}", self.log), queued));
                queue
            });
            if queue.send(draft).is_err() {
                match partitions.join_next().await {
                    Some(ended) => ended??,
                    None => bail!("a partition's worker is gone"),
                }
            }
        }
        bail!("the queue ended")
    }

    async fn watch(self: Rc<Self>, mut live: async_nats::Subscriber) -> Result<()> {
        while let Some(message) = live.next().await {
            let now = self.stage.now();
            let name = message.subject.rsplit('.').next().unwrap_or_default();
            let partition: usize = name.parse().context("a live subject")?;
            let Some(began) = self.open[partition].borrow_mut().pop_front() else {
                bail!("an event that nobody sent");
            };
            let (from, to) = self.window.get();
            if (from..to).contains(&now) {
                self.committed.set(self.committed.get() + 1);
                self.times.borrow_mut().record(now - began);
            }
            self.wake[partition].notify_one();
        }
        bail!("the live subject ended")
    }
}

/// Commits one partition's drafts, one after the other.
async fn commit(
    context: jetstream::Context,
    subject: String,
    mut drafts: tokio::sync::mpsc::UnboundedReceiver<jetstream::Message>,
) -> Result<()> {
    let mut last = 0u64;
    while let Some(draft) = drafts.recv().await {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last.to_string());
        let payload = draft.payload.clone();
        let stored = context.publish_with_headers(subject.clone(), headers, payload).await?.await;
        last = stored.context("a commit")?.sequence;
        draft.ack().await.map_err(|error| anyhow::anyhow!("acknowledging a draft: {error}"))?;
    }
    Ok(())
}
