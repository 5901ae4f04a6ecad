//! How to reach NATS, as an operator writes it down.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::error::ConfigError;
use crate::log::{Credentials, LogSettings, Password};

/// How to reach NATS, and the streams' settings. The streams' settings count when `bootstrap` makes the
/// streams; every role checks at its start that they are as configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatsConfig {
    /// One or more server addresses.
    pub urls: Vec<String>,
    /// The user name, where the server wants one.
    pub user: Option<String>,
    /// The user's password. Better in `password_file` or the environment than in a file that is shared.
    pub password: Option<Secret>,
    /// A file that holds the user's password; white space around it is dropped. It is read again at every connection, as
    /// the next two are.
    pub password_file: Option<PathBuf>,
    /// A NATS credentials file (JWT and seed), where the server wants one.
    pub credentials_file: Option<PathBuf>,
    /// A file that holds the seed of an nkey (`SU…`), where the server wants one.
    pub nkey_seed_file: Option<PathBuf>,
    /// Certificates of the authorities to trust, PEM. Switches TLS on. (An address `tls://…` does so too, and
    /// trusts the authorities that the system trusts.)
    pub tls_ca_file: Option<PathBuf>,
    /// Our own certificate, PEM, for a server that asks for one. Switches TLS on.
    pub tls_cert_file: Option<PathBuf>,
    /// The key of `tls_cert_file`, PEM.
    pub tls_key_file: Option<PathBuf>,
    /// What requests to JetStream's API begin with. NATS's own `$JS.API`, unless the account that the process is in
    /// imports the API from another one under another name, as frontends' account does in `nats/users.conf`: `core`.
    pub api_prefix: String,
    /// How long one request to NATS may take, in milliseconds.
    pub request_timeout_ms: u64,
    /// How long a starting process waits for NATS and its streams to be there, in milliseconds.
    pub connect_wait_ms: u64,
    /// The number of slots that partitions are spread over, 1 to 1024. Fixed when the streams are made.
    pub slots: u16,
    /// Copies of every stream, 1 to 5: 1 with a single server, 3 with a cluster.
    pub replicas: usize,
    /// The most bytes that undecided drafts may take; beyond that, clients are told `unavailable`.
    pub drafts_bytes_max: i64,
    /// How long an undecided draft is kept, in milliseconds.
    pub drafts_age_max_ms: u64,
    /// How long a validator's hold on a slot lasts without renewal, in milliseconds.
    pub ownership_ttl_ms: u64,
    /// The most revocations of tokens that are kept at a time; one more is refused until some are lifted or over.
    pub revocations_max: i64,
    /// How often every process looks whether the streams are still what they were, in milliseconds.
    pub look_ms: u64,
}

impl Default for NatsConfig {
    fn default() -> Self {
        let log = LogSettings::default();
        Self {
            urls: log.urls,
            user: None,
            password: None,
            password_file: None,
            credentials_file: None,
            nkey_seed_file: None,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            api_prefix: log.api_prefix,
            request_timeout_ms: milliseconds(log.request_timeout),
            connect_wait_ms: 60_000,
            slots: log.slots,
            replicas: log.replicas,
            drafts_bytes_max: log.drafts_bytes_max,
            drafts_age_max_ms: milliseconds(log.drafts_age_max),
            ownership_ttl_ms: milliseconds(log.ownership_ttl),
            revocations_max: log.revocations_max,
            look_ms: milliseconds(log.look_every),
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl NatsConfig {
    /// How long a starting process waits for NATS and its streams.
    pub fn connect_wait(&self) -> Duration {
        Duration::from_millis(self.connect_wait_ms)
    }

    /// Points it at one server that asks for nothing.
    pub fn reach_without_password(&mut self, url: &str) {
        self.urls = vec![url.to_owned()];
        (self.user, self.password, self.password_file) = (None, None, None);
        (self.credentials_file, self.nkey_seed_file) = (None, None);
        (self.tls_ca_file, self.tls_cert_file, self.tls_key_file) = (None, None, None);
        self.api_prefix = LogSettings::default().api_prefix;
    }

    pub(crate) fn check(&self, problems: &mut Vec<String>) {
        let mut wrong = |is_wrong: bool, text: &str| {
            if is_wrong {
                problems.push(text.to_owned());
            }
        };
        wrong(
            self.urls.is_empty(),
            "nats.urls: at least one address is needed, such as nats://127.0.0.1:4222",
        );
        wrong(!(1..=1024).contains(&self.slots), "nats.slots: 1 to 1024");
        wrong(!(1..=5).contains(&self.replicas), "nats.replicas: 1 to 5");
        wrong(
            !is_subject(&self.api_prefix),
            "nats.api_prefix: letters, digits, `$`, `-` and `_`, in parts with a `.` between, such as core or $JS.API",
        );
        wrong(self.request_timeout_ms == 0, "nats.request_timeout_ms: must not be 0");
        wrong(self.drafts_bytes_max < 1 << 20, "nats.drafts_bytes_max: at least 1048576 (1 MiB)");
        wrong(self.drafts_age_max_ms < 1_000, "nats.drafts_age_max_ms: at least 1000");
        wrong(!(1..=10_000_000).contains(&self.revocations_max), "nats.revocations_max: 1 to 10000000");
        wrong(self.ownership_ttl_ms < 1_000, "nats.ownership_ttl_ms: at least 1000");
        wrong(self.look_ms < 100, "nats.look_ms: at least 100");
        wrong(
            self.password.is_some() && self.password_file.is_some(),
            "nats.password and nats.password_file are both set; which one counts?",
        );
        let has_password = self.password.is_some() || self.password_file.is_some();
        wrong(has_password && self.user.is_none(), "nats.user: needed beside the password");
        wrong(
            self.user.is_some() && !has_password,
            "nats.password or nats.password_file: needed beside nats.user",
        );
        let identities =
            [self.user.is_some(), self.credentials_file.is_some(), self.nkey_seed_file.is_some()];
        wrong(
            identities.iter().filter(|is_set| **is_set).count() > 1,
            "nats.user, nats.credentials_file, nats.nkey_seed_file: more than one is set; which one counts?",
        );
        wrong(
            self.tls_cert_file.is_some() != self.tls_key_file.is_some(),
            "nats.tls_cert_file and nats.tls_key_file: one is of no use without the other",
        );
    }

    /// Who we are to NATS. What lies in files is read when it is needed.
    fn credentials(&self) -> Option<Credentials> {
        let of_files = self.credentials_file.clone().map(Credentials::File);
        let of_files = of_files.or_else(|| self.nkey_seed_file.clone().map(Credentials::NkeySeed));
        let Some(user) = self.user.clone() else { return of_files };
        let password = match (&self.password, &self.password_file) {
            (Some(Secret(password)), _) => Password::Given(password.clone()),
            (None, Some(file)) => Password::File(file.clone()),
            (None, None) => return of_files,
        };
        Some(Credentials::Password { user, password })
    }

    /// What `log` wants to know. Sees whether the files can be read.
    pub fn to_log_settings(&self) -> Result<LogSettings, ConfigError> {
        let credentials = self.credentials();
        if let Some(Err(error)) = credentials.as_ref().map(Credentials::check) {
            let key = match &credentials {
                Some(Credentials::File(_)) => "nats.credentials_file",
                Some(Credentials::NkeySeed(_)) => "nats.nkey_seed_file",
                _ => "nats.password_file",
            };
            return Err(ConfigError(vec![format!("{key}: {error}")]));
        }
        for (key, file) in [
            ("nats.tls_ca_file", &self.tls_ca_file),
            ("nats.tls_cert_file", &self.tls_cert_file),
            ("nats.tls_key_file", &self.tls_key_file),
        ] {
            readable(key, file.as_ref())?;
        }
        Ok(LogSettings {
            urls: self.urls.clone(),
            credentials,
            tls_ca_file: self.tls_ca_file.clone(),
            tls_client_files: self.tls_cert_file.clone().zip(self.tls_key_file.clone()),
            api_prefix: self.api_prefix.clone(),
            request_timeout: Duration::from_millis(self.request_timeout_ms),
            slots: self.slots,
            replicas: self.replicas,
            drafts_bytes_max: self.drafts_bytes_max,
            drafts_age_max: Duration::from_millis(self.drafts_age_max_ms),
            ownership_ttl: Duration::from_millis(self.ownership_ttl_ms),
            revocations_max: self.revocations_max,
            look_every: Duration::from_millis(self.look_ms),
        })
    }
}

/// Whether this can stand at the beginning of a subject.
fn is_subject(text: &str) -> bool {
    let may_stand = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'$' | b'-' | b'_');
    text.len() <= 64 && text.split('.').all(|part| !part.is_empty() && part.bytes().all(may_stand))
}

/// Whether a file, if there is one, can be read.
fn readable(key: &str, file: Option<&PathBuf>) -> Result<(), ConfigError> {
    let Some(path) = file else { return Ok(()) };
    match std::fs::read_to_string(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(ConfigError(vec![format!("{key}: {}: {error}", path.display())])),
    }
}

/// A value that is never shown: neither printed, nor logged, nor serialised.
#[derive(Clone, PartialEq, Deserialize)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(hidden)")
    }
}
