//! Times as histograms, and what processes take, from `/proc`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest time that is told apart.
const LONGEST: Duration = Duration::from_secs(600);
/// How often processes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Durations, in microseconds to three digits.
pub struct Times(Histogram<u64>);

/// What a report says of them, in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Times {
    pub fn new() -> Self {
        let longest = LONGEST.as_micros() as u64;
        Self(Histogram::new_with_bounds(1, longest, 3).expect("these bounds are allowed"))
    }

    /// Adds one, given in nanoseconds.
    pub fn record(&mut self, nanos: u64) {
        self.0.saturating_record((nanos / 1000).max(1));
    }

    /// `None` where nothing was recorded.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let ms = |micros: u64| micros as f64 / 1000.0;
        let at = |quantile: f64| ms(self.0.value_at_quantile(quantile));
        (!self.0.is_empty()).then(|| Percentiles {
            count: self.0.len(),
            mean: self.0.mean() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: ms(self.0.max()),
        })
    }

    pub fn clear(&mut self) {
        self.0.reset();
    }
}

/// A process under test, as `--pid NAME=PID` names it.
#[derive(Debug, Clone)]
pub struct Named {
    pub name: String,
    pub pid: u32,
}

impl std::str::FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: NAME=PID is needed");
        let (name, pid) = text.split_once('=').ok_or_else(wrong)?;
        Ok(Self { name: name.to_owned(), pid: pid.parse().map_err(|_| wrong())? })
    }
}

/// What a process took while it was watched.
#[derive(Debug, Clone, Serialize)]
pub struct Taken {
    pub name: String,
    pub cpu_s: f64,
    pub memory_before_bytes: u64,
    pub memory_peak_bytes: u64,
    pub memory_after_bytes: u64,
}

/// Watches processes.
pub struct Watch {
    seen: Rc<RefCell<Vec<Watched>>>,
    looking: tokio::task::JoinHandle<()>,
}

struct Watched {
    process: Named,
    cpu_before: f64,
    taken: Taken,
}

impl Watch {
    /// Begins to watch these, and the generator itself.
    pub fn begin(processes: &[Named]) -> Result<Self> {
        let own = Named { name: "generator".to_owned(), pid: std::process::id() };
        let mut seen = Vec::new();
        for process in processes.iter().chain([&own]) {
            let memory = resident_bytes(process)?;
            let taken = Taken {
                name: process.name.clone(),
                cpu_s: 0.0,
                memory_before_bytes: memory,
                memory_peak_bytes: memory,
                memory_after_bytes: memory,
            };
            seen.push(Watched { process: process.clone(), cpu_before: cpu_seconds(process)?, taken });
        }
        let seen = Rc::new(RefCell::new(seen));
        let shared = Rc::clone(&seen);
        let looking = tokio::task::spawn_local(async move {
            let mut ticks = tokio::time::interval(LOOK_EVERY);
            loop {
                ticks.tick().await;
                for watched in shared.borrow_mut().iter_mut() {
                    // A process that has gone is told of at the end.
                    let memory = resident_bytes(&watched.process).unwrap_or_default();
                    watched.taken.memory_peak_bytes = watched.taken.memory_peak_bytes.max(memory);
                }
            }
        });
        Ok(Self { seen, looking })
    }

    /// Tells what they took.
    pub fn end(self) -> Result<Vec<Taken>> {
        self.looking.abort();
        let mut all = Vec::new();
        for watched in self.seen.borrow_mut().iter_mut() {
            let memory = resident_bytes(&watched.process)?;
            watched.taken.memory_after_bytes = memory;
            watched.taken.memory_peak_bytes = watched.taken.memory_peak_bytes.max(memory);
            watched.taken.cpu_s = cpu_seconds(&watched.process)? - watched.cpu_before;
            all.push(watched.taken.clone());
        }
        Ok(all)
    }
}

/// Resident memory.
pub fn resident_bytes(process: &Named) -> Result<u64> {
    let text = read(process, "statm")?;
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).context("statm")?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// User and system time so far.
fn cpu_seconds(process: &Named) -> Result<f64> {
    let text = read(process, "stat")?;
    // The name, in brackets, may hold anything.
    let behind = text.rsplit_once(')').context("stat")?.1;
    let ticks: u64 = behind.split(' ').skip(12).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn read(process: &Named, file: &str) -> Result<String> {
    let path = format!("/proc/{}/{file}", process.pid);
    std::fs::read_to_string(&path).with_context(|| format!("the process {} ({path})", process.name))
}
