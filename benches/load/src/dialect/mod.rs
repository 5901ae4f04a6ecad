//! What servers are spoken to in. A dialect puts requests into bytes, and tells what bytes say.
//!
//! Frames are not parsed as JSON where there are many: every event that the generator sends carries a
//! *mark*, `@WRITER.SEQUENCE@`, and no other text in a frame has an `@`, so that the mark and the number
//! that the server gave the event can be looked for. What does not look as it should is told as a failure.

mod classic;
mod socketio;
mod v1;

use anyhow::Result;
use memchr::memmem;

/// A protocol that events can be sent in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// The messages of the npm package `insieme`: ours, the reference server, the bare fan-out.
    V1,
    /// Our classic dialect.
    Classic,
    /// Socket.IO with acknowledgements, as benches/peers/socketio.mjs answers.
    Socketio,
}

/// Who sent an event, and as its how-manieth, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub writer: u32,
    pub sequence: u32,
}

/// A connection's own data for its requests.
#[derive(Debug, Clone)]
pub struct Names {
    /// Unique on the server.
    pub client: String,
    pub partition: String,
    /// What makes ids unique over runs.
    pub run: String,
}

/// What a frame said.
#[derive(Debug)]
pub enum Seen {
    /// The connection stands; the partition's last event id, and the bytes of the frame.
    Connected { head: u64, bytes: usize },
    /// One event of ours is stored, under this id.
    Accepted { mark: Mark, id: u64 },
    /// The answer to a whole request is through.
    Answered,
    /// A request that was to be refused is.
    Refused,
    /// An event came by itself.
    Event { mark: Mark, id: u64 },
    /// An event came with a page of history.
    History { mark: Mark, id: u64 },
    /// The page is through.
    Page { next: u64, more: bool },
    /// The server says no, or something that is not understood.
    Failure(String),
    /// The dialect wants this sent back.
    Reply(&'static str),
}

impl Dialect {
    /// Puts the first message; `after` is the last event that the client has.
    pub fn connect(self, out: &mut Vec<u8>, names: &Names, after: Option<u64>) {
        match self {
            Dialect::V1 => v1::connect(out, names),
            Dialect::Classic => classic::connect(out, names, after),
            Dialect::Socketio => socketio::connect(out, names),
        }
    }

    /// Puts a request with `count` events, the first of which is `first`, each of about `bytes` bytes.
    pub fn submit(self, out: &mut Vec<u8>, names: &Names, first: Mark, count: u32, bytes: usize) {
        match self {
            Dialect::V1 => v1::submit(out, names, first, count, bytes),
            Dialect::Classic => classic::submit(out, names, first, bytes),
            Dialect::Socketio => socketio::submit(out, names, first, bytes),
        }
    }

    /// Puts a request with one event that the server must refuse: the `number`th of its writer.
    pub fn submit_refused(self, out: &mut Vec<u8>, names: &Names, writer: u32, number: u32) {
        match self {
            Dialect::V1 => v1::submit_refused(out, names, writer, number),
            Dialect::Classic | Dialect::Socketio => {}
        }
    }

    /// Whether there are events in it that are refused.
    pub fn has_refusals(self) -> bool {
        self == Dialect::V1
    }

    /// Asks for the events behind `since`.
    pub fn sync(self, out: &mut Vec<u8>, names: &Names, since: u64) {
        match self {
            Dialect::V1 => v1::sync(out, names, since),
            Dialect::Classic => classic::sync(out, since),
            Dialect::Socketio => {}
        }
    }

    /// Tells what a frame says.
    pub fn read(self, text: &[u8], on: &mut dyn FnMut(Seen) -> Result<()>) -> Result<()> {
        match self {
            Dialect::V1 => v1::read(text, on),
            Dialect::Classic => classic::read(text, on),
            Dialect::Socketio => socketio::read(text, on),
        }
    }

    /// Whether a request can hold several events.
    pub fn has_batches(self) -> bool {
        self == Dialect::V1
    }

    /// Whether history can be asked for.
    pub fn has_history(self) -> bool {
        self != Dialect::Socketio
    }

    /// Whether a writer's connection is sent its own events, too.
    pub fn echoes(self) -> bool {
        self == Dialect::Classic
    }
}

impl Mark {
    /// The next one of the same writer.
    pub fn behind(self, by: u32) -> Self {
        Self { sequence: self.sequence + by, ..self }
    }

    fn put(self, out: &mut Vec<u8>) {
        out.push(b'@');
        put_number(out, u64::from(self.writer));
        out.push(b'.');
        put_number(out, u64::from(self.sequence));
        out.push(b'@');
    }

    /// The first mark at or behind `from`, and where it ends.
    fn find(text: &[u8], from: usize) -> Option<(Self, usize)> {
        let start = from + memchr::memchr(b'@', text.get(from..)?)? + 1;
        let (writer, dot) = number_at(text, start)?;
        let (sequence, end) = number_at(text, dot + 1)?;
        if text.get(dot) != Some(&b'.') || text.get(end) != Some(&b'@') {
            return None;
        }
        let mark = Self { writer: u32::try_from(writer).ok()?, sequence: u32::try_from(sequence).ok()? };
        Some((mark, end + 1))
    }
}

/// Makes an event longer, until it has about `bytes` bytes from `start` on.
fn put_filler(out: &mut Vec<u8>, start: usize, bytes: usize, behind: usize) {
    const WORDS: &[u8] = b"the quick brown fox jumps over the lazy dog ";
    let mut missing = bytes.saturating_sub(out.len() - start + behind);
    while missing > 0 {
        let take = missing.min(WORDS.len());
        out.extend_from_slice(&WORDS[..take]);
        missing -= take;
    }
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut left = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The number at `from`, and where it ends.
fn number_at(text: &[u8], from: usize) -> Option<(u64, usize)> {
    let digits = text.get(from..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&text[from..from + digits]).ok()?.parse().ok()?;
    Some((number, from + digits))
}

/// The number behind the first `key` at or behind `from`, and where it ends.
fn number_behind(text: &[u8], key: &str, from: usize) -> Option<(u64, usize)> {
    let at = from + memmem::find(text.get(from..)?, key.as_bytes())? + key.len();
    number_at(text, at)
}

fn failure(text: &[u8], on: &mut dyn FnMut(Seen) -> Result<()>) -> Result<()> {
    let shown = String::from_utf8_lossy(&text[..text.len().min(400)]).into_owned();
    on(Seen::Failure(shown))
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: fn() -> Names =
        || Names { client: "c".to_owned(), partition: "p".to_owned(), run: "r1-".to_owned() };

    fn said(dialect: Dialect, text: &str) -> Vec<String> {
        let mut all = Vec::new();
        let read = dialect.read(text.as_bytes(), &mut |seen| {
            all.push(format!("{seen:?}"));
            Ok(())
        });
        assert!(read.is_ok());
        all
    }

    #[test]
    fn requests_are_json_with_one_mark_an_event_and_of_the_size_asked_for() {
        for dialect in [Dialect::V1, Dialect::Classic] {
            let mut out = Vec::new();
            dialect.submit(&mut out, &NAMES(), Mark { writer: 3, sequence: 70 }, 1, 200);
            let message: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            let event = match dialect {
                Dialect::V1 => message["payload"]["events"][0].to_string(),
                _ => message["payload"].to_string(),
            };
            assert_eq!(event.len(), 200, "{event}");
            assert_eq!(
                Mark::find(event.as_bytes(), 0).map(|found| found.0),
                Some(Mark { writer: 3, sequence: 70 })
            );
        }
    }

    #[test]
    fn a_page_is_read_whichever_way_round_an_event_has_its_id() {
        for events in [
            r#"{"id":"r@1.0@","committedId":7},{"id":"r@1.1@","committedId":9}"#,
            r#"{"id":"evt-7","committedId":7,"payload":{"mark":"@1.0@"}},{"committedId":9,"payload":{"mark":"@1.1@"}}"#,
        ] {
            let text = format!(
                r#"{{"type":"sync_response","payload":{{"events":[{events}],"nextSinceCommittedId":9,"hasMore":true}}}}"#
            );
            assert_eq!(
                said(Dialect::V1, &text),
                [
                    "History { mark: Mark { writer: 1, sequence: 0 }, id: 7 }",
                    "History { mark: Mark { writer: 1, sequence: 1 }, id: 9 }",
                    "Page { next: 9, more: true }"
                ]
            );
        }
    }

    #[test]
    fn a_rejection_is_a_failure_and_not_an_answer() {
        let text =
            r#"{"type":"submit_events_result","payload":{"results":[{"id":"r@1.0@","status":"rejected"}]}}"#;
        assert!(matches!(said(Dialect::V1, text).as_slice(), [one] if one.starts_with("Failure")));
        let text = r#"{"id":"s","type":"event_rejected","payload":{"draftId":"r@1.0@"}}"#;
        assert!(matches!(said(Dialect::Classic, text).as_slice(), [one] if one.starts_with("Failure")));
        assert!(matches!(said(Dialect::V1, "nonsense").as_slice(), [one] if one.starts_with("Failure")));
    }

    #[test]
    fn in_the_classic_dialect_the_marks_of_a_state_are_no_events() {
        let text = r#"{"type":"sync_response","payload":{"snapshot":{"state":{"k":"@0.0@"},"eventIndex":5},"events":[{"payload":{"mark":"@0.1@"},"eventId":6}],"hasMore":false}}"#;
        assert_eq!(
            said(Dialect::Classic, text),
            ["History { mark: Mark { writer: 0, sequence: 1 }, id: 6 }", "Page { next: 6, more: false }"]
        );
    }
}
