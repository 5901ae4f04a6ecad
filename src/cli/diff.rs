//! `insieme-backend diff`

use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::admin::escape_control;
use super::common::{NatsArgs, say};
use super::{connect, startup};
use crate::config::settings::Config;
use crate::event::{EventId, PartitionKey, Token};
use crate::json::Json;
use crate::json::canonical::write_string;
use crate::json::diff::diff;
use crate::log::Log;
use crate::state::Fold;

/// Print what is different between two states of a partition.
///
/// A line a change: what begins with + is added, with - removed, with ~ replaced. Paths are JSON Pointers.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// The partition.
    #[arg(value_name = "PARTITION")]
    partition: String,
    /// The events after which the states are compared. Without the first it is the empty state, without the second the
    /// last one.
    #[arg(value_name = "FROM..TO", value_parser = parse_range)]
    range: Range,
    /// Print one JSON object instead, whose `changes` are a JSON Patch (RFC 6902).
    #[arg(long)]
    json: bool,
}

/// Two events of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    from: EventId,
    /// `None` for the last event.
    to: Option<EventId>,
}

fn parse_range(text: &str) -> Result<Range, String> {
    let wrong = || format!("it takes two event ids with two dots between them, such as 12..80, not {text:?}");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let id = |text: &str| match text {
        "" => Ok(None),
        text => text.parse().map(|id| Some(EventId(id))).map_err(|_| wrong()),
    };
    Ok(Range { from: id(from)?.unwrap_or(EventId::NONE), to: id(to)? })
}

impl Diff {
    pub(crate) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let partition = PartitionKey::new(self.partition.as_str())?;
        let token = partition.token();
        let log =
            connect::connect_to_streams(&config, "diff", &shutdown).await?.ok_or_else(connect::stopped)?;
        let fold = startup::folds(&log)?;
        let (from, before) = state_at(&log, &token, &fold, Some(self.range.from)).await?;
        let (to, after) = state_at(&log, &token, &fold, self.range.to).await?;
        let changes = diff(&before, &after);
        if !self.json {
            return changes.iter().try_for_each(|change| say(&escape_control(&change.to_string())));
        }
        let mut out = b"{\"partition\":".to_vec();
        write_string(partition.as_str(), &mut out);
        out.extend_from_slice(format!(",\"from\":{from},\"to\":{to},\"changes\":[").as_bytes());
        for (index, change) in changes.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend(change.to_json());
        }
        out.extend_from_slice(b"]}");
        say(&String::from_utf8_lossy(&out))
    }
}

/// A partition's state after an event, or after its last one.
async fn state_at(
    log: &Log,
    token: &Token,
    fold: &Arc<dyn Fold>,
    id: Option<EventId>,
) -> anyhow::Result<(EventId, Json)> {
    let state = match id {
        Some(EventId::NONE) => return Ok((EventId::NONE, Json::parse(b"{}")?)),
        Some(id) => log
            .state_at(token, fold, id)
            .await
            .context("`insieme-backend log` lists the partition's events")?,
        None => log.load_partition(token, fold, false).await?.state,
    };
    Ok((state.head(), Json::parse(&tokio::task::block_in_place(|| state.canonical())?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_two_ends_that_may_be_left_out() {
        let range = |from, to: Option<u64>| Ok(Range { from: EventId(from), to: to.map(EventId) });
        assert_eq!(parse_range("12..80"), range(12, Some(80)));
        assert_eq!(parse_range("12.."), range(12, None));
        assert_eq!(parse_range("..80"), range(0, Some(80)));
        assert_eq!(parse_range(".."), range(0, None));
        for bad in ["", "12", "12-80", "a..b", "1...2", "-1..2"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }
}
