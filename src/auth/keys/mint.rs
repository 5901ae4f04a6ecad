//! Making tokens: what an identity provider does, for development and tests.
//!
//! A server never signs anything; only the command line does, with a key that it was given for that.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;

use super::{KeyError, SECRET_BYTES_MIN};
use crate::event::ClientId;

/// What a token says.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// The client that it is for.
    pub client_id: ClientId,
    /// The user that the token names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// What it may do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<String>,
    /// What else it may do, by names that the server's configuration gives a meaning.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Where; empty for anywhere.
    #[serde(rename = "partition", skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<String>,
    /// Its own name.
    #[serde(rename = "jti", skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// Who made it.
    #[serde(rename = "iss", skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Whom it is for.
    #[serde(rename = "aud", skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// When it was made, in Unix seconds.
    #[serde(rename = "iat")]
    pub issued_at: u64,
    /// When it begins to be valid.
    #[serde(rename = "nbf", skip_serializing_if = "Option::is_none")]
    pub not_before: Option<u64>,
    /// When it ends.
    #[serde(rename = "exp")]
    pub expires_at: u64,
}

/// A key to sign tokens with, and the one algorithm that is right for it.
pub struct SigningKey {
    key: EncodingKey,
    algorithm: Algorithm,
}

impl SigningKey {
    /// A secret that the server has too (HS256).
    pub fn secret(secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeyError::ShortSecret(secret.len()));
        }
        Ok(Self { key: EncodingKey::from_secret(secret), algorithm: Algorithm::HS256 })
    }

    /// A private key in PEM; its kind tells the algorithm.
    pub fn private_key(pem: &[u8]) -> Result<Self, KeyError> {
        let rsa = || EncodingKey::from_rsa_pem(pem).map(|key| (key, Algorithm::RS256));
        let ec = || EncodingKey::from_ec_pem(pem).map(|key| (key, Algorithm::ES256));
        let ed = || EncodingKey::from_ed_pem(pem).map(|key| (key, Algorithm::EdDSA));
        let (key, algorithm) =
            rsa().or_else(|_| ec()).or_else(|_| ed()).map_err(|_| KeyError::NotAPrivateKey)?;
        let key = Self { key, algorithm };
        // A key of another curve, or the public half, is found out only when it is used.
        key.sign_any(&(), None).map_err(|_| KeyError::NotAPrivateKey)?;
        Ok(key)
    }

    /// The token, with the key's name in its head if it has one.
    pub fn sign(&self, grant: &Grant, key_id: Option<&str>) -> Result<String, KeyError> {
        self.sign_any(grant, key_id)
    }

    fn sign_any(&self, claims: &impl Serialize, key_id: Option<&str>) -> Result<String, KeyError> {
        let header = Header { kid: key_id.map(str::to_owned), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key).map_err(|error| KeyError::CannotSign(error.to_string()))
    }
}
