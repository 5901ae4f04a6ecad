//! Where the keys come from, and keeping them as they are there: a file is looked at every so often, a URL
//! fetched.
//!
//! What cannot be had or used changes nothing: the keys before stay in force. A token that names an unknown
//! key makes us look at once, since the issuer may have a new one, but not more often than the pause between
//! two looks: whoever sends such tokens costs the issuer nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::jwks;
use super::jwks::Secrets;
use super::remote::Remote;
use super::{KeyError, KeyFileError, KeySet};
use crate::auth::metrics;

/// How long a changed file must have been left alone before it is taken: somebody may be writing it.
const SETTLE: Duration = Duration::from_millis(100);
/// How often that is waited for.
const SETTLE_TRIES_MAX: u32 = 20;
/// The largest file of keys, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// What a file of keys holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A secret; white space around it does not count.
    Secret,
    /// A public key in PEM.
    PublicKey,
    /// A key set (JWKS).
    KeySet,
}

#[derive(Debug)]
enum Origin {
    File { path: PathBuf, kind: FileKind },
    Url(Remote),
}

/// The keys in force, and where they come from.
pub struct Keys {
    origin: Origin,
    current: ArcSwap<KeySet>,
    /// How often they are looked at.
    every: Duration,
    /// How long after a look there is no other, though a token asks for it; and how soon there is another
    /// after one that failed.
    pause: Duration,
    /// The last look. Held during a look, so there is one at a time.
    last: Mutex<Look>,
}

#[derive(Default)]
struct Look {
    at: Option<Instant>,
    /// The text of the keys in force.
    text: Vec<u8>,
    /// What is wrong, if something was.
    error: Option<String>,
}

/// What came of looking because of one token.
pub(crate) enum Renewal {
    /// There are others now.
    Keys(Arc<KeySet>),
    /// They are the same.
    Same,
    /// They could not be had.
    Failed,
}

impl Keys {
    /// The keys in a file, which is read at once, and from then on looked at every so often.
    pub fn of_file(path: &Path, kind: FileKind, every: Duration) -> Result<Self, KeyFileError> {
        let metadata = std::fs::metadata(path).map_err(|error| KeyFileError::Read(error.to_string()))?;
        if metadata.len() > FILE_BYTES_MAX {
            return Err(KeyFileError::Read(too_large()));
        }
        let text = std::fs::read(path).map_err(|error| KeyFileError::Read(error.to_string()))?;
        let keys = kind.parse(&text)?;
        metrics::keys_in_force(keys.len());
        Ok(Self {
            origin: Origin::File { path: path.to_owned(), kind },
            current: ArcSwap::from_pointee(keys),
            every,
            pause: every,
            last: Mutex::new(Look { at: None, text, error: None }),
        })
    }

    /// The key set at a URL; none until it was fetched for the first time.
    pub fn of_url(remote: Remote, every: Duration, pause: Duration) -> Self {
        Self {
            origin: Origin::Url(remote),
            current: ArcSwap::from_pointee(KeySet::default()),
            every,
            pause,
            last: Mutex::default(),
        }
    }

    /// The keys in force.
    pub(crate) fn now(&self) -> Arc<KeySet> {
        self.current.load_full()
    }

    /// Looks whether there are other keys than `seen`, unless that was done a moment ago.
    pub(crate) async fn renew(&self, seen: &Arc<KeySet>) -> Renewal {
        let mut last = self.last.lock().await;
        let is_seen = || Arc::ptr_eq(&self.now(), seen);
        // Somebody may have looked while this waited.
        if is_seen() && last.at.is_none_or(|at| at.elapsed() >= self.pause) {
            self.look(&mut last).await;
        }
        match self.now() {
            keys if !Arc::ptr_eq(&keys, seen) => Renewal::Keys(keys),
            _ if last.error.is_some() => Renewal::Failed,
            _ => Renewal::Same,
        }
    }

    /// Keeps them as they are where they come from, until told to stop.
    pub(crate) async fn keep_current(&self, stop: &CancellationToken) {
        loop {
            let looking = async {
                let mut last = self.last.lock().await;
                if self.due_in(&last).is_zero() {
                    self.look(&mut last).await;
                }
                self.due_in(&last)
            };
            let Some(pause) = stop.run_until_cancelled(looking).await else { return };
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// In how long the next look is due, though no token asks for it.
    fn due_in(&self, last: &Look) -> Duration {
        let every = if last.error.is_some() { self.pause.min(self.every) } else { self.every };
        last.at.map_or(Duration::ZERO, |at| every.saturating_sub(at.elapsed()))
    }

    async fn look(&self, last: &mut Look) {
        // Before it is known what comes of it: a look that is given up was one too.
        last.at = Some(Instant::now());
        let read = match &self.origin {
            Origin::File { path, .. } => read_settled(path, &last.text).await,
            Origin::Url(remote) => remote.fetch().await,
        };
        // From its end on, too: those who waited for it need no other.
        last.at = Some(Instant::now());
        let parsed = read.and_then(|text| {
            if text == last.text && last.error.is_none() && !self.now().is_empty() {
                return Ok(None);
            }
            let keys = match &self.origin {
                Origin::File { kind, .. } => kind.parse(&text),
                Origin::Url(_) => jwks::parse(&text, Secrets::Refused),
            };
            keys.map(|keys| Some((text, keys))).map_err(|error| error.to_string())
        });
        metrics::looked(parsed.is_ok());
        match parsed {
            Ok(None) => {}
            Ok(Some((text, keys))) => {
                last.error = None;
                if text == last.text {
                    info!(from = %self.origin, "the keys for tokens can be had again, and are the same");
                    return;
                }
                last.text = text;
                info!(
                    from = %self.origin,
                    keys = ?keys,
                    passed_over = keys.passed_over.join("; "),
                    "the keys for tokens were loaded"
                );
                metrics::keys_in_force(keys.len());
                self.current.store(Arc::new(keys));
            }
            Err(error) if last.error.as_ref() == Some(&error) => {
                debug!(from = %self.origin, error, "the keys for tokens still cannot be had");
            }
            Err(error) => {
                let in_force = self.now().len();
                warn!(
                    from = %self.origin,
                    error,
                    in_force,
                    "the keys for tokens cannot be had; those before, if any, stay in force"
                );
                last.error = Some(error);
            }
        }
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the text: it may be the secret itself.
        f.debug_struct("Keys").field("current", &self.now()).finish_non_exhaustive()
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { path, .. } => path.display().fmt(f),
            Self::Url(remote) => remote.fmt(f),
        }
    }
}

impl FileKind {
    fn parse(self, text: &[u8]) -> Result<KeySet, KeyError> {
        match self {
            Self::Secret => KeySet::secret(text.trim_ascii()),
            Self::PublicKey => KeySet::public_key(text),
            Self::KeySet => jwks::parse(text, Secrets::Allowed),
        }
    }
}

/// What a file holds, once it has been left alone since it was other than `known`.
async fn read_settled(path: &Path, known: &[u8]) -> Result<Vec<u8>, String> {
    let mut text = read(path).await?;
    for _ in 0..SETTLE_TRIES_MAX {
        if text == known {
            break;
        }
        sleep(SETTLE).await;
        let before = std::mem::replace(&mut text, read(path).await?);
        if before == text {
            break;
        }
    }
    Ok(text)
}

async fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = tokio::fs::File::open(path).await.map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).await.map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX { Err(too_large()) } else { Ok(text) }
}

fn too_large() -> String {
    format!("larger than the {FILE_BYTES_MAX} bytes that are read")
}
