//! A connection that speaks a dialect.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::timeout;

use crate::dialect::{Dialect, Mark, Names, Seen};
use crate::ws::{Address, Socket};

/// How much one read takes at most.
const READ_BYTES: usize = 256 * 1024;
/// How long connecting may take.
const CONNECT_WAIT: Duration = Duration::from_secs(60);

thread_local! {
    /// What reads go into, for all connections in turn.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Who is to be measured.
#[derive(Debug, Clone)]
pub struct Target {
    pub address: Address,
    pub dialect: Dialect,
}

/// An open connection.
pub struct Link {
    socket: Socket,
    dialect: Dialect,
    names: Names,
    text: Vec<u8>,
}

impl Link {
    /// Opens the socket and sends the first message.
    pub async fn open(target: &Target, names: Names, after: Option<u64>) -> Result<Self> {
        let socket = match timeout(CONNECT_WAIT, Socket::open(&target.address)).await {
            Ok(opened) => opened?,
            Err(_) => bail!("no connection within {CONNECT_WAIT:?}"),
        };
        let mut link = Self { socket, dialect: target.dialect, names, text: Vec::new() };
        link.put(|dialect, out, names| dialect.connect(out, names, after));
        link.flush()?;
        Ok(link)
    }

    /// Waits until the server says that the connection stands; what else comes goes to `on`. Gives the
    /// partition's last event id, and how many bytes the answer had.
    pub async fn connected(&mut self, mut on: impl FnMut(Seen) -> Result<()>) -> Result<(u64, usize)> {
        let waiting = async {
            let mut stands = None;
            while stands.is_none() {
                self.ready().await?;
                self.read(|seen| match seen {
                    Seen::Connected { head, bytes } => {
                        stands = Some((head, bytes));
                        Ok(())
                    }
                    Seen::Failure(text) => bail!("instead of `connected` came {text}"),
                    other => on(other),
                })?;
            }
            Ok(stands.unwrap_or_default())
        };
        match timeout(CONNECT_WAIT, waiting).await {
            Ok(stands) => stands,
            Err(_) => bail!("no `connected` within {CONNECT_WAIT:?}"),
        }
    }

    /// Queues a request of `count` events.
    pub fn submit(&mut self, first: Mark, count: u32, bytes: usize) {
        self.put(|dialect, out, names| dialect.submit(out, names, first, count, bytes));
    }

    /// Queues a request that the server must refuse.
    pub fn submit_refused(&mut self, writer: u32, number: u32) {
        self.put(|dialect, out, names| dialect.submit_refused(out, names, writer, number));
    }

    /// Queues a request for history.
    pub fn sync(&mut self, since: u64) {
        self.put(|dialect, out, names| dialect.sync(out, names, since));
    }

    /// Sends as much as fits of what was queued.
    pub fn flush(&mut self) -> Result<()> {
        self.socket.flush()
    }

    /// Bytes that the server has not taken yet.
    pub fn unsent(&self) -> usize {
        self.socket.unsent()
    }

    /// Waits until [`Self::read`] or [`Self::flush`] can do something.
    pub async fn ready(&self) -> Result<()> {
        self.socket.ready().await
    }

    /// Sends what did not fit before, and reads what is there.
    pub fn read(&mut self, mut on: impl FnMut(Seen) -> Result<()>) -> Result<()> {
        let dialect = self.dialect;
        let mut replies = Vec::new();
        self.socket.flush()?;
        SCRATCH.with_borrow_mut(|scratch| {
            self.socket.read(scratch, |text| {
                dialect.read(text, &mut |seen| match seen {
                    Seen::Reply(text) => {
                        replies.push(text);
                        Ok(())
                    }
                    seen => on(seen),
                })
            })
        })?;
        for text in replies {
            self.socket.queue(text.as_bytes());
        }
        self.socket.flush()
    }

    pub fn close(self) {
        self.socket.close();
    }

    fn put(&mut self, make: impl FnOnce(Dialect, &mut Vec<u8>, &Names)) {
        self.text.clear();
        make(self.dialect, &mut self.text, &self.names);
        self.socket.queue(&self.text);
        self.text.shrink_to(4096);
    }
}
