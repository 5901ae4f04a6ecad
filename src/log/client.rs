//! The connection to NATS.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::{self, object_store::ObjectStore};
use async_nats::{
    AuthError, Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Request, ServerError,
};
use bytes::Bytes;
use tokio::sync::{OnceCell, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use super::clock::NatsClock;
use super::error::LogError;
use super::integrity::damage::LogDamage;
use super::metrics;
use super::streams::settings::LogSettings;
use crate::util::backoff::{doubled, scattered};

/// The log: one connection to NATS, and everything that is done over it. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    pub(crate) client: Client,
    pub(crate) js: jetstream::Context,
    pub(crate) settings: Arc<LogSettings>,
    pub(crate) snapshots: Arc<OnceCell<ObjectStore>>,
    state: watch::Receiver<ConnectionState>,
    /// What NATS said last of a right that we lack.
    denied: Arc<Mutex<Option<String>>>,
    /// The newest event that this process has seen, by whatever way.
    pub(crate) newest: Arc<AtomicU64>,
    /// Whether long histories are read through consumers. Commands do; validators and frontends have not the right to,
    /// and what they read in a row is short.
    pub(crate) reads_by_consumers: Arc<AtomicBool>,
    /// Whether slots' keys are kept: see [`Log::keeps_slots`].
    pub(crate) keeps_slots: Arc<AtomicBool>,
    /// What is wrong with the streams, as last looked at.
    pub(crate) damages: Arc<watch::Sender<Vec<LogDamage>>>,
    pub(crate) clock: Arc<NatsClock>,
    /// What a test has in the place of NATS.
    #[cfg(test)]
    pub(crate) stand_in: Option<Arc<dyn super::stand_in::StandIn>>,
}

/// How the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionState {
    /// Whether NATS is connected.
    pub connected: bool,
    /// Grows whenever live messages may have been missed: at every reconnect and at every notice that a
    /// subscription of ours was too slow. Who sees it grow fills its gaps from the log.
    pub epoch: u64,
    /// Grows at every reconnect. What was asked before may never be answered, and a server that was restarted
    /// may have lost what it holds only in memory.
    pub reconnects: u64,
}

/// What is tried here.
const WHAT: &str = "connecting to NATS";

/// How many messages a subscription may hold before NATS's client drops some and tells us so.
const SUBSCRIPTION_MESSAGES_MAX: usize = 64 * 1024;

/// How long an answer may take that was asked for before a reconnect.
const AFTER_RECONNECT: Duration = Duration::from_millis(500);

impl Log {
    /// Connects. `role` is shown in NATS's own monitoring. Fails when no server can be reached now;
    /// once connected, reconnecting goes on for ever.
    pub async fn connect(settings: &LogSettings, role: &str) -> Result<Self, LogError> {
        let (sender, state) = watch::channel(ConnectionState { connected: true, epoch: 0, reconnects: 0 });
        let sender = Arc::new(sender);
        let denied = Arc::new(Mutex::new(None));
        let denials = denied.clone();
        let options = match settings.credentials.clone() {
            None => ConnectOptions::new(),
            Some(credentials) => ConnectOptions::with_auth_callback(move |nonce| {
                // Read here, and not once: it may be another one at the next connection.
                let answer = credentials.answer(&nonce).map_err(AuthError::from);
                async move { answer }
            }),
        };
        let mut options = options
            .name(format!("insieme-backend {role}"))
            .request_timeout(Some(settings.request_timeout))
            .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
            .ping_interval(Duration::from_secs(10))
            .max_reconnects(None)
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                if let Event::ServerError(ServerError::Other(said)) = &event
                    && said.to_lowercase().contains("permissions violation")
                {
                    *denials.lock().unwrap_or_else(PoisonError::into_inner) = Some(said.clone());
                }
                let sender = sender.clone();
                async move { note_event(&sender, &event) }
            });
        if let Some((certificate, key)) = &settings.tls_client_files {
            options = options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
        }
        if let Some(file) = &settings.tls_ca_file {
            options = options.add_root_certificates(file.clone()).require_tls(true);
        }
        let client = options
            .connect(settings.urls.as_slice())
            .await
            .map_err(|error| not_connected(settings, &error))?;
        // The notice of this connection comes by itself. If it came later, it would look like that of another one.
        let mut first = state.clone();
        if timeout(settings.request_timeout, reconnected(&mut first, 0)).await.is_err() {
            return Err(LogError::unavailable(WHAT, "NATS's client does not say that it is connected"));
        }
        metrics::describe(settings.slots);
        Ok(Self::over(client, settings, role, state, denied))
    }

    /// The log behind a connection.
    fn over(
        client: Client,
        settings: &LogSettings,
        role: &str,
        state: watch::Receiver<ConnectionState>,
        denied: Arc<Mutex<Option<String>>>,
    ) -> Self {
        let js = jetstream::ContextBuilder::new()
            .timeout(settings.request_timeout)
            .api_prefix(settings.api_prefix.as_str())
            .build(client.clone());
        Self {
            client,
            js,
            settings: Arc::new(settings.clone()),
            snapshots: Arc::new(OnceCell::new()),
            state,
            denied,
            newest: Arc::default(),
            reads_by_consumers: Arc::new(AtomicBool::new(!matches!(role, "frontend" | "validator"))),
            keeps_slots: Arc::new(AtomicBool::new(true)),
            damages: Arc::default(),
            clock: Arc::default(),
            #[cfg(test)]
            stand_in: None,
        }
    }

    /// A log for which something else stands in. It never connects: what that is not asked for has no answer.
    #[cfg(test)]
    pub(crate) async fn stood_in_for(stand_in: Arc<dyn super::stand_in::StandIn>) -> Self {
        const NEVER: Duration = Duration::from_secs(1 << 30);
        let options = ConnectOptions::new().retry_on_initial_connect().reconnect_delay_callback(|_| NEVER);
        let client = options.connect("127.0.0.1:1").await.expect("nothing is connected yet");
        let (settings, state) = (LogSettings::default(), stand_in.state());
        let log = Self::over(client, &settings, "frontend", state, Arc::default());
        Self { stand_in: Some(stand_in), ..log }
    }

    /// The connection's state, to read and to wait on.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        #[cfg(test)]
        if let Some(stand_in) = &self.stand_in {
            return stand_in.state();
        }
        self.state.clone()
    }

    /// What NATS said last of a right that we lack, if it did: whoever asks for what he may not gets no answer.
    pub fn denied(&self) -> Option<String> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The subject of a request to JetStream's API.
    pub(crate) fn api(&self, request: &str) -> String {
        format!("{}.{request}", self.settings.api_prefix)
    }

    /// Which connection this is, of which server. What was sent over one connection does not come whole if it is
    /// another one at the end.
    pub(crate) fn connection(&self) -> (String, u64) {
        let info = self.client.server_info();
        (info.server_id, info.client_id)
    }

    /// The number of slots.
    pub fn slots(&self) -> u16 {
        self.settings.slots
    }

    /// How often a process is to look whether the log is still what it was.
    pub fn look_every(&self) -> Duration {
        self.settings.look_every
    }

    /// How long a hold on a slot lasts without renewal.
    pub fn ownership_ttl(&self) -> Duration {
        self.settings.ownership_ttl
    }

    /// The largest message that the server takes, in bytes, headers included.
    pub fn message_bytes_max(&self) -> usize {
        #[cfg(test)]
        if self.stand_in.is_some() {
            return 1 << 20;
        }
        self.client.max_payload()
    }

    /// Waits until everything published so far has reached the server.
    pub async fn flush(&self) -> Result<(), LogError> {
        tokio::time::timeout(self.settings.request_timeout, self.client.flush())
            .await
            .map_err(|_| LogError::unavailable("flushing", "timed out"))?
            .map_err(|error| LogError::unavailable("flushing", error))
    }

    /// Waits until the server has a subscription that was just made, if it can be reached now. An outage is no failure:
    /// NATS's client subscribes again at every connection.
    pub(super) async fn confirm_subscription(&self, to: &str) {
        if let Err(error) = self.flush().await {
            warn!(%error, to, "subscribed; NATS has not confirmed it yet and is told again at the next connection");
        }
    }

    /// One request, one reply. If the connection is lost meanwhile, the reply is given a moment after the
    /// reconnect and no more: it may have gone down with the old connection.
    pub(crate) async fn request(
        &self,
        what: &'static str,
        subject: String,
        headers: Option<HeaderMap>,
        body: Bytes,
    ) -> Result<async_nats::Message, LogError> {
        let mut request = Request::new().payload(body);
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        let mut state = self.state.clone();
        let reconnects = state.borrow().reconnects;
        let reply = self.client.send_request(subject, request);
        tokio::pin!(reply);
        let reply = tokio::select! {
            biased;
            reply = &mut reply => reply,
            () = reconnected(&mut state, reconnects) => {
                tokio::time::timeout(AFTER_RECONNECT, reply)
                    .await
                    .map_err(|_| LogError::unavailable(what, "the connection was lost before the answer"))?
            }
        };
        reply.map_err(|error| {
            use async_nats::client::RequestErrorKind as Kind;
            match error.kind() {
                Kind::InvalidSubject | Kind::MaxPayloadExceeded => LogError::refused(what, error),
                Kind::TimedOut | Kind::NoResponders | Kind::Other => LogError::unavailable(what, error),
            }
        })
    }
}

/// Why there is no connection. Who is not let in is told so at once: that does not pass by itself.
fn not_connected(settings: &LogSettings, error: &ConnectError) -> LogError {
    let urls = settings.urls.join(", ");
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            let who = match &settings.credentials {
                Some(credentials) => format!("NATS does not let us in as {credentials:?}"),
                None => "NATS asks who we are, and nothing says so".to_owned(),
            };
            let keys = "nats.user with nats.password_file, nats.credentials_file, nats.nkey_seed_file";
            LogError::refused(WHAT, format!("{urls}: {error}: {who}; look at {keys}"))
        }
        _ => LogError::unavailable(WHAT, format!("{urls}: {error}")),
    }
}

/// Waits for a reconnect beyond so many; for ever once the client is gone.
pub(crate) async fn reconnected(state: &mut watch::Receiver<ConnectionState>, reconnects: u64) {
    if state.wait_for(|state| state.reconnects > reconnects).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn note_event(sender: &watch::Sender<ConnectionState>, event: &Event) {
    match event {
        Event::Connected => {
            info!("connected to NATS");
            metrics::connected(true);
            metrics::reconnected();
            sender.send_modify(|state| {
                state.connected = true;
                state.epoch += 1;
                state.reconnects += 1;
            });
        }
        Event::Disconnected => {
            warn!("connection to NATS lost; reconnecting");
            metrics::connected(false);
            sender.send_modify(|state| state.connected = false);
        }
        Event::SlowConsumer(subscription) => {
            warn!(
                subscription,
                "a subscription was too slow and lost messages; filling the gap from the log"
            );
            metrics::slow_subscription();
            sender.send_modify(|state| state.epoch += 1);
        }
        Event::Closed | Event::Draining => info!("connection to NATS closed"),
        other => warn!(event = %other, "NATS"),
    }
}

/// 10 ms, doubling to at most a second, with up to a half off so that processes do not come in step.
fn reconnect_delay(attempts: usize) -> Duration {
    if attempts <= 1 {
        return Duration::ZERO;
    }
    let failures = u32::try_from(attempts).unwrap_or(u32::MAX);
    scattered(doubled(Duration::from_millis(10), Duration::from_secs(1), failures))
}
