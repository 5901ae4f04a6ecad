//! Tokens and the keys to sign them with, as an identity provider has them; and tokens that none would make.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::socket::now_ms;

/// The secret of the stories.
pub const SECRET: &str = "a secret that only the stories know";

/// A key to sign with, and its public half.
pub struct TestKey {
    pub id: Option<String>,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl TestKey {
    pub fn secret(secret: &str) -> Self {
        Self { id: None, algorithm: Algorithm::HS256, key: EncodingKey::from_secret(secret.as_bytes()) }
    }

    /// One of the RSA keys in `tests/keys`.
    pub fn rsa(which: &str) -> Self {
        let pem = std::fs::read(rsa_file(which)).unwrap();
        Self { id: None, algorithm: Algorithm::RS256, key: EncodingKey::from_rsa_pem(&pem).unwrap() }
    }

    /// A new key of the curve P-256.
    pub fn ec() -> Self {
        let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
        Self { id: None, algorithm: Algorithm::ES256, key: EncodingKey::from_ec_pem(pem.as_bytes()).unwrap() }
    }

    /// A new Ed25519 key.
    pub fn ed() -> Self {
        // Only the seed: a key that names its public half too is one that not every reader takes.
        let mut der = hex("302e020100300506032b657004220420");
        der.extend(rand::random::<[u8; 32]>());
        Self { id: None, algorithm: Algorithm::EdDSA, key: EncodingKey::from_ed_der(&der) }
    }

    /// The same key under a name.
    pub fn named(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// Its public half, as key sets have it.
    pub fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = self.id.clone();
        serde_json::to_value(jwk).unwrap()
    }

    /// A token of these claims.
    pub fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: self.id.clone(), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key).unwrap()
    }

    /// A token for a client that may do everything, changed as the test needs it: what is `null` is left out.
    pub fn token(&self, client: &str, changes: Value) -> String {
        self.sign(&claims(client, changes))
    }
}

/// The claims of a token for a client that may do everything, for an hour; with changes.
pub fn claims(client: &str, changes: Value) -> Value {
    let mut claims = json!({ "clientId": client, "permissions": ["*"], "exp": now_s() + 3600 });
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(key)),
            value => claims[key] = value.clone(),
        }
    }
    claims
}

/// A token of any head and any signature.
pub fn forged(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(header), part(claims))
}

/// A key set as it is published.
pub fn key_set(keys: &[&TestKey]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string()
}

pub fn rsa_file(which: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/keys/rsa_{which}.pem"))
}

/// The public half of one of the RSA keys, in PEM.
pub fn rsa_public_pem(which: &str) -> Vec<u8> {
    std::fs::read(rsa_file(&format!("{which}.pub"))).unwrap()
}

pub fn now_s() -> u64 {
    now_ms() / 1000
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
