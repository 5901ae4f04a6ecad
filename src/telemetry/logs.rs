//! Logs: to standard error, for people or as JSON lines; what is logged can be changed while running.
//!
//! A line that belongs to a request names its connection, client and partition, and where it has them the
//! draft and the event. No line ever holds a token or a payload. How a line is written, says `lines`.

use crate::telemetry::lines::LogFormat;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{Level, Metadata, warn};
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::lines::Lines;

/// Where and how logs are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogOutput {
    /// `human`, or `json` for one object a line.
    pub format: LogFormat,
    /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`), or levels by module such as
    /// `info,insieme_backend::validator=debug`. Read anew on SIGHUP.
    pub filter: String,
}

impl Default for LogOutput {
    fn default() -> Self {
        // async_nats logs at info what the log module logs in our own words.
        Self { format: LogFormat::Human, filter: "info,async_nats=warn".to_owned() }
    }
}

impl LogOutput {
    /// The filter, or what is wrong with it.
    pub fn parse_filter(&self) -> Result<EnvFilter, FilterError> {
        parse(&self.filter)
    }

    /// Sends the process's logs to standard error from now on. Only the first call in a process counts; all
    /// give the same control.
    pub fn install(&self) -> Result<LogControl, FilterError> {
        let filter = self.parse_filter()?;
        Ok(CONTROL
            .get_or_init(|| {
                let (filter, handle) = reload::Layer::new(filter);
                let lines = Lines::to_stderr(self.format, std::io::stderr().is_terminal());
                tell_of_panics();
                let silenced = tracing_subscriber::filter::filter_fn(|metadata| !tells_content(metadata));
                let all = tracing_subscriber::registry().with(filter).with(silenced).with(lines);
                if all.try_init().is_err() {
                    tracing::debug!("logs were set up already, by somebody else");
                }
                let in_force = InForce { filter: self.filter.clone(), before: None };
                LogControl { handle, filter: Arc::new(Mutex::new(in_force)) }
            })
            .clone())
    }
}

/// The process's logs, once they are set up: there is one standard error.
static CONTROL: OnceLock<LogControl> = OnceLock::new();

/// What is logged, changed while the process runs. Cheap to clone.
#[derive(Clone)]
pub struct LogControl {
    handle: reload::Handle<EnvFilter, Registry>,
    filter: Arc<Mutex<InForce>>,
}

/// The filter in force.
struct InForce {
    filter: String,
    /// The one to put back, and when, if this one is for a while.
    before: Option<(String, Instant)>,
}

/// A filter that was not taken; the one before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum LogControlError {
    /// It is no filter.
    #[error(
        "{filter:?} is no log filter: {error}; it takes a level (error, warn, info, debug, trace), or levels by module such as info,insieme_backend::validator=debug"
    )]
    Filter {
        /// What was to be the filter.
        filter: String,
        /// What is wrong with it.
        error: FilterError,
    },
    /// The logs are not this process's to change.
    #[error("this process's logs cannot be changed: {0}")]
    Gone(#[from] reload::Error),
}

impl LogControl {
    /// The control of the process's logs; `None` before they are set up.
    pub fn of_process() -> Option<Self> {
        CONTROL.get().cloned()
    }

    /// The control of a filter that is not the process's, which lives as long as what comes with it.
    #[cfg(test)]
    pub(crate) fn apart(filter: &str) -> (reload::Layer<EnvFilter, Registry>, Self) {
        let (layer, handle) = reload::Layer::new(EnvFilter::new(filter));
        let in_force = InForce { filter: filter.to_owned(), before: None };
        (layer, Self { handle, filter: Arc::new(Mutex::new(in_force)) })
    }

    /// The filter in force.
    pub fn filter(&self) -> String {
        self.lock().filter.clone()
    }

    /// Puts another filter in force, for every line from now on.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogControlError> {
        self.replace(&mut self.lock(), filter)
    }

    /// Puts another filter in force for a while, behind which [`LogControl::restore_if_due`] puts the one back
    /// that was in force before the first such change.
    pub fn set_filter_for(&self, filter: &str, time: Duration) -> Result<(), LogControlError> {
        let mut in_force = self.lock();
        let before = match &in_force.before {
            Some((before, _)) => before.clone(),
            None => in_force.filter.clone(),
        };
        self.replace(&mut in_force, filter)?;
        in_force.before = Some((before, Instant::now() + time));
        Ok(())
    }

    /// Puts the filter back that was in force before one whose time is up, and tells it.
    pub fn restore_if_due(&self) -> Result<Option<String>, LogControlError> {
        let mut in_force = self.lock();
        match in_force.before.take_if(|(_, until)| *until <= Instant::now()) {
            Some((before, _)) => self.replace(&mut in_force, &before).map(|()| Some(before)),
            None => Ok(None),
        }
    }

    /// With the lock held: what is said to be in force is what is.
    fn replace(&self, in_force: &mut InForce, filter: &str) -> Result<(), LogControlError> {
        let parsed =
            parse(filter).map_err(|error| LogControlError::Filter { filter: filter.to_owned(), error })?;
        if !tells_of_us(filter) {
            // By the filter before: after it nobody would hear.
            warn!(
                filter,
                "this log filter lets no line of this process through; put another in force to hear of it"
            );
        }
        self.handle.reload(parsed)?;
        *in_force = InForce { filter: filter.to_owned(), before: None };
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, InForce> {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has panics told in lines like all others: what one says may hold a client's text.
fn tell_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let why = panic.payload_as_str().unwrap_or_default();
        tracing::error!(at, thread, why, "panicked");
    }));
}

/// Why a text is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A word by itself is a level, or it would silence everything but a module of that name.
    #[error("{0:?} is no level (error, warn, info, debug, trace, off); for a module write {0}=info")]
    Level(String),
    /// Anything else.
    #[error(transparent)]
    Parse(#[from] ParseError),
}

fn parse(filter: &str) -> Result<EnvFilter, FilterError> {
    // What stands in brackets may hold commas, and is no word by itself.
    if !filter.contains('[') {
        let mut words =
            filter.split(',').map(str::trim).filter(|word| !word.is_empty() && !word.contains('='));
        if let Some(word) = words.find(|word| word.parse::<LevelFilter>().is_err()) {
            return Err(FilterError::Level(word.to_owned()));
        }
    }
    Ok(EnvFilter::builder().parse(filter)?)
}

/// Whether a filter lets any line of ours through: a level for all, or one for a module of ours.
pub fn tells_of_us(filter: &str) -> bool {
    const US: &str = "insieme_backend";
    filter.split(',').map(str::trim).any(|word| {
        let (target, level) = word.rsplit_once('=').unwrap_or((US, word));
        target.starts_with(US) && level.parse::<LevelFilter>().is_ok_and(|level| level != LevelFilter::OFF)
    })
}

/// Modules of others that at `trace` write down what they carry: frames, headers, messages. Nobody can ask
/// for those lines, since tokens and payloads are in them.
const CONTENT_TELLERS: [&str; 6] =
    ["tungstenite", "tokio_tungstenite", "hyper", "h2", "async_nats", "reqwest"];

fn tells_content(metadata: &Metadata<'_>) -> bool {
    *metadata.level() == Level::TRACE
        && metadata.target().split("::").next().is_some_and(|root| CONTENT_TELLERS.contains(&root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused_and_a_filter_that_silences_us_is_told() {
        for good in ["info", "WARN", "off", "info,async_nats=warn", "a::b=debug", "info,[span{a=1}]=debug"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for (bad, word) in [("dbug", "dbug"), ("info,wrn", "wrn"), ("insieme_backend", "insieme_backend")] {
            let said = parse(bad).unwrap_err().to_string();
            assert!(said.contains(&format!("{word:?} is no level")), "{said}");
        }
        for wrong in ["x=y=z", "insieme_backend=wrn"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        for filter in ["info", "error", "warn,insieme_backend=off", "insieme_backend::log=debug"] {
            assert!(tells_of_us(filter), "{filter}");
        }
        for filter in ["off", "async_nats=info", "hyper=trace", "insieme_backend=off"] {
            assert!(!tells_of_us(filter), "{filter}");
        }
    }
}
