//! Checking tokens: by their signature, by what was revoked, and by asking the application.

use std::sync::Arc;

use jsonwebtoken::decode_header;
use tracing::info;

use super::hook::{Hook, Known, Occasion, Partitions, Question};
use super::identity::Identity;
use super::jwt::{JwtVerifier, TokenRules};
use super::keys::source::{Keys, Renewal};
use super::metrics;
use super::refusal::Refusal;
use super::revocation::Revocations;
use crate::event::{ClientId, PartitionKey};
use crate::util::time;

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The token is not good.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nobody can say at the moment whether it is good, and why not.
    #[error("the token cannot be checked now: {0}")]
    Unavailable(&'static str),
}

/// What tokens are checked with, and who else is asked.
#[derive(Debug)]
pub struct Tokens {
    pub(super) verifier: JwtVerifier,
    /// `None` if tokens are the application's own, which alone can tell what they are.
    pub(super) keys: Option<Keys>,
    hook: Option<Hook>,
    pub(super) revocations: Arc<Revocations>,
}

/// Somebody who wants to come in, or to go on.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What he wants.
    pub occasion: Occasion,
    /// The client that he says he is.
    pub client_id: &'a ClientId,
    /// Where; `None` for a connection that names its partitions, and can have others later.
    pub partition: Option<&'a PartitionKey>,
}

impl Tokens {
    /// Checks by these rules, with the keys from there, and asks the application there; one of both at least.
    pub fn new(rules: TokenRules, keys: Option<Keys>, hook: Option<Hook>) -> Self {
        Self { verifier: JwtVerifier::new(rules), keys, hook, revocations: Arc::default() }
    }

    /// Who somebody is and what he may do, if he is let in: by his token, and by the application, as far as those are
    /// asked.
    pub(super) async fn admit(&self, asked: Asked<'_>, token: Option<&str>) -> Result<Identity, AuthError> {
        let signed = match &self.keys {
            Some(keys) => Some(self.signed(keys, Some(asked.client_id), token).await?),
            None => {
                self.check_length(token)?;
                None
            }
        };
        let identity = match &self.hook {
            Some(hook) => self.allowed(hook, asked, token, signed).await?,
            None => signed.ok_or(AuthError::Unavailable("there are no keys to check tokens with"))?,
        };
        self.unless_revoked(identity, token)
    }

    /// Whose this token is, if it is well signed: that of the client which says so, where one does.
    pub(super) async fn signed(
        &self,
        keys_kept: &Keys,
        asked: Option<&ClientId>,
        token: Option<&str>,
    ) -> Result<Identity, AuthError> {
        let keys = keys_kept.now();
        let mut verified = self.verifier.verify(&keys, asked, token);
        if verified == Err(Refusal::UnknownKey) {
            match keys_kept.renew(&keys).await {
                Renewal::Keys(keys) => verified = self.verifier.verify(&keys, asked, token),
                Renewal::Same => {}
                Renewal::Failed => {
                    let why = "its key is not known, and the keys cannot be fetched";
                    return Err(AuthError::Unavailable(why));
                }
            }
        }
        verified.map_err(|why| refused(why, token))
    }

    fn check_length(&self, token: Option<&str>) -> Result<(), AuthError> {
        let bytes_max = self.verifier.token_bytes_max();
        match token {
            Some(token) if token.len() > bytes_max => {
                Err(refused(Refusal::TooLong { bytes_max }, Some(token)))
            }
            _ => Ok(()),
        }
    }

    /// Who somebody is as the application has it. Where it says nothing, what the token says counts.
    async fn allowed(
        &self,
        hook: &Hook,
        asked: Asked<'_>,
        token: Option<&str>,
        signed: Option<Identity>,
    ) -> Result<Identity, AuthError> {
        let Asked { occasion, client_id, partition } = asked;
        let known = signed.as_ref().map(Known::of);
        let question = Question {
            event: occasion,
            client_id,
            partition: partition.map(PartitionKey::as_str),
            token,
            identity: known,
        };
        let answer = hook.ask(&question).await;
        let answer =
            answer.ok_or(AuthError::Unavailable("the application cannot be asked who may come in"))?;
        if !answer.allow {
            return Err(refused(Refusal::NotAllowed(answer.message), token));
        }
        let rules = self.verifier.rules();
        // Without a word on partitions the answer holds for the one that was asked about, and here there was none.
        if partition.is_none() && answer.partitions.is_none() {
            let why = "the application names no partitions, so name the one that you want in `connect`";
            return Err(refused(Refusal::NotAllowed(Some(why.to_owned())), token));
        }
        let permissions = match (answer.permissions, &answer.roles) {
            (None, None) => None,
            (permissions, roles) => {
                let roles = roles.as_deref().unwrap_or_default();
                Some(self.verifier.permissions(permissions.unwrap_or_default(), roles))
            }
        };
        // The earliest end counts. What clocks may be apart is for those who sign: this is no signature.
        let said_end = answer.expires_at.map(|at| at as u64);
        let latest = rules.lifetime_s_max.map(|max| time::now_s().saturating_add(max));
        let signed_end = signed.as_ref().and_then(|signed| signed.expires_at);
        let expires_at = [said_end, signed_end, latest].into_iter().flatten().min();
        if expires_at.is_none() && rules.require_exp {
            hook.lacks_an_end();
            return Err(AuthError::Unavailable("the application's answer has no end (expiresAt)"));
        }
        if expires_at.is_some_and(|at| at < time::now_s()) {
            return Err(refused(Refusal::Expired, token));
        }
        let base = signed.unwrap_or_else(|| Identity {
            permissions: Vec::new(),
            issued_at: Some(time::now_s()),
            ..Identity::of_anyone(client_id.clone())
        });
        Ok(Identity {
            user_id: answer.user_id.or(base.user_id),
            permissions: permissions.unwrap_or(base.permissions),
            roles: answer.roles.unwrap_or(base.roles),
            claims: answer.claims.or(base.claims),
            partitions: answer.partitions.map(Partitions::into_list).or(base.partitions),
            expires_at,
            ends_at: expires_at.map(|at| at.saturating_add(rules.leeway_s)),
            token_id: answer.token_id.or(base.token_id),
            ..base
        })
    }

    pub(super) fn unless_revoked(
        &self,
        identity: Identity,
        token: Option<&str>,
    ) -> Result<Identity, AuthError> {
        if !self.revocations.is_known() {
            return Err(AuthError::Unavailable("what was revoked could not be read yet"));
        }
        if self.revocations.cover(&identity) {
            return Err(refused(Refusal::Revoked, token));
        }
        Ok(identity)
    }
}

/// Counts and says that a token is refused: why, and which key it names, but nothing else of it.
pub(super) fn refused(why: Refusal, token: Option<&str>) -> AuthError {
    metrics::refused(&why);
    let key_id = token.and_then(|token| decode_header(token).ok()).and_then(|header| header.kid);
    info!(reason = why.as_str(), key_id, "a token is refused: {why}");
    AuthError::Refused(why)
}
