//! What was revoked: single tokens, and a client's or a user's tokens up to a time. Pure: where it is kept, and how it gets
//! here, is `control`'s and `log`'s business.
//!
//! A token that cannot be checked against it is not let in: until it was read for the first time, nothing is
//! known. From then on what is known stays in force, whatever becomes of the place that it is read from.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use super::metrics;
use crate::event::{ClientId, is_plain};
use crate::util::time;

/// The longest token id that can be revoked, in bytes.
pub const TOKEN_ID_BYTES_MAX: usize = 256;
/// The longest user id whose tokens can be revoked, in bytes.
pub const USER_ID_BYTES_MAX: usize = 256;

/// A revocation, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revocation {
    /// What is revoked.
    #[serde(flatten)]
    pub of: Revoked,
    /// Until when, in Unix seconds; `None` until it is lifted.
    pub until: Option<u64>,
    /// When it was, in Unix seconds.
    pub at: u64,
    /// By whom.
    pub by: String,
}

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Revoked {
    /// The token of this name (`jti`).
    #[serde(rename_all = "camelCase")]
    Token {
        /// Its name.
        token_id: String,
    },
    /// All tokens of a client that were issued (`iat`) no later than this, and those that do not say when.
    #[serde(rename_all = "camelCase")]
    Client {
        /// The client.
        client: ClientId,
        /// The time, in Unix seconds.
        issued_upto: u64,
    },
    /// The same of a user's tokens, whatever the client.
    #[serde(rename_all = "camelCase")]
    User {
        /// The user.
        user: String,
        /// The time, in Unix seconds.
        issued_upto: u64,
    },
}

impl Revoked {
    /// The key under which it is kept: of letters, digits, `-`, `_`, `.` and `=` only, and another one for
    /// everything else.
    pub fn key(&self) -> String {
        match self {
            Self::Token { token_id } => format!("token.{}", encoded(token_id)),
            Self::Client { client, .. } => format!("client.{}", encoded(client.as_str())),
            Self::User { user, .. } => format!("user.{}", encoded(user)),
        }
    }

    /// Whether it refuses somebody.
    pub fn covers(&self, identity: &Identity) -> bool {
        match self {
            Self::Token { token_id } => identity.token_id.as_ref() == Some(token_id),
            Self::Client { client, issued_upto } => {
                identity.client_id == *client && is_issued_upto(identity, *issued_upto)
            }
            Self::User { user, issued_upto } => {
                identity.user_id.as_ref() == Some(user) && is_issued_upto(identity, *issued_upto)
            }
        }
    }
}

fn is_issued_upto(identity: &Identity, upto: u64) -> bool {
    identity.issued_at.is_none_or(|at| at <= upto)
}

/// As one part of a key: a plain name as it is, any other as `=` and its base64url. A plain name has no `=`.
fn encoded(name: &str) -> String {
    match is_plain(name) {
        true => name.to_owned(),
        false => format!("={}", URL_SAFE_NO_PAD.encode(name)),
    }
}

/// Why an entry is none.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// It is no revocation.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// It is kept under the key of another.
    #[error("it belongs under the key {0:?}")]
    OtherKey(String),
}

impl Revocation {
    /// Reads what is kept under a key.
    pub fn parse(key: &str, body: &[u8]) -> Result<Self, RevocationError> {
        let revocation: Self = serde_json::from_slice(body)?;
        match revocation.of.key() {
            right if right == key => Ok(revocation),
            right => Err(RevocationError::OtherKey(right)),
        }
    }
}

/// Everything that is revoked.
#[derive(Debug, Clone, Default)]
pub struct RevokedSet {
    tokens: HashMap<String, Option<u64>>,
    clients: HashMap<ClientId, (u64, Option<u64>)>,
    users: HashMap<String, (u64, Option<u64>)>,
    /// What each key stands for, to take it back.
    keys: HashMap<String, Revoked>,
}

impl RevokedSet {
    /// Puts a revocation in, in the place of one of the same key.
    pub fn put(&mut self, revocation: &Revocation) {
        let Revocation { of, until, .. } = revocation;
        self.keys.insert(of.key(), of.clone());
        match of {
            Revoked::Token { token_id } => drop(self.tokens.insert(token_id.clone(), *until)),
            Revoked::Client { client, issued_upto } => {
                self.clients.insert(client.clone(), (*issued_upto, *until));
            }
            Revoked::User { user, issued_upto } => {
                self.users.insert(user.clone(), (*issued_upto, *until));
            }
        }
    }

    /// Takes back what is kept under a key.
    pub fn lift(&mut self, key: &str) {
        match self.keys.remove(key) {
            Some(Revoked::Token { token_id }) => drop(self.tokens.remove(&token_id)),
            Some(Revoked::Client { client, .. }) => drop(self.clients.remove(&client)),
            Some(Revoked::User { user, .. }) => drop(self.users.remove(&user)),
            None => {}
        }
    }

    /// Forgets what is past.
    pub fn forget_past(&mut self, now_s: u64) {
        let is_over = |until: &Option<u64>| until.is_some_and(|until| until < now_s);
        self.tokens.retain(|_, until| !is_over(until));
        self.clients.retain(|_, (_, until)| !is_over(until));
        self.users.retain(|_, (_, until)| !is_over(until));
        let Self { tokens, clients, users, keys } = self;
        if keys.len() > tokens.len() + clients.len() + users.len() {
            keys.retain(|_, of| match of {
                Revoked::Token { token_id } => tokens.contains_key(token_id),
                Revoked::Client { client, .. } => clients.contains_key(client),
                Revoked::User { user, .. } => users.contains_key(user),
            });
        }
    }

    /// Whether somebody's token is revoked.
    pub fn covers(&self, identity: &Identity, now_s: u64) -> bool {
        let holds = |until: Option<u64>| until.is_none_or(|until| now_s <= until);
        let token = identity.token_id.as_ref().and_then(|id| self.tokens.get(id));
        let client = self.clients.get(&identity.client_id);
        let user = identity.user_id.as_ref().and_then(|user| self.users.get(user));
        let covers = |(upto, until): &(u64, Option<u64>)| holds(*until) && is_issued_upto(identity, *upto);
        token.is_some_and(|until| holds(*until)) || client.is_some_and(covers) || user.is_some_and(covers)
    }

    /// How many revocations there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// What a process knows to be revoked.
#[derive(Debug, Default)]
pub struct Revocations {
    set: RwLock<RevokedSet>,
    is_known: AtomicBool,
}

impl Revocations {
    /// Whether it was read at all.
    pub fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Acquire)
    }

    /// Whether somebody's token is revoked, as far as is known.
    pub fn cover(&self, identity: &Identity) -> bool {
        self.read().covers(identity, time::now_s())
    }

    /// Changes what is known.
    pub fn change(&self, change: impl FnOnce(&mut RevokedSet)) {
        let mut set = self.write();
        change(&mut set);
        metrics::revocations(set.len());
    }

    /// Takes all that there is, in the place of what was known.
    pub fn replace(&self, all: RevokedSet) {
        self.change(|set| *set = all);
        self.is_known.store(true, Ordering::Release);
    }

    fn read(&self) -> RwLockReadGuard<'_, RevokedSet> {
        self.set.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, RevokedSet> {
        self.set.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(client: &str, token: Option<&str>, issued_at: Option<u64>) -> Identity {
        Identity {
            client_id: ClientId::new(client).unwrap(),
            user_id: None,
            permissions: Vec::new(),
            roles: Vec::new(),
            claims: None,
            partitions: None,
            expires_at: None,
            ends_at: None,
            token_id: token.map(str::to_owned),
            issued_at,
        }
    }

    fn token(id: &str) -> Revoked {
        Revoked::Token { token_id: id.to_owned() }
    }

    fn client(id: &str, issued_upto: u64) -> Revoked {
        Revoked::Client { client: ClientId::new(id).unwrap(), issued_upto }
    }

    fn user(id: &str, issued_upto: u64) -> Revoked {
        Revoked::User { user: id.to_owned(), issued_upto }
    }

    fn revocation(of: Revoked, until: Option<u64>) -> Revocation {
        Revocation { of, until, at: 1, by: "ops".to_owned() }
    }

    #[test]
    fn keys_are_safe_and_no_two_names_share_one() {
        let names = ["a", "A-b_9", "", "a.b", "a b", "*", ">", "=YQ", "~YQ", "ü", "\u{0}\n", &"x".repeat(65)];
        let mut keys = std::collections::HashSet::new();
        for name in names {
            let key = token(name).key();
            let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=.".contains(&byte);
            assert!(
                key.bytes().all(is_safe) && key.matches('.').count() == 1 && !key.ends_with('.'),
                "{key}"
            );
            assert!(keys.insert(key));
        }
        assert_ne!(token("a").key(), client("a", 1).key());
        // A client has one, whatever the time is.
        assert_eq!(client("a", 1).key(), client("a", 2).key());
    }

    #[test]
    fn what_is_kept_is_read_back_and_only_under_its_own_key() {
        for of in [token("t.1"), client("ann", 7), user("auth0|5f", 7)] {
            let kept = revocation(of.clone(), Some(9));
            let body = serde_json::to_vec(&kept).unwrap();
            assert_eq!(Revocation::parse(&of.key(), &body).unwrap(), kept);
            assert!(Revocation::parse("token.other", &body).is_err());
        }
        let text = serde_json::to_string(&revocation(client("ann", 7), None)).unwrap();
        assert_eq!(text, r#"{"kind":"client","client":"ann","issuedUpto":7,"until":null,"at":1,"by":"ops"}"#);
        assert!(Revocation::parse("token.a", b"{}").is_err());
    }

    #[test]
    fn a_token_is_refused_until_its_time_is_up_or_it_is_lifted() {
        let mut set = RevokedSet::default();
        set.put(&revocation(token("t"), Some(100)));
        set.put(&revocation(token("u"), None));
        let covers = |set: &RevokedSet, id, now| set.covers(&identity("ann", id, Some(5)), now);
        assert!(covers(&set, Some("t"), 100) && !covers(&set, Some("t"), 101));
        assert!(covers(&set, Some("u"), u64::MAX));
        assert!(!covers(&set, Some("v"), 1) && !covers(&set, None, 1));
        set.forget_past(101);
        assert_eq!(set.len(), 1);
        set.lift(&token("u").key());
        set.lift("token.nobody");
        assert!(set.is_empty() && !covers(&set, Some("u"), 1));
    }

    #[test]
    fn a_clients_tokens_are_refused_by_when_they_were_issued() {
        let mut set = RevokedSet::default();
        set.put(&revocation(client("ann", 50), None));
        let covers = |set: &RevokedSet, who, at| set.covers(&identity(who, Some("t"), at), 60);
        assert!(covers(&set, "ann", Some(50)) && !covers(&set, "ann", Some(51)));
        assert!(covers(&set, "ann", None), "who does not say when");
        assert!(!covers(&set, "bob", Some(1)));
        set.put(&revocation(client("ann", 70), None));
        assert!(covers(&set, "ann", Some(70)));
        assert_eq!(set.len(), 1);
        set.lift(&client("ann", 0).key());
        assert!(!covers(&set, "ann", Some(1)));
    }
    #[test]
    fn a_users_tokens_are_refused_whatever_the_client() {
        let mut set = RevokedSet::default();
        set.put(&revocation(user("ann", 50), Some(100)));
        let of = |client: &str, user: Option<&str>, at| Identity {
            user_id: user.map(str::to_owned),
            ..identity(client, None, Some(at))
        };
        let covers = |set: &RevokedSet, client, user, at| set.covers(&of(client, user, at), 60);
        assert!(covers(&set, "phone", Some("ann"), 50) && covers(&set, "desk", Some("ann"), 1));
        assert!(!covers(&set, "phone", Some("ann"), 51) && !covers(&set, "phone", Some("bob"), 1));
        // A client's id is no user's.
        assert!(!covers(&set, "ann", None, 1));
        set.forget_past(101);
        assert!(set.is_empty() && !covers(&set, "phone", Some("ann"), 50));
    }
}
