//! A partition's state under one version of an application's rules, in a worker process.
//!
//! The worker may crash, be ended, or give its place to another partition at any time. So it is kept here what the state
//! is made again of: the state as it was last written down, and the events since.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use super::bounds::{EVENT_CPU_MAX, FOLD_CPU_MAX, STATE_CPU_MAX};
use super::event::AppEvent;
use super::frame::{Frame, Kind};
use super::module::read_part;
use super::modules::Modules;
use super::pool::{Lease, Seat};
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
/// For how many drafts a partition is kept apart after one that took all that a draft may take.
const APART_DRAFTS: u32 = 100;
/// How many of such drafts are known by what became of them.
const FAILED_MAX: usize = 64;

/// Numbers for sessions: no two states have the same one.
static SESSIONS: AtomicU64 = AtomicU64::new(1);

#[derive(Debug)]
pub(super) struct Live {
    modules: Arc<Modules>,
    version: RulesVersion,
    session: u64,
    kept: Mutex<Kept>,
    /// What was noted and is not in `kept` yet: who notes an event must not wait for a worker that computes.
    noted: Mutex<Vec<Vec<u8>>>,
    /// The bytes of what is noted and not folded, and the bytes of all that is kept; as they were last.
    waiting_bytes: AtomicUsize,
    held_bytes: AtomicUsize,
    /// Whether the next draft is decided apart from those of other partitions.
    is_apart: AtomicBool,
}

#[derive(Debug)]
struct Kept {
    base: Base,
    /// The events that are folded on it, as the rules are handed them.
    since: Vec<Vec<u8>>,
    since_bytes: usize,
    /// How many of them the worker has folded, if it has the session.
    folded: usize,
    seat: Option<Arc<Seat>>,
    /// The last drafts on which the rules took all that they may take, and how.
    failed: VecDeque<(u64, Fault)>,
    /// For how many drafts it is kept apart.
    apart_for: u32,
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
        let kept = Kept {
            base,
            since: Vec::new(),
            since_bytes: 0,
            folded: 0,
            seat: None,
            failed: VecDeque::new(),
            apart_for: 0,
        };
        let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
        Self {
            modules,
            version,
            session,
            held_bytes: AtomicUsize::new(kept.bytes()),
            kept: Mutex::new(kept),
            noted: Mutex::default(),
            waiting_bytes: AtomicUsize::new(0),
            is_apart: AtomicBool::new(false),
        }
    }

    /// Does something with what is kept, all that is noted included.
    fn with<T>(&self, act: impl FnOnce(&mut Kept) -> T) -> T {
        let mut kept = lock(&self.kept);
        let noted = std::mem::take(&mut *lock(&self.noted));
        noted.into_iter().for_each(|text| kept.push(text));
        let result = act(&mut kept);
        self.is_apart.store(kept.apart_for > 0, Ordering::Relaxed);
        // An event that is noted meanwhile is counted where it is noted.
        let noted = lock(&self.noted);
        let bytes: usize = noted.iter().map(Vec::len).sum();
        self.waiting_bytes.store(kept.waiting_bytes() + bytes, Ordering::Relaxed);
        self.held_bytes.store(kept.bytes() + bytes, Ordering::Relaxed);
        result
    }

    fn seat(&self, kept: &mut Kept) -> Result<Arc<Seat>, AppError> {
        if let Some(seat) = &kept.seat {
            return Ok(Arc::clone(seat));
        }
        let seat = Arc::new(self.modules.pool(self.version)?.seat());
        kept.seat = Some(Arc::clone(&seat));
        Ok(seat)
    }

    /// Has the worker hold the state, with all that is noted. One that ends meanwhile is started again: it may have
    /// been another partition's doing.
    fn ready<'a>(&self, kept: &mut Kept, seat: &'a Seat) -> Result<Lease<'a>, Trouble> {
        kept.prepare()?;
        let mut attempt = 1;
        loop {
            let mut lease = seat.lease(self.session, kept.apart_for > 0)?;
            match kept.fold_in(&mut lease) {
                Ok(()) => return Ok(lease),
                Err(Trouble::Ended(End::Crashed(_))) if attempt < ATTEMPTS => attempt += 1,
                Err(trouble) => return Err(trouble),
            }
        }
    }

    fn verdict(&self, kept: &mut Kept, text: &[u8]) -> Result<Verdict, AppError> {
        let seat = self.seat(kept)?;
        let mut crashed = false;
        loop {
            let mut lease = match self.ready(kept, &seat) {
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

    /// How the rules failed on a draft, if they did so of late and took long for it.
    fn failed_on(&self, draft: u64) -> Option<Fault> {
        self.failed.iter().find(|(known, _)| *known == draft).map(|(_, fault)| fault.clone())
    }

    /// Takes note of how a draft was decided: one that took all that it may has the partition kept apart.
    fn note_fault(&mut self, draft: u64, fault: Option<&Fault>) {
        let Some(fault) = fault.filter(|fault| fault.kind.is_costly()) else {
            self.apart_for = self.apart_for.saturating_sub(1);
            return;
        };
        self.apart_for = APART_DRAFTS;
        if self.failed.len() >= FAILED_MAX {
            self.failed.pop_front();
        }
        self.failed.push_back((draft, fault.clone()));
    }

    /// The bytes of events that are not folded.
    fn waiting_bytes(&self) -> usize {
        // Of what is folded, as much is kept as a state is large: that is bounded.
        if self.folded == self.since.len() { 0 } else { self.since_bytes }
    }

    fn bytes(&self) -> usize {
        let base = match &self.base {
            Base::State(state) => state.as_ref().map_or(0, Vec::len),
            Base::Migrate(_, state) | Base::Prior(Prior::Written(_, state)) => state.len(),
            Base::Prior(Prior::BuiltIn(doc)) => doc.memory_bytes(),
            Base::Prior(Prior::App(app)) => app.memory_bytes(),
            Base::Prior(Prior::Nothing) => 0,
        };
        base + self.since_bytes + self.since.len() * size_of::<Vec<u8>>()
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
            let answer = lease.ask(Kind::Fold, batch, FOLD_CPU_MAX)?;
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

/// A draft by a number that nobody outside can choose: who submits it under which name, and what it says.
fn draft_of(event: &AppEvent) -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let AppEvent { event_type, payload, event, .. } = event;
    let meta = event.meta.as_ref().map(|meta| meta.get());
    KEYS.hash_one((&event.client_id, &event.id, event_type, &event.partition, payload.get(), meta))
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
            Ok(text) => {
                let mut noted = lock(&self.noted);
                self.waiting_bytes.fetch_add(text.len(), Ordering::Relaxed);
                self.held_bytes.fetch_add(text.len() + size_of::<Vec<u8>>(), Ordering::Relaxed);
                noted.push(text);
            }
            Err(error) => tracing::error!(%error, "an event of the log has no JSON"),
        }
    }

    fn decide(&self, event: &EventRecord<'_>, submitter: &Submitter) -> Result<AppVerdict, AppError> {
        let fails = |error: serde_json::Error| AppError::Fails(error.to_string());
        let event = AppEvent::of_draft(event, submitter).map_err(fails)?;
        let event = event.ok_or_else(|| AppError::Fails("a mark is no draft".to_owned()))?;
        let text = serde_json::to_vec(&event).map_err(fails)?;
        let draft = draft_of(&event);
        let Verdict { errors, fault, is_forbidden, .. } = self.with(|kept| {
            // A frontend that was not answered in time asks again: that is not computed again.
            if let Some(fault) = kept.failed_on(draft) {
                return Ok(Verdict::default().failed(fault));
            }
            let verdict = self.verdict(kept, &text)?;
            kept.note_fault(draft, verdict.fault.as_ref());
            Ok::<_, AppError>(verdict)
        })?;
        Ok(AppVerdict { errors, is_forbidden, fault: fault.map(|fault| fault.to_string()) })
    }

    fn settle(&self) -> Result<(), AppError> {
        self.with(|kept| {
            let seat = self.seat(kept)?;
            Ok(self.ready(kept, &seat).map(drop)?)
        })
    }

    fn canonical(&self) -> Result<Vec<u8>, AppError> {
        let text = self.with(|kept| -> Result<_, AppError> {
            let seat = self.seat(kept)?;
            Ok(state_in(&mut self.ready(kept, &seat)?)?)
        })?;
        let state = Node::parse(&text).map_err(|error| AppError::Fails(error.to_string()))?;
        Ok(state.canonical())
    }

    fn is_apart(&self) -> bool {
        self.is_apart.load(Ordering::Relaxed)
    }

    fn noted_bytes(&self) -> usize {
        self.waiting_bytes.load(Ordering::Relaxed)
    }

    fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.held_bytes.load(Ordering::Relaxed)
    }
}
