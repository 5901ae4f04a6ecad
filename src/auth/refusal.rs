//! Why a token is refused: for the client, and by a short name for metrics. Never holds anything of the token.

use super::client_ids::ClientIds;

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none.
    #[error("a token is required")]
    Missing,
    /// It is not looked at.
    #[error("the token is longer than {bytes_max} bytes")]
    TooLong {
        /// How long it may be.
        bytes_max: usize,
    },
    /// It is none.
    #[error("the token cannot be read")]
    Malformed,
    /// It asks that something is understood which is not (`crit`).
    #[error("the token has critical header fields, and none are understood here")]
    Critical,
    /// Its `alg` is not that of the key.
    #[error("the token's algorithm is not the key's")]
    Algorithm,
    /// There is no key of its `kid`.
    #[error("the token's key (`kid`) is not known")]
    UnknownKey,
    /// It has no `kid`, and there are several keys that could be meant.
    #[error("the token does not say which of several keys it is signed with (`kid`)")]
    UnnamedKey,
    /// It is not signed with the key.
    #[error("the token's signature is wrong")]
    Signature,
    /// Its `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// Its `nbf` has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Its `iat` has not come, by more than clocks may be apart.
    #[error("the token says that it was issued in the future (`iat` is in seconds)")]
    IssuedInFuture,
    /// Its `exp` is too far away, or there is none though there is a bound.
    #[error("the token lives longer than the {seconds_max} s that it may")]
    Lifetime {
        /// The bound.
        seconds_max: u64,
    },
    /// It was revoked.
    #[error("the token has been revoked")]
    Revoked,
    /// Another `iss` than the one asked for.
    #[error("the token is of another issuer")]
    Issuer,
    /// Another `aud` than the one asked for.
    #[error("the token is for another audience")]
    Audience,
    /// It lacks a claim.
    #[error("the token has no `{0}`")]
    MissingClaim(String),
    /// A claim holds something else than it must.
    #[error("the token's `{claim}` is not {must_be}")]
    MistypedClaim {
        /// Its name, as the configuration has it.
        claim: String,
        /// What it must be.
        must_be: &'static str,
    },
    /// What an application's rules are to be shown is too much to bring along with every draft.
    #[error(
        "the token's claims for the application's rules (auth.rules_claims) have more than {bytes_max} bytes"
    )]
    ClaimsTooLarge {
        /// How many they may have.
        bytes_max: usize,
    },
    /// A claim holds another value than is asked for.
    #[error("the token's `{0}` is not what is asked for here")]
    OtherClaim(String),
    /// Its `clientId` is not that of the connection.
    #[error("the token is another client's")]
    OtherClient,
    /// The client id of the connection is none that the token's user may choose.
    #[error("the token's user may not choose this client id: it has the form {0}")]
    OtherForm(ClientIds),
    /// The application does not let the client in (`auth.hook_url`), and may have said why.
    #[error("the application does not let this client in{}", .0.as_deref().map(|why| format!(": {why}")).unwrap_or_default())]
    NotAllowed(Option<String>),
    /// Its `userId` is not that of the connection.
    #[error("the token is another user's")]
    OtherUser,
}

impl Refusal {
    /// The name by which metrics call it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::TooLong { .. } => "too_long",
            Self::Malformed => "malformed",
            Self::Critical => "critical_header",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::UnnamedKey => "unnamed_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuedInFuture => "issued_in_future",
            Self::Lifetime { .. } => "lifetime",
            Self::Revoked => "revoked",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::MissingClaim(_) => "missing_claim",
            Self::MistypedClaim { .. } => "mistyped_claim",
            Self::ClaimsTooLarge { .. } => "claims_too_large",
            Self::OtherClaim(_) => "other_claim",
            Self::OtherClient | Self::OtherForm(_) => "other_client",
            Self::NotAllowed(_) => "not_allowed",
            Self::OtherUser => "other_user",
        }
    }
}
