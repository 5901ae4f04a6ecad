//! What an operator can set of the administration, and what it is when he does not.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The administration's address and limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSettings {
    /// The address that `insieme-backend admin serve` (and `dev`, if it is set) answers on. Off unless set.
    /// Not for the open internet.
    pub listen: Option<SocketAddr>,
    /// Where `insieme-backend admin` finds it, to ask it.
    pub url: String,
    /// The file with the token that it shows then.
    pub token_file: Option<PathBuf>,
    /// How long it waits for an answer, and for the next piece of one, in milliseconds.
    pub client_timeout_ms: u64,
    /// Asks for no token. Only with an address of the loopback interface; for development.
    pub allow_anyone: bool,
    /// The most requests at work at once, open event streams among them; one more is told to come again.
    pub requests_max: usize,
    /// The largest body of a request, in bytes.
    pub body_bytes_max: usize,
    /// The most entries in one page of a list.
    pub page_entries_max: usize,
    /// How many entries a page of a list has unless the request says.
    pub page_entries_default: usize,
    /// How long to wait for the answers of all processes to one request, in milliseconds. Answers that are
    /// still missing then are named in the answer.
    pub gather_ms: u64,
    /// The most bytes of events that are read from the log at a time.
    pub events_bytes_max: usize,
    /// How often an event stream without events shows that it lives, in milliseconds.
    pub stream_alive_ms: u64,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            listen: None,
            url: "http://127.0.0.1:8090".to_owned(),
            token_file: None,
            client_timeout_ms: 60_000,
            allow_anyone: false,
            requests_max: 64,
            body_bytes_max: 16 * 1024,
            page_entries_max: 200,
            page_entries_default: 100,
            gather_ms: 3_000,
            events_bytes_max: 1 << 20,
            stream_alive_ms: 15_000,
        }
    }
}

impl AdminSettings {
    /// Says what cannot work, beginning with the key.
    pub fn check(&self) -> Result<(), String> {
        if let (Some(listen), true) = (self.listen, self.allow_anyone)
            && !listen.ip().is_loopback()
        {
            return Err(format!(
                "allow_anyone: asks for no token, so admin.listen must be on the loopback interface, and \
                 {listen} is not"
            ));
        }
        let zero = [
            ("requests_max", self.requests_max),
            ("body_bytes_max", self.body_bytes_max),
            ("page_entries_max", self.page_entries_max),
            ("page_entries_default", self.page_entries_default),
            ("events_bytes_max", self.events_bytes_max),
            ("client_timeout_ms", self.client_timeout_ms as usize),
            ("gather_ms", self.gather_ms as usize),
            ("stream_alive_ms", self.stream_alive_ms as usize),
        ];
        match zero.into_iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(format!("{key}: must not be 0")),
            // JetStream gives the last messages of at most 1024 subjects at once.
            None if self.page_entries_max > 1_000 => Err("page_entries_max: at most 1000".to_owned()),
            None => Ok(()),
        }
    }
}
