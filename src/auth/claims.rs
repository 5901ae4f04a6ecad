//! A token's claims, and where among them stands what we want to know: identity providers have names of their own
//! for it, so the configuration says which claim is which. Pure. An error names the claim and never what it holds.

use std::collections::BTreeMap;

use super::refusal::Refusal;
use crate::json::{Json, Map};

/// Which claims say what. Each is a list of names; `Claims::find` says what a name can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimNames {
    /// The client id; of several, the first that is there.
    pub client: Vec<String>,
    /// The user id; of several, the first that is there.
    pub user: Vec<String>,
    /// Permissions; of several, all.
    pub permissions: Vec<String>,
    /// Roles; of several, all.
    pub roles: Vec<String>,
    /// Partitions; of several, the first that is there.
    pub partition: Vec<String>,
    /// What an application's rules are shown besides, each under the name that it has here.
    pub rules: Vec<String>,
}

impl Default for ClaimNames {
    fn default() -> Self {
        let one = |name: &str| vec![name.to_owned()];
        Self {
            client: one("clientId"),
            user: one("userId"),
            permissions: one(PERMISSIONS),
            roles: one(ROLES),
            partition: one("partition"),
            rules: Vec::new(),
        }
    }
}

/// These are lists wherever they stand at the top. Under any other name a text is taken too, with spaces between its
/// parts, as `scope` is.
const PERMISSIONS: &str = "permissions";
const ROLES: &str = "roles";

/// The claims of a token that is well signed.
#[derive(Debug)]
pub(super) struct Claims(Json);

impl Claims {
    /// Reads a token's claims. Users can put what they like into some of them, so they are read with care, as what clients
    /// write is; and of two claims of one name somebody else may believe the other.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let mut twice = None;
        match Json::parse_noting(text, &mut twice) {
            Ok(claims) if twice.is_none() && claims.as_object().is_some() => Ok(Self(claims)),
            _ => Err(Refusal::Malformed),
        }
    }

    /// The claim of this name; one that is `null` is not there.
    ///
    /// A name is a claim's own, whatever characters it has (`https://app.example/roles`), or a path with dots into
    /// objects (`realm_access.roles`). A claim of the whole name comes first, and an object of a longer name before
    /// one of a shorter.
    pub(super) fn find(&self, name: &str) -> Option<&Json> {
        find(self.0.as_object()?, name)
    }

    /// The first of these that is there, and its name.
    fn first<'a>(&self, names: &'a [String]) -> Option<(&'a str, &Json)> {
        names.iter().find_map(|name| self.find(name).map(|value| (name.as_str(), value)))
    }

    /// The text that the first of these holds, and its name.
    pub(super) fn text<'a>(&self, names: &'a [String]) -> Result<Option<(&'a str, &str)>, Refusal> {
        match self.first(names) {
            None => Ok(None),
            Some((name, Json::String(text))) => Ok(Some((name, text))),
            Some((name, _)) => Err(mistyped(name, "a text")),
        }
    }

    /// The text or texts that the first of these holds.
    pub(super) fn one_or_several(&self, names: &[String]) -> Result<Option<Vec<String>>, Refusal> {
        match self.first(names) {
            None => Ok(None),
            Some((_, Json::String(text))) => Ok(Some(vec![text.to_string()])),
            Some((name, value)) => {
                list(value).map(Some).ok_or_else(|| mistyped(name, "a text or a list of texts"))
            }
        }
    }

    /// The texts that all of these hold.
    pub(super) fn texts(&self, names: &[String]) -> Result<Vec<String>, Refusal> {
        let mut all = Vec::new();
        for name in names {
            let texts = match self.find(name) {
                None => continue,
                Some(Json::String(text)) if name != PERMISSIONS && name != ROLES => {
                    text.split_ascii_whitespace().map(str::to_owned).collect()
                }
                Some(value) => list(value).ok_or_else(|| mistyped(name, "a list of texts"))?,
            };
            all.extend(texts);
        }
        Ok(all)
    }

    /// Those of these that are there, as a JSON object of them.
    pub(super) fn shown(&self, names: &[String]) -> Result<Option<String>, Refusal> {
        let mut shown = Map::new();
        for name in names {
            if let Some(value) = self.find(name) {
                shown.insert(name.as_str().into(), value.clone());
            }
        }
        if shown.is_empty() { Ok(None) } else { shown_text(&Json::Object(shown)).map(Some) }
    }

    /// All of them, as they are.
    pub(super) fn all_shown(&self) -> Result<String, Refusal> {
        shown_text(&self.0)
    }

    /// A time in Unix seconds, without its fraction; one before 1970 is 1970.
    pub(super) fn seconds(&self, name: &str) -> Result<Option<u64>, Refusal> {
        match self.find(name) {
            None => Ok(None),
            // What is before 1970 becomes 0, and what is too large the largest number.
            Some(Json::Number(time)) => Ok(Some(*time as u64)),
            Some(_) => Err(mistyped(name, "a number of seconds")),
        }
    }

    /// Checks that each of these claims holds one of the values that it may hold, or, where there are none, is there.
    pub(super) fn require(&self, required: &BTreeMap<String, Vec<String>>) -> Result<(), Refusal> {
        for (name, wanted) in required {
            let value = self.find(name).ok_or_else(|| Refusal::MissingClaim(name.clone()))?;
            let is_wanted = |value: &Json| match value {
                Json::String(text) => wanted.iter().any(|one| **one == **text),
                Json::Bool(is) => wanted.contains(&is.to_string()),
                Json::Number(number) => wanted.contains(&number.to_string()),
                _ => false,
            };
            let holds = match value {
                Json::Array(values) => values.iter().any(is_wanted),
                value => is_wanted(value),
            };
            if !wanted.is_empty() && !holds {
                return Err(Refusal::OtherClaim(name.clone()));
            }
        }
        Ok(())
    }
}

/// The most bytes of claims that an application's rules are shown: every draft brings them along.
const SHOWN_BYTES_MAX: usize = 4 * 1024;

/// Claims as they are handed on to an application's rules.
fn shown_text(claims: &Json) -> Result<String, Refusal> {
    let text = String::from_utf8(claims.canonical()).map_err(|_| Refusal::Malformed)?;
    match text.len() <= SHOWN_BYTES_MAX {
        true => Ok(text),
        false => Err(Refusal::ClaimsTooLarge { bytes_max: SHOWN_BYTES_MAX }),
    }
}

fn find<'a>(claims: &'a Map, name: &str) -> Option<&'a Json> {
    if let Some(value) = claims.get(name) {
        return (!matches!(value, Json::Null)).then_some(value);
    }
    let inner = name.rmatch_indices('.').find_map(|(at, _)| match claims.get(&name[..at]) {
        Some(Json::Object(inner)) => Some((inner, &name[at + 1..])),
        _ => None,
    });
    inner.and_then(|(inner, rest)| find(inner, rest))
}

fn list(value: &Json) -> Option<Vec<String>> {
    let Json::Array(items) = value else { return None };
    items.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

/// What is said of a claim that holds something else than it must.
pub(super) fn mistyped(claim: &str, must_be: &'static str) -> Refusal {
    Refusal::MistypedClaim { claim: claim.to_owned(), must_be }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claims(value: Value) -> Claims {
        Claims::parse(value.to_string().as_bytes()).unwrap()
    }

    fn number(json: &Json) -> Option<u64> {
        match json {
            Json::Number(number) => Some(*number as u64),
            _ => None,
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_name_is_a_claims_own_or_a_path() {
        let claims = claims(json!({
            "a": { "b": 1, "c": { "d": 2 }, "n": null }, "a.c": { "d": 3 }, "a.b": 4,
            "https://x.example/roles": 5, "https://x.example/app": { "roles": 6 }, "n": null, "t": "text",
        }));
        let cases = [
            ("a.b", Some(4)),
            ("a.c.d", Some(3)),
            ("https://x.example/roles", Some(5)),
            ("https://x.example/app.roles", Some(6)),
            ("a.n", None),
            ("n", None),
            ("n.a", None),
            ("t.a", None),
            ("a.c.e", None),
            (".", None),
            ("", None),
            ("a.", None),
        ];
        for (name, found) in cases {
            assert_eq!(claims.find(name).and_then(number), found, "{name}");
        }
    }

    #[test]
    fn of_several_names_lists_are_put_together_and_of_others_the_first_counts() {
        let claims =
            claims(json!({ "scope": "a  b", "roles": ["c"], "x": { "y": ["d"] }, "u": null, "sub": "s" }));
        assert_eq!(claims.texts(&names(&["scope", "no", "roles", "x.y"])).unwrap(), ["a", "b", "c", "d"]);
        assert_eq!(claims.text(&names(&["u", "sub", "roles"])).unwrap(), Some(("sub", "s")));
        assert_eq!(claims.one_or_several(&names(&["sub"])).unwrap(), Some(vec!["s".to_owned()]));
        assert_eq!(claims.one_or_several(&names(&["roles"])).unwrap(), Some(vec!["c".to_owned()]));
        assert_eq!(claims.one_or_several(&names(&["u"])).unwrap(), None);
    }

    #[test]
    fn what_is_of_another_kind_is_named() {
        let claims = claims(json!({ "permissions": "a", "roles": [1], "user": 5, "scope": {}, "exp": "x" }));
        let said = |refusal: Refusal| refusal.to_string();
        for name in ["permissions", "roles", "scope"] {
            let refused = said(claims.texts(&names(&[name])).unwrap_err());
            assert_eq!(refused, format!("the token's `{name}` is not a list of texts"));
        }
        assert!(said(claims.text(&names(&["user"])).unwrap_err()).contains("`user` is not a text"));
        assert!(said(claims.seconds("exp").unwrap_err()).contains("`exp` is not a number"));
        assert!(said(claims.one_or_several(&names(&["user"])).unwrap_err()).contains("`user`"));
    }

    #[test]
    fn a_claim_that_is_required_holds_one_of_its_values() {
        let claims = claims(json!({ "a": "x", "b": ["y", "z"], "c": true, "d": null }));
        let require =
            |name: &str, wanted: &[&str]| claims.require(&[(name.to_owned(), names(wanted))].into());
        for (name, wanted) in [("a", &["w", "x"][..]), ("b", &["z"]), ("c", &["true"]), ("a", &[])] {
            assert_eq!(require(name, wanted), Ok(()), "{name}");
        }
        for (name, wanted) in [("a", &["y"][..]), ("b", &["x"]), ("c", &["false"])] {
            assert_eq!(require(name, wanted), Err(Refusal::OtherClaim(name.to_owned())));
        }
        for name in ["d", "e"] {
            assert_eq!(require(name, &[]), Err(Refusal::MissingClaim(name.to_owned())));
        }
    }

    #[test]
    fn rules_are_shown_the_claims_that_are_named_and_no_others() {
        let claims = claims(json!({ "boards": ["b"], "app": { "plan": "p" }, "secret": 1, "none": null }));
        let shown = |names: &[&str]| claims.shown(&self::names(names));
        assert_eq!(shown(&["none", "no"]), Ok(None));
        let text = r#"{"app.plan":"p","boards":["b"]}"#.to_owned();
        assert_eq!(shown(&["boards", "app.plan", "none"]), Ok(Some(text)));
        let large = self::claims(json!({ "a": "x".repeat(SHOWN_BYTES_MAX) }));
        let refused = large.shown(&self::names(&["a"])).unwrap_err();
        assert!(refused.to_string().contains("auth.rules_claims"), "{refused}");
    }

    #[test]
    fn claims_that_could_mean_two_things_or_end_the_process_are_not_read() {
        let deep = "[".repeat(100_000);
        let private = json!({ "a": { "$serde_json::private::RawValue": deep.clone() } }).to_string();
        // A text like any other.
        assert!(Claims::parse(private.as_bytes()).is_ok());
        for bad in [r#"{"a":1,"a":1}"#, r#"{"o":{"a":1,"a":2}}"#, "[]", "5", "{", &format!("{{\"a\":{deep}")]
        {
            assert_eq!(
                Claims::parse(bad.as_bytes()).err(),
                Some(Refusal::Malformed),
                "{}",
                &bad[..bad.len().min(40)]
            );
        }
    }
}
