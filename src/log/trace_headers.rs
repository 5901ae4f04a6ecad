//! The trace of a message, in its headers: W3C's `traceparent`.
//!
//! A submission holds several drafts, each with a trace of its own or none: it has a `traceparent` for each
//! traced one, and in as many `Insieme-Trace-Place` headers the places of those drafts. Nothing is decided by
//! these headers; a message with bad ones is a message without.

use async_nats::HeaderMap;

const TRACEPARENT: &str = "traceparent";
const PLACE: &str = "Insieme-Trace-Place";
/// The most traces of one message that are read.
const TRACES_MAX: usize = 1000;

/// The trace of one draft or event: where in its message it is, and the `traceparent`.
pub type PlacedTrace = (usize, String);

/// The headers for the drafts of a submission; `None` where nothing is traced.
pub(crate) fn of_drafts(traces: &[PlacedTrace]) -> Option<HeaderMap> {
    if traces.is_empty() {
        return None;
    }
    let mut headers = HeaderMap::new();
    for (place, traceparent) in traces {
        headers.append(TRACEPARENT, traceparent.as_str());
        headers.append(PLACE, place.to_string());
    }
    Some(headers)
}

/// The traces of a submission's drafts.
pub(crate) fn drafts_of(headers: Option<&HeaderMap>) -> Vec<PlacedTrace> {
    let Some(headers) = headers else { return Vec::new() };
    let places = headers.get_all(PLACE).filter_map(|place| place.as_str().parse().ok());
    let traces = headers.get_all(TRACEPARENT).map(|trace| trace.as_str().to_owned());
    places.zip(traces).take(TRACES_MAX).collect()
}

/// Adds the trace of an event to the headers of its commit.
pub(crate) fn add_event(headers: &mut HeaderMap, trace: Option<&String>) {
    if let Some(trace) = trace {
        headers.insert(TRACEPARENT, trace.as_str());
    }
}

/// The trace of a committed event.
pub(crate) fn event_of(headers: Option<&HeaderMap>) -> Option<String> {
    headers?.get(TRACEPARENT).map(|trace| trace.as_str().to_owned())
}
