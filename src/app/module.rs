//! A module in a worker process. The process may crash or be ended at any event; what it held is made again.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::bounds::{CRASHES_MAX, EVENT_CPU_MAX, LOAD_CPU_MAX, STATE_CPU_MAX};
use super::event::AppEvent;
use super::frame::{Frame, Kind};
use super::process::{End, Worker};
use super::sources::{Folder, Sources};
use super::verdict::{Broken, Fault, Rulebook, Verdict};
use crate::state::Node;

/// The one partition at a time that is in its worker.
const ONLY: u64 = 0;
/// How many events are handed over at a time.
const BATCH_EVENTS: usize = 256;
/// From how many bytes of events on the state is written down, so that less must be folded again after a crash.
const CHECKPOINT_BYTES_MIN: usize = 1 << 20;
/// The same where it is also read again: see [`Module::rereading`].
const REREAD_BYTES_MIN: usize = 2_000;

/// Why a module is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// Its file cannot be read.
    #[error("{file}: {error}")]
    File {
        /// The file.
        file: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// Something is wrong with it.
    #[error("{}", .0.join("\n"))]
    Problems(Vec<String>),
    /// Loading it ended its process, or took too long.
    #[error("loading it ended its process: {0}")]
    Ended(Fault),
    /// The process cannot be run.
    #[error(transparent)]
    Process(#[from] Broken),
}

/// An application's module, with the state of one partition.
#[derive(Debug)]
pub struct Module {
    program: PathBuf,
    folder: Folder,
    version: u64,
    types: Vec<String>,
    authorizes: bool,
    rereads: bool,
    worker: Option<Worker>,
    /// The state when it was last written down; `None` for the initial one.
    checkpoint: Option<Vec<u8>>,
    /// What was folded since.
    since: Vec<Vec<u8>>,
    since_bytes: usize,
    crashes: usize,
}

/// What a module is, as its worker tells it.
#[derive(Deserialize)]
pub(super) struct Loaded {
    pub version: u64,
    pub types: Vec<String>,
    pub authorizes: bool,
}

impl Module {
    /// Loads the module in `file`. `program` is this program, which is the worker too.
    pub fn load(file: &Path, program: &Path) -> Result<Self, ModuleError> {
        let folder = Folder::of(file).map_err(|error| ModuleError::File { file: file.to_owned(), error })?;
        let mut module = Self {
            program: program.to_owned(),
            folder,
            version: 0,
            types: Vec::new(),
            authorizes: false,
            rereads: false,
            worker: None,
            checkpoint: None,
            since: Vec::new(),
            since_bytes: 0,
            crashes: 0,
        };
        module.start()?;
        Ok(module)
    }

    /// Reads the state again from its own JSON every so often. A module whose rules remember anything outside the
    /// state ends in another state than it would otherwise.
    pub fn rereading(mut self) -> Self {
        self.rereads = true;
        self
    }

    /// The module's version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether it says who may open a partition.
    pub fn authorizes(&self) -> bool {
        self.authorizes
    }

    /// The event types that it knows.
    pub fn types(&self) -> &[String] {
        &self.types
    }

    /// Its files.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The process that it runs in at present.
    pub fn process(&self) -> Option<u32> {
        self.worker.as_ref().map(Worker::id)
    }

    /// Begins a partition with a state of version `from`, as this version's first event in a partition does.
    pub fn migrate(&mut self, from: u64, state: &[u8]) -> Result<(), Broken> {
        self.begin(Some(state.to_vec()))?;
        self.done(&Frame::of_session(Kind::Migrate, ONLY, [from.to_string()]))?;
        self.note_checkpoint()
    }

    fn start(&mut self) -> Result<(), ModuleError> {
        let mut worker = Worker::start(&self.program).map_err(Broken::Process)?;
        let loaded = Self::load_in(&mut worker, &mut self.folder).map_err(|end| match end {
            End::Io(error) => ModuleError::Process(Broken::Process(error)),
            end => ModuleError::Ended(Fault::of_process(&end)),
        })?;
        match loaded.kind {
            Kind::Loaded => {
                let Loaded { version, types, authorizes } = read_part(&loaded)?;
                (self.version, self.types, self.authorizes) = (version, types, authorizes);
                self.worker = Some(worker);
                Ok(())
            }
            Kind::NotLoaded => Err(ModuleError::Problems(
                loaded.parts.iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect(),
            )),
            kind => Err(malformed(kind).into()),
        }
    }

    pub(super) fn load_in(worker: &mut Worker, folder: &mut Folder) -> Result<Frame, End> {
        worker.send(&Frame::new(Kind::Load, [folder.entry()]), LOAD_CPU_MAX)?;
        loop {
            let frame = worker.next(LOAD_CPU_MAX)?;
            if frame.kind != Kind::Want {
                return Ok(frame);
            }
            let file = match folder.fetch(frame.text()?) {
                Ok(text) => Frame::new(Kind::File, [text]),
                Err(why) => Frame::new(Kind::NoFile, [why]),
            };
            worker.send(&file, LOAD_CPU_MAX)?;
        }
    }

    /// Begins a partition.
    fn begin(&mut self, state: Option<Vec<u8>>) -> Result<(), Broken> {
        (self.checkpoint, self.crashes) = (state, 0);
        self.since.clear();
        self.since_bytes = 0;
        self.reopen()
    }

    /// Opens the partition at its checkpoint.
    fn reopen(&mut self) -> Result<(), Broken> {
        if self.worker.is_none() {
            self.start().map_err(|error| match error {
                ModuleError::Process(broken) => broken,
                // It was loaded before.
                error => Broken::Malformed(error.to_string()),
            })?;
        }
        let open = Frame::of_session(Kind::Open, ONLY, self.checkpoint.as_deref());
        self.done(&open).map(drop)
    }

    /// After its process has ended: starts another, and folds again what that one had.
    fn restart(&mut self) -> Result<(), Broken> {
        self.worker = None;
        self.reopen()?;
        let since = std::mem::take(&mut self.since);
        let again = since.chunks(BATCH_EVENTS).try_for_each(|batch| self.run(batch, &mut Vec::new()));
        self.since = since;
        again.map_err(|end| match end {
            End::Io(error) => Broken::Process(error),
            end => Broken::Module(Fault::of_process(&end)),
        })
    }

    /// Has one batch reviewed, and adds the verdicts as they come.
    fn run(&mut self, batch: &[Vec<u8>], verdicts: &mut Vec<Verdict>) -> Result<(), End> {
        let worker = self.worker.as_mut().ok_or_else(|| End::Crashed("there is none".to_owned()))?;
        let wanted = verdicts.len() + batch.len();
        worker.send(&Frame::of_session(Kind::Review, ONLY, batch), EVENT_CPU_MAX)?;
        loop {
            let frame = worker.next(EVENT_CPU_MAX)?;
            match frame.kind {
                Kind::Verdicts => {
                    for part in &frame.parts {
                        verdicts.push(serde_json::from_slice(part).map_err(std::io::Error::from)?);
                    }
                }
                Kind::Done if verdicts.len() == wanted => return Ok(()),
                // The state could not be taken back: this process is of no more use.
                Kind::Fault => {
                    self.worker = None;
                    return Err(End::Crashed("what a rule did could not be taken back".to_owned()));
                }
                kind => return Err(std::io::Error::other(format!("{kind:?} in answer to events")).into()),
            }
        }
    }

    /// Asks for something that is not of one event.
    fn done(&mut self, frame: &Frame) -> Result<Vec<u8>, Broken> {
        let worker =
            self.worker.as_mut().ok_or_else(|| Broken::Malformed("there is no process".to_owned()))?;
        let answer = worker.send(frame, STATE_CPU_MAX).and_then(|()| worker.next(STATE_CPU_MAX));
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(end) => {
                self.worker = None;
                return Err(match end {
                    End::Io(error) => Broken::Process(error),
                    end => Broken::Module(Fault::of_process(&end)),
                });
            }
        };
        match answer.kind {
            Kind::Done => Ok(answer.parts.pop().unwrap_or_default()),
            Kind::Fault => Err(Broken::Module(read_part(&answer)?)),
            kind => Err(malformed(kind)),
        }
    }

    fn note_checkpoint(&mut self) -> Result<(), Broken> {
        let state = self.done(&Frame::of_session(Kind::State, ONLY, [""; 0]))?;
        self.checkpoint = Some(state);
        self.since.clear();
        self.since_bytes = 0;
        if self.rereads { self.reopen() } else { Ok(()) }
    }
}

impl Rulebook for Module {
    fn open(&mut self) -> Result<(), Broken> {
        self.begin(None)
    }

    fn review(&mut self, events: &[AppEvent]) -> Result<Vec<Verdict>, Broken> {
        let texts = events.iter().map(serde_json::to_vec).collect::<Result<Vec<_>, _>>();
        let texts = texts.map_err(|error| Broken::Malformed(error.to_string()))?;
        let mut verdicts = Vec::with_capacity(texts.len());
        let mut batch_events = BATCH_EVENTS;
        while let Some(left) = texts.get(verdicts.len()..).filter(|left| !left.is_empty()) {
            let batch = left.get(..batch_events).unwrap_or(left);
            let before = verdicts.len();
            let ended = self.run(batch, &mut verdicts);
            for text in batch.iter().take(verdicts.len() - before) {
                self.since_bytes += text.len();
                self.since.push(text.clone());
            }
            match ended {
                Ok(()) => {}
                Err(End::Io(error)) => return Err(Broken::Process(error)),
                Err(end) => {
                    // Which event it was is known only when it is alone.
                    if batch.len() == 1 {
                        self.crashes += 1;
                        if self.crashes > CRASHES_MAX {
                            self.worker = None;
                            return Err(Broken::Crashes(self.crashes));
                        }
                        verdicts.push(Verdict::default().failed(Fault::of_process(&end)));
                        batch_events = BATCH_EVENTS;
                    } else {
                        batch_events = 1;
                    }
                    self.restart()?;
                }
            }
        }
        let bytes_min = if self.rereads { REREAD_BYTES_MIN } else { CHECKPOINT_BYTES_MIN };
        if self.since_bytes > bytes_min.max(self.checkpoint.as_ref().map_or(0, Vec::len)) {
            self.note_checkpoint()?;
        }
        Ok(verdicts)
    }

    fn state(&mut self) -> Result<Vec<u8>, Broken> {
        let text = self.done(&Frame::of_session(Kind::State, ONLY, [""; 0]))?;
        let state = Node::parse(&text).map_err(|error| Broken::Malformed(error.to_string()))?;
        Ok(state.canonical())
    }
}

fn malformed(kind: Kind) -> Broken {
    Broken::Malformed(format!("{kind:?}"))
}

pub(super) fn read_part<T: serde::de::DeserializeOwned>(frame: &Frame) -> Result<T, Broken> {
    let part = frame.parts.first().map_or(&[][..], Vec::as_slice);
    serde_json::from_slice(part).map_err(|error| Broken::Malformed(error.to_string()))
}
