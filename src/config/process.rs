//! What every role's process takes of its machine.

use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};

/// More threads than any machine has cores for; each takes memory.
const THREADS_MAX: usize = 512;

/// What a process takes of its machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessConfig {
    /// How many threads serve connections and partitions, up to 512; 0 for as many as the process has cores. What
    /// computes for long, snapshots and states above all, has threads of its own.
    pub threads: usize,
}

impl ProcessConfig {
    /// The number of threads, once the machine is known.
    pub fn threads(&self) -> usize {
        match self.threads {
            0 => available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    pub(crate) fn check(&self, problems: &mut Vec<String>) {
        if self.threads > THREADS_MAX {
            problems.push(format!("process.threads: at most {THREADS_MAX}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_thread_at_least_and_not_without_end() {
        assert!(ProcessConfig::default().threads() >= 1);
        assert_eq!(ProcessConfig { threads: 3 }.threads(), 3);
        let mut problems = Vec::new();
        ProcessConfig { threads: THREADS_MAX + 1 }.check(&mut problems);
        assert_eq!(problems, ["process.threads: at most 512"]);
    }
}
