//! `POST /clients/{client}/close`: ends the connections of a client, on all frontends.

use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::connections::client_named;
use super::processes::add_missing_and_failed;
use crate::admin::body;
use crate::admin::problem::Problem;
use crate::admin::query::Query;
use crate::admin::request::AdminRequest;
use crate::admin::response::json as json_response;
use crate::control::{Answer, Audience, Closing, Command, Gathered};
use crate::event::PartitionKey;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    partition: Option<PartitionKey>,
    reconnect: bool,
}

/// `POST /clients/{client}/close`
pub(crate) async fn client(
    AdminRequest { hub, admin, query }: AdminRequest,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    Query::parse(query.as_deref(), &[])?;
    let client = client_named(path)?;
    let asked: Asked = body::read(body, r#"{"partition":"default","reconnect":true}"#)?;
    match &asked.partition {
        Some(partition) => admin.may_enter(partition)?,
        None => admin.require_global()?,
    }
    let Asked { partition, reconnect } = asked;
    let mut answer = json!({ "client": client, "partition": partition, "reconnect": reconnect });
    let closing = Closing { client, partition, reconnect };
    let survey = hub.control.ask(Audience::Frontends, &Command::Close(closing)).await?;
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
