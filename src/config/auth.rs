//! Who may connect, as an operator writes it down.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::auth::{Authenticator, JwtVerifier, KeyError, TokenRules};

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
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self { secret_file: None, public_key_file: None, issuer: None, audience: None, leeway_s: 5 }
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
        };
        let verifier = match (&self.secret_file, &self.public_key_file) {
            (Some(_), Some(_)) => {
                let why = "auth: secret_file and public_key_file exclude each other; set one".to_owned();
                return Err(ConfigError(vec![why]));
            }
            (Some(file), None) => {
                read("auth.secret_file", file, |bytes| JwtVerifier::with_secret(bytes.trim_ascii(), &rules))?
            }
            (None, Some(file)) => {
                read("auth.public_key_file", file, |bytes| JwtVerifier::with_public_key(bytes, &rules))?
            }
            // Taking anyone is never what a missing key means; that is said elsewhere, and by name.
            (None, None) => {
                let why = "auth: neither secret_file nor public_key_file is set".to_owned();
                return Err(ConfigError(vec![why]));
            }
        };
        Ok(Authenticator::Jwt(Box::new(verifier)))
    }
}

fn read(
    key: &str,
    file: &Path,
    verifier: impl FnOnce(&[u8]) -> Result<JwtVerifier, KeyError>,
) -> Result<JwtVerifier, ConfigError> {
    let wrong = |why: String| ConfigError(vec![format!("{key}: {}: {why}", file.display())]);
    let bytes = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    verifier(&bytes).map_err(|error| wrong(error.to_string()))
}
