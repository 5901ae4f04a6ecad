//! A partition's state under one version of an application's rules, in a worker process.
//!
//! The worker may crash, be ended, or give its place to another partition at any time. So it is kept here what the state
//! is made again of: the state as it was last written down, and the events since.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::bounds::{EVENT_CPU_MAX, STATE_CPU_MAX};
use super::event::AppEvent;
use super::frame::{Frame, Kind};
use super::module::read_part;
use super::modules::Modules;
use super::pool::{Lease, Pool};
use super::process::End;
use super::verdict::{Fault, Verdict};
use crate::event::{EventRecord, RulesVersion, Submitter};
use crate::state::{AppError, AppState, AppVerdict, Node, Prior};
use crate::util::sync::lock;

/// How many events are handed over at a time.
const BATCH_EVENTS: usize = 256;
/// From how many bytes of events on the state is written down, so that less must be folded again.
const CHECKPOINT_BYTES_MIN: usize = 1 << 20;
/// How often a worker that ends meanwhile is started again.
const ATTEMPTS: usize = 3;

/// Numbers for sessions: no two states have the same one.
static SESSIONS: AtomicU64 = AtomicU64::new(1);

#[derive(Debug)]
pub(super) struct Live {
    modules: Arc<Modules>,
    version: RulesVersion,
    session: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    base: Base,
    /// The events that are folded on it, as the rules are handed them.
    since: Vec<Vec<u8>>,
    since_bytes: usize,
    /// How many of them the worker has folded, if it has the session.
    folded: usize,
    pool: Option<Arc<Pool>>,
}

#[derive(Debug)]
enum Base {
    /// What was there before this version.
    Prior(Prior),
    /// The state of another version, which is to be migrated.
    Migrate(u64, Vec<u8>),
    /// A state of this version; `None` for the initial one.
    State(Option<Vec<u8>>),
}

/// Why the worker does not have the state.
enum Trouble {
    Ended(End),
    /// The module does not begin: neither its initial state nor its migration.
    Begin(Fault),
    App(AppError),
}

impl From<End> for Trouble {
    fn from(end: End) -> Self {
        Self::Ended(end)
    }
}

impl From<AppError> for Trouble {
    fn from(error: AppError) -> Self {
        Self::App(error)
    }
}

impl From<Trouble> for AppError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Ended(end) => Self::Unavailable(Fault::of_process(&end).to_string()),
            Trouble::Begin(fault) => Self::Fails(fault.to_string()),
            Trouble::App(error) => error,
        }
    }
}

impl Live {
    pub(super) fn new(modules: Arc<Modules>, version: RulesVersion, prior: Prior) -> Self {
        let base = match prior {
            Prior::Nothing => Base::State(None),
            Prior::Written(of, state) if of == version => Base::State(Some(state)),
            prior => Base::Prior(prior),
        };
        let kept = Kept { base, since: Vec::new(), since_bytes: 0, folded: 0, pool: None };
        let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
        Self { modules, version, session, kept: Mutex::new(kept) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }

    fn pool(&self, kept: &mut Kept) -> Result<Arc<Pool>, AppError> {
        if let Some(pool) = &kept.pool {
            return Ok(Arc::clone(pool));
        }
        let pool = self.modules.pool(self.version)?;
        kept.pool = Some(Arc::clone(&pool));
        Ok(pool)
    }

    /// Has the worker hold the state, with all that is noted. One that ends meanwhile is started again: it may have
    /// been another partition's doing.
    fn ready<'a>(&self, kept: &mut Kept, pool: &'a Pool) -> Result<Lease<'a>, Trouble> {
        kept.prepare()?;
        let mut attempt = 1;
        loop {
            let mut lease = pool.lease(self.session)?;
            match kept.fold_in(&mut lease) {
                Ok(()) => return Ok(lease),
                Err(Trouble::Ended(End::Crashed(_))) if attempt < ATTEMPTS => attempt += 1,
                Err(trouble) => return Err(trouble),
            }
        }
    }

    fn verdict(&self, kept: &mut Kept, text: &[u8]) -> Result<Verdict, AppError> {
        let pool = self.pool(kept)?;
        let mut crashed = false;
        loop {
            let mut lease = match self.ready(kept, &pool) {
                Ok(lease) => lease,
                // Nothing was accepted by this version yet.
                Err(Trouble::Begin(fault)) if kept.since.is_empty() => {
                    return Ok(Verdict::default().failed(fault));
                }
                Err(trouble) => return Err(trouble.into()),
            };
            let fault = match lease.ask(Kind::Decide, [text], EVENT_CPU_MAX) {
                Ok(answer) if answer.kind == Kind::Verdicts => {
                    let verdict: Verdict = read(&answer)?;
                    if verdict.errors.is_empty() {
                        kept.push(text.to_vec());
                        kept.folded = kept.since.len();
                        kept.write_down(&mut lease)?;
                    }
                    return Ok(verdict);
                }
                Ok(answer) if answer.kind == Kind::Fault => {
                    // What it did could not be taken back.
                    lease.end();
                    read(&answer)?
                }
                Ok(answer) => return Err(no_answer(&mut lease, &answer)),
                // Somebody may have ended the process: whether it is this draft shows when it is tried again.
                Err(End::Crashed(_)) if !crashed => {
                    crashed = true;
                    continue;
                }
                Err(End::Io(error)) => return Err(AppError::Unavailable(error.to_string())),
                Err(end) => Fault::of_process(&end),
            };
            return Ok(Verdict::default().failed(fault));
        }
    }
}

impl Kept {
    fn push(&mut self, text: Vec<u8>) {
        self.since_bytes += text.len();
        self.since.push(text);
    }

    /// Has what was there before this version at hand.
    fn prepare(&mut self) -> Result<(), AppError> {
        let Base::Prior(prior) = &self.base else { return Ok(()) };
        self.base = match prior {
            Prior::Nothing => Base::State(None),
            Prior::BuiltIn(doc) => Base::Migrate(0, doc.canonical()),
            Prior::Written(version, state) => Base::Migrate(version.number, state.clone()),
            Prior::App(app) => Base::Migrate(app.version().number, app.canonical()?),
        };
        Ok(())
    }

    fn fold_in(&mut self, lease: &mut Lease<'_>) -> Result<(), Trouble> {
        if !lease.holds() {
            self.folded = 0;
            self.open_in(lease)?;
        }
        for batch in self.since.get(self.folded..).unwrap_or_default().chunks(BATCH_EVENTS) {
            let answer = lease.ask(Kind::Fold, batch, EVENT_CPU_MAX * batch.len() as u32)?;
            match answer.kind {
                Kind::Done => self.folded += batch.len(),
                Kind::Fault => {
                    lease.end();
                    let fault: Fault = read(&answer)?;
                    let why = format!("an event that they accepted does not fold: {fault}");
                    return Err(AppError::Fails(why).into());
                }
                _ => return Err(no_answer(lease, &answer).into()),
            }
        }
        self.write_down(lease)
    }

    fn open_in(&mut self, lease: &mut Lease<'_>) -> Result<(), Trouble> {
        let state = match &self.base {
            Base::State(state) => state.as_ref(),
            Base::Migrate(_, state) => Some(state),
            Base::Prior(_) => return Err(AppError::Fails("no state to begin with".to_owned()).into()),
        };
        begun(lease, Kind::Open, state)?;
        if let Base::Migrate(from, _) = self.base {
            begun(lease, Kind::Migrate, [from.to_string()])?;
            self.base = Base::State(Some(state_in(lease)?));
        }
        Ok(())
    }

    /// Writes the state down if many bytes of events were folded since the last time.
    fn write_down(&mut self, lease: &mut Lease<'_>) -> Result<(), Trouble> {
        let written = match &self.base {
            Base::State(Some(state)) => state.len(),
            _ => 0,
        };
        if self.since_bytes > CHECKPOINT_BYTES_MIN.max(written) {
            self.base = Base::State(Some(state_in(lease)?));
            self.since.clear();
            (self.since_bytes, self.folded) = (0, 0);
        }
        Ok(())
    }
}

/// Begins the session, or goes on with beginning it.
fn begun<P: AsRef<[u8]>>(
    lease: &mut Lease<'_>,
    kind: Kind,
    parts: impl IntoIterator<Item = P>,
) -> Result<(), Trouble> {
    let answer = lease.ask(kind, parts, STATE_CPU_MAX)?;
    match answer.kind {
        Kind::Done => Ok(()),
        Kind::Fault => {
            lease.end();
            Err(Trouble::Begin(read(&answer)?))
        }
        _ => Err(no_answer(lease, &answer).into()),
    }
}

fn state_in(lease: &mut Lease<'_>) -> Result<Vec<u8>, Trouble> {
    let mut answer = lease.ask(Kind::State, [""; 0], STATE_CPU_MAX)?;
    match answer.kind {
        Kind::Done => Ok(answer.parts.pop().unwrap_or_default()),
        Kind::Fault => {
            lease.end();
            let fault: Fault = read(&answer)?;
            Err(AppError::Fails(fault.to_string()).into())
        }
        _ => Err(no_answer(lease, &answer).into()),
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: &Frame) -> Result<T, AppError> {
    read_part(answer).map_err(|error| AppError::Unavailable(error.to_string()))
}

/// The worker answered what is none: it is of no more use.
fn no_answer(lease: &mut Lease<'_>, answer: &Frame) -> AppError {
    lease.end();
    AppError::Unavailable(format!("the rules' process answered {:?}", answer.kind))
}

impl AppState for Live {
    fn version(&self) -> RulesVersion {
        self.version
    }

    fn note(&self, event: &EventRecord<'_>) {
        // Of a mark there is nothing to fold; all else is JSON again.
        let Some(event) = AppEvent::of(event) else { return };
        match serde_json::to_vec(&event) {
            Ok(text) => self.kept().push(text),
            Err(error) => tracing::error!(%error, "an event of the log has no JSON"),
        }
    }

    fn decide(&self, event: &EventRecord<'_>, submitter: &Submitter) -> Result<AppVerdict, AppError> {
        let event = AppEvent::of_draft(event, submitter);
        let event = event.ok_or_else(|| AppError::Fails("a mark is no draft".to_owned()))?;
        let text = serde_json::to_vec(&event).map_err(|error| AppError::Fails(error.to_string()))?;
        let Verdict { errors, fault, is_forbidden, .. } = self.verdict(&mut self.kept(), &text)?;
        Ok(AppVerdict { errors, is_forbidden, fault: fault.map(|fault| fault.to_string()) })
    }

    fn settle(&self) -> Result<(), AppError> {
        let mut kept = self.kept();
        let pool = self.pool(&mut kept)?;
        Ok(self.ready(&mut kept, &pool).map(drop)?)
    }

    fn canonical(&self) -> Result<Vec<u8>, AppError> {
        let mut kept = self.kept();
        let pool = self.pool(&mut kept)?;
        let text = state_in(&mut self.ready(&mut kept, &pool)?)?;
        let state = Node::parse(&text).map_err(|error| AppError::Fails(error.to_string()))?;
        Ok(state.canonical())
    }

    fn noted_bytes(&self) -> usize {
        let kept = self.kept();
        // Of what is folded, as much is kept as a state is large: that is bounded.
        if kept.folded == kept.since.len() { 0 } else { kept.since_bytes }
    }

    fn memory_bytes(&self) -> usize {
        let kept = self.kept();
        let base = match &kept.base {
            Base::State(state) => state.as_ref().map_or(0, Vec::len),
            Base::Migrate(_, state) | Base::Prior(Prior::Written(_, state)) => state.len(),
            Base::Prior(Prior::BuiltIn(doc)) => doc.memory_bytes(),
            Base::Prior(Prior::App(app)) => app.memory_bytes(),
            Base::Prior(Prior::Nothing) => 0,
        };
        size_of::<Self>() + base + kept.since_bytes + kept.since.len() * size_of::<Vec<u8>>()
    }
}
