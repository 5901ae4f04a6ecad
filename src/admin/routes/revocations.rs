//! `/tokens/{token}/revoke`, `/clients/{client}/revoke`, `/users/{user}/revoke` and `/revocations`: whose tokens are
//! refused though they are good otherwise.
//!
//! A revocation is kept first, and then told to all frontends: the answer comes when each has it in force and
//! has ended the connections that stood on it, or says who has not confirmed that. Who has not will find it at
//! his next look.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::closing::closed;
use super::connections::{client_named, user_named};
use crate::admin::access::Admin;
use crate::admin::body;
use crate::admin::problem::Problem;
use crate::admin::query::Query;
use crate::admin::request::AdminRequest;
use crate::admin::response::json as json_response;
use crate::admin::state::AdminState;
use crate::auth::{Revocation, Revoked, TOKEN_ID_BYTES_MAX};
use crate::control::{Audience, Command};
use crate::util::time;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AskedOfToken {
    until: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct AskedOfClient {
    issued_upto: Option<u64>,
    until: Option<u64>,
}

/// `POST /tokens/{token}/revoke`
pub(crate) async fn token(
    AdminRequest { hub, admin, query }: AdminRequest,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let of = token_named(&admin, path, query.as_deref())?;
    let AskedOfToken { until } = body::read(body, r#"{"until":1900000000}"#)?;
    revoke(&hub, &admin, of, until).await
}

/// `DELETE /tokens/{token}/revoke`
pub(crate) async fn lift_token(
    AdminRequest { hub, admin, query }: AdminRequest,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let of = token_named(&admin, path, query.as_deref())?;
    lift(&hub, of).await
}

/// `POST /clients/{client}/revoke`
pub(crate) async fn client(
    AdminRequest { hub, admin, query }: AdminRequest,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    admin.require_global()?;
    Query::parse(query.as_deref(), &[])?;
    let client = client_named(path)?;
    let (issued_upto, until) = issued_upto(&hub, body)?;
    revoke(&hub, &admin, Revoked::Client { client, issued_upto }, until).await
}

/// `POST /users/{user}/revoke`
pub(crate) async fn user(
    AdminRequest { hub, admin, query }: AdminRequest,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    admin.require_global()?;
    Query::parse(query.as_deref(), &[])?;
    let user = user_named(path)?;
    let (issued_upto, until) = issued_upto(&hub, body)?;
    revoke(&hub, &admin, Revoked::User { user, issued_upto }, until).await
}

/// Up to when tokens must have been issued to be revoked, and until when they are.
fn issued_upto(hub: &AdminState, body: Result<Bytes, BytesRejection>) -> Result<(u64, Option<u64>), Problem> {
    let asked: AskedOfClient = body::read(body, r#"{"issuedUpto":1800000000,"until":1900000000}"#)?;
    // By every clock that a token's time may be of: one that is ahead must not outlive this.
    let now = time::now_s().saturating_add(hub.auth.leeway_s());
    Ok((asked.issued_upto.unwrap_or(now), asked.until))
}

/// `DELETE /clients/{client}/revoke`
pub(crate) async fn lift_client(
    AdminRequest { hub, admin, query }: AdminRequest,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    admin.require_global()?;
    Query::parse(query.as_deref(), &[])?;
    lift(&hub, Revoked::Client { client: client_named(path)?, issued_upto: 0 }).await
}

/// `DELETE /users/{user}/revoke`
pub(crate) async fn lift_user(
    AdminRequest { hub, admin, query }: AdminRequest,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    admin.require_global()?;
    Query::parse(query.as_deref(), &[])?;
    lift(&hub, Revoked::User { user: user_named(path)?, issued_upto: 0 }).await
}

/// `GET /revocations?after=&limit=`
pub(crate) async fn list(AdminRequest { hub, admin, query }: AdminRequest) -> Result<Response, Problem> {
    admin.require_global()?;
    let query = Query::parse(query.as_deref(), &["after", "limit"])?;
    let limit = query.limit(hub.settings.page_entries_default, hub.settings.page_entries_max)?;
    let mut after = query.number("after")?.unwrap_or(0);
    let (mut found, mut next) = (Vec::new(), None);
    'pages: loop {
        let entries = hub.log.revocations(after).await?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            let revocation = entry.body.and_then(|body| Revocation::parse(&entry.key, &body).ok());
            if let Some(revocation) =
                revocation.filter(|one| one.until.is_none_or(|until| time::now_s() <= until))
            {
                if found.len() == limit {
                    next = Some(after);
                    break 'pages;
                }
                found.push(revocation);
            }
            after = entry.sequence;
        }
    }
    Ok(json_response(StatusCode::OK, &json!({ "revocations": found, "next": next })))
}

fn token_named(
    admin: &Admin,
    path: Result<Path<String>, PathRejection>,
    query: Option<&str>,
) -> Result<Revoked, Problem> {
    admin.require_global()?;
    Query::parse(query, &[])?;
    let Path(token_id) = path.map_err(|error| Problem::bad_request(format!("the token's id: {error}")))?;
    if token_id.len() > TOKEN_ID_BYTES_MAX {
        return Err(Problem::bad_request(format!(
            "a token's id (jti) of more than {TOKEN_ID_BYTES_MAX} bytes cannot be revoked; revoke its client's \
             tokens (/clients/…/revoke)"
        )));
    }
    // The same characters in the place of its id are a mistake that would change nothing.
    if token_id.starts_with("eyJ") && token_id.matches('.').count() == 2 {
        return Err(Problem::bad_request(
            "this is a whole token; what is revoked is its id, the claim `jti`",
        ));
    }
    Ok(Revoked::Token { token_id })
}

async fn revoke(
    hub: &AdminState,
    admin: &Admin,
    of: Revoked,
    until: Option<u64>,
) -> Result<Response, Problem> {
    let now = time::now_s();
    if let Some(past) = until.filter(|until| *until <= now) {
        return Err(Problem::bad_request(format!(
            "until: {past} is past; it takes a time to come, in Unix seconds"
        )));
    }
    // No token is good for longer than this, if the configuration bounds that.
    let until = until.or_else(|| hub.tokens_live_s_max.map(|live| now.saturating_add(live)));
    let by = admin.0.user_id.clone().unwrap_or_else(|| admin.0.client_id.as_str().to_owned());
    let revocation = Revocation { of, until, at: now, by };
    let kept = serde_json::to_vec(&revocation)
        .map_err(|error| Problem::server_error(format!("writing a revocation: {error}")))?;
    // A little longer than it holds, so that it is never gone before.
    let keep = until.map(|until| Duration::from_secs((until - now).saturating_add(2)));
    let kept = hub.log.revoke(&revocation.of.key(), kept.into(), keep).await;
    let sequence = kept.map_err(|error| match error.is_retryable() {
        true => error.into(),
        false => Problem::full(format!(
            "{error}; as many as nats.revocations_max allows are kept (GET /revocations): lift some, or give those \
             to come an end (until)"
        )),
    })?;
    let mut answer = json!(revocation);
    in_force(hub, sequence, &mut answer).await?;
    Ok(json_response(StatusCode::OK, &answer))
}

async fn lift(hub: &AdminState, of: Revoked) -> Result<Response, Problem> {
    let key = of.key();
    let Some(kept) = hub.log.revocation(&key).await? else {
        return Err(Problem::not_found(
            "there is no such revocation; /revocations lists those that there are",
        ));
    };
    let mut answer = match Revocation::parse(&key, &kept) {
        Ok(revocation) => json!(revocation),
        // Whatever it is, it goes.
        Err(_) => json!({ "key": key }),
    };
    let sequence = hub.log.lift_revocation(&key).await?;
    in_force(hub, sequence, &mut answer).await?;
    Ok(json_response(StatusCode::OK, &answer))
}

/// Has every frontend take what was written up to a place, and puts into the answer what came of it.
async fn in_force(hub: &AdminState, sequence: u64, answer: &mut Value) -> Result<(), Problem> {
    // Who cannot find it in time is still to say so before he is given up.
    let wait_ms = hub.settings.gather_ms * 2 / 3;
    // First here, so that the answer is true of the administration too.
    if let Some(keeper) = &hub.keeper {
        keeper.read_upto(sequence, Duration::from_millis(wait_ms)).await?;
    }
    let survey = hub.control.ask(Audience::Frontends, &Command::Revocations { sequence, wait_ms }).await?;
    closed(&survey, answer);
    Ok(())
}
