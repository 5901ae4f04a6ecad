//! A child process of a test: its output goes to a file, it is killed with the test, and a test that fails
//! shows the end of what it said.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::until;

/// How much of a process's output a failing test shows.
const TAIL_LINES: usize = 40;

/// A running (or killed) process.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`. Its output, both streams in one, goes to `<name>.log` in `dir`.
    pub fn spawn(name: &str, mut command: Command, dir: &Path) -> Self {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        // SAFETY: prctl is async-signal-safe, and touches nothing of the parent's.
        unsafe {
            command.pre_exec(|| {
                // The test may be killed itself, and then runs no Drop.
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == -1 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("starting {name} ({command:?}): {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// All that the process has said so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits for a line that holds `text` and gives what stands behind it. Panics when the process ends
    /// first.
    pub async fn line_with(&mut self, text: &str) -> String {
        let what = format!("{} to say {text:?}", self.name);
        until(&what, async || {
            let ended = self.child.try_wait().unwrap();
            let found = self
                .output()
                .lines()
                .find_map(|line| line.split_once(text).map(|(_, rest)| rest.trim().to_owned()));
            if found.is_none()
                && let Some(status) = ended
            {
                panic!("{} ended ({status}) before it said {text:?}:\n{}", self.name, self.tail());
            }
            found
        })
        .await
    }

    /// The kernel's number for it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its memory just now (VmRSS), in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    }

    /// The processor time that it has had, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        // Past the name, which may hold blanks: the 12th and 13th fields, in hundredths.
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
    }

    /// Waits for it to end by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let what = format!("{} to end", self.name);
        until(&what, async || self.child.try_wait().unwrap()).await
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&mut self, signal: libc::c_int) {
        if self.is_running() {
            // SAFETY: the child has not been waited for, so its id is still its own.
            unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        }
    }

    /// Stops it where it is, and waits until it stands still; it keeps its connections.
    pub fn pause(&mut self) {
        self.signal(libc::SIGSTOP);
        let began = std::time::Instant::now();
        while self.is_running() && !self.stands_still() {
            assert!(began.elapsed() < super::DEADLINE, "{} does not stop", self.name);
            std::thread::yield_now();
        }
    }

    /// Whether none of its threads runs any more: each stops by itself.
    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // Behind the name, which may hold anything.
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        })
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        self.signal(libc::SIGCONT);
    }

    /// The last lines of its output.
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!("--- the last of {}:\n{}", self.name, self.tail());
        }
    }
}
