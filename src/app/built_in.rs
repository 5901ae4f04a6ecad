//! The rules of this program, which every log of it was decided by.

use super::event::AppEvent;
use super::verdict::{Broken, Rulebook, Verdict};
use crate::rules::Registry;
use crate::rules::limits::RulesError;
use crate::state::{Document, Fold};

/// The built-in rules. What they review is in the log, so they have decided it; they fold it.
#[derive(Debug)]
pub struct BuiltIn {
    registry: Registry,
    doc: Document,
    events: u64,
}

impl BuiltIn {
    /// The built-in rules, with an empty partition.
    pub fn new() -> Result<Self, RulesError> {
        Ok(Self { registry: Registry::built_in()?, doc: Document::new(), events: 0 })
    }
}

impl Rulebook for BuiltIn {
    fn open(&mut self) -> Result<(), Broken> {
        (self.doc, self.events) = (Document::new(), 0);
        Ok(())
    }

    fn review(&mut self, events: &[AppEvent]) -> Result<Vec<Verdict>, Broken> {
        let mut verdicts = Vec::with_capacity(events.len());
        for event in events {
            let first = self.events == 0;
            self.registry.fold(&event.event_type, &event.payload, first, &mut self.doc)?;
            self.events += 1;
            verdicts.push(Verdict { is_folded: true, ..Verdict::default() });
        }
        Ok(verdicts)
    }

    fn state(&mut self) -> Result<Vec<u8>, Broken> {
        Ok(self.doc.canonical())
    }
}
