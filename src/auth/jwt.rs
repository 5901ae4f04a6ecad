//! JSON Web Tokens: what a client presents to say who it is and what it may do.
//!
//! One key, and only the algorithms that are right for its kind: a token cannot choose how it is checked.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

use super::identity::{AuthError, Identity};
use crate::event::ClientId;

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A secret that could be guessed.
    #[error("a secret has at least {SECRET_BYTES_MIN} bytes, this one has {0}")]
    ShortSecret(usize),
    /// Not a public key in PEM.
    #[error("not a public key in PEM of RSA (RS256), of the curve P-256 (ES256) or Ed25519 (EdDSA)")]
    NotAPublicKey,
}

/// The shortest secret that is taken, in bytes.
pub const SECRET_BYTES_MIN: usize = 16;

/// What a token must be besides well signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenRules {
    /// The issuer (`iss`), where one is asked for.
    pub issuer: Option<String>,
    /// The audience (`aud`), where one is asked for.
    pub audience: Option<String>,
    /// How far clocks may be apart, in seconds.
    pub leeway_s: u64,
}

/// Checks tokens with one key.
#[derive(Clone)]
pub struct JwtVerifier {
    key: DecodingKey,
    validation: Validation,
    leeway_s: u64,
}

impl std::fmt::Debug for JwtVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtVerifier").field("algorithms", &self.validation.algorithms).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    client_id: ClientId,
    #[serde(default)]
    user_id: Option<String>,
    #[serde(default)]
    permissions: Vec<String>,
    #[serde(default)]
    partition: Option<Partitions>,
    /// That it is there and has not passed is checked beforehand, with what is said of it then.
    #[serde(default)]
    exp: Option<u64>,
    #[serde(default, rename = "jti")]
    token_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Partitions {
    One(String),
    Several(Vec<String>),
}

impl JwtVerifier {
    /// With a secret that the issuer has too (HS256).
    pub fn with_secret(secret: &[u8], rules: &TokenRules) -> Result<Self, KeyError> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeyError::ShortSecret(secret.len()));
        }
        Ok(Self::new(DecodingKey::from_secret(secret), Algorithm::HS256, rules))
    }

    /// With the issuer's public key in PEM; the kind of key tells the algorithm.
    pub fn with_public_key(pem: &[u8], rules: &TokenRules) -> Result<Self, KeyError> {
        let rsa = || DecodingKey::from_rsa_pem(pem).map(|key| (key, Algorithm::RS256));
        let ec = || DecodingKey::from_ec_pem(pem).map(|key| (key, Algorithm::ES256));
        let ed = || DecodingKey::from_ed_pem(pem).map(|key| (key, Algorithm::EdDSA));
        let (key, algorithm) =
            rsa().or_else(|_| ec()).or_else(|_| ed()).map_err(|_| KeyError::NotAPublicKey)?;
        Ok(Self::new(key, algorithm, rules))
    }

    fn new(key: DecodingKey, algorithm: Algorithm, rules: &TokenRules) -> Self {
        let mut validation = Validation::new(algorithm);
        validation.leeway = rules.leeway_s;
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        validation.validate_aud = rules.audience.is_some();
        if let Some(audience) = &rules.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        if let Some(issuer) = &rules.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        Self { key, validation, leeway_s: rules.leeway_s }
    }

    /// Checks a token of a client that says it is `client_id`.
    pub fn verify(&self, client_id: &ClientId, token: Option<&str>) -> Result<Identity, AuthError> {
        let token = token.ok_or_else(|| AuthError("a token is needed, and there is none".to_owned()))?;
        let header = decode_header(token).map_err(refused)?;
        if !self.validation.algorithms.contains(&header.alg) {
            return Err(AuthError(format!("the token's algorithm, {:?}, is not the key's", header.alg)));
        }
        let claims: Claims = decode(token, &self.key, &self.validation).map_err(refused)?.claims;
        if claims.client_id != *client_id {
            return Err(AuthError("the token is another client's".to_owned()));
        }
        Ok(Identity {
            client_id: claims.client_id,
            user_id: claims.user_id,
            permissions: claims.permissions,
            partitions: claims.partition.map(|partitions| match partitions {
                Partitions::One(one) => vec![one],
                Partitions::Several(several) => several,
            }),
            expires_at: claims.exp.map(|exp| exp.saturating_add(self.leeway_s)),
            token_id: claims.token_id,
        })
    }
}

/// What is wrong with a token, without repeating any of it.
fn refused(error: jsonwebtoken::errors::Error) -> AuthError {
    use jsonwebtoken::errors::ErrorKind;
    AuthError(match error.kind() {
        ErrorKind::ExpiredSignature => "the token has expired".to_owned(),
        ErrorKind::ImmatureSignature => "the token is not valid yet".to_owned(),
        ErrorKind::InvalidAudience => "the token is for another audience".to_owned(),
        ErrorKind::InvalidIssuer => "the token is of another issuer".to_owned(),
        ErrorKind::InvalidSignature => "the token's signature is wrong".to_owned(),
        ErrorKind::MissingRequiredClaim(claim) => format!("the token has no `{claim}`"),
        _ => "the token cannot be read".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &[u8] = b"a secret of some length";

    fn claims(changes: Value) -> Value {
        let now = get_current_timestamp();
        let mut claims = json!({
            "clientId": "c", "userId": "u", "permissions": ["read", "set:a.*"], "partition": ["p", "team-*"],
            "exp": now + 60, "iss": "us", "aud": "them", "jti": "t-1",
        });
        for (key, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(key)),
                value => claims[key] = value.clone(),
            }
        }
        claims
    }

    fn token(changes: Value, secret: &[u8]) -> String {
        encode(&Header::default(), &claims(changes), &EncodingKey::from_secret(secret)).unwrap()
    }

    fn verified(token: &str) -> Result<Identity, AuthError> {
        let rules = TokenRules { issuer: Some("us".into()), audience: Some("them".into()), leeway_s: 0 };
        let verifier = JwtVerifier::with_secret(SECRET, &rules).unwrap();
        verifier.verify(&ClientId::new("c").unwrap(), Some(token))
    }

    #[test]
    fn a_good_token_says_who_and_what_and_where() {
        let identity = verified(&token(json!({}), SECRET)).unwrap();
        assert_eq!((identity.client_id.as_str(), identity.user_id.as_deref()), ("c", Some("u")));
        assert_eq!(identity.token_id.as_deref(), Some("t-1"));
        assert!(identity.may_read());
        assert!(identity.may_enter("p") && identity.may_enter("team-7") && !identity.may_enter("pp"));
        let anywhere = verified(&token(json!({ "partition": null }), SECRET)).unwrap();
        assert!(anywhere.may_enter("anything"));
        let one = verified(&token(json!({ "partition": "q" }), SECRET)).unwrap();
        assert!(one.may_enter("q") && !one.may_enter("p"));
    }

    #[test]
    fn every_other_token_is_refused_for_what_is_wrong_with_it() {
        let now = get_current_timestamp();
        let cases = [
            (json!({ "exp": now - 5 }), "expired"),
            (json!({ "exp": null }), "no `exp`"),
            (json!({ "nbf": now + 60 }), "not valid yet"),
            (json!({ "iss": "others" }), "issuer"),
            (json!({ "aud": "others" }), "audience"),
            (json!({ "aud": null }), "no `aud`"),
            (json!({ "clientId": "d" }), "another client's"),
            (json!({ "clientId": null }), "cannot be read"),
            (json!({ "clientId": "" }), "cannot be read"),
            (json!({ "permissions": "read" }), "cannot be read"),
        ];
        for (change, says) in cases {
            let refused = verified(&token(change.clone(), SECRET)).unwrap_err().0;
            assert!(refused.contains(says), "{change}: {refused}");
        }
        assert!(verified(&token(json!({}), b"another secret of length")).is_err());
        assert!(verified("no token").is_err());
        assert!(verified("").is_err());
    }

    #[test]
    fn a_token_does_not_choose_how_it_is_checked() {
        let (header, payload) = {
            let good = token(json!({}), SECRET);
            let mut parts = good.split('.').map(str::to_owned);
            (parts.next().unwrap(), parts.next().unwrap())
        };
        assert_ne!(header, payload);
        // {"alg":"none","typ":"JWT"}
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
        assert!(verified(&unsigned).is_err());

        // The public key, taken for a secret.
        let pem = b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        let verifier = JwtVerifier::with_public_key(pem, &TokenRules::default()).unwrap();
        let confused = token(json!({}), pem);
        let refused = verifier.verify(&ClientId::new("c").unwrap(), Some(&confused)).unwrap_err();
        assert!(refused.0.contains("algorithm"), "{refused}");
    }

    #[test]
    fn a_key_that_is_none_is_told() {
        let rules = TokenRules::default();
        assert_eq!(JwtVerifier::with_secret(b"short", &rules).unwrap_err(), KeyError::ShortSecret(5));
        assert_eq!(JwtVerifier::with_public_key(b"hello", &rules).unwrap_err(), KeyError::NotAPublicKey);
    }
}
