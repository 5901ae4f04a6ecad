//! The keys that tokens are checked with, each bound to the one algorithm that is right for its kind.
//!
//! A token names a key (`kid`) and an algorithm; neither is believed. The name only chooses among the keys
//! that we have, and the algorithm must be the chosen key's. So a public key is never taken for a secret.

mod jwks;
pub(crate) mod mint;
pub(crate) mod remote;
pub(crate) mod source;

use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Header, crypto};
use rsa::{BigUint, RsaPublicKey, pkcs1};

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
    /// A key of RSA that is too short to be safe, or longer than is used.
    #[error("an RSA key has {RSA_BITS_MIN} to {RSA_BITS_MAX} bits, this one has {0}")]
    RsaBits(usize),
    /// Of the right kind, but no signature can fit it.
    #[error("the key cannot verify anything: it is damaged, or of another curve")]
    CannotVerify,
    /// Not a private key in PEM.
    #[error(
        "not a private key in PEM of RSA (RS256), of the curve P-256 (ES256, as PKCS#8: `openssl pkcs8 -topk8 \
         -nocrypt` makes one of any other) or Ed25519 (EdDSA)"
    )]
    NotAPrivateKey,
    /// The key is one, but does not sign.
    #[error("the key does not sign: {0}")]
    CannotSign(String),
    /// Not a key set.
    #[error("not a key set (JWKS): {0}")]
    NotAKeySet(String),
    /// A key set without a key for tokens.
    #[error("no key of the set can be used for tokens: {0}")]
    NoneUsable(String),
}

/// Why the keys in a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("{0}")]
    Read(String),
    /// It holds no key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The shortest secret that is taken, in bytes.
pub const SECRET_BYTES_MIN: usize = 16;
/// The shortest modulus of RSA that is safe, and the longest that signatures are checked with.
const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = RsaPublicKey::MAX_SIZE;

/// A key.
#[derive(Clone)]
pub(crate) struct Key {
    /// Its name, where it came with one; one without fits any token.
    pub id: Option<String>,
    pub algorithm: Algorithm,
    pub key: DecodingKey,
}

impl Key {
    /// A key that can verify: one that cannot would let nobody in, and nobody would know why.
    pub(super) fn new(id: Option<String>, algorithm: Algorithm, key: DecodingKey) -> Result<Self, KeyError> {
        match algorithm {
            Algorithm::RS256 => check_rsa(&key)?,
            // Shorter ones are not even looked at with care by the library.
            Algorithm::EdDSA if key.try_get_as_bytes().map_or(0, <[u8]>::len) != 32 => {
                return Err(KeyError::CannotVerify);
            }
            // That no signature is no good signature is not the point: a key that is none fails before.
            _ => {
                crypto::verify("", b"", &key, algorithm).map_err(|_| KeyError::CannotVerify)?;
            }
        }
        Ok(Self { id, algorithm, key })
    }
}

fn check_rsa(key: &DecodingKey) -> Result<(), KeyError> {
    let (n, e) = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            (BigUint::from_bytes_be(n), BigUint::from_bytes_be(e))
        }
        DecodingKeyKind::SecretOrDer(der) => {
            let key = pkcs1::RsaPublicKey::try_from(der.as_slice()).map_err(|_| KeyError::CannotVerify)?;
            let number = |bytes: &[u8]| BigUint::from_bytes_be(bytes);
            (number(key.modulus.as_bytes()), number(key.public_exponent.as_bytes()))
        }
    };
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&n.bits()) {
        return Err(KeyError::RsaBits(n.bits()));
    }
    RsaPublicKey::new(n, e).map(drop).map_err(|_| KeyError::CannotVerify)
}

/// The keys in force.
#[derive(Clone, Default)]
pub struct KeySet {
    pub(crate) keys: Vec<Key>,
    /// What is wrong with the others that came with them.
    pub(crate) passed_over: Vec<String>,
}

/// Why there is no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// None of that name.
    Unknown,
    /// One of that name, for another algorithm.
    Algorithm,
    /// The token names none, and there are several.
    Unnamed,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| (&key.id, key.algorithm))).finish()
    }
}

impl KeySet {
    /// A secret that the issuer has too (HS256).
    pub fn secret(secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeyError::ShortSecret(secret.len()));
        }
        Self::one(DecodingKey::from_secret(secret), Algorithm::HS256)
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
        Self::one(key, algorithm)
    }

    fn one(key: DecodingKey, algorithm: Algorithm) -> Result<Self, KeyError> {
        Ok(Self { keys: vec![Key::new(None, algorithm, key)?], passed_over: Vec::new() })
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key for a token that begins so.
    pub(crate) fn find(&self, header: &Header) -> Result<&Key, NoKey> {
        let is_meant = |key: &&Key| match &header.kid {
            None => true,
            Some(_) => key.id == header.kid,
        };
        let mut meant: Vec<&Key> = self.keys.iter().filter(is_meant).collect();
        if meant.is_empty() {
            meant = self.keys.iter().filter(|key| key.id.is_none()).collect();
        }
        if meant.is_empty() {
            return Err(NoKey::Unknown);
        }
        let mut fitting = meant.into_iter().filter(|key| key.algorithm == header.alg);
        match (fitting.next(), fitting.next()) {
            (None, _) => Err(NoKey::Algorithm),
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(NoKey::Unnamed),
        }
    }
}

const PRIVATE_KEY: &[u8] = b"PRIVATE KEY-----";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_chooses_among_the_keys_and_the_algorithm_must_be_that_keys() {
        let key = |id: Option<&str>, algorithm| Key {
            id: id.map(str::to_owned),
            algorithm,
            key: DecodingKey::from_secret(b"any"),
        };
        let of = |keys: Vec<Key>| KeySet { keys, passed_over: Vec::new() };
        let header =
            |id: Option<&str>, algorithm| Header { kid: id.map(str::to_owned), ..Header::new(algorithm) };
        let found = |keys: &KeySet, id, algorithm| {
            keys.find(&header(id, algorithm)).map(|key| (key.id.clone(), key.algorithm))
        };
        use Algorithm::{ES256, HS256, RS256};
        let set = of(vec![key(Some("a"), RS256), key(Some("b"), RS256), key(Some("c"), ES256)]);
        assert_eq!(found(&set, Some("b"), RS256), Ok((Some("b".to_owned()), RS256)));
        assert_eq!(found(&set, Some("b"), HS256), Err(NoKey::Algorithm));
        assert_eq!(found(&set, Some("c"), RS256), Err(NoKey::Algorithm));
        assert_eq!(found(&set, Some("d"), RS256), Err(NoKey::Unknown));
        assert_eq!(found(&set, None, RS256), Err(NoKey::Unnamed));
        assert_eq!(found(&set, None, ES256), Ok((Some("c".to_owned()), ES256)));
        assert_eq!(found(&KeySet::default(), None, RS256), Err(NoKey::Unknown));
        // One without a name is for every token, but for one that names another.
        let set = of(vec![key(None, RS256), key(Some("a"), RS256)]);
        assert_eq!(found(&set, Some("x"), RS256), Ok((None, RS256)));
        assert_eq!(found(&set, Some("a"), RS256), Ok((Some("a".to_owned()), RS256)));
    }
}
