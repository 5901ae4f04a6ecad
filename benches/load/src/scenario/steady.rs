//! Writers that write and readers that read: commit, hot partition, fan-out, mixed, many partitions,
//! growing log are all this with other numbers.
//!
//! A *closed* load keeps so many requests of each writer under way. An *open* one sends at given times,
//! whatever the server does, and counts the time from when a request was to be sent: a server that stalls is
//! not spared the requests that would have come meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::dialect::{Mark, Seen};
use crate::link::{Link, Target};
use crate::measure::{Named, Times, Watch, resident_bytes};
use crate::pacer::{self, Due};
use crate::report::{Point, Report};
use crate::stage::{CONNECTING_MAX, Stage, read_history};
use crate::verify::{View, Writer};

/// A writer that has this many bytes that the server does not take is given up: the load is too much.
const UNSENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The numbers of a load.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    pub partitions: usize,
    /// The partitions that are written to; the others only have their connections.
    pub active: usize,
    /// Per partition.
    pub writers: u32,
    /// Per partition.
    pub readers: u32,
    /// Requests of a writer that are under way at once, for a closed load.
    pub in_flight: usize,
    /// Whether an event is under way until all readers have it, rather than until it is answered.
    pub until_seen: bool,
    /// Events in a request.
    pub batch: u32,
    /// Whether after every request comes one that the server must refuse.
    pub refuse_half: bool,
    /// Bytes of an event.
    pub bytes: usize,
    /// Events a second, all writers together, for an open load.
    pub rate: Option<f64>,
    /// Newcomers a second, each of which reads a partition's log from its beginning and goes.
    pub newcomers_per_s: f64,
    pub warmup_s: f64,
    pub seconds: f64,
    /// Ends the load when so many events are answered, and tells the course up to there in this many points.
    pub until_events: Option<u64>,
    pub points: u64,
    /// How long answers and deliveries are waited for at the end.
    pub drain_s: f64,
    /// Whether the logs are read and compared at the end.
    pub audit: bool,
}

struct Load {
    stage: Rc<Stage>,
    plan: Plan,
    /// What is measured, in nanoseconds of the run.
    window: Cell<(u64, u64)>,
    stopped: Cell<bool>,
    answers: RefCell<Times>,
    refusals: RefCell<Times>,
    refused_in_window: Cell<u64>,
    deliveries: RefCell<Times>,
    newcomers: RefCell<Times>,
    events_answered: Cell<u64>,
    events_in_window: Cell<u64>,
    seen_in_window: Cell<u64>,
    /// Per writer: what it is to send, and what wakes it.
    due: Vec<Rc<Due>>,
}

/// A writer's side of its connection.
struct Writing {
    number: u32,
    sent: u32,
    /// Requests without an answer: the first event of each, and how many it has.
    open: VecDeque<(u32, u32)>,
    /// Requests that are to be refused: how many were sent, and since when each without an answer is under way.
    refusable: u32,
    unrefused: VecDeque<u64>,
    /// The first event that not all have seen.
    unseen_from: usize,
}

pub async fn run(target: Target, run: String, plan: Plan, processes: &[Named]) -> Result<Report> {
    ensure!(plan.batch == 1 || target.dialect.has_batches(), "this dialect has one event in a request");
    ensure!(
        !plan.refuse_half || target.dialect.has_refusals(),
        "in this dialect no events are to be refused"
    );
    ensure!(plan.active <= plan.partitions, "more partitions are to be active than there are");
    let stage = Stage::new(target, run);
    let writers = plan.partitions as u32 * plan.writers;
    let mut links = JoinSet::new();
    let connecting = Rc::new(Semaphore::new(CONNECTING_MAX));
    for partition in 0..plan.partitions {
        for _ in 0..plan.writers {
            let number = stage.ledger.borrow_mut().add_writer(partition);
            links.spawn_local(connect(
                Rc::clone(&stage),
                Rc::clone(&connecting),
                partition,
                plan.writers,
                Some(number),
            ));
        }
        for _ in 0..plan.readers {
            links.spawn_local(connect(
                Rc::clone(&stage),
                Rc::clone(&connecting),
                partition,
                plan.writers,
                None,
            ));
        }
    }
    let mut connected = Vec::new();
    while let Some(link) = links.join_next().await {
        connected.push(link??);
    }

    let load = Rc::new(Load {
        stage: Rc::clone(&stage),
        plan: plan.clone(),
        window: Cell::new((u64::MAX, u64::MAX)),
        stopped: Cell::new(false),
        answers: RefCell::new(Times::new()),
        refusals: RefCell::new(Times::new()),
        refused_in_window: Cell::new(0),
        deliveries: RefCell::new(Times::new()),
        newcomers: RefCell::new(Times::new()),
        events_answered: Cell::new(0),
        events_in_window: Cell::new(0),
        seen_in_window: Cell::new(0),
        due: (0..writers).map(|_| Rc::default()).collect(),
    });
    let mut tasks = JoinSet::new();
    for (link, view, partition, writer) in connected {
        let writer = writer.filter(|_| partition < plan.active);
        tasks.spawn_local(Rc::clone(&load).connection(link, view, writer));
    }
    let start = stage.now();
    let from = start + nanos(plan.warmup_s);
    let to = from + nanos(plan.seconds);
    if let Some(rate) = plan.rate {
        ensure!(rate > 0.0, "a rate above 0 is needed");
        let interval = 1e9 * f64::from(plan.batch) / rate;
        let active = plan.active * plan.writers as usize;
        tasks.spawn_local(pacer::run(Rc::clone(&stage), load.due[..active].to_vec(), interval, start, to));
    }
    if plan.newcomers_per_s > 0.0 {
        tasks.spawn_local(Rc::clone(&load).newcomers(to));
    }

    let mut report = Report { plan: serde_json::to_value(&plan)?, ..Report::default() };
    load.sleep_until(from, &mut tasks).await;
    load.window.set((from, to));
    let watch = Watch::begin(processes)?;
    match plan.until_events {
        None => load.sleep_until(to, &mut tasks).await,
        Some(events) => report.course = load.course(events, processes, to, &mut tasks).await?,
    }
    let ended = stage.now().min(to);
    report.processes = watch.end()?;
    report.seconds = (ended - from) as f64 / 1e9;
    load.window.set((from, ended));
    load.stop();

    let drain = Duration::from_secs_f64(plan.drain_s);
    load.settle_answers(drain, &mut tasks).await;
    stage.ledger.borrow_mut().count_unanswered();
    stage.settle_views(drain).await;
    tasks.abort_all();
    if plan.audit {
        stage.audit(plan.active, plan.writers).await;
    }

    let seconds = report.seconds;
    let events = load.events_in_window.get() as f64;
    report.figure("events", events, "events");
    report.figure("events_per_s", events / seconds, "events/s");
    if plan.readers > 0 || plan.writers > 1 || stage.target.dialect.echoes() {
        let seen = load.seen_in_window.get() as f64;
        report.figure("deliveries_per_s", seen / seconds, "deliveries/s");
    }
    if plan.refuse_half {
        report.figure("refused_per_s", load.refused_in_window.get() as f64 / seconds, "drafts/s");
        report.time("refusal", load.refusals.borrow().percentiles());
    }
    report.time("answer", load.answers.borrow().percentiles());
    report.time("delivery", load.deliveries.borrow().percentiles());
    report.time("newcomer", load.newcomers.borrow().percentiles());
    report.findings = stage.ledger.borrow().findings.clone();
    Ok(report)
}

/// A connection that stands, its view's number, its partition, and the number of its writer.
type Connected = (Link, usize, usize, Option<u32>);

async fn connect(
    stage: Rc<Stage>,
    connecting: Rc<Semaphore>,
    partition: usize,
    writers_each: u32,
    writer: Option<u32>,
) -> Result<Connected> {
    let _permit = connecting.acquire().await?;
    let writers = writers_of(partition, writers_each);
    let without = writer.filter(|_| !stage.target.dialect.echoes());
    let number = stage.views.borrow().len();
    let view = stage.add_view(View::new(format!("connection {number}"), partition, writers, without));
    let names = stage.names(partition, &format!("c{view}"));
    let mut link = Link::open(&stage.target, names, None).await?;
    let (head, _) = link.connected(|_| Ok(())).await?;
    ensure!(head == 0, "partition {partition} of a new run has events already");
    Ok((link, view, partition, writer))
}

impl Load {
    /// Drives a connection for as long as it is not told to end.
    async fn connection(self: Rc<Self>, mut link: Link, view: usize, writer: Option<u32>) -> Result<()> {
        let mut writing = writer.map(|number| Writing {
            number,
            sent: 0,
            open: VecDeque::new(),
            refusable: 0,
            unrefused: VecDeque::new(),
            unseen_from: 0,
        });
        let due = writer.map(|number| Rc::clone(&self.due[number as usize])).unwrap_or_default();
        loop {
            if let Some(writing) = &mut writing {
                self.send(&mut link, writing, &due)?;
            }
            tokio::select! {
                ready = link.ready() => ready.with_context(|| format!("connection {view}"))?,
                () = due.wake.notified() => {}
            }
            let now = self.stage.now();
            link.read(|seen| self.take(seen, view, writing.as_mut(), now))
                .with_context(|| format!("connection {view}"))?;
        }
    }

    /// Sends what is to be sent by now.
    fn send(&self, link: &mut Link, writing: &mut Writing, due: &Due) -> Result<()> {
        if self.stopped.get() {
            return Ok(());
        }
        if self.plan.rate.is_some() {
            loop {
                let Some(intended) = due.times.borrow_mut().pop_front() else { break };
                self.submit(link, writing, intended);
            }
            ensure!(link.unsent() < UNSENT_BYTES_MAX, "the server takes less than it is sent");
        } else {
            while self.under_way(writing) < self.plan.in_flight {
                self.submit(link, writing, self.stage.now());
            }
        }
        link.flush()
    }

    fn under_way(&self, writing: &mut Writing) -> usize {
        if !self.plan.until_seen {
            return writing.open.len() + writing.unrefused.len();
        }
        let ledger = self.stage.ledger.borrow();
        let unseen = &ledger.writers[writing.number as usize].unseen;
        while unseen.get(writing.unseen_from) == Some(&0) {
            writing.unseen_from += 1;
        }
        unseen.len() - writing.unseen_from
    }

    fn submit(&self, link: &mut Link, writing: &mut Writing, intended: u64) {
        let Plan { batch, bytes, until_seen, .. } = self.plan;
        let first = Mark { writer: writing.number, sequence: writing.sent };
        link.submit(first, batch, bytes);
        writing.open.push_back((writing.sent, batch));
        writing.sent += batch;
        if self.plan.refuse_half {
            link.submit_refused(writing.number, writing.refusable);
            writing.refusable += 1;
            writing.unrefused.push_back(intended);
        }
        let mut ledger = self.stage.ledger.borrow_mut();
        let record = &mut ledger.writers[writing.number as usize];
        for _ in 0..batch {
            record.intended.push(intended);
            if until_seen {
                // Everyone in the partition but the writer, and the answer.
                record.unseen.push(self.plan.readers + self.plan.writers - 1 + 1);
            }
        }
    }

    /// What came over a connection.
    fn take(&self, seen: Seen, view: usize, writing: Option<&mut Writing>, now: u64) -> Result<()> {
        match seen {
            Seen::Event { mark, id } => {
                let mut ledger = self.stage.ledger.borrow_mut();
                self.stage.views.borrow_mut()[view].event(&mut ledger, mark, id);
                let own = writing.is_some_and(|writing| writing.number == mark.writer);
                let Some(record) = ledger.writers.get_mut(mark.writer as usize) else { return Ok(()) };
                let Some(intended) = record.intended.get(mark.sequence as usize).copied() else {
                    return Ok(());
                };
                if self.in_window(now) {
                    self.seen_in_window.set(self.seen_in_window.get() + 1);
                    if !own && intended >= self.window.get().0 {
                        self.deliveries.borrow_mut().record(now.saturating_sub(intended));
                    }
                }
                if self.plan.until_seen && !own {
                    self.one_less(record, mark);
                }
            }
            Seen::Accepted { mark, id } => {
                let Some(writing) = writing else { bail!("an answer to a connection that only reads") };
                let mut ledger = self.stage.ledger.borrow_mut();
                ledger.accepted(writing.number, mark, id);
                self.events_answered.set(self.events_answered.get() + 1);
                if self.in_window(now) {
                    self.events_in_window.set(self.events_in_window.get() + 1);
                }
                if self.plan.until_seen
                    && let Some(record) = ledger.writers.get_mut(mark.writer as usize)
                {
                    self.one_less(record, mark);
                }
            }
            Seen::Answered => {
                let Some(writing) = writing else { bail!("an answer to a connection that only reads") };
                let Some((first, count)) = writing.open.pop_front() else { bail!("an answer to nothing") };
                let ledger = &mut *self.stage.ledger.borrow_mut();
                let record = &ledger.writers[writing.number as usize];
                if record.ids.len() != (first + count) as usize {
                    ledger
                        .findings
                        .fail(format!("a request of {count} was answered in part, or out of turn"));
                }
                let intended = record.intended[first as usize];
                if self.in_window(now) && intended >= self.window.get().0 {
                    self.answers.borrow_mut().record(now.saturating_sub(intended));
                }
            }
            Seen::Refused => {
                let Some(writing) = writing else { bail!("a refusal to a connection that only reads") };
                let Some(intended) = writing.unrefused.pop_front() else { bail!("a refusal of nothing") };
                if self.in_window(now) {
                    self.refused_in_window.set(self.refused_in_window.get() + 1);
                    if intended >= self.window.get().0 {
                        self.refusals.borrow_mut().record(now.saturating_sub(intended));
                    }
                }
            }
            Seen::Failure(text) => self.stage.ledger.borrow_mut().findings.fail(text),
            Seen::Connected { .. } | Seen::History { .. } | Seen::Page { .. } | Seen::Reply(_) => {}
        }
        Ok(())
    }

    /// One of those who were to see the event has; with the last one its writer may go on.
    fn one_less(&self, record: &mut Writer, mark: Mark) {
        if let Some(unseen) = record.unseen.get_mut(mark.sequence as usize) {
            *unseen = unseen.saturating_sub(1);
            if *unseen == 0 {
                self.due[mark.writer as usize].wake.notify_one();
            }
        }
    }

    fn in_window(&self, now: u64) -> bool {
        let (from, to) = self.window.get();
        (from..to).contains(&now)
    }

    /// Ends the sending.
    fn stop(&self) {
        self.stopped.set(true);
    }

    /// Waits, and notes tasks that end meanwhile: none should.
    async fn sleep_until(&self, nanos: u64, tasks: &mut JoinSet<Result<()>>) {
        let wait = Duration::from_nanos(nanos.saturating_sub(self.stage.now()));
        tokio::time::sleep(wait).await;
        self.note_ended(tasks);
    }

    fn note_ended(&self, tasks: &mut JoinSet<Result<()>>) {
        while let Some(ended) = tasks.try_join_next() {
            let text = match ended {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => format!("{error:#}"),
                Err(error) => error.to_string(),
            };
            self.stage.ledger.borrow_mut().findings.fail(text);
        }
    }

    /// Waits until everything that was sent is answered.
    async fn settle_answers(&self, wait: Duration, tasks: &mut JoinSet<Result<()>>) {
        let until = self.stage.now() + wait.as_nanos() as u64;
        loop {
            let open = {
                let ledger = self.stage.ledger.borrow();
                ledger.writers.iter().any(|writer| writer.ids.len() < writer.intended.len())
            };
            if !open || self.stage.now() > until {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.note_ended(tasks);
        }
    }

    /// Goes on until so many events are answered; tells how it went on the way.
    async fn course(
        &self,
        events: u64,
        processes: &[Named],
        to: u64,
        tasks: &mut JoinSet<Result<()>>,
    ) -> Result<Vec<Point>> {
        let mut points = Vec::new();
        let (mut since, mut count) = (self.stage.now(), self.events_answered.get());
        for point in 1..=self.plan.points {
            let goal = events * point / self.plan.points;
            while self.events_answered.get() < goal && self.stage.now() < to {
                tokio::time::sleep(Duration::from_millis(10)).await;
                self.note_ended(tasks);
            }
            let (now, done) = (self.stage.now(), self.events_answered.get());
            let memory = processes.iter().map(resident_bytes).collect::<Result<Vec<u64>>>()?;
            if let Some(times) = self.answers.borrow().percentiles() {
                points.push(Point {
                    events: done,
                    events_per_s: (done - count) as f64 / ((now - since) as f64 / 1e9),
                    answer_p50_ms: times.p50,
                    answer_p99_ms: times.p99,
                    memory_bytes: memory,
                });
            }
            self.answers.borrow_mut().clear();
            (since, count) = (now, done);
        }
        Ok(points)
    }

    /// Reads a partition's log from its beginning again and again, as somebody who comes anew does.
    async fn newcomers(self: Rc<Self>, to: u64) -> Result<()> {
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / self.plan.newcomers_per_s));
        let mut count = 0;
        while self.stage.now() < to && !self.stopped.get() {
            ticks.tick().await;
            let partition = count % self.plan.active;
            let began = self.stage.now();
            let names = self.stage.names(partition, &format!("n{count}"));
            let mut link = Link::open(&self.stage.target, names, None).await?;
            link.connected(|_| Ok(())).await?;
            let writers = writers_of(partition, self.plan.writers);
            let mut view = View::new(format!("newcomer {count}"), partition, writers, None);
            read_history(&mut link, 0, |seen| {
                if let Seen::History { mark, id } = seen {
                    view.event(&mut self.stage.ledger.borrow_mut(), mark, id);
                }
                Ok(())
            })
            .await
            .context("a newcomer")?;
            link.close();
            let now = self.stage.now();
            if self.in_window(now) {
                self.newcomers.borrow_mut().record(now - began);
            }
            count += 1;
        }
        Ok(())
    }
}

fn writers_of(partition: usize, each: u32) -> std::ops::Range<u32> {
    let first = partition as u32 * each;
    first..first + each
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}
