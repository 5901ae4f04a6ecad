//! Where a partition's n-th event is: found by looking at events in between, since the log knows ids only.

use crate::admin::problem::Problem;
use crate::event::{EventId, EventRecord, Token};
use crate::log::{Log, LogError, StoredEvent};

/// So few events are read rather than searched.
const READ_MAX: u64 = 128;
const READ_BYTES_MAX: usize = 1 << 20;
/// More looks than any log takes: every second one halves what is left.
const LOOKS_MAX: usize = 140;

/// The id of the first of the last `count` events.
pub(super) async fn of_last(log: &Log, token: &Token, count: u64) -> Result<u64, Problem> {
    match log.head(token).await? {
        None => Ok(1),
        Some(head) if count <= 1 => Ok(head.id.0 + u64::from(count == 0)),
        Some(head) => event_id(log, token, ordinal_of(&head)?.saturating_sub(count - 1).max(1)).await,
    }
}

/// The id of the event, or of the first one after where it would be.
pub(super) async fn event_id(log: &Log, token: &Token, ordinal: u64) -> Result<u64, Problem> {
    let Some(head) = log.head(token).await? else { return Ok(1) };
    let mut span = Span { after: 0, first: 1, upto: head.id.0, last: ordinal_of(&head)? };
    if ordinal > span.last {
        return Ok(head.id.0 + 1);
    }
    for look in 0..LOOKS_MAX {
        let missing = ordinal.saturating_sub(span.first);
        if missing == 0 || span.after >= span.upto {
            break;
        }
        if missing < READ_MAX {
            let events = log.page(token, EventId(span.after), missing as usize + 1, READ_BYTES_MAX).await?;
            for event in &events {
                if ordinal_of(event)? >= ordinal {
                    return Ok(event.id.0);
                }
            }
            // Large events: the bytes have ended the page.
            let Some(last) = events.last() else { break };
            (span.after, span.first) = (last.id.0, ordinal_of(last)? + 1);
            continue;
        }
        let middle = span.guess(ordinal, look % 2 == 1);
        match log.next(token, EventId(middle)).await? {
            Some(event) if ordinal_of(&event)? == ordinal => return Ok(event.id.0),
            Some(event) if ordinal_of(&event)? < ordinal => {
                (span.after, span.first) = (event.id.0, ordinal_of(&event)? + 1);
            }
            Some(event) => (span.upto, span.last) = (middle, ordinal_of(&event)?),
            None => span.upto = middle,
        }
    }
    Ok(span.after + 1)
}

/// What is left to be searched: the event lies after `after`, and not after `upto`.
struct Span {
    after: u64,
    /// The ordinal of the first event after `after`, or less.
    first: u64,
    upto: u64,
    /// The ordinal that is not reached before `upto`.
    last: u64,
}

impl Span {
    /// Where to look: where the event would be if all were evenly apart, a little before; or in the middle.
    fn guess(&self, ordinal: u64, in_the_middle: bool) -> u64 {
        let width = self.upto - self.after;
        let within = if in_the_middle {
            width / 2
        } else {
            let (part, whole) = (ordinal - self.first, (self.last - self.first).max(1));
            let even = u128::from(width) * u128::from(part) / u128::from(whole);
            // Too early costs one page; too late another look.
            u64::try_from(even).unwrap_or(width).saturating_sub(READ_MAX / 2)
        };
        (self.after + within).clamp(self.after, self.upto.saturating_sub(1))
    }
}

fn ordinal_of(event: &StoredEvent) -> Result<u64, Problem> {
    let record = EventRecord::parse(&event.body);
    let record = record.map_err(|error| LogError::malformed("reading an event's ordinal", error))?;
    Ok(record.ordinal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_stays_within_and_the_middle_halves() {
        let span = Span { after: 100, first: 11, upto: 1_100, last: 511 };
        assert_eq!(span.guess(11, false), 100);
        assert_eq!(span.guess(261, false), 100 + 500 - READ_MAX / 2);
        assert!(span.guess(511, false) < 1_100);
        assert_eq!(span.guess(12, true), 600);
        let narrow = Span { after: 5, first: 2, upto: 6, last: 900 };
        assert_eq!(narrow.guess(800, true), 5);
    }
}
