//! The process's own metrics: what it is, whether it is ready, and what it takes of the machine. Looked up
//! when somebody asks for the metrics; where the system does not tell, they are not there.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::util::time;

const BUILD: &str = "insieme_build_info";
const READY: &str = "insieme_ready";
// These are named as Prometheus's own clients name them.
const CPU: &str = "process_cpu_seconds_total";
const RESIDENT: &str = "process_resident_memory_bytes";
const THREADS: &str = "process_threads";
const FDS: &str = "process_open_fds";
const FDS_MAX: &str = "process_max_fds";
/// Log lines that were not written because too many of their kind were.
pub(crate) const LINES_LEFT_OUT: &str = "insieme_log_lines_left_out_total";
const STARTED: &str = "process_start_time_seconds";

/// How the kernel counts time for programs, on every platform that Rust knows.
const TICKS_PER_SECOND: u64 = 100;

/// Tells the recorder what the metrics are, and those that never change.
pub(crate) fn describe() {
    describe_gauge!(BUILD, Unit::Count, "1, with the version as a label");
    describe_gauge!(READY, Unit::Count, "Whether /readyz says ready");
    describe_counter!(CPU, Unit::Seconds, "Processor time");
    describe_gauge!(RESIDENT, Unit::Bytes, "Resident memory");
    describe_gauge!(THREADS, Unit::Count, "Threads");
    describe_gauge!(FDS, Unit::Count, "Open file descriptors");
    describe_gauge!(FDS_MAX, Unit::Count, "The most that may be open");
    describe_gauge!(STARTED, Unit::Seconds, "When the process started, Unix time");
    describe_counter!(
        LINES_LEFT_OUT,
        Unit::Count,
        "Log lines left out because there were too many of their kind"
    );
    counter!(LINES_LEFT_OUT).increment(0);
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let now = time::now().as_secs_f64();
    gauge!(STARTED).set(now);
}

/// Takes the numbers as they are just now.
pub(crate) fn sample(is_ready: bool) {
    gauge!(READY).set(if is_ready { 1.0 } else { 0.0 });
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let number = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        if let Some(kilobytes) = number("VmRSS:") {
            gauge!(RESIDENT).set((kilobytes * 1024) as f64);
        }
        if let Some(threads) = number("Threads:") {
            gauge!(THREADS).set(threads as f64);
        }
    }
    if let Some(ticks) = std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| ticks(&stat)) {
        counter!(CPU).absolute(ticks / TICKS_PER_SECOND);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        gauge!(FDS).set(open.count() as f64);
    }
    if let Some(max) = std::fs::read_to_string("/proc/self/limits").ok().and_then(|limits| fds_max(&limits)) {
        gauge!(FDS_MAX).set(max as f64);
    }
}

/// User and system time out of `/proc/self/stat`. The name, which may hold anything, ends at the last
/// parenthesis.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
    Some(user + system)
}

fn fds_max(limits: &str) -> Option<u64> {
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::{fds_max, ticks};

    #[test]
    fn the_kernels_tables_are_read() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194304 99 0 0 0 123 45 0 0 20 0 9 0 100 1 1";
        assert_eq!(ticks(stat), Some(168));
        assert_eq!(ticks("7 (a"), None);
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\n";
        assert_eq!(fds_max(limits), Some(1024));
        assert_eq!(fds_max("Max open files unlimited"), None);
    }
}
