//! What ends a round at once: a client that is told more than can be right, and a run that takes too much memory. A
//! product that repeats itself without an end must cost a finding, and not the machine.

use std::collections::HashMap;
use std::io::Write;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::watch;

use super::judge::Rule;

/// Why the round is to end.
#[derive(Debug, Clone)]
pub struct Alarm {
    pub rule: Rule,
    pub what: String,
    /// Whom it is about, by name, and which event.
    pub client: Option<String>,
    pub id: Option<u64>,
}

static RAISED: LazyLock<watch::Sender<Option<Alarm>>> = LazyLock::new(|| watch::Sender::new(None));

/// Ends the round. Of several alarms the first counts.
pub fn raise(alarm: Alarm) {
    RAISED.send_if_modified(|raised| {
        let is_first = raised.is_none();
        raised.get_or_insert(alarm);
        is_first
    });
}

pub fn is_raised() -> bool {
    RAISED.borrow().is_some()
}

/// Waits until one is raised.
pub async fn raised() {
    if RAISED.subscribe().wait_for(Option::is_some).await.is_err() {
        unreachable!("the sender lives as long as the process");
    }
}

/// Why the round was to end, if it was. The next one begins without an alarm.
pub fn take() -> Option<Alarm> {
    RAISED.send_replace(None)
}

/// How often the memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Looks at the memory that this process and all below it hold, from now on and beside whatever else goes on. Above so
/// many bytes the round is to end; at twice as much the process ends, and with it those that it started.
pub fn watch_memory(bytes_max: u64) {
    let looking = move || {
        loop {
            let held = held_bytes();
            if held > bytes_max {
                let what = format!(
                    "the run's processes hold {} MB of memory, and {} are enough",
                    held >> 20,
                    bytes_max >> 20
                );
                if held > 2 * bytes_max {
                    println!("FOUND Quiet: {what}; the run ends here");
                    drop(std::io::stdout().flush());
                    std::process::exit(1);
                }
                raise(Alarm { rule: Rule::Quiet, what, client: None, id: None });
            }
            std::thread::sleep(LOOK_EVERY);
        }
    };
    std::thread::Builder::new().name("memory".to_owned()).spawn(looking).expect("a thread");
}

/// What this process and all below it hold (RSS).
fn held_bytes() -> u64 {
    let mut of: HashMap<u32, (u32, u64)> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Processes come and go while this looks.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = fields.split(' ').collect();
        let parent = fields.get(1).and_then(|field| field.parse().ok());
        let pages: Option<u64> = fields.get(21).and_then(|field| field.parse().ok());
        if let (Some(parent), Some(pages)) = (parent, pages) {
            of.insert(id, (parent, pages));
        }
    }
    let own = std::process::id();
    let is_below = |mut id: u32| {
        // A process that came meanwhile may have another's number: no chain is longer than there are processes.
        for _ in 0..of.len() {
            if id == own {
                return true;
            }
            let Some((parent, _)) = of.get(&id) else { return false };
            id = *parent;
        }
        false
    };
    // SAFETY: sysconf touches nothing of ours.
    let page_bytes = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    of.iter().filter(|(id, _)| is_below(**id)).map(|(_, (_, pages))| pages * page_bytes).sum()
}
