//! `POST /clients/{client}/close` and `POST /users/{user}/close`: ends connections, on all frontends.

use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::connections::{client_named, user_named};
use super::processes::add_missing_and_failed;
use crate::admin::body;
use crate::admin::problem::Problem;
use crate::admin::query::Query;
use crate::admin::request::AdminRequest;
use crate::admin::response::json as json_response;
use crate::control::{Answer, Audience, Closing, Command, Gathered, UserClosing};
use crate::event::PartitionKey;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    partition: Option<PartitionKey>,
    reconnect: bool,
}

/// `POST /clients/{client}/close`
pub(crate) async fn client(
    asking: AdminRequest,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    Query::parse(asking.query.as_deref(), &[])?;
    let client = client_named(path)?;
    let Asked { partition, reconnect } = asked(&asking, body)?;
    let answer = json!({ "client": client, "partition": partition, "reconnect": reconnect });
    close(&asking, &Command::Close(Closing { client, partition, reconnect }), answer).await
}

/// `POST /users/{user}/close`
pub(crate) async fn user(
    asking: AdminRequest,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    Query::parse(asking.query.as_deref(), &[])?;
    let user = user_named(path)?;
    let Asked { partition, reconnect } = asked(&asking, body)?;
    let answer = json!({ "user": user, "partition": partition, "reconnect": reconnect });
    close(&asking, &Command::CloseUser(UserClosing { user, partition, reconnect }), answer).await
}

/// What is to be closed, if the operator may.
fn asked(asking: &AdminRequest, body: Result<Bytes, BytesRejection>) -> Result<Asked, Problem> {
    let asked: Asked = body::read(body, r#"{"partition":"default","reconnect":true}"#)?;
    match &asked.partition {
        Some(partition) => asking.admin.may_enter(partition)?,
        None => asking.admin.require_global()?,
    }
    Ok(asked)
}

async fn close(asking: &AdminRequest, demand: &Command, mut answer: Value) -> Result<Response, Problem> {
    let survey = asking.hub.control.ask(Audience::Frontends, demand).await?;
    closed(&survey, &mut answer);
    Ok(json_response(StatusCode::OK, &answer))
}

/// Puts into an answer how many connections the frontends close, and who has not said so.
pub(crate) fn closed(survey: &Gathered, answer: &mut Value) {
    let closed = survey.answers.iter().filter_map(|(process, answer)| match answer {
        Answer::Closed(count) => Some((process, *count)),
        _ => None,
    });
    let closed: Vec<_> = closed.collect();
    answer["closed"] = closed.iter().map(|(_, count)| count).sum::<u64>().into();
    answer["frontends"] =
        closed.iter().map(|(process, count)| json!({ "id": process.id, "closed": count })).collect();
    add_missing_and_failed(survey, answer);
}
