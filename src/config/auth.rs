//! Who may connect, as an operator writes it down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::auth::{Authenticator, KeyError, KeySet, TokenRules, Tokens, permissions};

/// Clients' tokens (JWT). A frontend needs one of the two keys, or to be told that it takes anyone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// A file with the secret that tokens are signed with (HS256): at least 16 bytes; white space around
    /// them does not count.
    pub secret_file: Option<PathBuf>,
    /// A file with the public key of whoever signs the tokens, PEM: RSA (RS256), P-256 (ES256) or Ed25519
    /// (EdDSA).
    pub public_key_file: Option<PathBuf>,
    /// The issuer (`iss`) that a token must name. Not asked for unless set.
    pub issuer: Option<String>,
    /// The audience (`aud`) that a token must name. Not asked for unless set.
    pub audience: Option<String>,
    /// How far the clocks of those who sign and those who check may be apart, in seconds.
    pub leeway_s: u64,
    /// Whether a token must have an end (`exp`). One without is good for as long as its key.
    pub require_exp: bool,
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
            issuer: None,
            audience: None,
            leeway_s: 5,
            require_exp: true,
            token_bytes_max: 8 * 1024,
            roles: BTreeMap::new(),
        }
    }
}

impl AuthSettings {
    /// Whether a key is configured.
    pub fn is_set(&self) -> bool {
        self.secret_file.is_some() || self.public_key_file.is_some()
    }

    /// What checks tokens, with its key read.
    pub fn authenticator(&self) -> Result<Authenticator, ConfigError> {
        let rules = TokenRules {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            leeway_s: self.leeway_s,
            require_exp: self.require_exp,
            token_bytes_max: self.token_bytes_max,
            roles: self.roles.clone(),
        };
        let keys = match (&self.secret_file, &self.public_key_file) {
            (Some(_), Some(_)) => {
                let why = "auth: secret_file and public_key_file exclude each other; set one".to_owned();
                return Err(ConfigError(vec![why]));
            }
            (Some(file), None) => read("auth.secret_file", file, |bytes| KeySet::secret(bytes.trim_ascii()))?,
            (None, Some(file)) => read("auth.public_key_file", file, KeySet::public_key)?,
            // Taking anyone is never what a missing key means; that is said elsewhere, and by name.
            (None, None) => {
                let why = "auth: neither secret_file nor public_key_file is set".to_owned();
                return Err(ConfigError(vec![why]));
            }
        };
        Ok(Authenticator::Jwt(Arc::new(Tokens::new(rules, keys))))
    }

    /// Says what cannot work.
    pub(super) fn check(&self, problems: &mut Vec<String>) {
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

fn read(
    key: &str,
    file: &Path,
    keys: impl FnOnce(&[u8]) -> Result<KeySet, KeyError>,
) -> Result<KeySet, ConfigError> {
    let wrong = |why: String| ConfigError(vec![format!("{key}: {}: {why}", file.display())]);
    let bytes = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    keys(&bytes).map_err(|error| wrong(error.to_string()))
}
