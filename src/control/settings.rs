//! What an operator can set of how processes and the administration find each other.

use serde::{Deserialize, Serialize};

/// Orders of the administration to all processes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlSettings {
    /// How often a process tells the administration that it is there, in milliseconds. One that has said
    /// nothing for three times as long is not waited for any more.
    pub announce_ms: u64,
    /// How many orders a process carries out at once; more wait.
    pub orders_at_once_max: usize,
    /// How often a process that checks tokens looks for revocations that it was not told of, in milliseconds.
    pub revocations_look_ms: u64,
}

impl Default for ControlSettings {
    fn default() -> Self {
        Self { announce_ms: 2_000, orders_at_once_max: 16, revocations_look_ms: 1_000 }
    }
}

impl ControlSettings {
    /// Says what cannot work, beginning with the key.
    pub fn check(&self) -> Result<(), String> {
        if !(100..=60_000).contains(&self.announce_ms) {
            return Err("announce_ms: 100 to 60000".to_owned());
        }
        if !(50..=60_000).contains(&self.revocations_look_ms) {
            return Err("revocations_look_ms: 50 to 60000".to_owned());
        }
        match self.orders_at_once_max {
            0 => Err("orders_at_once_max: must not be 0".to_owned()),
            _ => Ok(()),
        }
    }
}
