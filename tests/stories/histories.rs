//! Random histories: clients of both dialects, on two partitions over two frontends, submit, repeat
//! themselves, contradict themselves, sync, vanish and come back, while processes are killed. At the end
//! every client knows exactly what the log holds, and whatever any of them was told is true.
//!
//! A history is made from its seed before anything is started. With `INSIEME_HISTORY_SEED=N` every test here
//! plays that seed instead of its own, so run one of them; a failure prints the seed and the steps taken.
//! The steps are the same each time, the timing is not.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::harness::client::{Answer, Client};
use crate::harness::cluster::{Cluster, HISTORY_SEED_VARIABLE};
use crate::harness::rng::Rng;
use crate::harness::v1::{Item, V1Client, as_classic, as_v1, content};

const STEPS: usize = 220;
const PARTITIONS: [&str; 2] = ["p-0", "p-1"];
/// Three of each dialect.
const CLIENTS: usize = 6;
const FRONTENDS: usize = 2;
const VALIDATORS: usize = 2;
/// Ids that any client of a partition may submit, all with the same content.
const SHARED_IDS: usize = 12;

/// What a client submits.
#[derive(Debug, Clone, Copy)]
enum Pick {
    /// A new event.
    Fresh,
    /// One that is not as it must be, in one of several ways.
    Bad(usize),
    /// An earlier one of its own, counted back, as it was.
    Again(usize),
    /// An earlier one's id with other content.
    Altered(usize),
    /// One that others may submit too.
    Shared(usize),
}

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// A batch; in the classic dialect one draft after the other.
    Submit {
        client: usize,
        picks: Vec<Pick>,
    },
    /// A page of the sync cycle that is under way, or the first of a new one.
    Page {
        client: usize,
        limit: u64,
    },
    /// Takes what has come, without waiting.
    Take {
        client: usize,
    },
    /// Waits for all answers.
    Settle {
        client: usize,
    },
    /// Breaks the connection without a word.
    Drop {
        client: usize,
    },
    /// Comes back on this frontend, if it was gone.
    Connect {
        client: usize,
        frontend: usize,
    },
    KillFrontend(usize),
    StartFrontend,
    KillValidator(usize),
    StartValidator,
}

/// The steps that a seed stands for.
fn history(seed: u64) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    let mut steps = Vec::new();
    let (mut frontend_down, mut validator_down) = (false, false);
    while steps.len() < STEPS {
        let client = rng.below(CLIENTS);
        steps.push(match rng.below(100) {
            0..40 => {
                let count = if rng.one_in(3) { 1 } else { 1 + rng.below(6) };
                Step::Submit { client, picks: (0..count).map(|_| pick(&mut rng)).collect() }
            }
            40..65 => Step::Page { client, limit: 1 + rng.below(20) as u64 },
            65..75 => Step::Take { client },
            75..83 => Step::Settle { client },
            83..89 => Step::Drop { client },
            89..97 => Step::Connect { client, frontend: rng.below(FRONTENDS) },
            97 if frontend_down => Step::StartFrontend,
            97 => Step::KillFrontend(rng.below(FRONTENDS)),
            _ if validator_down => Step::StartValidator,
            _ => Step::KillValidator(rng.below(VALIDATORS)),
        });
        match steps[steps.len() - 1] {
            Step::KillFrontend(_) => frontend_down = true,
            Step::StartFrontend => frontend_down = false,
            Step::KillValidator(_) => validator_down = true,
            Step::StartValidator => validator_down = false,
            _ => {}
        }
    }
    steps
}

fn pick(rng: &mut Rng) -> Pick {
    match rng.below(20) {
        0..2 => Pick::Bad(rng.below(BAD_KINDS)),
        2..5 => Pick::Again(rng.below(8)),
        5 => Pick::Altered(rng.below(8)),
        6..9 => Pick::Shared(rng.below(SHARED_IDS)),
        _ => Pick::Fresh,
    }
}

/// A client of one dialect or the other.
enum Any {
    V1(Box<V1Player>),
    Classic(Box<ClassicPlayer>),
}

struct V1Player {
    client: V1Client,
    made: Vec<Value>,
    /// The ids of new events, in the order submitted.
    fresh: Vec<String>,
}

struct ClassicPlayer {
    client: Client,
    /// Every draft that was made: its id and its event.
    made: Vec<(String, Value)>,
    /// What every submission came to.
    answers: Vec<(Value, Answer)>,
    /// The ones whose answers are still out.
    open: Vec<(String, Value)>,
    /// Whether a sync cycle is under way, and from where it goes on.
    since: Option<u64>,
}

const BAD_KINDS: usize = 4;

impl V1Player {
    fn event(&mut self, seed: u64, picked: Pick) -> Value {
        let n = self.made.len();
        let id = format!("{}-{n}", self.client.id);
        match picked {
            Pick::Again(back) if n > 0 => self.made[n - 1 - back % n].clone(),
            Pick::Altered(back) if n > 0 => {
                let mut event = self.made[n - 1 - back % n].clone();
                // Any field of the content makes it another event.
                match n % 4 {
                    0 => event["payload"]["value"] = json!({ "altered": n }),
                    1 => event["partition"] = "elsewhere".into(),
                    2 => event["meta"]["clientTs"] = json!(n + 1_000),
                    _ => event["schemaVersion"] = json!(n + 7),
                }
                event
            }
            Pick::Shared(number) => {
                let payload = json!({ "shared": number, "seed": seed });
                self.client.event(&format!("shared-{number}"), "note.shared", payload)
            }
            picked => {
                let kind = if n.is_multiple_of(2) { "set" } else { "note.added" };
                let payload = json!({ "target": format!("{}.k{n}", self.client.id), "value": n });
                let mut event = self.client.event(&id, kind, payload);
                event["meta"]["clientTs"] = n.into();
                event["meta"]["extra"] = json!({ "z": [n, null], "a": "\u{e9}" });
                if n.is_multiple_of(3) {
                    event["partition"] = "notes".into();
                    event["userId"] = "somebody".into();
                }
                if let Pick::Bad(kind) = picked {
                    match kind {
                        // Before a validator sees it,
                        0 => drop(event.as_object_mut().unwrap().remove("type")),
                        1 => event["projectId"] = "another".into(),
                        2 => drop(event["meta"].as_object_mut().unwrap().remove("clientTs")),
                        // and by the validator.
                        _ => {
                            event["type"] = "set".into();
                            event["payload"] = json!({ "value": n });
                        }
                    }
                } else {
                    self.fresh.push(id);
                }
                self.made.push(event.clone());
                event
            }
        }
    }

    /// Everything that it was told is so.
    fn check(&self, log: &[Value], elsewhere: &[&V1Player]) {
        let V1Client { id: name, project, connections, .. } = &self.client;
        let committed: Vec<Value> = log.iter().map(as_v1).collect();
        let mine: Vec<&Value> = self.client.log.values().collect();
        assert_eq!(mine.len(), committed.len(), "{name} knows {:?}", self.client.log.keys());
        for (mine, theirs) in mine.into_iter().zip(&committed) {
            // Of a shared event that it submitted too, a result does not say who was first.
            assert_eq!(content(mine), content(theirs), "{name} in {project}");
            assert_eq!(mine["committedId"], theirs["committedId"], "{name} in {project}");
            assert_eq!(mine["serverTs"], theirs["serverTs"], "{name}: {mine}");
        }

        // Each connection heard of everything from its beginning to where it came. Results may be ahead of
        // that; and what it never heard the result of is not broadcast to it either.
        for (number, connection) in connections.iter().enumerate() {
            let (from, to) = (connection.began_at.max(connection.knew_to), connection.covered_to());
            for event in &committed {
                let id = event["committedId"].as_u64().unwrap();
                let own_unanswered = connection.unanswered.contains(event["id"].as_str().unwrap());
                assert!(
                    !(from < id && id <= to) || own_unanswered || connection.seen.contains(&id),
                    "{name}: connection {number} began at {from}, came to {to}, and did not hear of {id}"
                );
            }
        }

        // Every result is true.
        let by_id: HashMap<&str, &Value> =
            committed.iter().map(|event| (event["id"].as_str().unwrap(), event)).collect();
        for item in self.client.batches.iter().flatten() {
            let id = item.event["id"].as_str().unwrap();
            let in_log = by_id.get(id).filter(|event| content(event) == content(&item.event));
            match item.status() {
                "committed" => {
                    let event = in_log.unwrap_or_else(|| panic!("{name}: {item:?} is not in the log"));
                    assert_eq!(event["committedId"].as_u64(), item.committed_id(), "{name}: {item:?}");
                    assert_eq!(event["serverTs"], item.result["serverTs"], "{name}: {item:?}");
                }
                "rejected" => assert!(in_log.is_none(), "{name}: {item:?} is in the log"),
                _ => {
                    let later = elsewhere.iter().flat_map(|player| player.client.batches.iter().flatten());
                    let accounted = later.chain(self.client.batches.iter().flatten()).any(|other| {
                        other.committed_id().is_some()
                            && other.event["id"] == id
                            && content(&other.event) == content(&item.event)
                    });
                    assert!(in_log.is_none() || accounted, "{name}: {item:?} is in the log");
                }
            }
        }

        // What it submitted first was committed in the order submitted.
        let mut first: HashMap<&str, &Item> = HashMap::new();
        for item in self.client.batches.iter().flatten() {
            first.entry(item.event["id"].as_str().unwrap()).or_insert(item);
        }
        let order: Vec<u64> = self.fresh.iter().filter_map(|id| first.get(&**id)?.committed_id()).collect();
        assert!(order.is_sorted_by(|a, b| a < b), "{name}: {order:?}");
    }
}

impl ClassicPlayer {
    async fn submit(&mut self, picked: Pick) {
        let n = self.made.len();
        let id = format!("d{n}");
        match picked {
            Pick::Again(back) | Pick::Altered(back) if n > 0 => {
                let (id, mut event) = self.made[n - 1 - back % n].clone();
                // One answer at a time for one draft id.
                self.settle().await;
                if matches!(picked, Pick::Altered(_)) {
                    event["payload"]["value"] = json!({ "altered": n });
                }
                self.open.push((id.clone(), event.clone()));
                self.client.submit_again(&id, event).await;
            }
            picked => {
                let mut payload = json!({ "target": format!("{}.k{n}", self.client.id), "value": n });
                if let Pick::Bad(_) = picked {
                    payload = json!({ "target": 7, "value": n });
                }
                let event = json!({ "type": "set", "payload": payload });
                self.made.push((id.clone(), event.clone()));
                self.open.push((id.clone(), event.clone()));
                self.client.submit_as(&id, event, None).await;
            }
        }
    }

    async fn settle(&mut self) {
        self.client.settle().await;
        for (id, event) in std::mem::take(&mut self.open) {
            self.answers.push((event, self.client.answers[&id].clone()));
        }
    }

    async fn page(&mut self, limit: u64) {
        let since = self.since.unwrap_or(self.client.last_event_id);
        let page = self.client.sync(json!({ "sinceEventId": since, "limit": limit })).await;
        assert!(page.get("snapshot").is_none(), "a history is too short for snapshots");
        let last = page["events"].as_array().unwrap().last().map(|event| event["eventId"].as_u64().unwrap());
        self.since = last.filter(|_| page["hasMore"] == true);
    }

    fn check(&self, log: &[Value]) {
        let name = &self.client.id;
        let committed: Vec<Value> = log.iter().map(as_classic).collect();
        assert_eq!(self.client.events, committed, "{name}");
        for (event, answer) in &self.answers {
            match answer {
                Answer::Accepted { event_id, event: accepted } => {
                    let in_log = committed.iter().find(|event| event["eventId"] == *event_id);
                    assert_eq!(in_log, Some(accepted), "{name}");
                    assert_eq!(accepted["payload"], event["payload"], "{name}");
                }
                Answer::Rejected { .. } => {
                    let in_log = log.iter().any(|record| {
                        record["clientId"] == name.as_str() && record["payload"] == event["payload"]
                    });
                    assert!(!in_log, "{name}: {event} was rejected and is in the log");
                }
            }
        }
    }
}

impl Any {
    fn drop_connection(&mut self) {
        match self {
            Any::V1(player) => player.client.drop_connection(),
            Any::Classic(player) => {
                player.since = None;
                player.client.drop_connection();
            }
        }
    }

    fn is_connected(&self) -> bool {
        match self {
            Any::V1(player) => player.client.is_connected(),
            Any::Classic(player) => player.client.is_connected(),
        }
    }

    async fn reconnect(&mut self, url: &str) {
        match self {
            Any::V1(player) => {
                player.client.move_to(url);
                player.client.reconnect().await;
            }
            Any::Classic(player) => {
                player.client.move_to(url);
                player.client.reconnect().await;
            }
        }
    }

    async fn take(&mut self) {
        match self {
            Any::V1(player) => player.client.drain().await,
            Any::Classic(player) => player.client.drain().await,
        }
    }

    async fn settle(&mut self) {
        match self {
            Any::V1(player) => player.client.settle().await,
            Any::Classic(player) => player.settle().await,
        }
    }

    fn partition(&self) -> &str {
        match self {
            Any::V1(player) => &player.client.project,
            Any::Classic(player) => &player.client.partition,
        }
    }
}

/// The world in which a history is played.
struct World {
    cluster: Cluster,
    clients: Vec<Any>,
    /// The frontend that each client is on, or was.
    at: Vec<usize>,
    frontend_down: Option<usize>,
    validator_down: Option<usize>,
    seed: u64,
}

impl World {
    async fn new(seed: u64) -> Self {
        let cluster = Cluster::start()
            .validators(VALIDATORS)
            .frontends(FRONTENDS)
            // Who takes a dead validator's place does so soon.
            .set("nats.ownership_ttl_ms", 1_500)
            .await;
        let (mut clients, mut at) = (Vec::new(), Vec::new());
        for index in 0..CLIENTS {
            // Both dialects on each partition and on each frontend.
            let (partition, frontend) = (PARTITIONS[index / 2 % 2], (index + index / 2) % FRONTENDS);
            let url = cluster.frontends[frontend].url();
            clients.push(if index % 2 == 0 {
                let client = V1Client::connect(&url, &format!("v{index}"), partition).await;
                Any::V1(Box::new(V1Player { client, made: Vec::new(), fresh: Vec::new() }))
            } else {
                let client = Client::of(&url, &format!("c{index}")).partition(partition).steadfast().await;
                let (made, answers, open) = (Vec::new(), Vec::new(), Vec::new());
                Any::Classic(Box::new(ClassicPlayer { client, made, answers, open, since: None }))
            });
            at.push(frontend);
        }
        Self { cluster, clients, at, frontend_down: None, validator_down: None, seed }
    }

    /// A frontend that runs: this one if it does.
    fn running(&self, frontend: usize) -> usize {
        if self.frontend_down == Some(frontend) { (frontend + 1) % FRONTENDS } else { frontend }
    }

    async fn connect(&mut self, client: usize, frontend: usize) {
        let frontend = self.running(frontend);
        self.at[client] = frontend;
        let url = self.cluster.frontends[frontend].url();
        self.clients[client].reconnect(&url).await;
    }

    /// Who is to do something comes back for it.
    async fn connected(&mut self, client: usize) {
        if !self.clients[client].is_connected() {
            self.connect(client, self.at[client]).await;
        }
    }

    async fn play(&mut self, step: &Step) {
        match step {
            Step::Submit { client, picks } => {
                self.connected(*client).await;
                match &mut self.clients[*client] {
                    Any::V1(player) => {
                        let seed = self.seed;
                        let events = picks.iter().map(|pick| player.event(seed, *pick)).collect();
                        player.client.submit(events).await;
                    }
                    Any::Classic(player) => {
                        for pick in picks {
                            player.submit(*pick).await;
                        }
                    }
                }
            }
            Step::Page { client, limit } => {
                self.connected(*client).await;
                match &mut self.clients[*client] {
                    Any::V1(player) => drop(player.client.page(*limit).await),
                    Any::Classic(player) => player.page(*limit).await,
                }
            }
            Step::Take { client } => self.clients[*client].take().await,
            Step::Settle { client } => {
                self.connected(*client).await;
                self.clients[*client].settle().await;
            }
            Step::Drop { client } => self.clients[*client].drop_connection(),
            Step::Connect { client, frontend } => {
                if !self.clients[*client].is_connected() {
                    self.connect(*client, *frontend).await;
                }
            }
            Step::KillFrontend(frontend) => {
                self.cluster.frontends[*frontend].process.kill9();
                self.frontend_down = Some(*frontend);
                for (client, at) in self.clients.iter_mut().zip(&self.at) {
                    if at == frontend {
                        client.drop_connection();
                    }
                }
            }
            Step::StartFrontend => {
                if let Some(frontend) = self.frontend_down.take() {
                    self.cluster.restart_frontend(frontend).await;
                }
            }
            Step::KillValidator(validator) => {
                self.cluster.validators[*validator].process.kill9();
                self.validator_down = Some(*validator);
            }
            Step::StartValidator => {
                if let Some(validator) = self.validator_down.take() {
                    self.cluster.restart_validator(validator).await;
                }
            }
        }
    }

    /// Everybody comes back, gets all answers and all events.
    async fn heal(&mut self) {
        self.play(&Step::StartFrontend).await;
        self.play(&Step::StartValidator).await;
        for client in 0..CLIENTS {
            self.connected(client).await;
            self.clients[client].settle().await;
        }
        for client in &mut self.clients {
            let log = self.cluster.log(client.partition());
            let Some(head) = log.last().and_then(|event| event["eventId"].as_u64()) else { continue };
            match client {
                Any::V1(player) => {
                    // A cycle that is under way holds the broadcasts back, so it is gone through first; what
                    // was committed after its beginning must come by itself.
                    let client = &mut player.client;
                    client.sync(7).await;
                    let began_at = client.connections.last().unwrap().began_at;
                    if head > began_at {
                        client.told_of(head).await;
                    }
                    client.sync(20).await;
                }
                Any::Classic(player) => {
                    while player.since.is_some() {
                        player.page(20).await;
                    }
                    player.client.caught_up(head).await;
                }
            }
        }
    }

    fn check(&self) {
        let logs = PARTITIONS.map(|partition| self.cluster.log(partition));
        let players: Vec<&V1Player> = self
            .clients
            .iter()
            .filter_map(|client| if let Any::V1(player) = client { Some(&**player) } else { None })
            .collect();
        for client in &self.clients {
            let at = PARTITIONS.iter().position(|partition| *partition == client.partition()).unwrap();
            match client {
                Any::V1(player) => {
                    let others: Vec<&V1Player> = players
                        .iter()
                        .copied()
                        .filter(|other| other.client.project == player.client.project)
                        .collect();
                    player.check(&logs[at], &others);
                }
                Any::Classic(player) => player.check(&logs[at]),
            }
        }
        let committed: usize = logs.iter().map(Vec::len).sum();
        let answered: usize = players.iter().flat_map(|player| &player.client.batches).map(Vec::len).sum();
        let connections: usize = players.iter().map(|player| player.client.connections.len()).sum();
        let broadcasts: usize = players
            .iter()
            .flat_map(|player| &player.client.connections)
            .map(|connection| connection.broadcasts.len())
            .sum();
        eprintln!(
            "seed {}: {committed} events; v1: {answered} items answered, {broadcasts} broadcasts over \
             {connections} connections",
            self.seed
        );
        assert!(committed > 100, "a history of {committed} events shows little");
    }
}

/// Shows what was played if the test fails.
struct Played<'a> {
    seed: u64,
    steps: &'a [Step],
    done: usize,
}

impl Drop for Played<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (number, step) in self.steps[..self.done].iter().enumerate() {
                eprintln!("{number:>4}  {step:?}");
            }
            eprintln!("to play this again: {HISTORY_SEED_VARIABLE}={}", self.seed);
        }
    }
}

async fn play(seed: u64) {
    let seed = match std::env::var(HISTORY_SEED_VARIABLE) {
        Ok(seed) => seed.parse().unwrap_or_else(|_| panic!("{HISTORY_SEED_VARIABLE} is to be a number")),
        Err(_) => seed,
    };
    let steps = history(seed);
    let mut played = Played { seed, steps: &steps, done: 0 };
    let mut world = World::new(seed).await;
    for step in &steps {
        played.done += 1;
        world.play(step).await;
    }
    world.heal().await;
    world.check();
}

macro_rules! histories {
    ($($name:ident: $seed:expr;)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            play($seed).await;
        }
    )* };
}

histories! {
    at_the_end_of_history_1_everybody_knows_the_log: 1;
    at_the_end_of_history_2_everybody_knows_the_log: 2;
    at_the_end_of_history_3_everybody_knows_the_log: 3;
    at_the_end_of_history_9_everybody_knows_the_log: 9;
    at_the_end_of_history_14_everybody_knows_the_log: 14;
}
