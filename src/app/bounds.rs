//! The bounds within which a module runs. They are constants: an application's rules mean the same on every server.

use std::time::Duration;

/// How many times each call of the module may be counted. The engine counts every 10,000 steps; a step is a call, a
/// turn of a loop, or a step of a regular expression. So a call takes at most one million, some 10 to 50 ms.
pub(super) const TICKS_MAX: u64 = 100;
/// How many counts loading a module may take, and bringing a state of an older version up to date.
pub(super) const LOAD_TICKS_MAX: u64 = 1_000;
/// The memory of one partition: its state, the module, and what a rule makes meanwhile.
pub(super) const MEMORY_BYTES_MAX: usize = 64 << 20;
/// What is added to it while a rule that failed is taken back, which must not fail for want of memory.
pub(super) const TAKE_BACK_BYTES: usize = 32 << 20;
/// The stack of the engine. The process has 8 MiB.
pub(super) const STACK_BYTES_MAX: usize = 256 << 10;
/// The processor time that a worker may take for one event. The steps take a part of it; what is over is for calls that
/// the interpreter does not count, such as the join of a long array. It is not the clock's time, in which a busy machine
/// could fail a rule that is as quick as ever.
pub(super) const EVENT_CPU_MAX: Duration = Duration::from_secs(1);
/// The same for a batch of events that were accepted: they were within the bound where they were decided, and must not
/// fail on a machine that is slower.
pub(super) const FOLD_CPU_MAX: Duration = Duration::from_secs(60);
/// The processor time for loading a module, and for reading and writing a state.
pub(super) const LOAD_CPU_MAX: Duration = Duration::from_secs(5);
pub(super) const STATE_CPU_MAX: Duration = Duration::from_secs(20);
/// The time after which a worker that neither answers nor computes is given up.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(30);
/// The largest frame between a worker and its parent: a state, or a batch of events.
pub(super) const FRAME_BYTES_MAX: usize = 256 << 20;
/// The files of a module, and their bytes together.
pub(super) const FILES_MAX: usize = 200;
pub(super) const FILES_BYTES_MAX: usize = 4 << 20;
/// The most bytes of an error's message and of its stack trace that are kept.
pub(super) const MESSAGE_BYTES_MAX: usize = 500;
pub(super) const TRACE_BYTES_MAX: usize = 2_000;
/// How many events of one partition may end their worker. What does so again and again is the state, not an event.
pub(super) const CRASHES_MAX: usize = 20;
