//! The worker processes of one version of an application's rules, each with some partitions in it.
//!
//! A worker is started when it is first asked, and one that crashes, loops or does not answer is ended and started
//! again. What partitions it had is made again from what their states keep (`live.rs`).

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lru::LruCache;

use super::bounds::{LOAD_CPU_MAX, MEMORY_BYTES_MAX, TAKE_BACK_BYTES};
use super::frame::{Frame, Kind};
use super::module::{Loaded, Module, read_part};
use super::process::{End, Worker};
use super::published::Published;
use super::sources::Folder;
use super::verdict::Fault;
use crate::event::RulesVersion;
use crate::state::AppError;
use crate::util::sync::lock;

/// The most workers of one version, besides the one for partitions that are kept apart.
const WORKERS_MAX: usize = 4;
/// The most partitions in a worker: so many that all of them at their bounds are within what the process may map.
const SESSIONS_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);
const _: () = assert!(SESSIONS_MAX.get() * (MEMORY_BYTES_MAX + TAKE_BACK_BYTES) < 4 << 30);

/// The workers of a version.
#[derive(Debug)]
pub(super) struct Pool {
    version: RulesVersion,
    program: PathBuf,
    files: Folder,
    authorizes: bool,
    workers: Vec<Place>,
    /// For partitions whose drafts take all that a draft may take: they wait for each other and not others for them.
    apart: Mutex<Option<Running>>,
}

/// A worker's place.
#[derive(Debug, Default)]
struct Place {
    running: Mutex<Option<Running>>,
    /// How many sessions have their seat here.
    seats: AtomicUsize,
}

/// In which worker a session is, for as long as this is kept.
#[derive(Debug)]
pub(super) struct Seat {
    pub pool: Arc<Pool>,
    place: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(place) = self.pool.workers.get(self.place) {
            place.seats.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Seat {
    /// The worker that the session is in, for one after the other; or the one for those that are kept apart.
    pub(super) fn lease(&self, session: u64, apart: bool) -> Result<Lease<'_>, AppError> {
        match apart {
            true => self.pool.lease_of(&self.pool.apart, session),
            false => self.pool.lease(self.place, session),
        }
    }
}

#[derive(Debug)]
struct Running {
    worker: Worker,
    /// The partitions in it.
    sessions: LruCache<u64, ()>,
}

impl Pool {
    pub(super) fn new(version: RulesVersion, program: &Path, published: Published) -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, WORKERS_MAX);
        Self {
            version,
            program: program.to_owned(),
            authorizes: published.authorizes(),
            files: published.into_folder(),
            workers: (0..workers).map(|_| Place::default()).collect(),
            apart: Mutex::new(None),
        }
    }

    /// Whether the version says who may open a partition.
    pub(super) fn authorizes(&self) -> bool {
        self.authorizes
    }

    /// A seat where there are the fewest. It may be taken by two at once, which does no harm.
    pub(super) fn seat(self: &Arc<Self>) -> Seat {
        let seats = self.workers.iter().map(|place| place.seats.load(Ordering::Relaxed));
        let place = seats.enumerate().min_by_key(|(_, seats)| *seats).map_or(0, |(place, _)| place);
        if let Some(taken) = self.workers.get(place) {
            taken.seats.fetch_add(1, Ordering::Relaxed);
        }
        Seat { pool: Arc::clone(self), place }
    }

    /// A worker, for one after the other.
    pub(super) fn lease(&self, place: usize, session: u64) -> Result<Lease<'_>, AppError> {
        let Some(place) = self.workers.get(place % self.workers.len().max(1)) else {
            return Err(AppError::Unavailable("there are no workers".to_owned()));
        };
        self.lease_of(&place.running, session)
    }

    fn lease_of<'a>(&self, worker: &'a Mutex<Option<Running>>, session: u64) -> Result<Lease<'a>, AppError> {
        let mut running = lock(worker);
        if running.is_none() {
            *running = Some(self.start()?);
        }
        Ok(Lease { running, session })
    }

    fn start(&self) -> Result<Running, AppError> {
        let unavailable = |why: String| AppError::Unavailable(format!("{}: {why}", self.version));
        let mut worker = Worker::start(&self.program).map_err(|error| unavailable(error.to_string()))?;
        let loaded = Module::load_in(&mut worker, &mut self.files.clone())
            .map_err(|end| unavailable(Fault::of_process(&end).to_string()))?;
        match loaded.kind {
            Kind::Loaded => {
                let known: Loaded = read_part(&loaded).map_err(|error| unavailable(error.to_string()))?;
                if known.version != self.version.number {
                    let why = format!("{} says that it is version {}", self.version, known.version);
                    return Err(AppError::Fails(why));
                }
                Ok(Running { worker, sessions: LruCache::new(SESSIONS_MAX) })
            }
            _ => {
                let problems = loaded.parts.iter().map(|part| String::from_utf8_lossy(part).into_owned());
                let problems: Vec<String> = problems.collect();
                Err(AppError::Fails(format!("{} does not load: {}", self.version, problems.join("; "))))
            }
        }
    }
}

/// A worker, held by one session.
#[derive(Debug)]
pub(super) struct Lease<'a> {
    running: MutexGuard<'a, Option<Running>>,
    session: u64,
}

impl Lease<'_> {
    /// Whether the session is in the worker as it was left.
    pub(super) fn holds(&mut self) -> bool {
        self.running.as_mut().is_some_and(|running| running.sessions.get(&self.session).is_some())
    }

    /// Asks something of the session; with [`Kind::Open`], begins it. A worker that does not answer as it should is
    /// ended.
    pub(super) fn ask<P: AsRef<[u8]>>(
        &mut self,
        kind: Kind,
        parts: impl IntoIterator<Item = P>,
        cpu_max: Duration,
    ) -> Result<Frame, End> {
        let Some(running) = self.running.as_mut() else { return Err(End::Crashed("it is gone".to_owned())) };
        let frame = Frame::of_session(kind, self.session, parts);
        let answer = running.ask(self.session, &frame, cpu_max);
        if answer.is_err() {
            self.end();
        }
        answer
    }

    /// Ends the worker: what it has of the session is not to be used any more.
    pub(super) fn end(&mut self) {
        *self.running = None;
    }
}

impl Running {
    fn ask(&mut self, session: u64, frame: &Frame, cpu_max: Duration) -> Result<Frame, End> {
        if frame.kind == Kind::Open
            && let Some((left, ())) = self.sessions.push(session, ()).filter(|(left, ())| *left != session)
        {
            self.worker.send(&Frame::of_session(Kind::Close, left, [""; 0]), LOAD_CPU_MAX)?;
        }
        self.worker.send(frame, cpu_max)?;
        self.worker.next(cpu_max)
    }
}
