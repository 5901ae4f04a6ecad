//! Fault points: places at which a test can make a process die or misbehave.
//!
//! Compiled in only with the feature `fault-points`, and then switched on by name in the environment
//! variable `INSIEME_FAULT` (names separated by commas). Without the feature every point is nothing.

/// Die between a commit's acknowledgement and that of its drafts.
pub const DIE_AFTER_COMMIT: &str = "die_after_commit";
/// Die in an import after each batch that was stored.
pub const DIE_IN_IMPORT: &str = "die_in_import";
/// Take every slot, whoever owns it, hand none over, and take each back when it is lost.
pub const NEVER_LOSE_SLOTS: &str = "never_lose_slots";

/// Acknowledge no draft, as if NATS had removed none from the queue yet.
pub const LOSE_ACKNOWLEDGEMENTS: &str = "lose_acknowledgements";

/// Say of each committed event for which copy of its draft it was committed: of which frontend, connection,
/// submission and attempt. Breaks nothing; a test's judge can tell a late copy of an earlier connection from a
/// broken promise.
pub const TELL_ORIGIN: &str = "tell_origin";

/// A connection's number. Where origins are told, its last 16 bits are the client's port, by which a test knows its
/// connection.
pub fn connection_number(number: u64, port: u16) -> u64 {
    if is_on(TELL_ORIGIN) { (number << 16) | u64::from(port) } else { number }
}

/// Read and write no snapshot of more than 16 KiB.
pub const SMALL_SNAPSHOTS: &str = "small_snapshots";

/// Answer the first reads at the log's leader as a server does that was cut off before the partition's first event.
pub const OLD_LEADER: &str = "old_leader";

/// Whether a read at the leader is answered by a server that only believes to lead: the first four of a process, where
/// that is switched on.
pub fn is_old_leader() -> bool {
    use std::sync::atomic::{AtomicU32, Ordering};
    static ANSWERED: AtomicU32 = AtomicU32::new(0);
    is_on(OLD_LEADER) && ANSWERED.fetch_add(1, Ordering::Relaxed) < 4
}

/// Whether a fault is switched on.
#[cfg(feature = "fault-points")]
pub fn is_on(name: &str) -> bool {
    static ON: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    ON.get_or_init(|| {
        let names = std::env::var("INSIEME_FAULT").unwrap_or_default();
        names.split(',').map(str::to_owned).collect()
    })
    .iter()
    .any(|on| on == name)
}

/// Whether a fault is switched on: never, in this build.
#[cfg(not(feature = "fault-points"))]
pub fn is_on(_name: &str) -> bool {
    false
}

/// Whether the product is to be broken on purpose in this way, so that tests can show that they notice. The ways
/// are listed with what they do in `tests/torturing/faults.rs`. Never, in a release.
#[inline]
pub fn broken(name: &str) -> bool {
    is_on(name)
}

/// Ends the process at once, without any clean-up, if the fault is switched on.
pub fn die_at(name: &str) {
    if is_on(name) {
        eprintln!("fault point {name}: dying");
        std::process::abort();
    }
}

/// By how many milliseconds the process's clock is off: `clock_ms=N` among the names. Not at all, in a release.
#[cfg(feature = "fault-points")]
pub fn clock_shift_ms() -> i64 {
    static SHIFT: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *SHIFT.get_or_init(|| {
        let names = std::env::var("INSIEME_FAULT").unwrap_or_default();
        let shift = names.split(',').find_map(|name| name.strip_prefix("clock_ms="));
        shift.and_then(|shift| shift.parse().ok()).unwrap_or_default()
    })
}
