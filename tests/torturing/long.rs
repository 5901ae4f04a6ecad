//! The long partition: it lives through all rounds and begins with tens of thousands of events, so that snapshots of
//! its state and of its draft index lie apart, answers that hold its events are large, and drafts of long ago are
//! sent again.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::history::Draft;
use super::log::{self, PartitionLog, Truth};
use super::wire::Wire;
use crate::harness::v1::envelope;

/// Its name.
pub const NAME: &str = "history";
/// The client id of those who filled it, and of the clients that send its first drafts again.
pub const CLIENT: &str = "historian";

/// Of how many of its first drafts one is kept, to be sent again.
const KEPT_ONE_IN: usize = 8;
/// The events of a batch, and the batches that wait for their results.
const BATCH_EVENTS: usize = 200;
const BATCHES_WAITING: usize = 4;
const RESULT_WAIT: Duration = Duration::from_secs(60);
/// What makes an event of it as large as an application's.
const PADDING: &str =
    "Events of an application hold a sentence or two, or a drawn line, or what a form holds.";

/// What is known of it.
#[derive(Default)]
pub struct Long {
    /// All of it, from its first event.
    pub log: PartitionLog,
    /// Its last event of the rounds that are judged.
    pub judged: u64,
    /// Some of its first drafts, with the events that they are.
    pub old: Arc<Vec<(Draft, u64)>>,
}

impl Long {
    /// Fills it through a frontend; then reads it from the log.
    pub async fn fill(frontend: u16, events: usize, truth: &Truth) -> Result<(Self, u64), String> {
        if events == 0 {
            return Ok((Self::default(), truth.events(0).await?.1));
        }
        let mut wire = Wire::open(frontend).await?;
        let payload = json!({ "token": "any", "clientId": CLIENT, "projectId": NAME });
        wire.send(envelope("connect", "c", &payload)).await?;
        answer(&mut wire, "connected").await?;
        let batches = events.div_ceil(BATCH_EVENTS);
        let (mut sent, mut old) = (0, Vec::new());
        for done in 0..batches {
            while sent < batches && sent < done + BATCHES_WAITING {
                let events: Vec<Value> =
                    (sent * BATCH_EVENTS..(sent + 1) * BATCH_EVENTS).map(event).collect();
                wire.send(envelope("submit_events", &format!("m{sent}"), &json!({ "events": events })))
                    .await?;
                sent += 1;
            }
            let said = answer(&mut wire, "submit_events_result").await?;
            for (place, result) in said["payload"]["results"].as_array().into_iter().flatten().enumerate() {
                let number = done * BATCH_EVENTS + place;
                let Some(id) = result["committedId"].as_u64() else {
                    return Err(format!("the long partition cannot be filled: {result}"));
                };
                if number.is_multiple_of(KEPT_ONE_IN) {
                    old.push((Draft::new(name(number), event(number), None), id));
                }
            }
        }
        wire.close().await;
        let (mut logs, last) = truth.events(0).await?;
        let log = logs.remove(NAME).unwrap_or_default();
        if log.len() != batches * BATCH_EVENTS {
            return Err(format!("the long partition has {} events, not the {events} sent", log.len()));
        }
        let judged = log::head(&log);
        Ok((Self { log, judged, old: Arc::new(old) }, last))
    }
}

/// The next message, which must be of this kind.
async fn answer(wire: &mut Wire, kind: &str) -> Result<Value, String> {
    let said = timeout(RESULT_WAIT, wire.next()).await.map_err(|_| format!("no `{kind}` in time"))??;
    if said["type"] == kind { Ok(said) } else { Err(format!("{said} came instead of `{kind}`")) }
}

fn name(number: usize) -> String {
    format!("h{number}")
}

fn event(number: usize) -> Value {
    json!({
        "id": name(number), "projectId": NAME, "partition": "doc", "type": "set", "schemaVersion": 1,
        "payload": { "target": format!("h{}", number % 8), "value": { "n": number, "text": PADDING } },
        "meta": { "clientId": CLIENT, "clientTs": number },
    })
}
