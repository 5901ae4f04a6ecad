//! Who may come in: whoever has a token with the permission `admin`.

use std::net::IpAddr;

use axum::http::{HeaderMap, header};

use super::problem::Problem;
use super::state::AdminState;
use crate::auth::{AuthError, Authenticator, Identity, Refusal, Revocation, Revoked, USER_ID_BYTES_MAX};
use crate::event::PartitionKey;
use crate::util::time;

/// Somebody with the permission `admin`.
#[derive(Debug, Clone)]
pub(crate) struct Admin(pub Identity);

impl Admin {
    /// Whether he may see a partition: a token that is confined to some shows no others.
    pub(crate) fn may_enter(&self, partition: &PartitionKey) -> Result<(), Problem> {
        match self.0.may_enter(partition.as_str()) {
            true => Ok(()),
            false => Err(Problem::forbidden("the token does not permit this partition")),
        }
    }

    /// Whether he may see and do what concerns all partitions.
    pub(crate) fn require_global(&self) -> Result<(), Problem> {
        match self.0.partitions {
            None => Ok(()),
            Some(_) => Err(Problem::forbidden(
                "the token is confined to some partitions, and this concerns all of them",
            )),
        }
    }
}

/// Finds out who asks, and whether he may: also by what was revoked since this process looked last, so that nobody
/// does anything with a revoked token, least of all takes that back.
pub(crate) async fn enter(hub: &AdminState, headers: &HeaderMap) -> Result<Admin, Problem> {
    let admin = known(&hub.auth, headers).await?;
    if hub.keeper.is_some() && is_revoked(hub, &admin.0).await? {
        return Err(Problem::unauthorized(Refusal::Revoked.to_string()));
    }
    Ok(admin)
}

/// Whether somebody's token, or all tokens of that client or user, are revoked, as the bucket's leader has it.
async fn is_revoked(hub: &AdminState, identity: &Identity) -> Result<bool, Problem> {
    let token = identity.token_id.clone().map(|token_id| Revoked::Token { token_id });
    let client = Revoked::Client { client: identity.client_id.clone(), issued_upto: 0 };
    let user = identity.user_id.clone().filter(|user| user.len() <= USER_ID_BYTES_MAX);
    let user = user.map(|user| Revoked::User { user, issued_upto: 0 });
    for key in [token, Some(client), user].into_iter().flatten().map(|of| of.key()) {
        let kept = hub.log.leader_revocation(&key).await?;
        // What is no revocation is passed over, as everywhere.
        let revocation = kept.and_then(|kept| Revocation::parse(&key, &kept).ok());
        let holds = revocation.is_some_and(|one| {
            one.until.is_none_or(|until| time::now_s() <= until) && one.of.covers(identity)
        });
        if holds {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Finds out who asks, and whether he may, as far as this process knows.
async fn known(auth: &Authenticator, headers: &HeaderMap) -> Result<Admin, Problem> {
    let identity = match auth {
        Authenticator::Anyone => {
            from_this_machine(headers)?;
            auth.whose(None).await
        }
        Authenticator::Jwt(_) => auth.whose(Some(bearer(headers)?)).await,
    };
    let identity = identity.map_err(|error| match &error {
        AuthError::Refused(_) => Problem::unauthorized(error.to_string()),
        AuthError::Unavailable(_) => Problem::unavailable(error.to_string()),
    })?;
    // By its own name only: an application's "may do everything" is no operator. Without tokens everybody is one.
    let is_operator = matches!(auth, Authenticator::Anyone)
        || identity.permissions.iter().any(|permission| permission == "admin");
    match is_operator {
        true => Ok(Admin(identity)),
        false => Err(Problem::forbidden("the token does not permit `admin`")),
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let needed = "a token is needed: Authorization: Bearer <JWT with the permission `admin`>";
    let value = headers.get(header::AUTHORIZATION).ok_or_else(|| Problem::unauthorized(needed))?;
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Problem::unauthorized(needed)),
    }
}

/// Without tokens a browser on this machine could be made to ask by any page that it shows: whatever comes
/// from a page, or under a name that somebody else can point here, is refused.
fn from_this_machine(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(header::ORIGIN) {
        return Err(Problem::forbidden("without tokens no web page is answered (the request has an Origin)"));
    }
    // Reading needs no Origin. Our own inspector is of this very origin.
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    if site.is_some_and(|site| !matches!(site, b"same-origin" | b"none")) {
        return Err(Problem::forbidden(
            "without tokens no web page of another origin is answered (Sec-Fetch-Site)",
        ));
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    if name == "localhost" || name.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(Problem::forbidden("without tokens this answers only under an IP address or as localhost"))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue, StatusCode};

    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[tokio::test]
    async fn without_tokens_only_this_machine_is_answered_and_no_web_page() {
        let good = ["127.0.0.1:8090", "localhost:8090", "[::1]:8090", "localhost"];
        for host in good {
            let headers = headers(&[(header::HOST, host)]);
            assert!(known(&Authenticator::Anyone, &headers).await.is_ok(), "{host}");
        }
        let page = headers(&[(header::HOST, "127.0.0.1:1"), (header::ORIGIN, "https://example.com")]);
        let fetch_site = HeaderName::from_static("sec-fetch-site");
        let script = headers(&[(header::HOST, "127.0.0.1:1"), (fetch_site.clone(), "cross-site")]);
        let port = headers(&[(header::HOST, "127.0.0.1:1"), (fetch_site.clone(), "same-site")]);
        let own = headers(&[(header::HOST, "127.0.0.1:1"), (fetch_site, "same-origin")]);
        assert!(known(&Authenticator::Anyone, &own).await.is_ok());
        let rebound = headers(&[(header::HOST, "rebound.example.com:8090")]);
        for headers in [page, script, port, rebound, HeaderMap::new()] {
            let refused = known(&Authenticator::Anyone, &headers).await.unwrap_err();
            assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        }
    }
}
