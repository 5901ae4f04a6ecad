//! JSON Web Tokens: what a client presents to say who it is and what it may do.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header, get_current_timestamp};
use serde::de::IgnoredAny;

use super::claims::{ClaimNames, Claims, mistyped};
use super::client_ids::ClientIds;
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
    /// Which claims say who it is and what it may do.
    pub names: ClaimNames,
    /// Claims that must be there, and the values that each may have; any, if there are none.
    pub required: BTreeMap<String, Vec<String>>,
    /// Which client ids the user may choose of a token that names no client; `None` if it must name one.
    pub client_ids: Option<ClientIds>,
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
            names: ClaimNames::default(),
            required: BTreeMap::new(),
            client_ids: None,
        }
    }
}

/// Checks tokens; the keys are given to it each time.
#[derive(Debug, Clone)]
pub struct JwtVerifier {
    rules: TokenRules,
    /// All but the algorithm, which is the key's, and the times, which may be `null` here.
    validation: Validation,
}

impl JwtVerifier {
    /// Checks by these rules.
    pub fn new(rules: TokenRules) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.algorithms = Vec::new();
        validation.validate_exp = false;
        let mut required = Vec::new();
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

    /// Checks a token with these keys, and says whose it is. Where a client says who it is (`asked`), that must be
    /// what the token says, or lets it choose.
    pub fn verify(
        &self,
        keys: &KeySet,
        asked: Option<&ClientId>,
        token: Option<&str>,
    ) -> Result<Identity, Refusal> {
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
        decode::<IgnoredAny>(token, &key.key, &validation).map_err(unread)?;
        let text = token.split('.').nth(1).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        self.identity(&Claims::parse(&text.ok_or(Refusal::Malformed)?)?, asked)
    }

    /// Whose these claims are, if they are as they must be.
    fn identity(&self, claims: &Claims, asked: Option<&ClientId>) -> Result<Identity, Refusal> {
        let Self { rules, .. } = self;
        let (expires_at, issued_at) = self.times(claims)?;
        claims.require(&rules.required)?;
        let user_id = claims.text(&rules.names.user)?.map(|(_, text)| text.to_owned());
        let permissions = claims.texts(&rules.names.permissions)?;
        let roles = claims.texts(&rules.names.roles)?;
        Ok(Identity {
            client_id: self.client(claims, user_id.as_deref(), asked)?,
            user_id,
            permissions: self.permissions(permissions, &roles),
            roles,
            claims: claims.shown(&rules.names.rules)?,
            partitions: claims.one_or_several(&rules.names.partition)?,
            expires_at,
            ends_at: expires_at.map(|exp| exp.saturating_add(rules.leeway_s)),
            token_id: claims.text(&[TOKEN_ID.to_owned()])?.map(|(_, id)| id.to_owned()),
            issued_at,
        })
    }

    /// When the token ends and was issued, if now is within its time.
    fn times(&self, claims: &Claims) -> Result<(Option<u64>, Option<u64>), Refusal> {
        let Self { rules: TokenRules { leeway_s, require_exp, lifetime_s_max, .. }, .. } = self;
        let (earliest, latest) = (
            get_current_timestamp().saturating_sub(*leeway_s),
            get_current_timestamp().saturating_add(*leeway_s),
        );
        let (exp, nbf, iat) = (claims.seconds("exp")?, claims.seconds("nbf")?, claims.seconds("iat")?);
        if *require_exp && exp.is_none() {
            return Err(Refusal::MissingClaim("exp".to_owned()));
        }
        if exp.is_some_and(|exp| exp < earliest) {
            return Err(Refusal::Expired);
        }
        if nbf.is_some_and(|nbf| nbf > latest) {
            return Err(Refusal::NotYetValid);
        }
        // Such a token would outlive the revocation of its client's tokens up to now; one in milliseconds for ever.
        if iat.is_some_and(|iat| iat > latest) {
            return Err(Refusal::IssuedInFuture);
        }
        if let Some(max) = *lifetime_s_max
            && exp.is_none_or(|exp| exp > latest.saturating_add(max))
        {
            return Err(Refusal::Lifetime { seconds_max: max });
        }
        Ok((exp, iat))
    }

    /// Which client it is: the one that the token names, or the one that its user has chosen.
    fn client(
        &self,
        claims: &Claims,
        user: Option<&str>,
        asked: Option<&ClientId>,
    ) -> Result<ClientId, Refusal> {
        let Self { rules: TokenRules { names, client_ids, .. }, .. } = self;
        let missing = |names: &[String]| Refusal::MissingClaim(names.join("` or `"));
        if let Some((claim, id)) = claims.text(&names.client)? {
            let id = ClientId::new(id).map_err(|_| mistyped(claim, "a text of 1 to 256 bytes"))?;
            return match asked {
                Some(asked) if *asked != id => Err(Refusal::OtherClient),
                _ => Ok(id),
            };
        }
        let Some(ids) = client_ids else { return Err(missing(&names.client)) };
        let user = user.filter(|user| !user.is_empty()).ok_or_else(|| missing(&names.user))?;
        match asked {
            Some(asked) if ids.permits(user, asked) => Ok(asked.clone()),
            Some(_) => Err(Refusal::OtherForm(ids.clone())),
            // Whoever asks says no client id, and needs none: an operator.
            None => ClientId::new(user)
                .map_err(|_| mistyped(&names.user.join("` or `"), "a text of 1 to 256 bytes")),
        }
    }

    /// The rules.
    pub(super) fn rules(&self) -> &TokenRules {
        &self.rules
    }

    /// What the token permits by itself, and what its roles permit. A role that nobody configured permits
    /// nothing.
    pub(super) fn permissions(&self, mut permissions: Vec<String>, roles: &[String]) -> Vec<String> {
        for permission in roles.iter().filter_map(|role| self.rules.roles.get(role)).flatten() {
            if !permissions.contains(permission) {
                permissions.push(permission.clone());
            }
        }
        permissions
    }
}

/// The claim that names a token.
const TOKEN_ID: &str = "jti";

/// What is wrong with a token, without repeating any of it.
fn unread(error: jsonwebtoken::errors::Error) -> Refusal {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
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
        JwtVerifier::new(rules()).verify(&KeySet::secret(SECRET).unwrap(), None, Some(token))
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
            (json!({ "exp": "never" }), "`exp` is not a number"),
            (json!({ "clientId": null }), "no `clientId`"),
            (json!({ "clientId": "" }), "`clientId` is not a text of 1 to 256 bytes"),
            (json!({ "clientId": 5 }), "`clientId` is not a text"),
            (json!({ "permissions": "read" }), "`permissions` is not a list of texts"),
            (json!({ "userId": [] }), "`userId` is not a text"),
            (json!({ "partition": { "a": 1 } }), "`partition` is not a text or a list"),
            (json!({ "jti": 7 }), "`jti` is not a text"),
        ];
        for (change, says) in cases {
            let refused = verified(&token(change.clone(), SECRET)).unwrap_err().to_string();
            assert!(refused.contains(says), "{change}: {refused}");
        }
        let rules = TokenRules { lifetime_s_max: Some(50), leeway_s: 2, ..rules() };
        let bounded = JwtVerifier::new(rules);
        let keys = KeySet::secret(SECRET).unwrap();
        for (exp, is_good) in [(json!(now + 50), true), (json!(now + 80), false)] {
            let verified = bounded.verify(&keys, None, Some(&token(json!({ "exp": exp }), SECRET)));
            assert_eq!(verified.is_ok(), is_good, "{exp}: {verified:?}");
        }
        assert!(verified(&token(json!({}), b"another secret of length")).is_err());
        assert!(verified("no token").is_err());
        assert!(verified("").is_err());
    }

    #[test]
    fn what_is_null_is_not_there() {
        let mut all = claims(json!({}));
        for claim in ["userId", "partition", "roles", "nbf", "iat", "jti"] {
            all[claim] = Value::Null;
        }
        let token = encode(&Header::default(), &all, &EncodingKey::from_secret(SECRET)).unwrap();
        let identity = verified(&token).unwrap();
        assert_eq!((identity.user_id, identity.partitions, identity.token_id), (None, None, None));
        all["clientId"] = Value::Null;
        let token = encode(&Header::default(), &all, &EncodingKey::from_secret(SECRET)).unwrap();
        assert_eq!(verified(&token), Err(Refusal::MissingClaim("clientId".to_owned())));
    }

    #[test]
    fn a_token_that_names_no_client_lets_its_user_choose_one() {
        let lets_choose = TokenRules { client_ids: Some("{user}:*".parse().unwrap()), ..rules() };
        let verifier = JwtVerifier::new(lets_choose);
        let keys = KeySet::secret(SECRET).unwrap();
        let chosen = |changes: Value, id: Option<&str>| {
            let id = id.map(|id| ClientId::new(id).unwrap());
            verifier.verify(&keys, id.as_ref(), Some(&token(changes, SECRET)))
        };
        let named = |id| chosen(json!({ "clientId": null }), id).map(|it| it.client_id.as_str().to_owned());
        assert_eq!(named(Some("u:phone")), Ok("u:phone".to_owned()));
        assert_eq!(named(None), Ok("u".to_owned()));
        assert!(matches!(named(Some("v:phone")), Err(Refusal::OtherForm(_))));
        let nobody = chosen(json!({ "clientId": null, "userId": null }), Some("u:phone"));
        assert_eq!(nobody, Err(Refusal::MissingClaim("userId".to_owned())));
        // One that names a client leaves no choice.
        assert_eq!(chosen(json!({}), Some("u:phone")), Err(Refusal::OtherClient));
        assert!(chosen(json!({}), Some("c")).is_ok());
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
        assert_eq!(JwtVerifier::new(rules()).verify(&keys, None, Some(&confused)), Err(Refusal::Algorithm));
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
        let verified =
            |changes| JwtVerifier::new(lax.clone()).verify(&keys, None, Some(&token(changes, SECRET)));
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
        let refused = JwtVerifier::new(short).verify(&keys, None, Some(&token(json!({}), SECRET)));
        assert_eq!(refused, Err(Refusal::TooLong { bytes_max: 100 }));
    }

    #[test]
    fn what_a_token_calls_critical_is_not_passed_over() {
        let header = Header { crit: Some(vec!["b64".into()]), ..Header::default() };
        let token = encode(&header, &claims(json!({})), &EncodingKey::from_secret(SECRET)).unwrap();
        assert_eq!(verified(&token), Err(Refusal::Critical));
    }

    #[test]
    fn a_key_that_could_not_verify_anything_is_none() {
        let of_another_curve = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let refused = KeySet::public_key(of_another_curve.public_key_pem().as_bytes()).unwrap_err();
        assert_eq!(refused, KeyError::CannotVerify);
        let good = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        assert_eq!(KeySet::public_key(good.public_key_pem().as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn a_key_that_is_none_is_told() {
        assert_eq!(KeySet::secret(b"short").unwrap_err(), KeyError::ShortSecret(5));
        assert_eq!(KeySet::public_key(b"hello").unwrap_err(), KeyError::NotAPublicKey);
        let private = b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
        assert_eq!(KeySet::public_key(private).unwrap_err(), KeyError::PrivateKey);
    }
}
