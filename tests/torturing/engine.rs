//! NATS under torture: one server, one on a small disk that fills up, or three with proxies of ours between them. With
//! the configuration that is shipped in `nats/`, its accounts and users; only ports, paths and passwords differ.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::nats::{self, NatsServer};
use crate::harness::proxy::{Link, Proxy};
use crate::harness::{free_port, temp_dir};

/// What NATS is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Single,
    /// Its store is on a disk of its own, in memory, that can be filled.
    SmallDisk,
    /// Three servers, three replicas.
    Cluster,
}

/// The servers.
pub struct Engine {
    pub servers: Vec<NatsServer>,
    /// The ways from one server to another; each pair has two, one each has opened.
    wires: Vec<(usize, usize, Proxy)>,
    disk: Option<SmallDisk>,
}

impl Engine {
    pub async fn start(kind: Kind) -> Result<Self, String> {
        let (wires, disk) = (Vec::new(), None);
        match kind {
            Kind::Single => {
                let configuration = |port| {
                    with_passwords(nats::shipped(port, Path::new("$STORE"))).replace("\"$STORE\"", "$STORE")
                };
                Ok(Self { servers: vec![NatsServer::start_with(configuration).await], wires, disk })
            }
            Kind::SmallDisk => {
                let disk = SmallDisk::mount()?;
                let store = disk.dir.path().to_owned();
                let server = NatsServer::start_with(|port| with_passwords(nats::shipped(port, &store)));
                Ok(Self { servers: vec![server.await], wires, disk: Some(disk) })
            }
            Kind::Cluster => Ok(Self::cluster().await),
        }
    }

    async fn cluster() -> Self {
        let routes: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let mut wires = Vec::new();
        for from in 0..3 {
            for to in (0..3).filter(|to| *to != from) {
                wires.push((from, to, Proxy::start(routes[to]).await));
            }
        }
        let mut servers = Vec::new();
        for (index, route) in routes.iter().enumerate() {
            let others = wires.iter().filter(|(from, ..)| *from == index);
            let others: Vec<String> =
                others.map(|(.., wire)| wire.url().replace("://", "://route:routeSecret@")).collect();
            let configuration = |port| shipped_member(index, port, *route, &others);
            servers.push(NatsServer::start_with(configuration).await);
        }
        let mut engine = Self { servers, wires, disk: None };
        engine.healthy().await;
        engine
    }

    pub fn kind(&self) -> Kind {
        match (&self.disk, self.servers.len()) {
            (Some(_), _) => Kind::SmallDisk,
            (None, 1) => Kind::Single,
            (None, _) => Kind::Cluster,
        }
    }

    pub fn ports(&self) -> Vec<u16> {
        self.servers.iter().map(NatsServer::port).collect()
    }

    /// All addresses, with commas between them.
    pub fn url(&self) -> String {
        self.servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",")
    }

    /// What the ways between two servers do, or between one and all others.
    pub fn link(&self, one: usize, other: Option<usize>, link: Link) {
        for (from, to, wire) in &self.wires {
            let ends = [*from, *to];
            if ends.contains(&one) && other.is_none_or(|other| ends.contains(&other)) {
                wire.set(link);
            }
        }
    }

    /// Nothing can be written any more.
    pub fn fill_disk(&self) -> Result<(), String> {
        self.disk.as_ref().map_or(Ok(()), SmallDisk::fill)
    }

    pub fn empty_disk(&self) -> Result<(), String> {
        self.disk.as_ref().map_or(Ok(()), SmallDisk::empty)
    }

    /// Waits until every server says that it is healthy, starting those that do not run.
    pub async fn heal(&mut self) {
        for (.., wire) in &self.wires {
            wire.set(Link::Whole);
        }
        for server in &mut self.servers {
            server.process().resume();
            if !server.process().is_running() {
                server.restart().await;
            }
        }
        self.healthy().await;
    }

    async fn healthy(&mut self) {
        for server in &mut self.servers {
            server.healthy().await;
        }
    }
}

/// The name and password of one of the users of `nats/users.conf`.
pub fn login(user: &str) -> (String, String) {
    (user.to_owned(), format!("{user}Secret"))
}

/// A configuration in which the users' passwords stand.
fn with_passwords(mut configuration: String) -> String {
    for user in ["frontend", "validator", "operator"] {
        let variable = format!("$NATS_{}_PASSWORD", user.to_uppercase());
        configuration = configuration.replace(&variable, &login(user).1);
    }
    configuration
}

/// What `nats/cluster.conf` says, with ports, paths and passwords of ours.
fn shipped_member(index: usize, port: u16, route: u16, others: &[String]) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/nats");
    let read = |file: &str| std::fs::read_to_string(format!("{folder}/{file}")).expect("a shipped file");
    // The servers must not tell each other of ways that go around the proxies.
    let listen = format!("listen: \"127.0.0.1:{route}\"\n  advertise: \"127.0.0.1:1\"\n  no_advertise: true");
    let changed = read("cluster.conf")
        .replace("include \"users.conf\"", &read("users.conf"))
        .replace("$NATS_SERVER_NAME", &format!("n{index}"))
        .replace("\"0.0.0.0:4222\"", &format!("\"127.0.0.1:{port}\""))
        .replace("http: \"0.0.0.0:8222\"", "")
        .replace("listen: \"0.0.0.0:6222\"", &listen)
        .replace("$NATS_ROUTE_PASSWORD", "routeSecret")
        .replace("$NATS_ROUTES", &format!("{others:?}"))
        .replace("\"/data/cluster\"", "$STORE");
    assert!(!changed.contains("0.0.0.0") && !changed.contains("/data"), "cluster.conf has changed its form");
    with_passwords(changed)
}

/// A disk in memory.
struct SmallDisk {
    dir: TempDir,
}

const DISK_BYTES: usize = 192 << 20;
const FILLER: &str = "filler";

impl SmallDisk {
    fn mount() -> Result<Self, String> {
        let dir = temp_dir();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "tmpfs"]).arg(dir.path());
        match mount.output() {
            Ok(output) if output.status.success() => Ok(Self { dir }),
            Ok(output) => Err(format!(
                "a small disk cannot be mounted (that takes root): {}",
                String::from_utf8_lossy(&output.stderr)
            )),
            Err(error) => Err(format!("a small disk cannot be mounted: {error}")),
        }
    }

    fn fill(&self) -> Result<(), String> {
        let mut filler = std::fs::File::create(self.dir.path().join(FILLER))
            .map_err(|error| format!("the disk cannot be filled: {error}"))?;
        let block = vec![0; 64 << 10];
        // Until it is full: that is the error it ends with. Then the rest, byte by byte.
        while filler.write_all(&block).is_ok() {}
        while filler.write_all(&block[..1]).is_ok() {}
        Ok(())
    }

    fn empty(&self) -> Result<(), String> {
        std::fs::remove_file(self.dir.path().join(FILLER))
            .map_err(|error| format!("the disk cannot be emptied: {error}"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: its server is killed a moment later.
        let unmounted = Command::new("umount").arg("-l").arg(self.dir.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.dir.path().display());
        }
    }
}
