//! The backend under torture: NATS, and frontends and validators as processes, each with a proxy of ours on
//! its way to NATS.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::engine::{self, Engine, Kind};

use super::log::Truth;
use super::long::Long;
use super::schemas;
use crate::harness::cluster::binary;
use crate::harness::free_port;
use crate::harness::process::Process;
use crate::harness::proxy::{Link, Proxy};
use crate::harness::rng::Rng;

/// What is done to the processes, counted.
#[derive(Default)]
pub struct Counters {
    pub kills: AtomicU64,
    pub nats_kills: AtomicU64,
    pub pauses: AtomicU64,
    pub cuts: AtomicU64,
    pub half_open: AtomicU64,
    pub slow: AtomicU64,
    pub rolling: AtomicU64,
    /// NATS servers cut off from each other.
    pub splits: AtomicU64,
    pub disks_full: AtomicU64,
    /// NATS servers stopped for 3 seconds or more.
    pub long_pauses: AtomicU64,
    /// Times that all processes were asked to go and start again while NATS stood still or was cut in two.
    pub restarts_of_all: AtomicU64,
    /// Connections to NATS that were reset, and those of them in the middle of an answer to a batched read.
    pub resets: AtomicU64,
    pub read_resets: AtomicU64,
    /// Schemas that were replaced while a validator worked.
    pub reloads: AtomicU64,
    /// Processes that were started with a clock that is off.
    pub clocks_off: AtomicU64,
    /// Slots taken over, as the validators count them.
    pub takeovers: AtomicU64,
}

pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// How many slots the torture's streams have: few, so that partitions share them.
pub const SLOTS: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Frontend,
    Validator,
}

/// A process that is killed and started again in the same place.
pub struct Managed {
    pub role: Role,
    pub name: String,
    /// Where clients reach a frontend.
    pub port: u16,
    health: u16,
    proxies: Arc<Vec<Proxy>>,
    process: Process,
    faults: String,
    /// Whether it believes to own every slot.
    fights: bool,
    /// Milliseconds that its clock is off.
    clock_ms: i64,
    settings: Arc<Vec<String>>,
    dir: PathBuf,
    generation: u32,
    /// The takeovers of this process that are counted already.
    takeovers: u64,
    /// What its own counters say that must never be.
    alarms: Vec<String>,
}

/// The product's own counters of what must never be.
const ALARMS: [&str; 5] = [
    "insieme_log_holes_total",
    "insieme_log_unreadable_total",
    "insieme_log_went_back_total",
    "insieme_partitions_stopped_total",
    "insieme_drafts_poisoned_total",
];
/// What NATS's client library logs as an error when a connection is cut while it is made. The processes try again.
const OF_THE_CLIENT: [&str; 4] = [
    "ERROR expected INFO",
    "ERROR connection closed",
    "ERROR server error during connection",
    "ERROR authorization violation",
];

const TAKEOVERS: &str = "insieme_slot_takeovers_total";

impl Managed {
    async fn new(role: Role, index: usize, nats: &[u16], plan: &Plan, dir: &Path) -> Self {
        let mut proxies = Vec::new();
        for port in nats {
            proxies.push(Proxy::start(*port).await);
        }
        let name = match role {
            Role::Frontend => format!("frontend-{index}"),
            Role::Validator => format!("validator-{index}"),
        };
        let fights = role == Role::Validator && index == 0 && plan.slot_fight;
        let (port, health) = (free_port(), free_port());
        let mut settings = plan.settings.as_ref().clone();
        if role == Role::Validator {
            let folder = dir.join(format!("schemas-{name}"));
            schemas::write(&folder, index.is_multiple_of(2) || !plan.schemas_differ)
                .expect("a folder of schemas");
            settings.push(format!("rules.schema_dir={}", folder.display()));
            settings.push("rules.schema_poll_ms=1000".to_owned());
        }
        let settings = Arc::new(settings);
        let (faults, dir) = (plan.faults.clone(), dir.to_owned());
        let all = faults_of(&faults, fights, 0);
        let proxies = Arc::new(proxies);
        let process = spawn(role, &name, &proxies, (port, health), &settings, &all, &dir);
        Self {
            role,
            name,
            port,
            health,
            proxies,
            process,
            faults,
            fights,
            clock_ms: 0,
            settings,
            dir,
            generation: 0,
            takeovers: 0,
            alarms: Vec::new(),
        }
    }

    /// Its ways to NATS.
    pub fn proxies(&self) -> Arc<Vec<Proxy>> {
        self.proxies.clone()
    }

    /// Replaces its schemas by one of the two sets, while it works.
    pub fn replace_schemas(&self, lenient: bool) {
        schemas::write(&self.dir.join(format!("schemas-{}", self.name)), lenient)
            .expect("a folder of schemas");
    }

    /// From its next start on its clock is so many milliseconds off.
    pub fn set_clock(&mut self, off_ms: i64) {
        self.clock_ms = off_ms;
    }

    /// Reads its counters, before it is killed or judged: what it counts ends with it.
    pub async fn read_counters(&mut self, counters: &Counters) {
        let Some(said) = http(self.health, "/metrics").await else { return };
        for name in ALARMS {
            let value = sum(&said, name);
            if value > 0.0 {
                self.alarms.push(format!("{} of {} is {value}", name, self.process_name()));
            }
        }
        let takeovers = sum(&said, TAKEOVERS) as u64;
        counters.takeovers.fetch_add(takeovers.saturating_sub(self.takeovers), Ordering::Relaxed);
        self.takeovers = takeovers;
    }

    /// What its counters have said that must never be, since this was asked last.
    pub fn alarms(&mut self) -> Vec<String> {
        self.alarms.sort();
        self.alarms.dedup();
        std::mem::take(&mut self.alarms)
    }

    fn process_name(&self) -> String {
        format!("{}-{}", self.name, self.generation)
    }

    /// What its ways to NATS do.
    pub fn link(&self, link: Link) {
        self.proxies.iter().for_each(|proxy| proxy.set(link));
    }

    pub fn kill(&mut self) {
        self.process.kill9();
    }

    /// Asks it to end, as a rolling restart does, and waits until it has or a while has passed.
    pub async fn stop(&mut self) {
        self.process.signal(libc::SIGTERM);
        let gone = async {
            while self.process.is_running() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // Who is cut off from NATS may take long.
        if timeout(Duration::from_secs(10), gone).await.is_err() {
            self.process.kill9();
        }
    }

    /// Asks it to end, and waits until it has, by itself and in good order.
    pub async fn go(&mut self, wait: Duration) -> Result<(), String> {
        self.process.signal(libc::SIGTERM);
        let status = timeout(wait, self.process.ended()).await;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{}, asked to end, ended with {status}", self.name)),
            Err(_) => {
                Err(format!("{}, asked to end, had not {wait:?} later:\n{}", self.name, self.process.tail()))
            }
        }
    }

    /// Starts it again; it need not be ready when this returns.
    pub fn start(&mut self) {
        self.start_as(self.fights);
    }

    fn start_as(&mut self, fights: bool) {
        self.process.kill9();
        self.generation += 1;
        self.takeovers = 0;
        let name = self.process_name();
        let (ports, faults) = ((self.port, self.health), faults_of(&self.faults, fights, self.clock_ms));
        self.process = spawn(self.role, &name, &self.proxies, ports, &self.settings, &faults, &self.dir);
    }

    pub fn pause(&mut self) {
        self.process.pause();
    }

    pub fn resume(&mut self) {
        self.process.resume();
    }

    /// What it said at last, if it has ended without being told to.
    pub fn ended_by_itself(&mut self) -> Option<String> {
        (!self.process.is_running())
            .then(|| format!("{} ended by itself:\n{}", self.name, self.process.tail()))
    }

    /// Waits until it can do its work.
    pub async fn ready(&mut self, wait: Duration) -> Result<(), String> {
        let looking = async {
            loop {
                if http(self.health, "/readyz").await.is_some_and(|said| said.starts_with("HTTP/1.1 200")) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(wait, looking).await.map_err(|_| {
            format!(
                "{} is not ready {wait:?} after everything was healed:\n{}",
                self.name,
                self.process.tail()
            )
        })
    }

    /// A gauge or counter, summed over its labels.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let said = http(self.health, "/metrics").await?;
        Some(sum(&said, name))
    }

    /// Open files, and threads.
    pub fn resources(&self) -> (usize, usize) {
        let of = |what: &str| {
            std::fs::read_dir(format!("/proc/{}/{what}", self.process.id())).map_or(0, Iterator::count)
        };
        (of("fd"), of("task"))
    }
}

/// A metric, summed over its labels; 0 if it is not told.
fn sum(said: &str, name: &str) -> f64 {
    let samples = said.lines().filter(|line| line.split([' ', '{']).next() == Some(name));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn faults_of(faults: &str, fights: bool, clock_ms: i64) -> String {
    let fights = if fights { ",never_lose_slots" } else { "" };
    let clock = if clock_ms == 0 { String::new() } else { format!(",clock_ms={clock_ms}") };
    format!("tell_origin,{faults}{fights}{clock}")
}

fn spawn(
    role: Role,
    name: &str,
    proxies: &[Proxy],
    (port, health): (u16, u16),
    settings: &[String],
    faults: &str,
    dir: &Path,
) -> Process {
    let mut command = backend();
    match role {
        Role::Frontend => {
            command.args(["frontend", "--allow-anyone", "--listen", &format!("127.0.0.1:{port}")]);
            log_in(&mut command, "frontend");
            command.env("INSIEME_NATS_API_PREFIX", "core");
        }
        Role::Validator => {
            command.arg("validator");
            log_in(&mut command, "validator");
        }
    }
    let urls: Vec<String> = proxies.iter().map(Proxy::url).collect();
    command.arg("--nats").arg(urls.join(",")).arg("--set").arg(format!("metrics.listen=127.0.0.1:{health}"));
    for setting in settings {
        command.arg("--set").arg(setting);
    }
    command.env("INSIEME_FAULT", faults);
    Process::spawn(name, command, dir)
}

fn log_in(command: &mut Command, user: &str) {
    let (user, password) = engine::login(user);
    command.env("INSIEME_NATS_USER", user).env("INSIEME_NATS_PASSWORD", password);
}

/// The binary under test: the one built with this, unless the environment names another that is kept from being
/// built anew while a long run goes on.
fn backend() -> Command {
    let mut command = match std::env::var_os(BACKEND_VARIABLE) {
        Some(path) => Command::new(path),
        None => binary(),
    };
    // The product refuses settings that it does not know.
    command.env_remove(BACKEND_VARIABLE);
    command
}

const BACKEND_VARIABLE: &str = "INSIEME_TEST_BACKEND";

async fn http(port: u16, path: &str) -> Option<String> {
    let asking = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: torture\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await.ok()?;
        Some(said)
    };
    timeout(Duration::from_secs(2), asking).await.ok()?
}

/// What is started.
#[derive(Debug, Clone)]
pub struct Plan {
    pub frontends: usize,
    pub validators: usize,
    pub settings: Arc<Vec<String>>,
    /// Faults that are switched on in every process.
    pub faults: String,
    /// Whether the first validator believes to own every slot.
    pub slot_fight: bool,
    /// Whether validators have different schemas, which are replaced while they work.
    pub schemas_differ: bool,
    /// Whether some processes are started with a clock that is off.
    pub clocks_off: bool,
    pub engine: Kind,
}

impl Plan {
    /// The plan of a seed: sizes and limits that a day's work would hardly reach.
    pub fn of(seed: u64, engine: Kind) -> Self {
        let mut rng = Rng::new(seed ^ 0x706c_616e);
        let mut settings = vec![
            "frontend.submissions_per_minute_max=0".to_owned(),
            "frontend.frames_per_second_max=0".to_owned(),
            "frontend.bytes_per_second_max=0".to_owned(),
            "frontend.feed_idle_ms=1000".to_owned(),
            "frontend.state_idle_ms=2000".to_owned(),
            "frontend.feed_wait_ms=2000".to_owned(),
            "validator.retry_pause_max_ms=200".to_owned(),
            "validator.snapshot_share_min=0.1".to_owned(),
            format!("nats.slots={SLOTS}"),
        ];
        match engine {
            Kind::Single => {}
            // Room that a stream may take is reserved when it is made.
            Kind::SmallDisk => settings.push("nats.drafts_bytes_max=33554432".to_owned()),
            Kind::Cluster => settings.push("nats.replicas=3".to_owned()),
        }
        let mut choose = |key: &str, values: &[u64]| settings.push(format!("{key}={}", rng.pick(values)));
        choose("nats.ownership_ttl_ms", &[1500, 3000]);
        choose("nats.request_timeout_ms", &[1500, 3000]);
        choose("frontend.answer_wait_ms", &[700, 1500, 3000]);
        choose("frontend.submission_deadline_ms", &[4000, 8000]);
        choose("frontend.submission_drafts_max", &[1, 8, 64]);
        choose("frontend.ring_events_max", &[4, 64, 2048]);
        choose("frontend.page_events_max", &[3, 32, 256]);
        choose("frontend.page_cache_bytes_max", &[200_000, 2_000_000, 64 << 20]);
        choose("frontend.gap_check_ms", &[1000, 5000]);
        choose("validator.snapshot_events_min", &[20, 100, 1000]);
        choose("validator.cache_bytes_max", &[1, 20_000, 512 << 20]);
        choose("validator.batch_events_max", &[1, 8, 500]);
        let (frontends, validators) = (2 + rng.below(2), 2 + rng.below(2));
        let slot_fight = rng.one_in(3);
        let schemas_differ = rng.one_in(2);
        let clocks_off = rng.one_in(3);
        let weak_marks = rng.one_in(3);
        Self {
            frontends,
            validators,
            settings: Arc::new(settings),
            // Draft ids of which many share the short key that a draft index keeps in memory.
            faults: if weak_marks { "weak_marks".to_owned() } else { String::new() },
            slot_fight,
            schemas_differ,
            clocks_off,
            engine,
        }
    }

    /// Switches a fault on in every process, and a setting with it.
    pub fn broken(mut self, faults: &str, setting: Option<&str>) -> Self {
        self.faults = format!("{},{faults}", self.faults);
        Arc::make_mut(&mut self.settings).extend(setting.map(str::to_owned));
        self
    }
}

/// Fills the long partition, through a validator and a frontend with the settings that a deployment has, with which
/// nothing is wrong: with those of the plan it may take too long, and what is broken there is to be found in the rounds.
async fn fill(nats: &Engine, plan: &Plan, dir: &Path, events: usize) -> Result<(Long, u64), String> {
    let truth = Truth::connect(&nats.url()).await?;
    let mut plan = plan.clone();
    (plan.slot_fight, plan.faults) = (false, String::new());
    let shared =
        |setting: &String| setting.starts_with("nats.") || setting.starts_with("frontend.submissions_per");
    Arc::make_mut(&mut plan.settings).retain(shared);
    let ports = nats.ports();
    let mut validator = Managed::new(Role::Validator, FILLER, &ports, &plan, dir).await;
    let mut frontend = Managed::new(Role::Frontend, FILLER, &ports, &plan, dir).await;
    validator.ready(Duration::from_secs(60)).await?;
    frontend.ready(Duration::from_secs(60)).await?;
    let filled = Long::fill(frontend.port, events, &truth).await;
    frontend.go(Duration::from_secs(20)).await?;
    validator.go(Duration::from_secs(20)).await?;
    filled
}

/// The number of the processes that fill the long partition, beside those of the plan.
const FILLER: usize = 9;

/// All of it.
pub struct World {
    pub nats: Option<Engine>,
    pub processes: Vec<Managed>,
    pub long: Long,
    pub dir: tempfile::TempDir,
    /// Up to where the processes' logs have been looked through.
    looked: HashMap<PathBuf, usize>,
}

impl World {
    /// Starts all of it; the long partition begins with so many events. Gives the log's last event too.
    pub async fn start(plan: Plan, long_events: usize) -> Result<(Self, u64), String> {
        let nats = Engine::start(plan.engine).await?;
        let dir = crate::harness::temp_dir();
        let mut bootstrap = backend();
        bootstrap.args(["bootstrap", "--nats", &nats.url()]);
        log_in(&mut bootstrap, "operator");
        for setting in plan.settings.iter() {
            bootstrap.arg("--set").arg(setting);
        }
        let output = bootstrap.output().expect("the binary under test starts");
        assert!(output.status.success(), "bootstrap failed: {}", String::from_utf8_lossy(&output.stderr));
        let (long, last) = fill(&nats, &plan, dir.path(), long_events).await?;
        let mut processes = Vec::new();
        for index in 0..plan.validators {
            processes.push(Managed::new(Role::Validator, index, &nats.ports(), &plan, dir.path()).await);
        }
        for index in 0..plan.frontends {
            processes.push(Managed::new(Role::Frontend, index, &nats.ports(), &plan, dir.path()).await);
        }
        for process in &mut processes {
            process.ready(Duration::from_secs(60)).await?;
        }
        Ok((Self { nats: Some(nats), processes, long, dir, looked: HashMap::new() }, last))
    }

    /// What the processes' counters and logs have said since this was asked last that must never be.
    pub async fn alarms(&mut self, counters: &Counters) -> Result<Vec<String>, String> {
        let mut alarms = Vec::new();
        for process in &mut self.processes {
            process.read_counters(counters).await;
            alarms.extend(process.alarms());
        }
        let unreadable = |error: std::io::Error| format!("the processes' logs: {error}");
        for entry in std::fs::read_dir(self.dir.path()).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_none_or(|extension| extension != "log") {
                continue;
            }
            let looked = self.looked.entry(path.clone()).or_default();
            if path.metadata().map_err(unreadable)?.len() <= *looked as u64 {
                continue;
            }
            let text = std::fs::read(&path).map_err(unreadable)?;
            let new = String::from_utf8_lossy(&text[(*looked).min(text.len())..]).into_owned();
            *looked = text.len();
            let bad = new.lines().filter(|line| {
                let of_the_client = OF_THE_CLIENT.iter().any(|text| line.contains(text));
                line.contains(" ERROR ") && !of_the_client || line.contains("panicked at")
            });
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            alarms.extend(bad.take(3).map(|line| format!("{name} says: {line}")));
        }
        Ok(alarms)
    }

    pub fn frontends(&self) -> Vec<u16> {
        let frontends = self.processes.iter().filter(|process| process.role == Role::Frontend);
        frontends.map(|frontend| frontend.port).collect()
    }

    /// Makes everything whole again, and waits until it works.
    pub async fn heal(&mut self) -> Result<(), String> {
        if let Some(nats) = &mut self.nats {
            nats.heal().await;
        }
        for process in &mut self.processes {
            process.link(Link::Whole);
            process.resume();
            process.proxies.iter().for_each(Proxy::disarm);
            // Nobody fights for slots any more, and all clocks are right, until the next round.
            let clock_off = std::mem::take(&mut process.clock_ms) != 0;
            if process.fights || clock_off || !process.process.is_running() {
                process.start_as(false);
            }
        }
        for process in &mut self.processes {
            process.ready(Duration::from_secs(60)).await?;
        }
        Ok(())
    }
}
