//! The process in which a module runs: frames in on standard input, frames out on standard output, and nothing else.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Read};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getppid, setrlimit};
use serde::Serialize;

use super::engine::Engine;
use super::frame::{Frame, Kind};
use super::sources::Sources;
use super::verdict::{Fault, FaultKind, Verdict};

/// How often a worker looks whether its parent is still there. One that computes does not notice the end of its input.
const PARENT_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The most memory that the process may map, whatever the engine counts.
const ADDRESS_SPACE_BYTES_MAX: u64 = 4 << 30;
/// For how long verdicts are held back, so that a batch of quick ones is told at once.
const VERDICTS_HELD_MAX: Duration = Duration::from_millis(10);

/// Runs a worker to the end of its input.
pub fn run() -> ExitCode {
    if confine().is_err() {
        return ExitCode::FAILURE;
    }
    let mut worker = Worker {
        pipe: Rc::new(RefCell::new(Pipe::default())),
        module: None,
        gate: None,
        engines: HashMap::new(),
    };
    match worker.serve() {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads what it says; its end is seen.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Gives up what a module has no use for: it opens no file, starts no process, leaves no dump, and ends with its parent.
fn confine() -> io::Result<()> {
    let parent = getppid();
    std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
        while getppid() == parent {
            std::thread::sleep(PARENT_CHECK_INTERVAL);
        }
        std::process::exit(1);
    })?;
    let bounds = [
        (Resource::Nofile, 3),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
        (Resource::Nproc, 0),
        (Resource::As, ADDRESS_SPACE_BYTES_MAX),
    ];
    for (resource, max) in bounds {
        setrlimit(resource, Rlimit { current: Some(max), maximum: Some(max) })?;
    }
    Ok(())
}

/// The two pipes, and the files that came over them.
#[derive(Default)]
struct Pipe {
    files: HashMap<String, String>,
}

impl Pipe {
    fn read(&mut self) -> io::Result<Option<Frame>> {
        Frame::read(&mut Input)
    }

    fn write(&mut self, frame: &Frame) -> io::Result<()> {
        frame.write(&mut io::stdout().lock())
    }
}

struct Input;

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        io::stdin().lock().read(into)
    }
}

impl Sources for Pipe {
    fn fetch(&mut self, name: &str) -> Result<String, String> {
        if let Some(text) = self.files.get(name) {
            return Ok(text.clone());
        }
        let ask = |pipe: &mut Self| -> io::Result<Option<Frame>> {
            pipe.write(&Frame::new(Kind::Want, [name]))?;
            pipe.read()
        };
        match ask(self).map_err(|error| error.to_string())? {
            Some(frame) if frame.kind == Kind::File => {
                let text = frame.text().map_err(|error| error.to_string())?.to_owned();
                self.files.insert(name.to_owned(), text.clone());
                Ok(text)
            }
            Some(frame) if frame.kind == Kind::NoFile => {
                Err(frame.text().map_err(|error| error.to_string())?.to_owned())
            }
            _ => Err(format!("{name} was not sent")),
        }
    }
}

struct Worker {
    pipe: Rc<RefCell<Pipe>>,
    /// The name of the module's own file.
    module: Option<String>,
    /// What says who may open a partition, if the module says so: it has no state.
    gate: Option<Engine>,
    /// By session.
    engines: HashMap<u64, Engine>,
}

/// What a module is, as its worker tells it.
#[derive(Serialize)]
struct Loaded<'a> {
    version: u64,
    types: Vec<&'a str>,
    authorizes: bool,
}

impl Worker {
    fn serve(&mut self) -> io::Result<()> {
        loop {
            let frame = self.pipe.borrow_mut().read()?;
            let Some(frame) = frame else { return Ok(()) };
            let answer = match frame.kind {
                Kind::Load => self.load(frame.text()?)?,
                Kind::Open => self.open(&frame)?,
                Kind::Review => self.review(&frame)?,
                Kind::State => match self.engine(&frame)?.0.state() {
                    Ok(state) => Frame::new(Kind::Done, [state]),
                    Err(fault) => told(&fault)?,
                },
                Kind::Migrate => {
                    let (engine, parts) = self.engine(&frame)?;
                    let from = text_of(parts.first())?;
                    let from = from.parse().map_err(|_| unexpected("a version that is none"))?;
                    done(engine.migrate(from))?
                }
                Kind::Decide => {
                    let (engine, parts) = self.engine(&frame)?;
                    match engine.decide(text_of(parts.first())?) {
                        Ok(verdict) => Frame::new(Kind::Verdicts, [serde_json::to_vec(&verdict)?]),
                        Err(fault) => told(&fault)?,
                    }
                }
                Kind::Fold => {
                    let (engine, parts) = self.engine(&frame)?;
                    let folded = parts.iter().map(|part| Ok(engine.fold(text_of(Some(part))?)));
                    let folded = folded.collect::<io::Result<Result<Vec<()>, Fault>>>()?;
                    done(folded.map(drop))?
                }
                Kind::Authorize => {
                    let gate =
                        self.gate.as_mut().ok_or_else(|| unexpected("the module lets everybody in"))?;
                    match gate.authorize(text_of(frame.session()?.1.first())?) {
                        Ok(may) => Frame::new(Kind::Authorized, [serde_json::to_vec(&may)?]),
                        Err(fault) => told(&fault)?,
                    }
                }
                Kind::Close => {
                    self.engines.remove(&frame.session()?.0);
                    continue;
                }
                _ => return Err(unexpected("a frame that is not for a worker")),
            };
            self.pipe.borrow_mut().write(&answer)?;
        }
    }

    fn engine<'a>(&mut self, frame: &'a Frame) -> io::Result<(&mut Engine, &'a [Vec<u8>])> {
        let (session, parts) = frame.session()?;
        let engine = self.engines.get_mut(&session).ok_or_else(|| unexpected("no partition is open"))?;
        Ok((engine, parts))
    }

    fn load(&mut self, entry: &str) -> io::Result<Frame> {
        match Engine::load(entry, self.pipe.clone()) {
            Ok(engine) => {
                let loaded = Loaded {
                    version: engine.version(),
                    types: engine.types(),
                    authorizes: engine.authorizes(),
                };
                let text = serde_json::to_vec(&loaded)?;
                self.module = Some(entry.to_owned());
                self.gate = engine.authorizes().then_some(engine);
                Ok(Frame::new(Kind::Loaded, [text]))
            }
            Err(problems) => Ok(Frame::new(Kind::NotLoaded, problems)),
        }
    }

    /// A partition has an engine of its own, so that nothing of another one's is in it.
    fn open(&mut self, frame: &Frame) -> io::Result<Frame> {
        let Some(entry) = &self.module else { return Err(unexpected("no module is loaded")) };
        let (session, parts) = frame.session()?;
        self.engines.remove(&session);
        let mut engine = match Engine::load(entry, self.pipe.clone()) {
            Ok(engine) => engine,
            Err(problems) => return told(&Fault::new(FaultKind::Threw, &problems.join("; "), "")),
        };
        let state = parts.first().map(|state| text_of(Some(state))).transpose()?;
        let opened = engine.open(state);
        self.engines.insert(session, engine);
        done(opened)
    }

    /// Tells verdicts as they come, so that a worker that is ended has told most of what it did.
    fn review(&mut self, frame: &Frame) -> io::Result<Frame> {
        let mut verdicts: Vec<Vec<u8>> = Vec::new();
        let mut told_at = Instant::now();
        for event in frame.session()?.1 {
            let verdict: Result<Verdict, Fault> = self.engine(frame)?.0.review(text_of(Some(event))?);
            match verdict {
                Ok(verdict) => verdicts.push(serde_json::to_vec(&verdict)?),
                Err(fault) => {
                    self.pipe.borrow_mut().write(&Frame::new(Kind::Verdicts, verdicts))?;
                    return told(&fault);
                }
            }
            if told_at.elapsed() > VERDICTS_HELD_MAX {
                self.pipe.borrow_mut().write(&Frame::new(Kind::Verdicts, std::mem::take(&mut verdicts)))?;
                told_at = Instant::now();
            }
        }
        self.pipe.borrow_mut().write(&Frame::new(Kind::Verdicts, verdicts))?;
        Ok(Frame::bare(Kind::Done))
    }
}

fn text_of(part: Option<&Vec<u8>>) -> io::Result<&str> {
    std::str::from_utf8(part.map_or(&[][..], Vec::as_slice)).map_err(|_| unexpected("what is no text"))
}

fn unexpected(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn done(result: Result<(), Fault>) -> io::Result<Frame> {
    match result {
        Ok(()) => Ok(Frame::bare(Kind::Done)),
        Err(fault) => told(&fault),
    }
}

fn told(fault: &Fault) -> io::Result<Frame> {
    Ok(Frame::new(Kind::Fault, [serde_json::to_vec(fault)?]))
}
