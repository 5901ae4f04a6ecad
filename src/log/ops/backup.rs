//! Backups of the log, made and restored by JetStream itself: what comes back is the same stream, with the same
//! sequence numbers, and so the same event ids.
//!
//! A backup is a folder. Each stream in it is two files: what JetStream sent, and a description with the stream's
//! settings and the SHA-256 of the first. The snapshots come along, for the mark that is among them: it is taken
//! before the log, so it is never of a log that is longer than the backup's. So do the revocations: who was locked out
//! stays out. And the applications' rules, by which events of the log are folded.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::faults;
use crate::log::client::{Log, reconnected};
use crate::log::error::LogError;
use crate::log::subjects;
use crate::util::hex;

/// The streams, in the order in which they are backed up and restored.
const STREAMS: [&str; 4] = [
    subjects::SNAPSHOT_STREAM,
    subjects::COMMITTED_STREAM,
    subjects::REVOKED_STREAM,
    // Behind the log: every version that an event of the backup names is there by then.
    subjects::RULES_STREAM,
];
/// How long JetStream may take for the next piece; before the first it checks the whole stream.
const PIECE_WAIT: Duration = Duration::from_secs(120);
/// The size of the pieces in which a stream is sent; below what NATS takes as one message by default.
const PIECE_BYTES: usize = 128 * 1024;

/// Why a backup was not made, or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file cannot be read or written.
    #[error("{path}: {error}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A file is not what was written.
    #[error("{path}: {why}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// NATS failed, or refused.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// A stream that was backed up or restored.
#[derive(Debug, Clone)]
pub struct BackedUp {
    /// Its name.
    pub stream: &'static str,
    /// How many messages it has.
    pub messages: u64,
    /// Its first and last sequence number.
    pub first: u64,
    /// See `first`.
    pub last: u64,
    /// The size of the file.
    pub bytes: u64,
}

/// What is known of a stream's file.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    stream: String,
    sha256: String,
    bytes: u64,
    /// As JetStream gave them and wants them back.
    config: Value,
    state: Value,
}

impl Description {
    fn told(&self, stream: &'static str) -> BackedUp {
        let number = |key: &str| self.state.get(key).and_then(Value::as_u64).unwrap_or(0);
        let (messages, first, last) = (number("messages"), number("first_seq"), number("last_seq"));
        BackedUp { stream, messages, first, last, bytes: self.bytes }
    }
}

/// A reply of JetStream's.
#[derive(Debug, Deserialize)]
struct Reply {
    error: Option<Value>,
    config: Option<Value>,
    state: Option<Value>,
    deliver_subject: Option<String>,
}

impl Log {
    /// Backs the log and its snapshots up into a new folder. Work goes on meanwhile; what is committed after this has
    /// begun may be in the backup or not.
    pub async fn back_up(&self, folder: &Path) -> Result<Vec<BackedUp>, BackupError> {
        fs::create_dir(folder).await.map_err(file(folder))?;
        let mut done = Vec::new();
        for stream in STREAMS {
            if stream == subjects::RULES_STREAM && !self.has_stream(stream).await? {
                continue;
            }
            done.push(self.back_up_stream(stream, folder).await?);
        }
        Ok(done)
    }

    /// Restores a backup. None of its streams may be there.
    pub async fn restore(&self, folder: &Path) -> Result<Vec<BackedUp>, BackupError> {
        let mut whole = Vec::new();
        for stream in STREAMS {
            // A backup that an earlier version made has no rules.
            if stream == subjects::RULES_STREAM
                && !fs::try_exists(description_of(stream, folder)).await.map_err(file(folder))?
            {
                continue;
            }
            whole.push((stream, checked(stream, folder).await?));
        }
        for (stream, _) in &whole {
            if self.has_stream(stream).await? {
                let why = format!("{stream} is there already; delete it first, if it is not needed");
                return Err(LogError::refused("restoring a backup", why).into());
            }
        }
        let mut done = Vec::new();
        for (stream, description) in whole {
            self.restore_stream(stream, &description, folder).await?;
            done.push(description.told(stream));
        }
        self.mark_restored().await?;
        Ok(done)
    }

    async fn has_stream(&self, stream: &str) -> Result<bool, LogError> {
        const WHAT: &str = "looking for a stream";
        let subject = self.api(&format!("STREAM.INFO.{stream}"));
        let reply: Reply = parse(WHAT, &self.request(WHAT, subject, None, Bytes::new()).await?.payload)?;
        Ok(reply.error.is_none())
    }

    async fn back_up_stream(&self, stream: &'static str, folder: &Path) -> Result<BackedUp, BackupError> {
        const WHAT: &str = "backing up a stream";
        let failed = |why: String| LogError::refused(WHAT, format!("{stream}: {why}"));
        let path = data_of(stream, folder);
        let mut out = File::create_new(&path).await.map_err(file(&path))?;
        let replaced = || {
            let why =
                format!("{stream}: the connection was replaced while the backup was being sent; try again");
            LogError::unavailable(WHAT, why)
        };
        let connection = self.connection();
        let mut link = self.state();
        let reconnects = link.borrow().reconnects;
        let inbox = self.client.new_inbox();
        let mut pieces =
            self.client.subscribe(inbox.clone()).await.map_err(|error| failed(error.to_string()))?;
        let ask = json!({ "deliver_subject": inbox, "no_consumers": true, "chunk_size": PIECE_BYTES, "jsck": true });
        let subject = self.api(&format!("STREAM.SNAPSHOT.{stream}"));
        let reply: Reply =
            parse(WHAT, &self.request(WHAT, subject, None, ask.to_string().into()).await?.payload)?;
        if let Some(error) = reply.error {
            return Err(failed(error.to_string()).into());
        }
        let (Some(config), Some(state)) = (reply.config, reply.state) else {
            return Err(LogError::malformed(WHAT, "neither settings nor state of the stream").into());
        };
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        for number in 1.. {
            let piece = tokio::select! {
                biased;
                piece = timeout(PIECE_WAIT, pieces.next()) => piece,
                () = reconnected(&mut link, reconnects) => return Err(replaced().into()),
            };
            let piece = piece
                .map_err(|_| LogError::unavailable(WHAT, format!("{stream}: no more pieces came")))?
                .ok_or_else(|| LogError::unavailable(WHAT, "the connection was closed"))?;
            if let Some(status) = piece.status.filter(|status| status.as_u16() != 204) {
                let why = piece.description.as_ref().map(ToString::to_string).unwrap_or_default();
                return Err(failed(format!("{status} {why}")).into());
            }
            if piece.payload.is_empty() {
                break;
            }
            if piece.reply.as_ref().is_some_and(|reply| !is_piece(reply, number)) {
                return Err(LogError::unavailable(
                    WHAT,
                    format!("{stream}: piece {number} was lost; try again"),
                )
                .into());
            }
            hash.update(&piece.payload);
            bytes += piece.payload.len() as u64;
            out.write_all(&piece.payload).await.map_err(file(&path))?;
            // JetStream goes on when what it sent has arrived.
            if let Some(reply) = piece.reply {
                self.client.publish(reply, Bytes::new()).await.map_err(|error| failed(error.to_string()))?;
            }
        }
        // The last piece has no number. It was lost, if any was, with the connection on which it was sent.
        if self.connection() != connection && !faults::broken("believe_pieces") {
            return Err(replaced().into());
        }
        out.sync_all().await.map_err(file(&path))?;
        let description = Description {
            stream: stream.to_owned(),
            sha256: hex::encode(&hash.finalize()),
            bytes,
            config,
            state,
        };
        let path = description_of(stream, folder);
        let text =
            serde_json::to_vec_pretty(&description).map_err(|error| LogError::malformed(WHAT, error))?;
        let mut out = File::create_new(&path).await.map_err(file(&path))?;
        out.write_all(&text).await.map_err(file(&path))?;
        out.sync_all().await.map_err(file(&path))?;
        Ok(description.told(stream))
    }

    async fn restore_stream(
        &self,
        stream: &'static str,
        description: &Description,
        folder: &Path,
    ) -> Result<(), BackupError> {
        const WHAT: &str = "restoring a stream";
        let refused = |error: Value| LogError::refused(WHAT, format!("{stream}: {error}"));
        let ask = json!({ "config": description.config, "state": description.state });
        let subject = self.api(&format!("STREAM.RESTORE.{stream}"));
        let reply: Reply =
            parse(WHAT, &self.request(WHAT, subject, None, ask.to_string().into()).await?.payload)?;
        if let Some(error) = reply.error {
            return Err(refused(error).into());
        }
        let to = reply.deliver_subject.ok_or_else(|| LogError::malformed(WHAT, "no subject to send to"))?;
        let path = data_of(stream, folder);
        let mut input = File::open(&path).await.map_err(file(&path))?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = input.read(&mut piece).await.map_err(file(&path))?;
            // An empty piece says that this was all, and is answered when the stream is there.
            let request = async_nats::Request::new()
                .payload(Bytes::copy_from_slice(piece.get(..read).unwrap_or_default()))
                .timeout(Some(PIECE_WAIT));
            let answer = self.client.send_request(to.clone(), request).await;
            let answer = answer.map_err(|error| LogError::unavailable(WHAT, format!("{stream}: {error}")))?;
            if !answer.payload.is_empty()
                && let Some(error) = parse::<Reply>(WHAT, &answer.payload)?.error
            {
                return Err(refused(error).into());
            }
            if read == 0 {
                return self.check_restored(stream, description, folder).await;
            }
        }
    }

    /// Whether a stream that was restored has all that it had when it was backed up.
    async fn check_restored(
        &self,
        stream: &'static str,
        description: &Description,
        folder: &Path,
    ) -> Result<(), BackupError> {
        const WHAT: &str = "looking at a stream that was restored";
        let subject = self.api(&format!("STREAM.INFO.{stream}"));
        let reply: Reply = parse(WHAT, &self.request(WHAT, subject, None, Bytes::new()).await?.payload)?;
        let state = reply.state.ok_or_else(|| LogError::malformed(WHAT, "no state of the stream"))?;
        // Of the others, entries go by themselves when their time is up.
        let keys: &[&str] = match stream {
            subjects::COMMITTED_STREAM => &["messages", "first_seq", "last_seq"],
            _ => &["last_seq"],
        };
        for key in keys {
            let (is, was) = (state.get(key), description.state.get(key));
            if is != was {
                let show = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
                let why = format!(
                    "the stream that was restored from it has {key} {}, and had {} when it was backed up: the backup \
                     is not whole",
                    show(is),
                    show(was)
                );
                return Err(BackupError::Damaged { path: data_of(stream, folder), why });
            }
        }
        Ok(())
    }
}

/// Whether a piece is the one with this number: JetStream names its length and number in the subject on which it
/// waits to hear that the piece has arrived.
fn is_piece(reply: &str, number: u64) -> bool {
    let named = reply.rsplit('.').next().and_then(|last| last.parse().ok());
    named == Some(number) || faults::broken("believe_pieces")
}

/// A stream's description, whose file is as it was written.
async fn checked(stream: &str, folder: &Path) -> Result<Description, BackupError> {
    let path = description_of(stream, folder);
    let text = fs::read(&path).await.map_err(file(&path))?;
    let damaged = |why: String| BackupError::Damaged { path: path.clone(), why };
    let description: Description =
        serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if description.stream != stream {
        return Err(damaged(format!("it describes the stream {}", description.stream)));
    }
    let data = data_of(stream, folder);
    let mut input = File::open(&data).await.map_err(file(&data))?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE_BYTES]);
    loop {
        let read = input.read(&mut piece).await.map_err(file(&data))?;
        if read == 0 {
            break;
        }
        hash.update(piece.get(..read).unwrap_or_default());
    }
    let found = hex::encode(&hash.finalize());
    if found == description.sha256 {
        Ok(description)
    } else {
        let why = format!("its SHA-256 is {found}, and was {} when it was written", description.sha256);
        Err(BackupError::Damaged { path: data, why })
    }
}

fn data_of(stream: &str, folder: &Path) -> PathBuf {
    folder.join(format!("{stream}.tar.s2"))
}

fn description_of(stream: &str, folder: &Path) -> PathBuf {
    folder.join(format!("{stream}.json"))
}

fn file(path: &Path) -> impl Fn(std::io::Error) -> BackupError {
    move |error| BackupError::File { path: path.to_owned(), error }
}

fn parse<T: serde::de::DeserializeOwned>(what: &'static str, body: &[u8]) -> Result<T, LogError> {
    serde_json::from_slice(body).map_err(|error| LogError::malformed(what, error))
}
