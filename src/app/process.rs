//! A worker process as its parent sees it: asked, waited for, and ended when it computes for too long.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;

use super::bounds::IDLE_MAX;
use super::frame::{Frame, HEAD_BYTES};

/// The hidden subcommand that runs a worker.
pub(crate) const WORKER_COMMAND: &str = "rules-worker";
/// How often a worker that does not answer is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// The unit of processor times in /proc, on every architecture of Linux.
const PROC_TICK: Duration = Duration::from_millis(10);
const READ_BYTES: usize = 64 << 10;

/// Why a worker answers no more. Its process is gone.
#[derive(Debug)]
pub(super) enum End {
    /// It computed for longer than it may.
    Time,
    /// Its process ended; how.
    Crashed(String),
    /// It could not be spoken to.
    Io(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A running worker.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    received: Vec<u8>,
}

impl Worker {
    /// Starts `program` as a worker, with nothing of ours but two pipes.
    pub(super) fn start(program: &Path) -> io::Result<Self> {
        let mut child = Command::new(program)
            .arg(WORKER_COMMAND)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("a process without pipes"));
        };
        ioctl_fionbio(&input, true)?;
        ioctl_fionbio(&output, true)?;
        Ok(Self { child, input, output, received: Vec::new() })
    }

    /// The process's number.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Hands it a frame.
    pub(super) fn send(&mut self, frame: &Frame, cpu_max: Duration) -> Result<(), End> {
        let bytes = frame.encode()?;
        let mut left = bytes.as_slice();
        let mut wait = self.wait(cpu_max);
        while !left.is_empty() {
            match self.input.write(left) {
                Ok(written) => left = left.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = PollFd::new(&self.input, PollFlags::OUT);
                    wait.look(&mut self.child, ready)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(self.ended()),
            }
        }
        Ok(())
    }

    /// Its next frame. It may compute for `cpu_max` until it has sent that.
    pub(super) fn next(&mut self, cpu_max: Duration) -> Result<Frame, End> {
        let mut wait = self.wait(cpu_max);
        loop {
            if let Some((head, rest)) = self.received.split_first_chunk::<HEAD_BYTES>() {
                let length = Frame::body_len(*head)?;
                if let Some(body) = rest.get(..length) {
                    let frame = Frame::decode(body)?;
                    self.received.drain(..HEAD_BYTES + length);
                    return Ok(frame);
                }
            }
            let mut chunk = [0; READ_BYTES];
            match self.output.read(&mut chunk) {
                Ok(0) => return Err(self.ended()),
                Ok(read) => self.received.extend_from_slice(chunk.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = PollFd::new(&self.output, PollFlags::IN);
                    wait.look(&mut self.child, ready)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&self, cpu_max: Duration) -> Wait {
        Wait { computed_at: Instant::now(), cpu: None, cpu_max, id: self.child.id() }
    }

    /// Its pipe is closed: its process has ended, or is about to.
    fn ended(&mut self) -> End {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            match self.child.try_wait() {
                Ok(Some(status)) => return End::Crashed(status.to_string()),
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => return End::Io(error),
            }
        }
        End::Crashed("it closed its pipe".to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself; nothing else can go wrong with a child of ours.
        if self.child.kill().and_then(|()| self.child.wait()).is_err() {
            tracing::warn!(process = self.child.id(), "a worker of the rules could not be ended");
        }
    }
}

/// Waiting for a worker.
struct Wait {
    /// When it was last seen to have computed.
    computed_at: Instant,
    /// Its processor time at the first look, and at the last.
    cpu: Option<(Duration, Duration)>,
    cpu_max: Duration,
    id: u32,
}

impl Wait {
    /// Waits for `ready` for a moment. An error when the worker has had its time; it is killed then.
    fn look(&mut self, child: &mut Child, ready: PollFd<'_>) -> Result<(), End> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK_INTERVAL.as_nanos() as i64 };
        match poll(&mut [ready], Some(&timeout)) {
            Ok(0) => {}
            Ok(_) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(End::Io(error.into())),
        }
        let Some(cpu) = cpu_time(self.id) else { return Ok(()) };
        let (first, last) = self.cpu.unwrap_or((cpu, cpu));
        if cpu > last {
            self.computed_at = Instant::now();
        }
        self.cpu = Some((first, cpu));
        let end = match () {
            () if cpu.saturating_sub(first) > self.cpu_max => End::Time,
            () if self.computed_at.elapsed() > IDLE_MAX => {
                End::Io(io::Error::new(io::ErrorKind::TimedOut, "it neither answers nor computes"))
            }
            () => return Ok(()),
        };
        child.kill()?;
        Err(end)
    }
}

/// The processor time that a process has taken; `None` if it is gone.
fn cpu_time(id: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The numbers come after the name, which the process chooses itself.
    let (_, numbers) = stat.rsplit_once(')')?;
    let mut numbers = numbers.split_ascii_whitespace().skip(11).map(str::parse::<u32>);
    let (user, system) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(PROC_TICK * user.checked_add(system)?)
}
