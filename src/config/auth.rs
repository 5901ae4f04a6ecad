//! Who may connect, as an operator writes it down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::error::ConfigError;
use crate::auth::{
    Authenticator, ClaimNames, ClientIds, FileKind, Hook, HookSettings, Keys, Remote, RemoteSettings,
    TokenRules, Tokens, permissions,
};

/// Clients' tokens (JWT). A frontend needs one of the first four or hook_url, or to be told that it takes anyone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// A file with the secret that tokens are signed with (HS256): at least 16 bytes; white space around
    /// them does not count.
    pub secret_file: Option<PathBuf>,
    /// A file with the public key of whoever signs the tokens, PEM: RSA (RS256), P-256 (ES256) or Ed25519
    /// (EdDSA).
    pub public_key_file: Option<PathBuf>,
    /// A file with a set of keys (JWKS), of which a token names one (`kid`).
    pub jwks_file: Option<PathBuf>,
    /// Where the issuer publishes its set of keys: https, or http from this machine itself.
    pub jwks_url: Option<String>,
    /// The certificates, PEM, of those who may vouch for that address; in the place of the system's.
    pub jwks_ca_file: Option<PathBuf>,
    /// How often the set is fetched from there, in seconds.
    pub jwks_refresh_s: u64,
    /// How soon it is fetched again, in seconds, if that failed; and how long after a fetch there is no other
    /// because a token names an unknown key.
    pub jwks_retry_s: u64,
    /// How long fetching it may take.
    pub jwks_timeout_ms: u64,
    /// The largest set that is taken from there, in bytes.
    pub jwks_bytes_max: usize,
    /// How often the files above are looked at for changes.
    pub keys_poll_ms: u64,
    /// The issuer (`iss`) that a token must name. Not asked for unless set.
    pub issuer: Option<String>,
    /// The audience (`aud`) that a token must name. Not asked for unless set.
    pub audience: Option<String>,
    /// How far the clocks of those who sign and those who check may be apart, in seconds.
    pub leeway_s: u64,
    /// Whether a token must have an end (`exp`). One without is good for as long as its key.
    pub require_exp: bool,
    /// How long a token may still have to live at most, in seconds; 0 for any time. One that ends later, or never,
    /// is refused; and revocations need not be kept for longer.
    pub lifetime_s_max: u64,
    /// The longest token that is looked at, in bytes.
    pub token_bytes_max: usize,
    /// What the roles that a token names permit: a table of lists, such as
    /// { editor = ["read", "set:doc.*"], guest = ["read"] }. A role that is not in it permits nothing.
    pub roles: BTreeMap<String, Vec<String>>,
    /// The claim that names the client; of several, the first that a token has. A claim is named as it is, or by a path
    /// with dots into objects (realm_access.roles); one whose name has dots, such as a URL, is found under that name.
    #[serde(deserialize_with = "one_or_several")]
    pub client_claim: Vec<String>,
    /// Which client ids a user may choose when a token names no client, since one person has many devices: {user} for
    /// the user id itself, {user}:* for the user id, a character and a name that has no such character. Unless
    /// set, a token must name its client.
    pub client_ids: Option<String>,
    /// The claim that names the user, such as sub; of several, the first that a token has.
    #[serde(deserialize_with = "one_or_several")]
    pub user_claim: Vec<String>,
    /// The claim that lists permissions; of several, all count. Under any name but permissions and roles a text will
    /// do, with spaces between its parts, as scope has them.
    #[serde(deserialize_with = "one_or_several")]
    pub permissions_claim: Vec<String>,
    /// The claim that lists roles, such as realm_access.roles; of several, all count. A text will do as above.
    #[serde(deserialize_with = "one_or_several")]
    pub roles_claim: Vec<String>,
    /// The claim that names partitions; of several, the first that a token has. A token without it is for all.
    #[serde(deserialize_with = "one_or_several")]
    pub partition_claim: Vec<String>,
    /// The claims that the application's rules are shown, as client.claims, each under the name that it has here; at most
    /// 4,096 bytes together. No others leave the frontend.
    #[serde(deserialize_with = "one_or_several")]
    pub rules_claims: Vec<String>,
    /// Claims that a token must have besides, each with the values that it may have: a table of lists, such as
    /// { token_use = ["access"], client_id = ["3n4b"] }. With an empty list any value will do.
    pub required_claims: BTreeMap<String, Vec<String>>,
    /// Where the application is asked who may come in, at every connect and refresh_token: https, or http on this
    /// machine itself. Beside keys for tokens, or in their place: then tokens are the application's own.
    pub hook_url: Option<String>,
    /// A file with the secret that such a question carries (Authorization: Bearer); read at every question.
    pub hook_secret_file: Option<PathBuf>,
    /// The certificates, PEM, of those who may vouch for that address; in the place of the system's.
    pub hook_ca_file: Option<PathBuf>,
    /// How long an answer may take, in milliseconds, waiting for its turn included. Without one nobody is let in.
    pub hook_timeout_ms: u64,
    /// The most questions at a time; more wait.
    pub hook_calls_max: usize,
    /// How long an answer counts for the same client, token and partition that connects again, in milliseconds; 0 for
    /// asking every time.
    pub hook_cache_ms: u64,
}

const LEEWAY_S_MAX: u64 = 600;
const TOKEN_BYTES_MIN: usize = 256;
const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// The largest answer of the application's that is read, in bytes.
const HOOK_BYTES_MAX: usize = 16 * 1024;
/// The most names that a claim is looked for under: each costs every token a look.
const CLAIM_NAMES_MAX: usize = 16;

impl Default for AuthSettings {
    fn default() -> Self {
        let names = ClaimNames::default();
        Self {
            secret_file: None,
            public_key_file: None,
            jwks_file: None,
            jwks_url: None,
            jwks_ca_file: None,
            jwks_refresh_s: 300,
            jwks_retry_s: 10,
            jwks_timeout_ms: 5_000,
            jwks_bytes_max: 256 * 1024,
            keys_poll_ms: 2_000,
            issuer: None,
            audience: None,
            leeway_s: 5,
            require_exp: true,
            lifetime_s_max: 0,
            token_bytes_max: 8 * 1024,
            roles: BTreeMap::new(),
            client_claim: names.client,
            client_ids: None,
            user_claim: names.user,
            permissions_claim: names.permissions,
            roles_claim: names.roles,
            partition_claim: names.partition,
            rules_claims: names.rules,
            required_claims: BTreeMap::new(),
            hook_url: None,
            hook_secret_file: None,
            hook_ca_file: None,
            hook_timeout_ms: 2_000,
            hook_calls_max: 64,
            hook_cache_ms: 5_000,
        }
    }
}

impl AuthSettings {
    /// Whether it is configured who says who may come in.
    pub fn is_set(&self) -> bool {
        self.has_keys() || self.hook_url.is_some()
    }

    /// Whether keys for tokens are configured.
    pub fn has_keys(&self) -> bool {
        !self.sources().is_empty()
    }

    /// The keys of the configuration that say where the keys for tokens are, as far as they are set.
    fn sources(&self) -> Vec<&'static str> {
        [
            ("auth.secret_file", self.secret_file.is_some()),
            ("auth.public_key_file", self.public_key_file.is_some()),
            ("auth.jwks_file", self.jwks_file.is_some()),
            ("auth.jwks_url", self.jwks_url.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, is_set)| is_set.then_some(key))
        .collect()
    }

    /// What checks tokens. Files are read; what is at a URL is not asked for yet.
    pub fn authenticator(&self) -> Result<Authenticator, ConfigError> {
        let rules = TokenRules {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            leeway_s: self.leeway_s,
            require_exp: self.require_exp,
            lifetime_s_max: self.lifetime_bound(),
            token_bytes_max: self.token_bytes_max,
            roles: self.roles.clone(),
            names: ClaimNames {
                client: self.client_claim.clone(),
                user: self.user_claim.clone(),
                permissions: self.permissions_claim.clone(),
                roles: self.roles_claim.clone(),
                partition: self.partition_claim.clone(),
                rules: self.rules_claims.clone(),
            },
            required: self.required_claims.clone(),
            client_ids: self.client_ids().map_err(wrong)?,
        };
        let hook = self.hook()?;
        // Taking anyone is never what a missing key means; without a hook that is said, and by name.
        let keys = if hook.is_none() || self.has_keys() { Some(self.keys()?) } else { None };
        Ok(Authenticator::Jwt(Arc::new(Tokens::new(rules, keys, hook))))
    }

    fn hook(&self) -> Result<Option<Hook>, ConfigError> {
        let Some(url) = &self.hook_url else { return Ok(None) };
        let timeout = Duration::from_millis(self.hook_timeout_ms);
        let remote = RemoteSettings {
            url: url.clone(),
            ca_pem: pem("auth.hook_ca_file", self.hook_ca_file.as_deref())?,
            timeout,
            bytes_max: HOOK_BYTES_MAX,
            ca_key: "auth.hook_ca_file",
        };
        if let Some(file) = &self.hook_secret_file {
            std::fs::read(file)
                .map_err(|error| wrong(format!("auth.hook_secret_file: {}: {error}", file.display())))?;
        }
        let settings = HookSettings {
            secret_file: self.hook_secret_file.clone(),
            timeout,
            calls_max: self.hook_calls_max,
            keep: Duration::from_millis(self.hook_cache_ms),
        };
        let remote = Remote::new(&remote).map_err(|why| wrong(format!("auth.hook_url: {why}")))?;
        Ok(Some(Hook::new(remote, settings)))
    }

    fn client_ids(&self) -> Result<Option<ClientIds>, String> {
        let form = self.client_ids.as_deref().map(str::parse).transpose();
        form.map_err(|why| format!("auth.client_ids: {why}"))
    }

    fn lifetime_bound(&self) -> Option<u64> {
        (self.lifetime_s_max > 0).then_some(self.lifetime_s_max)
    }

    /// For how long from now any token can be good, in seconds, whoever's clock counts; `None` for ever.
    pub fn tokens_live_s_max(&self) -> Option<u64> {
        self.lifetime_bound().map(|max| max.saturating_add(2 * self.leeway_s))
    }

    fn keys(&self) -> Result<Keys, ConfigError> {
        if let Some(path) = &self.secret_file {
            return self.file("auth.secret_file", path, FileKind::Secret);
        }
        if let Some(path) = &self.public_key_file {
            return self.file("auth.public_key_file", path, FileKind::PublicKey);
        }
        if let Some(path) = &self.jwks_file {
            return self.file("auth.jwks_file", path, FileKind::KeySet);
        }
        let Some(url) = &self.jwks_url else {
            return Err(wrong("auth: none of secret_file, public_key_file, jwks_file and jwks_url is set"));
        };
        let settings = RemoteSettings {
            url: url.clone(),
            ca_pem: pem("auth.jwks_ca_file", self.jwks_ca_file.as_deref())?,
            timeout: Duration::from_millis(self.jwks_timeout_ms),
            bytes_max: self.jwks_bytes_max,
            ca_key: "auth.jwks_ca_file",
        };
        let remote = Remote::new(&settings).map_err(|why| wrong(format!("auth.jwks_url: {why}")))?;
        let (refresh, retry) =
            (Duration::from_secs(self.jwks_refresh_s), Duration::from_secs(self.jwks_retry_s));
        Ok(Keys::of_url(remote, refresh, retry))
    }

    fn file(&self, key: &str, path: &Path, kind: FileKind) -> Result<Keys, ConfigError> {
        Keys::of_file(path, kind, Duration::from_millis(self.keys_poll_ms))
            .map_err(|error| wrong(format!("{key}: {}: {error}", path.display())))
    }

    /// Says what cannot work.
    pub(crate) fn check(&self, problems: &mut Vec<String>) {
        if let [one, others @ ..] = self.sources().as_slice()
            && !others.is_empty()
        {
            problems.push(format!("{one} and {} exclude each other; set one", others.join(" and ")));
        }
        if self.jwks_ca_file.is_some() && self.jwks_url.is_none() {
            problems.push("auth.jwks_ca_file: there is no auth.jwks_url that it could be for".to_owned());
        }
        if self.hook_url.is_none() && (self.hook_ca_file.is_some() || self.hook_secret_file.is_some()) {
            problems.push("auth.hook_ca_file, auth.hook_secret_file: there is no auth.hook_url".to_owned());
        }
        let at_least = [
            ("jwks_refresh_s", self.jwks_refresh_s, 1),
            ("jwks_retry_s", self.jwks_retry_s, 1),
            ("jwks_timeout_ms", self.jwks_timeout_ms, 100),
            ("jwks_bytes_max", self.jwks_bytes_max as u64, 1024),
            ("keys_poll_ms", self.keys_poll_ms, 100),
            ("hook_timeout_ms", self.hook_timeout_ms, 10),
            ("hook_calls_max", self.hook_calls_max as u64, 1),
        ];
        for (key, value, least) in at_least {
            if value < least {
                problems.push(format!("auth.{key}: at least {least}, not {value}"));
            }
        }
        if self.leeway_s > LEEWAY_S_MAX {
            problems
                .push(format!("auth.leeway_s: at most {LEEWAY_S_MAX}; clocks can be kept closer than that"));
        }
        if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&self.token_bytes_max) {
            problems.push(format!(
                "auth.token_bytes_max: from {TOKEN_BYTES_MIN} (shorter ones can say nothing) to {TOKEN_BYTES_MAX}"
            ));
        }
        self.check_claims(problems);
        for (role, permissions) in &self.roles {
            if role.trim().is_empty() {
                problems.push("auth.roles: a role without a name".to_owned());
            }
            let wrong = permissions.iter().filter_map(|permission| permissions::check(permission).err());
            problems.extend(wrong.map(|why| format!("auth.roles: {role}: {why}")));
        }
    }
}

impl AuthSettings {
    /// Permissions that were hardly meant as they stand.
    pub(super) fn doubts(&self) -> Vec<String> {
        let all = self.roles.iter().flat_map(|(role, all)| all.iter().map(move |one| (role, one)));
        all.filter_map(|(role, one)| permissions::doubt(one).map(|why| format!("auth.roles: {role}: {why}")))
            .collect()
    }

    /// Says what is wrong with the names of claims.
    fn check_claims(&self, problems: &mut Vec<String>) {
        let names = [
            ("client_claim", &self.client_claim),
            ("user_claim", &self.user_claim),
            ("permissions_claim", &self.permissions_claim),
            ("roles_claim", &self.roles_claim),
            ("partition_claim", &self.partition_claim),
            ("rules_claims", &self.rules_claims),
        ];
        for (key, names) in names {
            if names.len() > CLAIM_NAMES_MAX {
                problems.push(format!("auth.{key}: at most {CLAIM_NAMES_MAX} names"));
            }
            if names.iter().any(|name| name.trim().is_empty()) {
                problems.push(format!("auth.{key}: a claim without a name"));
            }
        }
        if self.required_claims.keys().any(|name| name.trim().is_empty()) {
            problems.push("auth.required_claims: a claim without a name".to_owned());
        }
        match self.client_ids() {
            Err(why) => problems.push(why),
            Ok(None) if self.client_claim.is_empty() => {
                problems
                    .push("auth.client_claim: needed, unless auth.client_ids lets users choose".to_owned());
            }
            Ok(Some(_)) if self.user_claim.is_empty() => {
                problems.push("auth.user_claim: needed beside auth.client_ids".to_owned());
            }
            Ok(_) => {}
        }
    }
}

/// The certificates in a file, if there is one.
fn pem(key: &str, file: Option<&Path>) -> Result<Option<Vec<u8>>, ConfigError> {
    let Some(file) = file else { return Ok(None) };
    std::fs::read(file).map(Some).map_err(|error| wrong(format!("{key}: {}: {error}", file.display())))
}

/// A list, or its only item by itself.
fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text or a list of texts")]
    enum OneOrSeveral {
        One(String),
        Several(Vec<String>),
    }
    Ok(match OneOrSeveral::deserialize(deserializer)? {
        OneOrSeveral::One(one) => vec![one],
        OneOrSeveral::Several(several) => several,
    })
}

fn wrong(why: impl Into<String>) -> ConfigError {
    ConfigError(vec![why.into()])
}
