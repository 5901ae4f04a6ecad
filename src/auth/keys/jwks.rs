//! Key sets as issuers publish them (JWKS, RFC 7517): which of their keys are for checking tokens.
//!
//! A set may hold keys for other uses, and of kinds that we do not know; those are passed over. Each key that
//! is taken is bound to the one algorithm of its kind, whatever the set says of others.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::{Key, KeyError, KeySet, SECRET_BYTES_MIN};

/// The most keys of a set: issuers have a handful.
const KEYS_MAX: usize = 100;

/// Whether a set may hold secrets: one that is published may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secrets {
    Allowed,
    Refused,
}

/// Reads a set. Fails when no key of it can be used.
pub(crate) fn parse(text: &[u8], secrets: Secrets) -> Result<KeySet, KeyError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(text).map_err(|error| KeyError::NotAKeySet(error.to_string()))?;
    if set.keys.len() > KEYS_MAX {
        return Err(KeyError::NotAKeySet(format!(
            "{} keys, where at most {KEYS_MAX} are taken",
            set.keys.len()
        )));
    }
    let (mut keys, mut passed_over) = (Vec::<Key>::new(), Vec::new());
    for (at, value) in set.keys.into_iter().enumerate() {
        let name = value.get("kid").and_then(Value::as_str).map_or_else(
            || format!("key {at}"),
            |id| format!("key {:?}", id.chars().take(64).collect::<String>()),
        );
        match key(value, secrets) {
            Ok(key) if keys.iter().any(|other| other.id == key.id && other.algorithm == key.algorithm) => {
                let what = if key.id.is_some() { "is there twice" } else { "and another have no `kid`" };
                return Err(KeyError::NotAKeySet(format!("{name} {what}")));
            }
            Ok(key) => keys.push(key),
            Err(why) => passed_over.push(format!("{name}: {why}")),
        }
    }
    match keys.is_empty() {
        true if passed_over.is_empty() => Err(KeyError::NotAKeySet("it is empty".to_owned())),
        true => Err(KeyError::NoneUsable(passed_over.join("; "))),
        false => Ok(KeySet { keys, passed_over }),
    }
}

fn key(value: Value, secrets: Secrets) -> Result<Key, String> {
    let (id, algorithm, key) = read(value, secrets)?;
    Key::new(id, algorithm, key).map_err(|error| error.to_string())
}

/// What the set says of a key: its name, its algorithm, and the key itself.
fn read(value: Value, secrets: Secrets) -> Result<(Option<String>, Algorithm, DecodingKey), &'static str> {
    let jwk: Jwk = serde_json::from_value(value).map_err(|_| "it cannot be read")?;
    let common = &jwk.common;
    if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return Err("it is for another use");
    }
    if common.key_operations.as_ref().is_some_and(|may| !may.contains(&KeyOperations::Verify)) {
        return Err("it is for other operations");
    }
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::OctetKey(_) if secrets == Secrets::Refused => {
            return Err("a secret has no place in a set that is published");
        }
        AlgorithmParameters::OctetKey(secret) => {
            let secret = URL_SAFE_NO_PAD.decode(&secret.value).map_err(|_| "it cannot be read")?;
            if secret.len() < SECRET_BYTES_MIN {
                return Err("the secret is too short");
            }
            (Algorithm::HS256, KeyAlgorithm::HS256)
        }
        _ => return Err("it is of a kind or curve that is not used here"),
    };
    if common.key_algorithm.is_some_and(|said| said != named) {
        return Err("it is for an algorithm that is not used here");
    }
    let key = DecodingKey::from_jwk(&jwk).map_err(|_| "it cannot be read")?;
    Ok((jwk.common.key_id, algorithm, key))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const X: &str = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4";
    const Y: &str = "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM";
    const ED_X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn ec(changes: Value) -> Value {
        let mut key = json!({ "kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": "k" });
        key.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        key
    }

    fn parsed(keys: Value, secrets: Secrets) -> Result<KeySet, KeyError> {
        parse(json!({ "keys": keys, "more": 1 }).to_string().as_bytes(), secrets)
    }

    #[test]
    fn keys_of_other_uses_and_kinds_are_passed_over() {
        let rsa = |bytes: usize| json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(vec![0xc5; bytes]), "e": "AQAB", "kid": "r" });
        let secret = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode([7; 32]) });
        let passed_over = [
            ec(json!({ "use": "enc" })),
            ec(json!({ "key_ops": ["sign"] })),
            ec(json!({ "alg": "ES384" })),
            ec(json!({ "alg": "RS256" })),
            ec(json!({ "alg": "HS256" })),
            ec(json!({ "alg": "whatever" })),
            ec(json!({ "crv": "P-384" })),
            ec(json!({ "x": null })),
            rsa(128),
            // Longer than signatures are checked with.
            rsa(1024),
            // Not on the curve, and too short to be a key at all.
            ec(json!({ "x": Y, "y": X })),
            ec(json!({ "x": "AAAA" })),
            json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([9; 31]) }),
            json!({ "kty": "OKP", "crv": "Ed25519", "x": "" }),
            secret.clone(),
            json!({ "kty": "new", "kid": "n" }),
            json!({ "kid": "n" }),
            json!(5),
        ];
        let good =
            [ec(json!({})), rsa(256), json!({ "kty": "OKP", "crv": "Ed25519", "x": ED_X, "use": "sig" })];
        let all: Vec<Value> = passed_over.iter().chain(&good).cloned().collect();
        let set = parsed(all.into(), Secrets::Refused).unwrap();
        assert_eq!(set.len(), good.len());
        assert_eq!(set.passed_over.len(), passed_over.len());
        for one in &passed_over {
            let error = parsed(json!([one]), Secrets::Refused).unwrap_err();
            assert!(matches!(error, KeyError::NoneUsable(_)), "{one}: {error}");
        }
        assert_eq!(parsed(json!([secret]), Secrets::Allowed).unwrap().len(), 1);
        assert!(parsed(json!([{ "kty": "oct", "k": "c2hvcnQ" }]), Secrets::Allowed).is_err());
    }

    #[test]
    fn what_is_no_set_is_told() {
        for bad in ["", "[]", "{}", "<html>", r#"{"keys":{}}"#, r#"{"keys":[]}"#] {
            assert!(matches!(parse(bad.as_bytes(), Secrets::Refused), Err(KeyError::NotAKeySet(_))), "{bad}");
        }
        let twice = parsed(json!([ec(json!({})), ec(json!({}))]), Secrets::Refused).unwrap_err().to_string();
        assert!(twice.contains("\"k\" is there twice"), "{twice}");
        let many = vec![ec(json!({})); KEYS_MAX + 1];
        assert!(parsed(many.into(), Secrets::Refused).unwrap_err().to_string().contains("101 keys"));
    }
}
