//! A process's connection to the servers: what is sent arrives late, or never, or the answer does not; it can
//! be cut, and the process put to sleep.

use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::world::{Servers, World};
use crate::log::ConnectionState;

/// How long a process waits for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce(&mut Servers) + Send>;

/// No answer came: whether it was carried out is not known.
#[derive(Debug)]
pub(crate) struct Lost;

#[derive(Clone)]
pub(crate) struct Link {
    pub world: World,
    pub name: String,
    state: Arc<State>,
    /// Nothing for reads, which need not arrive in the order sent.
    wire: Option<mpsc::UnboundedSender<(Instant, Job)>>,
}

struct State {
    now: Mutex<Now>,
    changed: Notify,
    /// One for each that looks: those who share a channel are woken in no order.
    connections: Mutex<Vec<watch::Sender<ConnectionState>>>,
}

#[derive(Clone, Copy, Default)]
struct Now {
    cut: bool,
    asleep: bool,
    reconnects: u64,
}

impl Link {
    pub(crate) fn new(world: World, name: &str) -> Self {
        let (wire, mut sent) = mpsc::unbounded_channel::<(Instant, Job)>();
        let state = Arc::new(State {
            now: Mutex::new(Now::default()),
            changed: Notify::new(),
            connections: Mutex::default(),
        });
        let link =
            Self { world: world.clone(), name: name.to_owned(), state: state.clone(), wire: Some(wire) };
        // What was sent arrives in the order sent, also when its sender is gone.
        tokio::spawn(async move {
            while let Some((at, job)) = sent.recv().await {
                sleep_until(at).await;
                if state.is(|now| now.cut) {
                    // Either it waits in a buffer until the connection is back, or it is gone with it.
                    if world.happens(2) {
                        continue;
                    }
                    state.until(|now| !now.cut).await;
                }
                world.change(job);
            }
        });
        link
    }

    /// Does `job` at the servers, and gives the answer if it comes back.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Servers) -> T + Send + 'static,
    ) -> Result<T, Lost> {
        if self.world.happens(self.world.weather().naps_one_in) {
            let nap = Duration::from_millis(self.world.roll(|rng| rng.below(15_000)) as u64);
            self.world.tell(|| format!("-- {} falls asleep for {nap:?}", self.name));
            self.nap(nap);
        }
        self.awake().await;
        let deadline = Instant::now() + ANSWER_WAIT;
        let answer = self.send(job);
        let answer = async {
            match answer.await {
                Ok(answer) => {
                    sleep(self.world.delay()).await;
                    let lost = self.is_cut() || self.world.happens(self.world.weather().lost_one_in);
                    if lost { std::future::pending().await } else { answer }
                }
                Err(_) => std::future::pending().await,
            }
        };
        tokio::pin!(answer);
        let answered = tokio::select! {
            biased;
            answer = &mut answer => Ok(answer),
            () = sleep_until(deadline) => Err(Lost),
        };
        self.awake().await;
        answered
    }

    /// The same connection for one read.
    pub(crate) fn for_read(&self, what: impl Hash) -> Self {
        let world = self.world.by_itself((&self.name, what));
        Self { world, name: self.name.clone(), state: self.state.clone(), wire: None }
    }

    /// Sends without waiting for anything.
    pub(crate) fn send<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Servers) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |servers| {
            // Nobody waits any more: what was asked for is done all the same.
            drop(reply.send(job(servers)));
        });
        let world = self.world.clone();
        let at = Instant::now() + world.delay();
        let late = match &self.wire {
            _ if world.happens(world.weather().overtaken_one_in) => world.roll(|rng| rng.below(8_000)) as u64,
            None => 0,
            Some(wire) => {
                assert!(wire.send((at, job)).is_ok(), "a wire lives as long as its link");
                return answer;
            }
        };
        tokio::spawn(async move {
            sleep_until(at + Duration::from_millis(late)).await;
            world.change(job);
        });
        answer
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.state.is(|now| now.cut)
    }

    /// Waits while the process is asleep.
    pub(crate) async fn awake(&self) {
        self.state.until(|now| !now.asleep).await;
    }

    /// Waits until the process is awake and connected.
    pub(crate) async fn reachable(&self) {
        self.state.until(|now| !now.asleep && !now.cut).await;
    }

    pub(crate) fn reconnects(&self) -> u64 {
        self.state.is(|now| now.reconnects)
    }

    pub(crate) fn connection(&self) -> watch::Receiver<ConnectionState> {
        let connection = watch::Sender::new(self.connection_now());
        let state = connection.subscribe();
        lock(&self.state.connections).push(connection);
        state
    }

    fn connection_now(&self) -> ConnectionState {
        let reconnects = self.reconnects();
        ConnectionState { connected: true, epoch: reconnects, reconnects }
    }

    pub(crate) fn cut(&self) {
        self.state.set(|now| now.cut = true);
    }

    /// The connection is made again, whether it was cut or the server restarted.
    pub(crate) fn reconnect(&self) {
        self.state.set(|now| {
            now.cut = false;
            now.reconnects += 1;
        });
        let now = self.connection_now();
        lock(&self.state.connections).retain(|connection| connection.send(now).is_ok());
    }

    /// Puts the process to sleep for a while.
    pub(crate) fn nap(&self, nap: Duration) {
        self.sleep(true);
        let link = self.clone();
        tokio::spawn(async move {
            sleep(nap).await;
            link.sleep(false);
        });
    }

    pub(crate) fn sleep(&self, asleep: bool) {
        self.state.set(|now| now.asleep = asleep);
    }
}

impl State {
    fn is<T>(&self, look: impl FnOnce(&Now) -> T) -> T {
        look(&lock(&self.now))
    }

    fn set(&self, change: impl FnOnce(&mut Now)) {
        change(&mut lock(&self.now));
        self.changed.notify_waiters();
    }

    async fn until(&self, mut look: impl FnMut(&Now) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is(&mut look) {
                return;
            }
            changed.await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
