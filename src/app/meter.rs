//! Counts what a module does, in steps and not in time, so that a bound holds or not on every machine alike.

use std::cell::Cell;
use std::rc::Rc;

/// The count of the call that is running. The engine calls [`tick`](Self::tick) every
/// 10,000 steps.
#[derive(Debug, Default)]
pub(super) struct Meter {
    ticks: Cell<u64>,
    max: Cell<u64>,
    is_exceeded: Cell<bool>,
}

impl Meter {
    pub(super) fn shared() -> Rc<Self> {
        Rc::new(Self::default())
    }

    /// Begins to count. The call may take fewer than `max` ticks.
    pub(super) fn arm(&self, max: u64) {
        self.ticks.set(0);
        self.max.set(max);
        self.is_exceeded.set(false);
    }

    /// Counts. True when the call is to end.
    pub(super) fn tick(&self) -> bool {
        self.ticks.set(self.ticks.get() + 1);
        if self.ticks.get() >= self.max.get() {
            self.is_exceeded.set(true);
        }
        self.is_exceeded.get()
    }

    /// What was counted since [`arm`](Self::arm).
    pub(super) fn ticks(&self) -> u64 {
        self.ticks.get()
    }

    /// Whether the call was told to end. It may have caught that, so this is asked and not the engine.
    pub(super) fn is_exceeded(&self) -> bool {
        self.is_exceeded.get()
    }
}
