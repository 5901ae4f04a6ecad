//! The keys that tokens are checked with, each bound to the one algorithm that is right for its kind.
//!
//! A token names a key (`kid`) and an algorithm; neither is believed. The name only chooses among the keys
//! that we have, and the algorithm must be the chosen key's. So a public key is never taken for a secret.

use jsonwebtoken::{Algorithm, DecodingKey, Header};

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A secret that could be guessed.
    #[error("a secret has at least {SECRET_BYTES_MIN} bytes, this one has {0}")]
    ShortSecret(usize),
    /// Not a public key in PEM.
    #[error("not a public key in PEM of RSA (RS256), of the curve P-256 (ES256) or Ed25519 (EdDSA)")]
    NotAPublicKey,
    /// The half that does not belong here.
    #[error(
        "this is a private key, which no server should have; give it the public one, which `openssl pkey \
         -pubout` makes of it"
    )]
    PrivateKey,
    /// Not a private key in PEM.
    #[error(
        "not a private key in PEM of RSA (RS256), of the curve P-256 (ES256, as PKCS#8: `openssl pkcs8 -topk8 \
         -nocrypt` makes one of any other) or Ed25519 (EdDSA)"
    )]
    NotAPrivateKey,
    /// The key is one, but does not sign.
    #[error("the key does not sign: {0}")]
    CannotSign(String),
}

/// The shortest secret that is taken, in bytes.
pub const SECRET_BYTES_MIN: usize = 16;

/// A key.
#[derive(Clone)]
pub(super) struct Key {
    /// Its name, where it came with one; one without fits any token.
    pub id: Option<String>,
    pub algorithm: Algorithm,
    pub key: DecodingKey,
}

/// The keys in force.
#[derive(Clone)]
pub struct KeySet(pub(super) Vec<Key>);

/// Why there is no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoKey {
    /// None of that name.
    Unknown,
    /// One of that name, for another algorithm.
    Algorithm,
    /// The token names none, and there are several.
    Unnamed,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| (&key.id, key.algorithm))).finish()
    }
}

impl KeySet {
    /// A secret that the issuer has too (HS256).
    pub fn secret(secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeyError::ShortSecret(secret.len()));
        }
        Ok(Self::one(DecodingKey::from_secret(secret), Algorithm::HS256))
    }

    /// The issuer's public key in PEM; the kind of key tells the algorithm.
    pub fn public_key(pem: &[u8]) -> Result<Self, KeyError> {
        if pem.windows(PRIVATE_KEY.len()).any(|part| part == PRIVATE_KEY) {
            return Err(KeyError::PrivateKey);
        }
        let rsa = || DecodingKey::from_rsa_pem(pem).map(|key| (key, Algorithm::RS256));
        let ec = || DecodingKey::from_ec_pem(pem).map(|key| (key, Algorithm::ES256));
        let ed = || DecodingKey::from_ed_pem(pem).map(|key| (key, Algorithm::EdDSA));
        let (key, algorithm) =
            rsa().or_else(|_| ec()).or_else(|_| ed()).map_err(|_| KeyError::NotAPublicKey)?;
        Ok(Self::one(key, algorithm))
    }

    fn one(key: DecodingKey, algorithm: Algorithm) -> Self {
        Self(vec![Key { id: None, algorithm, key }])
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key for a token that begins so.
    pub(super) fn find(&self, header: &Header) -> Result<&Key, NoKey> {
        let is_named = |key: &&Key| match (&key.id, &header.kid) {
            (Some(id), Some(wanted)) => id == wanted,
            _ => true,
        };
        let mut named = self.0.iter().filter(is_named).peekable();
        if named.peek().is_none() {
            return Err(NoKey::Unknown);
        }
        let mut fitting = named.filter(|key| key.algorithm == header.alg);
        match (fitting.next(), fitting.next()) {
            (None, _) => Err(NoKey::Algorithm),
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(NoKey::Unnamed),
        }
    }
}

const PRIVATE_KEY: &[u8] = b"PRIVATE KEY-----";
