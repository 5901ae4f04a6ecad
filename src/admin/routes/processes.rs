//! `/processes`: who is there.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::admin::problem::Problem;
use crate::admin::query::Query;
use crate::admin::request::AdminRequest;
use crate::admin::response::json as json_response;
use crate::control::{Answer, Audience, Command, Gathered, Process};

/// `GET /processes`
pub(crate) async fn list(AdminRequest { hub, admin, query }: AdminRequest) -> Result<Response, Problem> {
    admin.require_global()?;
    Query::parse(query.as_deref(), &[])?;
    let survey = hub.control.ask(Audience::Everyone, &Command::Presence).await?;
    let present = hub.control.present();
    let processes: Vec<Value> = present
        .iter()
        .map(|present| {
            json!({
                "role": present.process.role,
                "id": present.process.id,
                "version": present.version,
                "startedAt": present.started_ms,
                "answers": !survey.missing.contains(&present.process),
                "heardMsAgo": present.heard_ago.as_millis() as u64,
            })
        })
        .collect();
    Ok(json_response(StatusCode::OK, &json!({ "processes": processes })))
}

/// Processes by role and name, as answers name them.
pub(crate) fn named<'a>(processes: impl IntoIterator<Item = &'a Process>) -> Vec<Value> {
    processes.into_iter().map(|process| json!({ "role": process.role, "id": process.id })).collect()
}

/// Puts into an answer that rests on those to an order whether they are all there: who has not answered, and who
/// has answered that he cannot.
pub(crate) fn add_missing_and_failed(survey: &Gathered, body: &mut Value) {
    let failed = survey.answers.iter().filter_map(|(process, answer)| {
        let why = match answer {
            Answer::Failed(why) => why.as_str(),
            Answer::NotUnderstood => "does not know this order; it is of another version",
            _ => return None,
        };
        Some(json!({ "role": process.role, "id": process.id, "why": why }))
    });
    let (missing, failed) = (named(&survey.missing), failed.collect::<Vec<_>>());
    body["complete"] = (missing.is_empty() && failed.is_empty()).into();
    (body["missing"], body["failed"]) = (missing.into(), failed.into());
}
