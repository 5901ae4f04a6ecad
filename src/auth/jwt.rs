//! JSON Web Tokens: what a client presents to say who it is and what it may do.

use std::collections::BTreeMap;

use jsonwebtoken::{Algorithm, Validation, decode, decode_header, get_current_timestamp};
use serde::Deserialize;

use super::identity::Identity;
use super::keys::{KeySet, NoKey};
use super::refusal::Refusal;
use crate::event::ClientId;

/// What a token must be besides well signed, and what its roles mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRules {
    /// The issuer (`iss`), where one is asked for.
    pub issuer: Option<String>,
    /// The audience (`aud`), where one is asked for.
    pub audience: Option<String>,
    /// How far clocks may be apart, in seconds.
    pub leeway_s: u64,
    /// Whether a token must end some time.
    pub require_exp: bool,
    /// How long a token may still have to live at most, in seconds; `None` for any time.
    pub lifetime_s_max: Option<u64>,
    /// The longest token that is looked at, in bytes.
    pub token_bytes_max: usize,
    /// What each role permits.
    pub roles: BTreeMap<String, Vec<String>>,
}

#[cfg(test)]
impl Default for TokenRules {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: None,
            leeway_s: 0,
            require_exp: true,
            lifetime_s_max: None,
            token_bytes_max: 8 * 1024,
            roles: BTreeMap::new(),
        }
    }
}

/// Checks tokens; the keys are given to it each time.
#[derive(Debug, Clone)]
pub struct JwtVerifier {
    rules: TokenRules,
    /// All but the algorithm, which is the key's.
    validation: Validation,
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
    roles: Vec<String>,
    #[serde(default)]
    partition: Option<Partitions>,
    /// That it is there and has not passed is checked beforehand, with what is said of it then.
    #[serde(default)]
    exp: Option<serde_json::Number>,
    #[serde(default)]
    iat: Option<serde_json::Number>,
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
    /// Checks by these rules.
    pub fn new(rules: TokenRules) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.algorithms = Vec::new();
        validation.leeway = rules.leeway_s;
        validation.validate_nbf = true;
        let mut required = Vec::new();
        if rules.require_exp {
            required.push("exp");
        }
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
        Self { rules, validation }
    }

    /// How far clocks may be apart, in seconds.
    pub fn leeway_s(&self) -> u64 {
        self.rules.leeway_s
    }

    /// The longest token that is looked at, in bytes.
    pub fn token_bytes_max(&self) -> usize {
        self.rules.token_bytes_max
    }

    /// Checks a token with these keys, and says whose it is.
    pub fn verify(&self, keys: &KeySet, token: Option<&str>) -> Result<Identity, Refusal> {
        let token = token.filter(|token| !token.is_empty()).ok_or(Refusal::Missing)?;
        if token.len() > self.rules.token_bytes_max {
            return Err(Refusal::TooLong { bytes_max: self.rules.token_bytes_max });
        }
        let header = decode_header(token).map_err(unread)?;
        if header.crit.is_some() {
            return Err(Refusal::Critical);
        }
        let key = keys.find(&header).map_err(|none| match none {
            NoKey::Unknown => Refusal::UnknownKey,
            NoKey::Algorithm => Refusal::Algorithm,
            NoKey::Unnamed => Refusal::UnnamedKey,
        })?;
        let mut validation = self.validation.clone();
        validation.algorithms = vec![key.algorithm];
        let claims: Claims = decode(token, &key.key, &validation).map_err(unread)?.claims;
        let expires_at = claims.exp.as_ref().and_then(whole_seconds);
        let issued_at = claims.iat.as_ref().and_then(whole_seconds);
        // Such a token would outlive the revocation of its client's tokens up to now; one in milliseconds for ever.
        if issued_at.is_some_and(|at| at > get_current_timestamp().saturating_add(self.rules.leeway_s)) {
            return Err(Refusal::IssuedInFuture);
        }
        if let Some(max) = self.rules.lifetime_s_max {
            let latest = get_current_timestamp().saturating_add(max).saturating_add(self.rules.leeway_s);
            if expires_at.is_none_or(|exp| exp > latest) {
                return Err(Refusal::Lifetime { seconds_max: max });
            }
        }
        Ok(Identity {
            client_id: claims.client_id,
            user_id: claims.user_id,
            permissions: self.permissions(claims.permissions, &claims.roles),
            roles: claims.roles,
            partitions: claims.partition.map(|partitions| match partitions {
                Partitions::One(one) => vec![one],
                Partitions::Several(several) => several,
            }),
            expires_at,
            ends_at: expires_at.map(|exp| exp.saturating_add(self.rules.leeway_s)),
            token_id: claims.token_id,
            issued_at,
        })
    }

    /// What the token permits by itself, and what its roles permit. A role that nobody configured permits
    /// nothing.
    fn permissions(&self, mut permissions: Vec<String>, roles: &[String]) -> Vec<String> {
        for permission in roles.iter().filter_map(|role| self.rules.roles.get(role)).flatten() {
            if !permissions.contains(permission) {
                permissions.push(permission.clone());
            }
        }
        permissions
    }
}

/// A time as JWT has them: a number of seconds, which may have a fraction.
fn whole_seconds(time: &serde_json::Number) -> Option<u64> {
    time.as_u64().or_else(|| time.as_f64().map(|seconds| seconds as u64))
}

/// What is wrong with a token, without repeating any of it.
fn unread(error: jsonwebtoken::errors::Error) -> Refusal {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::ExpiredSignature => Refusal::Expired,
        ErrorKind::ImmatureSignature => Refusal::NotYetValid,
        ErrorKind::InvalidAudience => Refusal::Audience,
        ErrorKind::InvalidIssuer => Refusal::Issuer,
        ErrorKind::InvalidSignature => Refusal::Signature,
        ErrorKind::MissingRequiredClaim(claim) => Refusal::MissingClaim(claim.clone()),
        _ => Refusal::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    use super::super::keys::KeyError;
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

    fn rules() -> TokenRules {
        let roles = [("writer".to_owned(), vec!["read".to_owned(), "set:r.*".to_owned()])];
        TokenRules {
            issuer: Some("us".into()),
            audience: Some("them".into()),
            roles: roles.into(),
            ..TokenRules::default()
        }
    }

    fn verified(token: &str) -> Result<Identity, Refusal> {
        JwtVerifier::new(rules()).verify(&KeySet::secret(SECRET).unwrap(), Some(token))
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
            (json!({ "iat": now + 60 }), "issued in the future"),
            (json!({ "iat": now * 1000 }), "issued in the future"),
            (json!({ "iat": 1e300 }), "issued in the future"),
            (json!({ "iss": "others" }), "issuer"),
            (json!({ "aud": "others" }), "audience"),
            (json!({ "aud": null }), "no `aud`"),
            (json!({ "clientId": null }), "cannot be read"),
            (json!({ "clientId": "" }), "cannot be read"),
            (json!({ "permissions": "read" }), "cannot be read"),
        ];
        for (change, says) in cases {
            let refused = verified(&token(change.clone(), SECRET)).unwrap_err().to_string();
            assert!(refused.contains(says), "{change}: {refused}");
        }
        let rules = TokenRules { lifetime_s_max: Some(50), leeway_s: 2, ..rules() };
        let bounded = JwtVerifier::new(rules);
        let keys = KeySet::secret(SECRET).unwrap();
        for (exp, is_good) in [(json!(now + 50), true), (json!(now + 80), false)] {
            let verified = bounded.verify(&keys, Some(&token(json!({ "exp": exp }), SECRET)));
            assert_eq!(verified.is_ok(), is_good, "{exp}: {verified:?}");
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
        let keys = KeySet::public_key(pem).unwrap();
        let confused = token(json!({}), pem);
        assert_eq!(JwtVerifier::new(rules()).verify(&keys, Some(&confused)), Err(Refusal::Algorithm));
    }

    #[test]
    fn a_role_permits_what_the_configuration_says() {
        let identity = verified(&token(json!({ "roles": ["writer", "nobody"] }), SECRET)).unwrap();
        assert_eq!(identity.permissions, ["read", "set:a.*", "set:r.*"]);
        let only = json!({ "permissions": null, "roles": ["writer"] });
        assert_eq!(verified(&token(only, SECRET)).unwrap().permissions, ["read", "set:r.*"]);
        let unknown = json!({ "permissions": null, "roles": ["nobody", "*", "read"] });
        assert!(verified(&token(unknown, SECRET)).unwrap().permissions.is_empty());
    }

    #[test]
    fn an_end_is_asked_for_unless_that_is_switched_off_and_may_have_a_fraction() {
        let lax = TokenRules { require_exp: false, leeway_s: 7, ..rules() };
        let keys = KeySet::secret(SECRET).unwrap();
        let verified = |changes| JwtVerifier::new(lax.clone()).verify(&keys, Some(&token(changes, SECRET)));
        let endless = verified(json!({ "exp": null })).unwrap();
        assert_eq!((endless.expires_at, endless.ends_at), (None, None));
        let fraction = verified(json!({ "exp": 4_000_000_000.5 })).unwrap();
        assert_eq!((fraction.expires_at, fraction.ends_at), (Some(4_000_000_000), Some(4_000_000_007)));
        let now = get_current_timestamp();
        assert_eq!(verified(json!({ "exp": now - 30 })), Err(Refusal::Expired));
        assert!(verified(json!({ "exp": now - 3, "nbf": now + 3 })).is_ok());
    }

    #[test]
    fn a_token_that_is_too_long_is_not_looked_at() {
        let short = TokenRules { token_bytes_max: 100, ..rules() };
        let keys = KeySet::secret(SECRET).unwrap();
        let refused = JwtVerifier::new(short).verify(&keys, Some(&token(json!({}), SECRET)));
        assert_eq!(refused, Err(Refusal::TooLong { bytes_max: 100 }));
    }

    #[test]
    fn what_a_token_calls_critical_is_not_passed_over() {
        let header = Header { crit: Some(vec!["b64".into()]), ..Header::default() };
        let token = encode(&header, &claims(json!({})), &EncodingKey::from_secret(SECRET)).unwrap();
        assert_eq!(verified(&token), Err(Refusal::Critical));
    }

    #[test]
    fn a_key_that_is_none_is_told() {
        assert_eq!(KeySet::secret(b"short").unwrap_err(), KeyError::ShortSecret(5));
        assert_eq!(KeySet::public_key(b"hello").unwrap_err(), KeyError::NotAPublicKey);
        let private = b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
        assert_eq!(KeySet::public_key(private).unwrap_err(), KeyError::PrivateKey);
    }
}
