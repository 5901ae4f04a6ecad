//! Asking the application who may come in: one HTTP call when a client connects or brings a fresh token.
//!
//! Whatever goes wrong lets nobody in: an answer that is late, broken or no answer is none. There are only so many
//! calls at a time, each has one deadline over waiting and asking, and an answer is used again for a moment, so that
//! clients that come back all at once do not fall on the application as well.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lru::LruCache;
use reqwest::StatusCode;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use super::claims::Claims;
use super::identity::Identity;
use super::keys::remote::Remote;
use super::metrics;
use crate::event::ClientId;
use crate::util::sync::lock;

/// The most answers that are kept to be used again.
const KEPT_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9_999);
/// The longest text of the application's that a refused client is shown, in bytes.
const MESSAGE_BYTES_MAX: usize = 256;
/// The longest secret that is read from its file, in bytes.
const SECRET_BYTES_MAX: usize = 4 * 1024;

/// How to ask.
#[derive(Debug, Clone)]
pub struct HookSettings {
    /// A file with the secret by which the application knows that it is us; read at every call.
    pub secret_file: Option<PathBuf>,
    /// How long a call may take, waiting for its turn included.
    pub timeout: Duration,
    /// The most calls at a time.
    pub calls_max: usize,
    /// How long an answer is used again; not at all, if that is no time.
    pub keep: Duration,
}

/// Where the application is asked.
#[derive(Debug)]
pub struct Hook {
    remote: Remote,
    settings: HookSettings,
    calls: Semaphore,
    kept: Mutex<LruCache<[u8; 32], (Instant, Answer)>>,
    /// Whether the last call failed.
    is_failing: AtomicBool,
}

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Occasion {
    /// To come in.
    Connect,
    /// To go on under a fresh token.
    Refresh,
}

/// What the application is asked.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Question<'a> {
    pub event: Occasion,
    pub client_id: &'a ClientId,
    /// `None` for a connection that names its partitions.
    pub partition: Option<&'a str>,
    pub token: Option<&'a str>,
    /// What the token says, where tokens are checked here.
    pub identity: Option<Known<'a>>,
}

/// What is known already of somebody.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Known<'a> {
    user_id: Option<&'a str>,
    permissions: &'a [String],
    partitions: Option<&'a [String]>,
    expires_at: Option<u64>,
    token_id: Option<&'a str>,
}

impl<'a> Known<'a> {
    pub(super) fn of(identity: &'a Identity) -> Self {
        Self {
            user_id: identity.user_id.as_deref(),
            permissions: &identity.permissions,
            partitions: identity.partitions.as_deref(),
            expires_at: identity.expires_at,
            token_id: identity.token_id.as_deref(),
        }
    }
}

/// What the application says. What it leaves out is as the token has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    /// Whether it lets the client in.
    pub allow: bool,
    /// What a client that is not let in is told.
    #[serde(default)]
    pub message: Option<String>,
    #[serde(default)]
    pub user_id: Option<String>,
    #[serde(default)]
    pub permissions: Option<Vec<String>>,
    #[serde(default)]
    pub roles: Option<Vec<String>>,
    /// For the application's rules, in the place of the token's: an object, as text.
    #[serde(default, deserialize_with = "claims")]
    pub claims: Option<String>,
    #[serde(default)]
    pub partitions: Option<Partitions>,
    /// In Unix seconds; a fraction does not count.
    #[serde(default)]
    pub expires_at: Option<f64>,
    #[serde(default)]
    pub token_id: Option<String>,
}

/// One or several.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts")]
pub(super) enum Partitions {
    One(String),
    Several(Vec<String>),
}

impl Hook {
    /// Asks there.
    pub fn new(remote: Remote, settings: HookSettings) -> Self {
        Self {
            remote,
            calls: Semaphore::new(settings.calls_max),
            settings,
            kept: Mutex::new(LruCache::new(KEPT_MAX)),
            is_failing: AtomicBool::new(false),
        }
    }

    /// What the application says; `None` if it says nothing that could be used. Cancel safe.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Option<Answer> {
        let text = match serde_json::to_vec(question) {
            Ok(text) => text,
            Err(error) => return self.failed(&error.to_string()),
        };
        // Not the text itself: it holds a token.
        let key: [u8; 32] = Sha256::digest(&text).into();
        // Who brings a fresh token wants to know what holds now.
        let may_be_kept = question.event == Occasion::Connect && !self.settings.keep.is_zero();
        if may_be_kept && let Some(answer) = self.kept(&key) {
            metrics::hook_asked("kept");
            return Some(answer);
        }
        let began = Instant::now();
        let called = timeout_at(began + self.settings.timeout, self.call(text)).await;
        metrics::hook_took(began.elapsed());
        let answer = match called {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => return self.failed(&why),
            Err(_) => {
                let why = format!("no answer within {} ms", self.settings.timeout.as_millis());
                return self.failed(&why);
            }
        };
        if self.is_failing.swap(false, Ordering::Relaxed) {
            info!(hook = %self.remote, "the application answers again who may come in");
        }
        metrics::hook_asked(if answer.allow { "allowed" } else { "refused" });
        if may_be_kept {
            let mut kept = lock(&self.kept);
            kept.put(key, (Instant::now(), answer.clone()));
        }
        Some(answer)
    }

    fn kept(&self, key: &[u8; 32]) -> Option<Answer> {
        let mut kept = lock(&self.kept);
        let (at, answer) = kept.get(key)?;
        (at.elapsed() < self.settings.keep).then(|| answer.clone())
    }

    async fn call(&self, question: Vec<u8>) -> Result<Answer, String> {
        let _turn = self.calls.acquire().await.map_err(|error| error.to_string())?;
        let secret = self.secret().await?;
        let (status, body) = self.remote.post(question, secret.as_deref()).await?;
        let answer: Answer = match status {
            StatusCode::OK => serde_json::from_slice(&body)
                .map_err(|error| format!("its answer is not as it must be: {error}"))?,
            // Both are ways to say no.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                serde_json::from_slice(&body).unwrap_or_else(|_| Answer::no())
            }
            other => return Err(format!("it answers {other}")),
        };
        let is_refused = status != StatusCode::OK || !answer.allow;
        let message = answer.message.as_deref().map(|text| shortened(text).to_owned());
        Ok(Answer { allow: !is_refused, message, ..answer })
    }

    async fn secret(&self) -> Result<Option<String>, String> {
        let Some(file) = &self.settings.secret_file else { return Ok(None) };
        let text = tokio::fs::read_to_string(file).await;
        let text = text.map_err(|error| format!("auth.hook_secret_file: {}: {error}", file.display()))?;
        match text.trim() {
            secret if secret.is_empty() || secret.len() > SECRET_BYTES_MAX => {
                Err(format!("auth.hook_secret_file: {}: it holds no secret", file.display()))
            }
            secret => Ok(Some(secret.to_owned())),
        }
    }

    /// Says that an answer lets somebody in for ever, where nobody may be.
    pub(super) fn lacks_an_end(&self) {
        self.failed("its answer has no expiresAt, and auth.require_exp asks for an end");
    }

    fn failed(&self, why: &str) -> Option<Answer> {
        metrics::hook_asked("failed");
        if self.is_failing.swap(true, Ordering::Relaxed) {
            debug!(hook = %self.remote, why, "the application still does not say who may come in");
        } else {
            warn!(hook = %self.remote, why, "the application does not say who may come in; nobody new is let in");
        }
        None
    }
}

impl Answer {
    fn no() -> Self {
        Self {
            allow: false,
            message: None,
            user_id: None,
            permissions: None,
            roles: None,
            claims: None,
            partitions: None,
            expires_at: None,
            token_id: None,
        }
    }
}

impl Partitions {
    pub(super) fn into_list(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Several(several) => several,
        }
    }
}

/// An object of claims, read with the care that a token's are.
fn claims<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let Some(text) = Option::<Box<RawValue>>::deserialize(deserializer)? else { return Ok(None) };
    let claims = Claims::parse(text.get().as_bytes()).map_err(|_| D::Error::custom("claims is no object"))?;
    claims.all_shown().map(Some).map_err(D::Error::custom)
}

/// The beginning of a text, of whole characters.
fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(MESSAGE_BYTES_MAX)]
}
