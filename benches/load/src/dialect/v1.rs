//! The messages of the npm package `insieme` 2.1.0.
//!
//! The token is the client id, which the reference server under `benches/peers` and ours with
//! `--allow-anyone` both take.

use anyhow::Result;
use memchr::memmem;

use super::{Mark, Names, Seen, failure, now_ms, number_behind, put, put_filler, put_number};

const PAGE: u64 = 1000;

pub(super) fn connect(out: &mut Vec<u8>, names: &Names) {
    open(out, "connect", 0);
    put(out, "{\"token\":\"");
    put(out, &names.client);
    put(out, "\",\"clientId\":\"");
    put(out, &names.client);
    put(out, "\",\"projectId\":\"");
    put(out, &names.partition);
    put(out, "\"}}");
}

pub(super) fn submit(out: &mut Vec<u8>, names: &Names, first: Mark, count: u32, bytes: usize) {
    open(out, "submit_events", u64::from(first.sequence));
    put(out, "{\"events\":[");
    let now = now_ms();
    for index in 0..count {
        if index > 0 {
            out.push(b',');
        }
        let start = out.len();
        put(out, "{\"id\":\"");
        put(out, &names.run);
        first.behind(index).put(out);
        put(out, "\",\"partition\":\"p\",\"projectId\":\"");
        put(out, &names.partition);
        put(out, "\",\"type\":\"note\",\"schemaVersion\":1,\"meta\":{\"clientId\":\"");
        put(out, &names.client);
        put(out, "\",\"clientTs\":");
        put_number(out, now);
        put(out, "},\"payload\":{\"text\":\"");
        put_filler(out, start, bytes, 3);
        put(out, "\"}}");
    }
    put(out, "]}}");
}

/// The id of an event that is to be refused begins so, after the run's name. It has no mark: it is no event.
const REFUSED: &str = "refused-";

/// A `set` without a target, which no state allows.
pub(super) fn submit_refused(out: &mut Vec<u8>, names: &Names, writer: u32, number: u32) {
    open(out, "submit_events", u64::from(number));
    put(out, "{\"events\":[{\"id\":\"");
    put(out, &names.run);
    put(out, REFUSED);
    put_number(out, u64::from(writer));
    out.push(b'-');
    put_number(out, u64::from(number));
    put(out, "\",\"partition\":\"p\",\"projectId\":\"");
    put(out, &names.partition);
    put(out, "\",\"type\":\"set\",\"schemaVersion\":1,\"meta\":{\"clientId\":\"");
    put(out, &names.client);
    put(out, "\",\"clientTs\":");
    put_number(out, now_ms());
    put(out, "},\"payload\":{\"value\":1}}]}}");
}

pub(super) fn sync(out: &mut Vec<u8>, names: &Names, since: u64) {
    open(out, "sync", since);
    put(out, "{\"projectId\":\"");
    put(out, &names.partition);
    put(out, "\",\"sinceCommittedId\":");
    put_number(out, since);
    put(out, ",\"limit\":");
    put_number(out, PAGE);
    put(out, "}}");
}

fn open(out: &mut Vec<u8>, kind: &str, id: u64) {
    put(out, "{\"type\":\"");
    put(out, kind);
    put(out, "\",\"protocolVersion\":\"1.0\",\"msgId\":\"m");
    put_number(out, id);
    put(out, "\",\"payload\":");
}

pub(super) fn read(text: &[u8], on: &mut dyn FnMut(Seen) -> Result<()>) -> Result<()> {
    const KIND: &[u8] = b"{\"type\":\"";
    if text.starts_with(KIND) {
        let kind = &text[KIND.len()..];
        if kind.starts_with(b"event_broadcast\"") {
            return match (Mark::find(text, 0), number_behind(text, "\"committedId\":", 0)) {
                (Some((mark, _)), Some((id, _))) => on(Seen::Event { mark, id }),
                _ => failure(text, on),
            };
        }
        if kind.starts_with(b"submit_events_result\"") {
            return results(text, on);
        }
        if kind.starts_with(b"sync_response\"") {
            return page(text, on);
        }
        if kind.starts_with(b"connected\"") {
            return match number_behind(text, "\"projectLastCommittedId\":", 0) {
                Some((head, _)) => on(Seen::Connected { head, bytes: text.len() }),
                None => failure(text, on),
            };
        }
        if kind.starts_with(b"heartbeat\"") {
            return Ok(());
        }
    }
    failure(text, on)
}

/// One result per item, in order; what is to be refused is alone in its request.
fn results(text: &[u8], on: &mut dyn FnMut(Seen) -> Result<()>) -> Result<()> {
    if memmem::find(text, REFUSED.as_bytes()).is_some() {
        let rejected = memmem::find(text, b"\"status\":\"rejected\"").is_some();
        return if rejected { on(Seen::Refused) } else { failure(text, on) };
    }
    let mut at = 0;
    while let Some((mark, behind)) = Mark::find(text, at) {
        const STORED: &[u8] = b"\",\"status\":\"committed\",\"committedId\":";
        match super::number_at(text, behind + STORED.len()) {
            Some((id, end)) if text[behind..].starts_with(STORED) => {
                on(Seen::Accepted { mark, id })?;
                at = end;
            }
            _ => return failure(text, on),
        }
    }
    if at == 0 {
        return failure(text, on);
    }
    on(Seen::Answered)
}

/// Every event has one mark and one `committedId`, in whatever order.
fn page(text: &[u8], on: &mut dyn FnMut(Seen) -> Result<()>) -> Result<()> {
    // Behind the events; looked for from the end, so that a long page is not gone through twice.
    let Some(tail) = memmem::rfind(text, b"\"nextSinceCommittedId\":") else { return failure(text, on) };
    let Some((next, _)) = number_behind(text, "\"nextSinceCommittedId\":", tail) else {
        return failure(text, on);
    };
    let more = memmem::find(&text[tail..], b"\"hasMore\":true").is_some();
    let (mut mark_at, mut id_at) = (0, 0);
    loop {
        match (Mark::find(text, mark_at), number_behind(text, "\"committedId\":", id_at)) {
            (Some((mark, mark_end)), Some((id, id_end))) => {
                on(Seen::History { mark, id })?;
                (mark_at, id_at) = (mark_end, id_end);
            }
            (None, None) => break,
            _ => return failure(text, on),
        }
    }
    on(Seen::Page { next, more })
}
