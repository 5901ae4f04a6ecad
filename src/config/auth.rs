//! Who may connect, as an operator writes it down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::ConfigError;
use crate::auth::{Authenticator, FileKind, Keys, Remote, RemoteSettings, TokenRules, Tokens, permissions};

/// Clients' tokens (JWT). A frontend needs one of the first four, or to be told that it takes anyone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// A file with the secret that tokens are signed with (HS256): at least 16 bytes; white space around
    /// them does not count.
    pub secret_file: Option<PathBuf>,
    /// A file with the public key of whoever signs the tokens, PEM: RSA (RS256), P-256 (ES256) or Ed25519
    /// (EdDSA).
    pub public_key_file: Option<PathBuf>,
    /// A file with a set of keys (JWKS), of which a token names one (`kid`).
    pub jwks_file: Option<PathBuf>,
    /// Where the issuer publishes its set of keys: https, or http from this machine itself.
    pub jwks_url: Option<String>,
    /// The certificates, PEM, of those who may vouch for that address; in the place of the system's.
    pub jwks_ca_file: Option<PathBuf>,
    /// How often the set is fetched from there, in seconds.
    pub jwks_refresh_s: u64,
    /// How soon it is fetched again, in seconds, if that failed; and how long after a fetch there is no other
    /// because a token names an unknown key.
    pub jwks_retry_s: u64,
    /// How long fetching it may take.
    pub jwks_timeout_ms: u64,
    /// The largest set that is taken from there, in bytes.
    pub jwks_bytes_max: usize,
    /// How often the files above are looked at for changes.
    pub keys_poll_ms: u64,
    /// The issuer (`iss`) that a token must name. Not asked for unless set.
    pub issuer: Option<String>,
    /// The audience (`aud`) that a token must name. Not asked for unless set.
    pub audience: Option<String>,
    /// How far the clocks of those who sign and those who check may be apart, in seconds.
    pub leeway_s: u64,
    /// Whether a token must have an end (`exp`). One without is good for as long as its key.
    pub require_exp: bool,
    /// How long a token may still have to live at most, in seconds; 0 for any time. One that ends later, or never,
    /// is refused; and revocations need not be kept for longer.
    pub lifetime_s_max: u64,
    /// The longest token that is looked at, in bytes.
    pub token_bytes_max: usize,
    /// What the roles that a token names permit: a table of lists, such as
    /// { editor = ["read", "set:doc.*"], guest = ["read"] }. A role that is not in it permits nothing.
    pub roles: BTreeMap<String, Vec<String>>,
}

const LEEWAY_S_MAX: u64 = 600;
const TOKEN_BYTES_MIN: usize = 256;
const TOKEN_BYTES_MAX: usize = 64 * 1024;

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            secret_file: None,
            public_key_file: None,
            jwks_file: None,
            jwks_url: None,
            jwks_ca_file: None,
            jwks_refresh_s: 300,
            jwks_retry_s: 10,
            jwks_timeout_ms: 5_000,
            jwks_bytes_max: 256 * 1024,
            keys_poll_ms: 2_000,
            issuer: None,
            audience: None,
            leeway_s: 5,
            require_exp: true,
            lifetime_s_max: 0,
            token_bytes_max: 8 * 1024,
            roles: BTreeMap::new(),
        }
    }
}

impl AuthSettings {
    /// Whether keys are configured.
    pub fn is_set(&self) -> bool {
        !self.sources().is_empty()
    }

    /// The keys of the configuration that say where the keys for tokens are, as far as they are set.
    fn sources(&self) -> Vec<&'static str> {
        [
            ("auth.secret_file", self.secret_file.is_some()),
            ("auth.public_key_file", self.public_key_file.is_some()),
            ("auth.jwks_file", self.jwks_file.is_some()),
            ("auth.jwks_url", self.jwks_url.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, is_set)| is_set.then_some(key))
        .collect()
    }

    /// What checks tokens. Files are read; what is at a URL is not asked for yet.
    pub fn authenticator(&self) -> Result<Authenticator, ConfigError> {
        let rules = TokenRules {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            leeway_s: self.leeway_s,
            require_exp: self.require_exp,
            lifetime_s_max: self.lifetime_bound(),
            token_bytes_max: self.token_bytes_max,
            roles: self.roles.clone(),
        };
        Ok(Authenticator::Jwt(Arc::new(Tokens::new(rules, self.keys()?))))
    }

    fn lifetime_bound(&self) -> Option<u64> {
        (self.lifetime_s_max > 0).then_some(self.lifetime_s_max)
    }

    /// For how long from now any token can be good, in seconds, whoever's clock counts; `None` for ever.
    pub fn tokens_live_s_max(&self) -> Option<u64> {
        self.lifetime_bound().map(|max| max.saturating_add(2 * self.leeway_s))
    }

    fn keys(&self) -> Result<Keys, ConfigError> {
        if let Some(path) = &self.secret_file {
            return self.file("auth.secret_file", path, FileKind::Secret);
        }
        if let Some(path) = &self.public_key_file {
            return self.file("auth.public_key_file", path, FileKind::PublicKey);
        }
        if let Some(path) = &self.jwks_file {
            return self.file("auth.jwks_file", path, FileKind::KeySet);
        }
        let Some(url) = &self.jwks_url else {
            // Taking anyone is never what a missing key means; that is said elsewhere, and by name.
            return Err(wrong("auth: none of secret_file, public_key_file, jwks_file and jwks_url is set"));
        };
        let ca_pem = self.jwks_ca_file.as_ref().map(std::fs::read).transpose().map_err(|error| {
            let file = self.jwks_ca_file.as_deref().unwrap_or(Path::new(""));
            wrong(format!("auth.jwks_ca_file: {}: {error}", file.display()))
        })?;
        let settings = RemoteSettings {
            url: url.clone(),
            ca_pem,
            timeout: Duration::from_millis(self.jwks_timeout_ms),
            bytes_max: self.jwks_bytes_max,
        };
        let remote = Remote::new(&settings).map_err(|why| wrong(format!("auth.jwks_url: {why}")))?;
        let (refresh, retry) =
            (Duration::from_secs(self.jwks_refresh_s), Duration::from_secs(self.jwks_retry_s));
        Ok(Keys::of_url(remote, refresh, retry))
    }

    fn file(&self, key: &str, path: &Path, kind: FileKind) -> Result<Keys, ConfigError> {
        Keys::of_file(path, kind, Duration::from_millis(self.keys_poll_ms))
            .map_err(|error| wrong(format!("{key}: {}: {error}", path.display())))
    }

    /// Says what cannot work.
    pub(crate) fn check(&self, problems: &mut Vec<String>) {
        if let [one, others @ ..] = self.sources().as_slice()
            && !others.is_empty()
        {
            problems.push(format!("{one} and {} exclude each other; set one", others.join(" and ")));
        }
        if self.jwks_ca_file.is_some() && self.jwks_url.is_none() {
            problems.push("auth.jwks_ca_file: there is no auth.jwks_url that it could be for".to_owned());
        }
        let at_least = [
            ("jwks_refresh_s", self.jwks_refresh_s, 1),
            ("jwks_retry_s", self.jwks_retry_s, 1),
            ("jwks_timeout_ms", self.jwks_timeout_ms, 100),
            ("jwks_bytes_max", self.jwks_bytes_max as u64, 1024),
            ("keys_poll_ms", self.keys_poll_ms, 100),
        ];
        for (key, value, least) in at_least {
            if value < least {
                problems.push(format!("auth.{key}: at least {least}, not {value}"));
            }
        }
        if self.leeway_s > LEEWAY_S_MAX {
            problems
                .push(format!("auth.leeway_s: at most {LEEWAY_S_MAX}; clocks can be kept closer than that"));
        }
        if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&self.token_bytes_max) {
            problems.push(format!(
                "auth.token_bytes_max: from {TOKEN_BYTES_MIN} (shorter ones can say nothing) to {TOKEN_BYTES_MAX}"
            ));
        }
        for (role, permissions) in &self.roles {
            if role.trim().is_empty() {
                problems.push("auth.roles: a role without a name".to_owned());
            }
            let wrong = permissions.iter().filter_map(|permission| permissions::check(permission).err());
            problems.extend(wrong.map(|why| format!("auth.roles: {role}: {why}")));
        }
    }
}

fn wrong(why: impl Into<String>) -> ConfigError {
    ConfigError(vec![why.into()])
}
