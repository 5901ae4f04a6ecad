//! What rules say of events, and how they fail.

use serde::{Deserialize, Serialize};

use super::bounds::{MESSAGE_BYTES_MAX, TRACE_BYTES_MAX};
use super::event::AppEvent;
use crate::event::FieldError;
use crate::rules::finding;

/// What an application's rules say of one partition.
pub trait Rulebook {
    /// Begins a partition that has no events yet.
    fn open(&mut self) -> Result<(), Broken>;

    /// Decides each event as if it were a draft now, and folds it in any case, in order. One verdict for each.
    fn review(&mut self, events: &[AppEvent]) -> Result<Vec<Verdict>, Broken>;

    /// The state, as JSON in its canonical form.
    fn state(&mut self) -> Result<Vec<u8>, Broken>;
}

/// What the rules say of one event. It is accepted if there are no errors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// What is found; with a fault, `RULE_FAILED` is in it.
    pub errors: Vec<FieldError>,
    /// How the rules failed on it.
    pub fault: Option<Fault>,
    /// Whether what stands against it is who submits it.
    #[serde(default)]
    pub is_forbidden: bool,
    /// Of an event of the log: whether what stands against it depends on what the token said, which the log does not
    /// keep.
    #[serde(default)]
    pub is_undecided: bool,
    /// Whether it is in the state.
    pub is_folded: bool,
}

impl Verdict {
    /// The rules do not know the type.
    pub(super) fn unknown(event_type: &str) -> Self {
        let message = format!("the rules know no event type {event_type:?}");
        Self { errors: vec![finding("type", "UNKNOWN_EVENT_TYPE", &message)], ..Self::default() }
    }

    /// The rules failed. The client is told so, and not what their author must know.
    pub(super) fn failed(mut self, fault: Fault) -> Self {
        if self.fault.is_none() {
            let message =
                "the application's rules failed on this event; it was reported, and nothing is stored";
            self.errors.push(finding("payload", "RULE_FAILED", message));
            self.fault = Some(fault);
        }
        self
    }
}

/// How rules failed on an event. The event is refused with `RULE_FAILED`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// The error's message.
    pub message: String,
    /// Where in the module, as the engine tells it.
    pub trace: String,
}

/// Ways for rules to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FaultKind {
    /// The module threw an error, or did what it may not do.
    Threw,
    /// It took too many steps.
    Steps,
    /// It took too much memory.
    Memory,
    /// It called itself too often.
    Stack,
    /// It computed for too long in calls whose steps are not counted.
    Time,
    /// The process in which it ran ended.
    Crashed,
}

impl FaultKind {
    /// Whether the rules took all that they may take before they failed, so that others were held up.
    pub(super) fn is_costly(self) -> bool {
        !matches!(self, Self::Threw | Self::Stack)
    }
}

impl Fault {
    /// One that is of the module's process.
    pub(super) fn of_process(end: &super::process::End) -> Self {
        use super::process::End;
        match end {
            End::Time => {
                Self::new(FaultKind::Time, "in calls whose steps are not counted, such as join or repeat", "")
            }
            End::Crashed(how) => Self::new(FaultKind::Crashed, how, ""),
            End::Io(error) => Self::new(FaultKind::Crashed, &error.to_string(), ""),
        }
    }

    pub(super) fn new(kind: FaultKind, message: &str, trace: &str) -> Self {
        let message = shortened(message, MESSAGE_BYTES_MAX);
        Self { kind, message, trace: shortened(trace.trim_end(), TRACE_BYTES_MAX) }
    }
}

fn shortened(text: &str, bytes_max: usize) -> String {
    match text.len() <= bytes_max {
        true => text.to_owned(),
        false => format!("{}…", text.get(..text.floor_char_boundary(bytes_max)).unwrap_or_default()),
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.kind {
            FaultKind::Threw => "it threw",
            FaultKind::Steps => "it took too many steps",
            FaultKind::Memory => "it took too much memory",
            FaultKind::Stack => "it called itself too often",
            FaultKind::Time => "it computed for too long",
            FaultKind::Crashed => "its process ended",
        };
        write!(f, "{what}: {}", self.message)?;
        self.trace.lines().try_for_each(|line| write!(f, "\n    {}", line.trim()))
    }
}

/// Why rules say nothing of a partition any more.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The module fails where no event is at fault.
    #[error("the module fails: {0}")]
    Module(Fault),
    /// Events of one partition ended the module's process again and again.
    #[error("{0} events of this partition ended the module's process")]
    Crashes(usize),
    /// The process cannot be run.
    #[error("the module's process: {0}")]
    Process(#[from] std::io::Error),
    /// What the process answered is no answer.
    #[error("the module's process answered what is no answer: {0}")]
    Malformed(String),
    /// An event of the log does not fold by the built-in rules.
    #[error(transparent)]
    Log(#[from] crate::state::FoldError),
}
