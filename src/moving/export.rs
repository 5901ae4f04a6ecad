//! An export of the log, while everything runs.

use std::collections::HashMap;
use std::io::Write;

use super::error::MoveError;
use super::file::ExportWriter;
use crate::event::{EventId, EventRecord, PartitionKey, Token};
use crate::log::{Log, LogError, StoredEvent};

/// What was exported.
#[derive(Debug)]
pub struct Exported {
    /// How many events.
    pub events: u64,
    /// The id of the last one; 0 if there is none.
    pub last: u64,
    /// The SHA-256 of all lines but the last one.
    pub sha256: String,
}

/// Writes the events of these partitions, or of all if none is named, up to the last one of this moment.
pub async fn export(log: &Log, only: &[PartitionKey], out: impl Write) -> Result<Exported, MoveError> {
    let failed = |error: std::io::Error| MoveError::Refused(format!("failed to write the export: {error}"));
    let mut writer = ExportWriter::new(out).map_err(failed)?;
    let only: Vec<Token> = only.iter().map(PartitionKey::token).collect();
    let (replay, tokens) = match only.as_slice() {
        [one] => (log.leader_head(one).await?.map(|head| log.replay(one, EventId::NONE, head.id)), only),
        _ => (log.leader_last().await?.map(|last| log.replay_all(last)), only),
    };
    let mut ordinals: HashMap<Token, u64> = HashMap::new();
    if let Some(mut replay) = replay {
        while let Some(stored) = replay.next().await? {
            let (token, ordinal) = placed(&stored)?;
            if !tokens.is_empty() && !tokens.contains(&token) {
                continue;
            }
            let last = ordinals.entry(token).or_default();
            *last += 1;
            if ordinal != *last {
                return Err(broken(&stored, &format!("it is number {ordinal} of its partition, not {last}")));
            }
            writer.event(&stored).map_err(failed)?;
        }
    }
    if let Some(token) = tokens.iter().find(|token| !ordinals.contains_key(*token)) {
        let why = format!(
            "the log has no events of the partition {token}; `insieme-backend admin partitions` lists those that it has"
        );
        return Err(MoveError::Refused(why));
    }
    let end = writer.finish().map_err(failed)?;
    Ok(Exported { events: end.events, last: end.last, sha256: end.sha256 })
}

/// Where an event belongs.
fn placed(stored: &StoredEvent) -> Result<(Token, u64), MoveError> {
    match EventRecord::parse(&stored.body) {
        Ok(record) => Ok((record.partition.token(), record.ordinal)),
        Err(error) => Err(broken(stored, &error.to_string())),
    }
}

fn broken(stored: &StoredEvent, why: &str) -> MoveError {
    let why = format!("event {} is damaged ({why}); `insieme-backend inspect` shows more", stored.id);
    LogError::malformed("exporting the log", why).into()
}
