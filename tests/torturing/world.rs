//! The backend under torture: NATS, and frontends and validators as processes, each with a proxy of ours on
//! its way to NATS.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::engine::{Engine, Kind};
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
    proxies: Vec<Proxy>,
    process: Process,
    faults: String,
    /// Whether it believes to own every slot.
    fights: bool,
    settings: Arc<Vec<String>>,
    dir: PathBuf,
    generation: u32,
}

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
        let settings = plan.settings.clone();
        let (faults, dir) = (plan.faults.clone(), dir.to_owned());
        let all = faults_of(&faults, fights);
        let process = spawn(role, &name, &proxies, (port, health), &settings, &all, &dir);
        Self { role, name, port, health, proxies, process, faults, fights, settings, dir, generation: 0 }
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
        let name = format!("{}-{}", self.name, self.generation);
        let (ports, faults) = ((self.port, self.health), faults_of(&self.faults, fights));
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
        let samples = said.lines().filter(|line| line.split([' ', '{']).next() == Some(name));
        samples.map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Open files, and threads.
    pub fn resources(&self) -> (usize, usize) {
        let of = |what: &str| {
            std::fs::read_dir(format!("/proc/{}/{what}", self.process.id())).map_or(0, Iterator::count)
        };
        (of("fd"), of("task"))
    }
}

fn faults_of(faults: &str, fights: bool) -> String {
    if fights { format!("{faults},never_lose_slots") } else { faults.to_owned() }
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
        }
        Role::Validator => drop(command.arg("validator")),
    }
    let urls: Vec<String> = proxies.iter().map(Proxy::url).collect();
    command.arg("--nats").arg(urls.join(",")).arg("--set").arg(format!("metrics.listen=127.0.0.1:{health}"));
    for setting in settings {
        command.arg("--set").arg(setting);
    }
    command.env("INSIEME_FAULT", faults);
    Process::spawn(name, command, dir)
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
        choose("frontend.gap_check_ms", &[1000, 5000]);
        choose("validator.snapshot_events_min", &[20, 100, 1000]);
        choose("validator.cache_bytes_max", &[1, 20_000, 512 << 20]);
        choose("validator.batch_events_max", &[1, 8, 500]);
        let (frontends, validators) = (2 + rng.below(2), 2 + rng.below(2));
        let slot_fight = rng.one_in(3);
        Self {
            frontends,
            validators,
            settings: Arc::new(settings),
            faults: String::new(),
            slot_fight,
            engine,
        }
    }

    /// Switches a fault on in every process, and a setting with it.
    pub fn broken(mut self, faults: &str, setting: Option<&str>) -> Self {
        faults.clone_into(&mut self.faults);
        Arc::make_mut(&mut self.settings).extend(setting.map(str::to_owned));
        self
    }
}

/// All of it.
pub struct World {
    pub nats: Option<Engine>,
    pub processes: Vec<Managed>,
    pub dir: tempfile::TempDir,
}

impl World {
    pub async fn start(plan: Plan) -> Result<Self, String> {
        let nats = Engine::start(plan.engine).await?;
        let dir = crate::harness::temp_dir();
        let mut bootstrap = backend();
        bootstrap.args(["bootstrap", "--nats", &nats.url()]);
        for setting in plan.settings.iter() {
            bootstrap.arg("--set").arg(setting);
        }
        let output = bootstrap.output().expect("the binary under test starts");
        assert!(output.status.success(), "bootstrap failed: {}", String::from_utf8_lossy(&output.stderr));
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
        Ok(Self { nats: Some(nats), processes, dir })
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
            // Nobody fights for slots any more, until the next round.
            if process.fights || !process.process.is_running() {
                process.start_as(false);
            }
        }
        for process in &mut self.processes {
            process.ready(Duration::from_secs(60)).await?;
        }
        Ok(())
    }
}
