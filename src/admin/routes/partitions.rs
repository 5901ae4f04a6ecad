//! `/partitions`, `/partitions/{partition}/state` and `/slots`: what lies in the log, and who decides on it.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::admin::problem::Problem;
use crate::admin::query::Query;
use crate::admin::request::AdminRequest;
use crate::admin::response::{json as json_response, raw_json};
use crate::event::{EventId, EventRecord, PartitionKey, Slot};
use crate::log::PartitionStats;
use crate::partition::StateAtError;
use crate::state::AppError;
use crate::util::hex;

/// The partition that a path names.
pub(crate) fn named(path: Result<Path<String>, PathRejection>) -> Result<PartitionKey, Problem> {
    let Path(name) = path.map_err(|error| Problem::bad_request(format!("the partition's name: {error}")))?;
    PartitionKey::new(name).map_err(|error| Problem::bad_request(error.to_string()))
}

/// `GET /partitions?after=&limit=`
pub(crate) async fn list(AdminRequest { hub, admin, query }: AdminRequest) -> Result<Response, Problem> {
    admin.require_global()?;
    let query = Query::parse(query.as_deref(), &["after", "limit"])?;
    let limit = query.limit(hub.settings.page_entries_default, hub.settings.page_entries_max)?;
    let after = query.text("after").map(PartitionKey::new).transpose();
    let after = after.map_err(|error| Problem::bad_request(format!("the parameter after: {error}")))?;
    let page = hub.log.partitions(after.map(|after| after.token()).as_ref(), limit).await?;
    let next = page.partitions.last().filter(|_| page.more).map(|last| last.partition.as_str().to_owned());
    let slots = hub.log.slots();
    let partitions: Vec<Value> =
        page.partitions.iter().map(|partition| described(partition, slots)).collect();
    let body = json!({ "partitions": partitions, "total": page.total, "next": next });
    Ok(json_response(StatusCode::OK, &body))
}

fn described(surveyed: &PartitionStats, slots: u16) -> Value {
    let last = surveyed.last.as_ref();
    let record = last.and_then(|last| EventRecord::parse(&last.body).ok());
    json!({
        "partition": surveyed.partition,
        "slot": surveyed.partition.slot(slots).0,
        "events": surveyed.events,
        "head": last.map(|last| last.id),
        "lastTimestamp": record.map(|record| record.timestamp),
    })
}

/// `GET /slots`
pub(crate) async fn slots(AdminRequest { hub, admin, query }: AdminRequest) -> Result<Response, Problem> {
    admin.require_global()?;
    Query::parse(query.as_deref(), &[])?;
    let (view, drafts) = tokio::try_join!(hub.log.ownership(), hub.log.drafts_by_slot())?;
    let slots: Vec<Value> = (0..hub.log.slots())
        .map(Slot)
        .map(|slot| {
            json!({
                "slot": slot.0,
                "owner": view.owners.get(&slot),
                "revision": view.keys.get(&slot).map(|key| key.revision),
                "pendingDrafts": drafts.get(&slot).copied().unwrap_or(0),
            })
        })
        .collect();
    let body = json!({
        "slots": slots,
        "unowned": (0..hub.log.slots()).filter(|slot| !view.owners.contains_key(&Slot(*slot))).count(),
        "validators": view.validators,
    });
    Ok(json_response(StatusCode::OK, &body))
}

/// `GET /partitions/{partition}/state?at=`
pub(crate) async fn state(
    AdminRequest { hub, admin, query }: AdminRequest,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let partition = named(path)?;
    admin.may_enter(&partition)?;
    let query = Query::parse(query.as_deref(), &["at"])?;
    let token = partition.token();
    let state = match query.number("at")? {
        None => hub.log.load_partition(&token, &hub.fold, false).await?.state,
        Some(at) => hub.log.state_at(&token, &hub.fold, EventId(at)).await.map_err(no_state)?,
    };
    if state.head() == EventId::NONE {
        return Err(Problem::not_found(format!("the partition {:?} has no events", partition.as_str())));
    }
    // A large state is work for the processor.
    let written = tokio::task::spawn_blocking(move || {
        let text = state.canonical()?;
        let hash = hex::encode(&<sha2::Sha256 as sha2::Digest>::digest(&text));
        let mut body = json!({
            "partition": partition, "eventId": state.head(), "events": state.ordinal(),
            "timestamp": state.last_timestamp(), "hash": hash,
        })
        .to_string()
        .into_bytes();
        body.pop();
        body.extend_from_slice(b",\"state\":");
        body.extend_from_slice(&text);
        body.push(b'}');
        Ok::<_, AppError>(body)
    });
    let failed = |why: String| Problem::server_error(format!("writing a state: {why}"));
    let body = written.await.map_err(|error| failed(error.to_string()))?;
    let body = body.map_err(|error| failed(error.to_string()))?;
    Ok(raw_json(StatusCode::OK, body))
}

/// `POST /partitions/{partition}/snapshot`: writes a snapshot of the state as it is now.
pub(crate) async fn snapshot(
    AdminRequest { hub, admin, query }: AdminRequest,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let partition = named(path)?;
    admin.may_enter(&partition)?;
    Query::parse(query.as_deref(), &[])?;
    let token = partition.token();
    let loaded = hub.log.load_partition(&token, &hub.fold, false).await?;
    if loaded.state.head() == EventId::NONE {
        return Err(Problem::not_found(format!("the partition {:?} has no events", partition.as_str())));
    }
    let info = hub.log.write_state_snapshot(&token, loaded.state).await?;
    let body = json!({
        "partition": partition, "eventId": info.event_id, "events": info.ordinal, "bytes": info.bytes,
    });
    Ok(json_response(StatusCode::OK, &body))
}

fn no_state(error: StateAtError) -> Problem {
    match error {
        StateAtError::Load(error) => error.into(),
        other => Problem::not_found(format!("{other}; /partitions/…/events lists the partition's")),
    }
}
