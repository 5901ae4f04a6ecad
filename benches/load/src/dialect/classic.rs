//! Our classic dialect. A request holds one event, `set` on one of fifty keys, so that the state that the
//! server folds stays as it is in size.

use anyhow::Result;
use memchr::memmem;

use super::{Mark, Names, Seen, failure, now_ms, number_behind, put, put_filler, put_number};

const KEYS: u32 = 50;
const PAGE: u64 = 1000;

pub(super) fn connect(out: &mut Vec<u8>, names: &Names, after: Option<u64>) {
    open(out, "connect", "c");
    put(out, "{\"clientId\":\"");
    put(out, &names.client);
    put(out, "\",\"version\":\"load\",\"token\":\"");
    put(out, &names.client);
    put(out, "\",\"partition\":\"");
    put(out, &names.partition);
    out.push(b'"');
    if let Some(after) = after {
        put(out, ",\"lastEventId\":");
        put_number(out, after);
    }
    put(out, "}}");
}

pub(super) fn submit(out: &mut Vec<u8>, names: &Names, mark: Mark, bytes: usize) {
    open(out, "submit_event", "s");
    let start = out.len();
    put(out, "{\"draftId\":\"");
    put(out, &names.run);
    mark.put(out);
    put(out, "\",\"event\":{\"type\":\"set\",\"payload\":{\"target\":\"k");
    put_number(out, u64::from(mark.sequence % KEYS));
    put(out, "\",\"value\":{\"mark\":\"");
    mark.put(out);
    put(out, "\",\"text\":\"");
    put_filler(out, start, bytes, 5);
    put(out, "\"}}}}}");
}

pub(super) fn sync(out: &mut Vec<u8>, since: u64) {
    open(out, "sync", "y");
    put(out, "{\"sinceEventId\":");
    put_number(out, since);
    put(out, ",\"limit\":");
    put_number(out, PAGE);
    put(out, "}}");
}

fn open(out: &mut Vec<u8>, kind: &str, id: &str) {
    put(out, "{\"id\":\"");
    put(out, id);
    put(out, "\",\"type\":\"");
    put(out, kind);
    put(out, "\",\"timestamp\":");
    put_number(out, now_ms());
    put(out, ",\"payload\":");
}

pub(super) fn read(text: &[u8], on: &mut dyn FnMut(Seen) -> Result<()>) -> Result<()> {
    const KIND: &[u8] = b"\"type\":\"";
    let Some(at) = memmem::find(text, KIND) else { return failure(text, on) };
    let kind = &text[at + KIND.len()..];
    let marked = || Some((Mark::find(text, 0)?.0, number_behind(text, "\"eventId\":", 0)?.0));
    if kind.starts_with(b"broadcast\"") {
        return match marked() {
            Some((mark, id)) => on(Seen::Event { mark, id }),
            None => failure(text, on),
        };
    }
    if kind.starts_with(b"event_accepted\"") {
        return match marked() {
            Some((mark, id)) => {
                on(Seen::Accepted { mark, id })?;
                on(Seen::Answered)
            }
            None => failure(text, on),
        };
    }
    if kind.starts_with(b"connected\"") {
        return match number_behind(text, "\"currentEventIndex\":", 0) {
            Some((head, _)) => on(Seen::Connected { head, bytes: text.len() }),
            None => failure(text, on),
        };
    }
    if kind.starts_with(b"sync_response\"") {
        return page(text, on);
    }
    if kind.starts_with(b"heartbeat\"") {
        return Ok(());
    }
    failure(text, on)
}

/// A page may begin with a snapshot, whose state holds marks, too: only what follows it counts.
fn page(text: &[u8], on: &mut dyn FnMut(Seen) -> Result<()>) -> Result<()> {
    let Some(mut at) = memmem::rfind(text, b"\"events\":[") else { return failure(text, on) };
    let mut next = number_behind(&text[..at], "\"eventIndex\":", 0).map_or(0, |(id, _)| id);
    while let Some((mark, mark_end)) = Mark::find(text, at) {
        let Some((id, end)) = number_behind(text, "\"eventId\":", mark_end) else { return failure(text, on) };
        on(Seen::History { mark, id })?;
        next = id;
        at = end;
    }
    let more = memmem::find(&text[at..], b"\"hasMore\":true").is_some();
    on(Seen::Page { next, more })
}
