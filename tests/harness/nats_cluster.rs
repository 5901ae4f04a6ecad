//! NATS servers of a test's own: one, or three that are a cluster. Each can be killed, started again on its
//! port and store, or stopped where it is.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::nats::{self, NatsServer};
use super::process::Process;
use super::proxy::{Link, Proxy};
use super::{free_port, until};

/// The servers, in the order of their names, `n0` first. A cluster's streams need `nats.replicas=3` to
/// outlive one of them.
pub struct NatsCluster {
    pub servers: Vec<NatsServer>,
    /// The ways of each server to each other one, where they lead through proxies.
    wires: Vec<([usize; 2], Proxy)>,
}

/// The server that [`NatsCluster::start_two`] has left out.
pub struct Third {
    routes: Vec<u16>,
}

impl Third {
    pub async fn start(self) -> NatsServer {
        NatsServer::start_with(|port| member(2, port, &self.routes)).await
    }
}

impl NatsCluster {
    /// One server, set up as the shipped single node is.
    pub async fn single() -> Self {
        Self::of(NatsServer::start().await)
    }

    /// One server that is there already.
    pub fn of(server: NatsServer) -> Self {
        Self { servers: vec![server], wires: Vec::new() }
    }

    /// One server whose store is in a folder that is given.
    pub async fn single_in(store: &Path) -> Self {
        Self::of(NatsServer::start_in(store).await)
    }

    /// Three servers on free ports with stores of their own; returns when they have a leader and every one
    /// says that it is healthy.
    pub async fn start() -> Self {
        let (mut cluster, third) = Self::start_two().await;
        cluster.servers.push(third.start().await);
        cluster.healthy().await;
        cluster
    }

    /// Servers as `nats/single.conf` or `nats/cluster.conf` says, one for each store, but for their addresses, and without
    /// the accounts. `change` makes something else of what is shipped.
    pub async fn shipped(stores: &[PathBuf], change: impl Fn(&str) -> String) -> Self {
        let file = if stores.len() == 1 { "single.conf" } else { "cluster.conf" };
        let shipped = std::fs::read_to_string(format!("{}/nats/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let routes: Vec<u16> = stores.iter().map(|_| free_port()).collect();
        let all: Vec<_> = routes.iter().map(|port| format!("nats://route:secret@127.0.0.1:{port}")).collect();
        let mut servers = Vec::new();
        for (index, store) in stores.iter().enumerate() {
            let configuration = |port: u16| {
                let changed = change(&shipped)
                    .replace("\"0.0.0.0:4222\"", &format!("\"127.0.0.1:{port}\""))
                    .replace("http: \"0.0.0.0:8222\"", "")
                    .replace("\"0.0.0.0:6222\"", &format!("\"127.0.0.1:{}\"", routes[index]))
                    .replace("$NATS_SERVER_NAME", &format!("n{index}"))
                    .replace("$NATS_ROUTE_PASSWORD", "secret")
                    .replace("$NATS_ROUTES", &format!("{all:?}"))
                    .replace("\"/data", &format!("\"{}", store.display()))
                    .replace("include \"users.conf\"", "");
                assert!(!changed.contains("0.0.0.0") && !changed.contains("/data"), "{changed}");
                changed
            };
            servers.push(NatsServer::start_with(configuration).await);
        }
        let mut cluster = Self { servers, wires: Vec::new() };
        cluster.healthy().await;
        cluster
    }

    /// Two servers of three, and the third, which has yet to be started; until it is, they are not healthy.
    pub async fn start_two() -> (Self, Third) {
        let routes: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let mut servers = Vec::new();
        for index in 0..2 {
            servers.push(NatsServer::start_with(|port| member(index, port, &routes)).await);
        }
        (Self { servers, wires: Vec::new() }, Third { routes })
    }

    /// Three servers that reach each other through proxies, and know of no other way.
    pub async fn wired() -> Self {
        let routes: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let mut wires = Vec::new();
        for from in 0..3 {
            for to in (0..3).filter(|to| *to != from) {
                wires.push(([from, to], Proxy::start(routes[to]).await));
            }
        }
        let mut servers = Vec::new();
        for (index, route) in routes.iter().enumerate() {
            let of_this = wires.iter().filter(|([from, _], _)| *from == index);
            let others: Vec<String> = of_this.map(|(_, wire)| wire.url()).collect();
            let hidden = "advertise: \"127.0.0.1:1\", no_advertise: true,";
            servers.push(
                NatsServer::start_with(|port| one_of_three(index, port, *route, &others, hidden)).await,
            );
        }
        let mut cluster = Self { servers, wires };
        cluster.healthy().await;
        cluster
    }

    /// What the ways between a server and the others do; of servers that are wired.
    pub fn link(&self, server: usize, link: Link) {
        assert!(!self.wires.is_empty(), "they are not wired");
        self.wires.iter().filter(|(ends, _)| ends.contains(&server)).for_each(|(_, wire)| wire.set(link));
    }

    /// Every server's address, with commas between them, as `--nats` takes them.
    pub fn url(&self) -> String {
        self.urls().join(",")
    }

    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(NatsServer::url).collect()
    }

    /// `kill -9` of every server.
    pub fn kill9(&mut self) {
        self.servers.iter_mut().for_each(NatsServer::kill9);
    }

    /// Kills every server, and then starts every one again, on its port and store. Returns when all are
    /// healthy.
    pub async fn restart(&mut self) {
        self.kill9();
        for server in &mut self.servers {
            server.restart().await;
        }
        self.healthy().await;
    }

    /// Waits until every server that runs says that it is healthy: JetStream has a leader, and whatever the
    /// server holds is up to date. In vain while one is paused, or while only one of three runs.
    pub async fn healthy(&mut self) {
        for server in &mut self.servers {
            if server.process().is_running() {
                server.healthy().await;
            }
        }
    }

    /// Which server leads a stream; waits until one does. Asks the servers that answer.
    pub async fn leader(&self, stream: &str) -> usize {
        let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
        let client = options.connect(self.urls()).await.unwrap();
        let js = async_nats::jetstream::new(client);
        until(&format!("a leader of {stream}"), async || {
            let stream = js.get_stream(stream).await.ok()?;
            let leader = stream.cached_info().cluster.as_ref()?.leader.clone()?;
            self.servers.iter().position(|server| server.name() == leader)
        })
        .await
    }
}

/// The configuration of one server of three.
fn member(index: usize, port: u16, routes: &[u16]) -> String {
    let others: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    one_of_three(index, port, routes[index], &others, "")
}

fn one_of_three(index: usize, port: u16, route: u16, others: &[String], more: &str) -> String {
    // Not synced at every write: nobody cuts a test's power, and three servers on one disk would only wait
    // for each other. One that stalls is given up after some seconds, not minutes.
    format!(
        "listen: \"127.0.0.1:{port}\"\nserver_name: n{index}\njetstream {{ store_dir: $STORE }}\n\
         cluster {{ name: test, listen: \"127.0.0.1:{route}\", {more} routes: {others:?} }}\n\
         ping_interval: \"2s\"\nping_max: 2\n"
    )
}

/// Whether a server's monitoring says that all is well.
pub(super) async fn is_healthy(port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /healthz HTTP/1.0\r\nhost: test\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    // A paused server takes connections and says nothing.
    let asked = tokio::time::timeout(std::time::Duration::from_secs(2), ask).await;
    asked.is_ok_and(|said| {
        said.is_ok_and(|text| text.lines().next().is_some_and(|line| line.contains(" 200 ")))
    })
}

/// Starts a server on a configuration in `dir`.
pub(super) fn spawn(dir: &Path, configuration: &str) -> Process {
    let file = dir.join("nats.conf");
    let store = format!("{:?}", dir.join("store"));
    std::fs::write(&file, configuration.replace("$STORE", &store)).unwrap();
    let mut command = std::process::Command::new(nats::binary());
    command.arg("-c").arg(file);
    Process::spawn("nats", command, dir)
}
