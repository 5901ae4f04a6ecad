//! One run: processes, clients, and a nemesis.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::frontend::FrontendLog;
use super::history::{History, Life, NOTES_MAX, Verdict, judge, last_shown};
use super::net::Link;
use super::port::SimulatedLog;
use super::session::{Dialect, Guest, Letter, Told, talk};
use super::world::{Mutation, Servers, TTL, Weather, World};
use crate::event::PartitionKey;
use crate::frontend::FrontendSettings;
use crate::frontend::testing::Bare;
use crate::log::Log;
use crate::rules::{LiveRules, Rules, RulesConfig, SchemaSet};
use crate::util::backoff::by_seed;
use crate::validator::{Parts, RunningValidator, Snapshotter, ValidatorSettings, launch};

/// What is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub seed: u64,
    pub mutation: Option<Mutation>,
    /// Whether messages of one process may overtake each other, as over a cluster's routes.
    pub overtaking: bool,
}

const VALIDATORS: u64 = 3;
const FRONTENDS: usize = 2;
const CLIENTS: usize = 8;
const PARTITIONS: [&str; 2] = ["p-0", "p-1"];
/// So few ids that drafts are in each other's way.
const NODES: usize = 5;
/// How long everything may go wrong.
const TROUBLE: Duration = Duration::from_secs(90);
/// How long it may take afterwards until everybody has an answer.
const QUIET: Duration = Duration::from_secs(120);

struct Validator {
    link: Link,
    rules: Arc<LiveRules>,
    running: Option<RunningValidator>,
    shutdown: CancellationToken,
}

struct Frontend {
    id: String,
    link: Link,
    bare: Bare,
    connections: JoinSet<()>,
    alive: bool,
}

struct Cast {
    world: World,
    is_cluster: bool,
    validators: Vec<Validator>,
    frontends: Arc<std::sync::Mutex<Vec<Frontend>>>,
    settings: FrontendSettings,
    started: u64,
}

/// Plays a plan, and gives the verdict and the story.
pub(crate) fn play(plan: Plan) -> (Verdict, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime needs nothing that could be missing");
    let played = runtime.block_on(run(plan));
    by_seed::set(None);
    played
}

async fn run(plan: Plan) -> (Verdict, Vec<String>) {
    let world = World::new(plan.seed, weather(plan), plan.mutation);
    let chance = world.clone();
    by_seed::set(Some(Box::new(move || chance.roll(|rng| rng.below(1 << 20)) as f64 / f64::from(1 << 20))));
    let history = History::default();
    let mut cast = Cast {
        world: world.clone(),
        is_cluster: is_cluster(plan),
        validators: Vec::new(),
        frontends: Arc::default(),
        settings: settings(&world),
        started: 0,
    };
    for _ in 0..VALIDATORS {
        let validator = cast.validator();
        cast.validators.push(validator);
    }
    for _ in 0..FRONTENDS {
        let frontend = cast.frontend().await;
        lock(&cast.frontends).push(frontend);
    }
    let calm = CancellationToken::new();
    let clients: Vec<JoinHandle<()>> = (0..CLIENTS)
        .map(|n| {
            let client = Client {
                name: format!("c{n}"),
                partition: PartitionKey::new(PARTITIONS[n % PARTITIONS.len()]).expect("a name"),
                world: world.clone(),
                frontends: cast.frontends.clone(),
                history: history.clone(),
                calm: calm.clone(),
                dialect: if n % 2 == 0 { Dialect::Classic } else { Dialect::V1 },
                sent: 0,
                connections: 0,
            };
            tokio::spawn(client.run())
        })
        .collect();

    let until = Instant::now() + TROUBLE;
    while Instant::now() < until {
        let pause = world.roll(|rng| 200 + rng.below(8_000)) as u64;
        sleep(Duration::from_millis(pause)).await;
        cast.trouble().await;
    }
    world.tell(|| "-- all is healed".to_owned());
    world.calm_down();
    calm.cancel();
    cast.heal().await;
    let quiet = timeout(QUIET, async {
        for client in clients {
            client.await.expect("a client does not panic");
        }
        world.until(|servers| (servers.queued() == 0).then_some(())).await;
    });
    let quiet = quiet.await;
    let mut verdict = judge(&world, &history, &initial());
    if quiet.is_err() {
        let queued = world.look(|servers| servers.queued());
        verdict.findings.push(format!("it does not come to rest; {queued} messages are in the queue"));
    }
    (verdict, world.story())
}

/// A frontend's settings, down to sizes at which everything must be read again all the time.
fn settings(world: &World) -> FrontendSettings {
    let pick = |of: &[usize]| world.roll(|rng| *rng.pick(of));
    FrontendSettings {
        // Shorter than a take-over, and longer: what one defence catches hides from the others.
        answer_wait_ms: pick(&[1_000, 5_000, 25_000]) as u64,
        submission_drafts_max: pick(&[1, 4, 64]),
        ring_events_max: pick(&[2, 16, 2_048]),
        page_events_max: pick(&[3, 32]),
        frames_per_turn_max: pick(&[1, 256]),
        feed_idle_ms: 1_000,
        // Limits count real time.
        submissions_per_minute_max: 0,
        frames_per_second_max: 0,
        bytes_per_second_max: 0,
        bytes_out_per_second_max: 0,
        upgrades_per_second_max: 0,
        ..FrontendSettings::default()
    }
}

fn weather(plan: Plan) -> Weather {
    let mut rng = super::rng::Rng::new(plan.seed ^ 0x5eed);
    Weather {
        delay_ms: *rng.pick(&[1, 5, 20]),
        slow_one_in: *rng.pick(&[0, 20, 200]),
        lost_one_in: *rng.pick(&[0, 50, 500]),
        full_one_in: *rng.pick(&[0, 0, 30]),
        naps_one_in: if plan.mutation.is_some() {
            *rng.pick(&[15, 50, 200])
        } else {
            *rng.pick(&[0, 300, 1000])
        },
        overtaken_one_in: if plan.overtaking { 20 } else { 0 },
        stale_one_in: if is_cluster(plan) { *rng.pick(&[0, 3, 20]) } else { 0 },
        refused_twice_one_in: if is_cluster(plan) { *rng.pick(&[0, 20, 100]) } else { 0 },
        unremoved_one_in: if is_cluster(plan) { *rng.pick(&[2, 10]) } else { 0 },
    }
}

/// Whether there are several servers: what they agreed on stays, and one that is cut off still answers.
fn is_cluster(plan: Plan) -> bool {
    plan.seed % 2 == 1
}

/// Rules under which a note may have numbers up to one of [`NOTES_MAX`].
fn schemas(max: u64) -> SchemaSet {
    let schema = json!({ "type": "object", "properties": { "v": { "maximum": max } } });
    SchemaSet::from_files([("note.json".to_owned(), schema.to_string())]).expect("a schema")
}

fn initial() -> Value {
    json!({ "t": { "items": {}, "tree": [] } })
}

impl Cast {
    fn validator(&mut self) -> Validator {
        self.started += 1;
        let id = format!("v{}", self.started);
        let link = Link::new(self.world.clone(), &id);
        let max = self.world.roll(|rng| *rng.pick(&NOTES_MAX));
        let config = RulesConfig { schemas: schemas(max), ..RulesConfig::default() };
        let rules = Arc::new(LiveRules::new(Rules::new(config).expect("these rules are rules")));
        let shutdown = CancellationToken::new();
        let parts = Parts {
            id,
            settings: ValidatorSettings::default(),
            log: SimulatedLog(link.clone()),
            rules: rules.clone(),
            fold: rules.fold(),
            initial_state: Some(RawValue::from_string(initial().to_string()).expect("JSON")),
            ownership_ttl: TTL,
        };
        let background = CancellationToken::new();
        let idle = background.clone();
        let snapshotting = async move { idle.cancelled().await };
        let running = launch(
            parts,
            (Snapshotter::idle(), snapshotting),
            (async {}, async {}),
            background,
            shutdown.clone(),
        );
        Validator { link, rules, running: Some(running), shutdown }
    }

    async fn frontend(&mut self) -> Frontend {
        self.started += 1;
        let id = format!("f{}", self.started);
        let link = Link::new(self.world.clone(), &id);
        let log = Log::stood_in_for(Arc::new(FrontendLog(link.clone()))).await;
        let settings = FrontendSettings { id: id.clone(), ..self.settings.clone() };
        let bare = Bare::start(settings, log, self.started * 1_000_000).await;
        Frontend { id, link, bare, connections: JoinSet::new(), alive: true }
    }

    /// Something goes wrong, or is made right again.
    async fn trouble(&mut self) {
        let world = self.world.clone();
        let validators = self.validators.len();
        let which = world.roll(|rng| rng.below(validators));
        let front = world.roll(|rng| rng.below(FRONTENDS));
        let (slept, v) = (world.roll(|rng| 500 + rng.below(20_000)), &mut self.validators[which]);
        let nap = Duration::from_millis(slept as u64);
        match world.roll(|rng| rng.below(13)) {
            0 | 1 if validators > 1 => {
                world.tell(|| format!("-- {} is killed", v.link.name));
                v.running = None;
            }
            2 if validators > 1 => {
                world.tell(|| format!("-- {} is told to stop", v.link.name));
                v.shutdown.cancel();
            }
            3 | 4 => {
                world.tell(|| format!("-- {} sleeps for {nap:?}", v.link.name));
                v.link.nap(nap);
            }
            5 => {
                world.tell(|| format!("-- {} is cut off for {nap:?}", v.link.name));
                cut_for(v.link.clone(), nap);
            }
            6 => {
                let mut frontends = lock(&self.frontends);
                let frontend = &mut frontends[front];
                world.tell(|| format!("-- {} is killed", frontend.id));
                frontend.connections = JoinSet::new();
                frontend.bare.kill();
                frontend.alive = false;
                let id = frontend.id.clone();
                world.change(|servers| servers.answers.remove(&id));
            }
            7 => {
                let link = lock(&self.frontends)[front].link.clone();
                world.tell(|| format!("-- {} sleeps for {nap:?}", link.name));
                link.nap(nap);
            }
            8 => {
                let link = lock(&self.frontends)[front].link.clone();
                world.tell(|| format!("-- {} is cut off for {nap:?}", link.name));
                cut_for(link, nap);
            }
            9 if !self.is_cluster => {
                world.tell(|| "-- the server is killed; the queue is lost".to_owned());
                world.change(Servers::crash);
                for link in self.links() {
                    link.reconnect();
                }
            }
            10 => {
                let max = world.roll(|rng| *rng.pick(&NOTES_MAX));
                world.tell(|| format!("-- {} is given rules: notes up to {max}", v.link.name));
                v.rules.replace_schemas(schemas(max));
            }
            _ => self.restart().await,
        }
    }

    /// Starts what is down.
    async fn restart(&mut self) {
        for at in 0..self.validators.len() {
            if self.validators[at].running.is_none() || self.validators[at].shutdown.is_cancelled() {
                let fresh = self.validator();
                self.world.tell(|| format!("-- {} is started", fresh.link.name));
                let old = std::mem::replace(&mut self.validators[at], fresh);
                // One that was told to stop does so by itself; whoever was killed is gone already.
                if let Some(running) = old.running {
                    tokio::spawn(async move { drop(timeout(QUIET, running.join()).await) });
                }
            }
        }
        for at in 0..FRONTENDS {
            let is_alive = lock(&self.frontends)[at].alive;
            if !is_alive {
                let fresh = self.frontend().await;
                lock(&self.frontends)[at] = fresh;
            }
        }
    }

    async fn heal(&mut self) {
        for link in self.links() {
            link.sleep(false);
            if link.is_cut() {
                link.reconnect();
            }
        }
        self.restart().await;
    }

    fn links(&self) -> Vec<Link> {
        let frontends = lock(&self.frontends);
        let validators = self.validators.iter().map(|validator| validator.link.clone());
        validators.chain(frontends.iter().map(|frontend| frontend.link.clone())).collect()
    }
}

fn cut_for(link: Link, nap: Duration) {
    link.cut();
    tokio::spawn(async move {
        sleep(nap).await;
        if link.is_cut() {
            link.reconnect();
        }
    });
}

/// A client as real ones are: it holds its drafts until they are answered, and sends them again under the same
/// ids when it has to connect anew.
struct Client {
    name: String,
    partition: PartitionKey,
    world: World,
    frontends: Arc<std::sync::Mutex<Vec<Frontend>>>,
    history: History,
    /// From then on it sends nothing new.
    calm: CancellationToken,
    dialect: Dialect,
    sent: usize,
    connections: u64,
}

struct Wire {
    name: String,
    drafts: mpsc::UnboundedSender<Vec<Letter>>,
    told: mpsc::UnboundedReceiver<(String, Told)>,
    sent: u64,
    /// When the client, or something on the way, ends it.
    until: Instant,
}

impl Client {
    async fn run(mut self) {
        let mut open: Vec<Letter> = Vec::new();
        loop {
            let mut wire = self.connect().await;
            for draft in &open {
                self.send(&mut wire, vec![draft.clone()]);
            }
            loop {
                if self.calm.is_cancelled() && open.is_empty() && self.has_seen_all() {
                    return;
                }
                let (calm, pause) =
                    (self.calm.is_cancelled(), self.world.roll(|rng| rng.below(1_500)) as u64);
                tokio::select! {
                    biased;
                    told = wire.told.recv() => match told {
                        Some((id, told)) => self.take(&mut wire, &mut open, id, told),
                        None => break,
                    },
                    () = tokio::time::sleep_until(wire.until), if !calm => break,
                    () = self.calm.cancelled(), if !calm => {}
                    () = sleep(Duration::from_millis(pause)), if !calm && open.len() < 12 => {
                        let count = 1 + self.world.roll(|rng| rng.below(4));
                        let drafts: Vec<Letter> = (0..count).map(|_| self.draft()).collect();
                        open.extend(drafts.iter().cloned());
                        self.send(&mut wire, drafts);
                    }
                    // It looks whether it has seen all.
                    () = sleep(Duration::from_millis(100)), if calm && open.is_empty() => {}
                }
            }
            drop(wire);
            sleep(Duration::from_millis(self.world.roll(|rng| 10 + rng.below(1_000)) as u64)).await;
        }
    }

    /// Whether it was shown all that there is; a client of v1 would have to ask.
    fn has_seen_all(&self) -> bool {
        let last = self.world.look(|servers| last_shown(&servers.log, &self.partition));
        self.dialect == Dialect::V1 || self.history.seen_by(&self.name) >= last
    }

    fn take(&mut self, wire: &mut Wire, open: &mut Vec<Letter>, id: String, told: Told) {
        if told == Told::Again {
            if let Some(draft) = open.iter().find(|draft| draft.id == id).cloned() {
                self.send(wire, vec![draft]);
            }
            return;
        }
        open.retain(|draft| draft.id != id);
        let log = self.world.look(|servers| servers.log.len());
        self.history.with(|lives| {
            if let Some(life) = lives.get_mut(&id) {
                life.end.get_or_insert((told, log));
            }
        });
    }

    async fn connect(&mut self) -> Wire {
        loop {
            let which = self.world.roll(|rng| rng.below(FRONTENDS));
            if let Some(frontend) = lock(&self.frontends).get_mut(which).filter(|frontend| frontend.alive) {
                self.connections += 1;
                while let Some(ended) = frontend.connections.try_join_next() {
                    if let Err(error) = ended {
                        self.history.find(format!("a connection of {} died: {error}", frontend.id));
                    }
                }
                let (drafts, taken) = mpsc::unbounded_channel();
                let (tell, told) = mpsc::unbounded_channel();
                let (pipe, number, serving) = frontend.bare.connect();
                frontend.connections.spawn(serving);
                let name = format!("{}/{number}", frontend.id);
                let guest = Guest {
                    client: self.name.clone(),
                    partition: self.partition.clone(),
                    dialect: self.dialect,
                    since: self.history.seen_by(&self.name),
                    name: name.clone(),
                };
                tokio::spawn(talk(pipe, guest, self.world.clone(), self.history.clone(), taken, tell));
                self.world.tell(|| format!("{} connects as {name}", self.name));
                let life = self.world.roll(|rng| 2_000 + rng.below(40_000)) as u64;
                let until = Instant::now() + Duration::from_millis(life);
                return Wire { name, drafts, told, sent: 0, until };
            }
            sleep(Duration::from_millis(300)).await;
        }
    }

    fn draft(&mut self) -> Letter {
        self.sent += 1;
        let node = format!("n{}", self.world.roll(|rng| rng.below(NODES)));
        let (kind, payload) = match self.world.roll(|rng| rng.below(6)) {
            0 => ("treeDelete", json!({ "target": "t", "options": { "id": node } })),
            5 => ("note", json!({ "v": self.world.roll(|rng| rng.below(110)) })),
            1 => (
                "treeUpdate",
                json!({ "target": "t", "value": { "v": self.sent }, "options": { "id": node } }),
            ),
            _ => ("treePush", json!({ "target": "t", "value": { "id": node, "v": self.sent } })),
        };
        let id = format!("{}-{}", self.name, self.sent);
        Letter { id, event: json!({ "type": kind, "payload": payload }) }
    }

    fn send(&mut self, wire: &mut Wire, drafts: Vec<Letter>) {
        let log = self.world.look(|servers| servers.log.len());
        for draft in &drafts {
            wire.sent += 1;
            self.history.with(|lives| {
                let life = lives.entry(draft.id.clone()).or_insert_with(|| Life {
                    partition: self.partition.clone(),
                    event: draft.event.clone(),
                    sent: Vec::new(),
                    log_at_first: log,
                    end: None,
                });
                life.sent.push((wire.name.clone(), wire.sent));
            });
        }
        // A connection that has just gone shows when it is listened to.
        drop(wire.drafts.send(drafts));
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
