//! Asks the administration over bare HTTP, as an operator's `curl` would.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::DEADLINE;

/// An operator at the administration's address.
#[derive(Clone)]
pub struct Operator {
    address: String,
    headers: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The answer must be of this status, with this code.
    pub fn expect_problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.json()["error"]["code"], code, "{self:?}");
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }
}

/// An event stream that is open.
pub struct EventStream(BufReader<TcpStream>);

impl EventStream {
    /// The next event: its id and its data.
    pub async fn next(&mut self) -> Option<(u64, Value)> {
        self.event().await.map(|(id, data)| (id.unwrap(), data))
    }

    /// The data of the next event, which needs no id.
    pub async fn data(&mut self) -> Option<Value> {
        self.event().await.map(|(_, data)| data)
    }

    /// Comments and retry times are passed over.
    async fn event(&mut self) -> Option<(Option<u64>, Value)> {
        let mut id = None;
        loop {
            let mut line = String::new();
            let read = timeout(DEADLINE, self.0.read_line(&mut line)).await.expect("an event in time");
            // A line without its end is one of a stream that broke off.
            if read.unwrap_or(0) == 0 || !line.ends_with('\n') {
                return None;
            }
            // Lines of the chunked encoding are neither.
            if let Some(found) = line.strip_prefix("id: ") {
                id = Some(found.trim().parse().unwrap());
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some((id, serde_json::from_str(data).unwrap()));
            }
        }
    }
}

impl Operator {
    /// One with a token, or with none.
    pub fn new(address: &str, token: Option<&str>) -> Self {
        let address = address.trim_start_matches("http://").to_owned();
        let headers = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        Self { address, headers }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "").await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, "", body).await
    }

    pub async fn put(&self, path: &str, body: &str) -> Answer {
        self.ask("PUT", path, "", body).await
    }

    pub async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = self.send(method, path, headers, body).await;
        let mut bytes = Vec::new();
        timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("an answer in time").unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked { unchunked(body) } else { body.to_owned() };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body }
    }

    /// Opens an event stream.
    pub async fn follow(&self, path: &str, headers: &str) -> EventStream {
        let accept = format!("Accept: text/event-stream\r\n{headers}");
        let mut stream = BufReader::new(self.send("GET", path, &accept, "").await);
        let mut line = String::new();
        timeout(DEADLINE, stream.read_line(&mut line)).await.expect("an answer in time").unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        EventStream(stream)
    }

    async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{}{headers}\r\n{body}",
            self.address,
            body.len(),
            self.headers
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }
}

/// Undoes the chunked encoding. An answer that broke off has no last chunk, and is none.
fn unchunked(body: &str) -> String {
    let (mut whole, mut rest) = (String::new(), body);
    loop {
        let (length, behind) = rest.split_once("\r\n").expect("an answer that did not break off");
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return whole;
        }
        whole.push_str(&behind[..length]);
        rest = &behind[length + 2..];
    }
}
