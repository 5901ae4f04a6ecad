//! `/log`: what all processes log, told and changed.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::processes::add_missing_and_failed;
use crate::admin::body;
use crate::admin::problem::Problem;
use crate::admin::query::Query;
use crate::admin::request::AdminRequest;
use crate::admin::response::json as json_response;
use crate::admin::state::AdminState;
use crate::control::{Answer, Audience, Command, LogFilter};
use crate::telemetry::{LogOutput, tells_of_us};

/// The longest time for which a filter is set, in minutes: a week.
const MINUTES_MAX: u64 = 7 * 24 * 60;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    level: Option<String>,
    minutes: Option<u64>,
}

/// `GET /log`
pub(crate) async fn tell(AdminRequest { hub, admin, query }: AdminRequest) -> Result<Response, Problem> {
    admin.require_global()?;
    Query::parse(query.as_deref(), &[])?;
    Ok(json_response(StatusCode::OK, &in_force(&hub, None).await?))
}

/// `PUT /log`
pub(crate) async fn change(
    AdminRequest { hub, admin, query }: AdminRequest,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    admin.require_global()?;
    Query::parse(query.as_deref(), &[])?;
    let takes = r#"{"level":"info,insieme_backend::validator=debug","minutes":10}"#;
    let Asked { level, minutes } = body::read(body, takes)?;
    let Some(filter) = level else {
        return Err(Problem::bad_request(format!("the body names no level; it takes {takes}")));
    };
    if let Some(wrong) = minutes.filter(|minutes| !(1..=MINUTES_MAX).contains(minutes)) {
        return Err(Problem::bad_request(format!("minutes: 1 to {MINUTES_MAX}, not {wrong}")));
    }
    // What no process would take is not sent to any.
    let output = LogOutput { filter: filter.clone(), ..LogOutput::default() };
    output.parse_filter().map_err(|error| {
        Problem::bad_request(format!("level: {filter:?} is no log filter: {error}; it takes {takes}"))
    })?;
    let seconds = minutes.map(|minutes| minutes * 60);
    let silences = !tells_of_us(&filter);
    let mut told = in_force(&hub, Some(LogFilter { filter, seconds })).await?;
    if silences {
        told["warning"] = "this filter lets no line of ours through".into();
    }
    Ok(json_response(StatusCode::OK, &told))
}

/// What every process says is in force.
async fn in_force(hub: &AdminState, filter: Option<LogFilter>) -> Result<Value, Problem> {
    let survey = hub.control.ask(Audience::Everyone, &Command::Log(filter)).await?;
    let in_force = survey.answers.iter().filter_map(|(process, answer)| match answer {
        Answer::Log(filter) => Some(json!({ "role": process.role, "id": process.id, "level": filter })),
        _ => None,
    });
    let in_force: Vec<Value> = in_force.collect();
    let mut body = json!({ "processes": in_force });
    add_missing_and_failed(&survey, &mut body);
    Ok(body)
}
