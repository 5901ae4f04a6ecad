//! Bare HTTP/1.1 over a socket: what a test wants to send, however wrong, and what comes back.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::DEADLINE;

/// An answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A refusal that says when to come again, twice and alike.
    pub fn expect_retry_after(&self, status: u16, code: &str) -> Duration {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.json()["code"], code, "{self:?}");
        let wait = self.json()["retryAfterMs"].as_u64().unwrap_or_else(|| panic!("{self:?}"));
        let seconds: u64 = self.header("retry-after").unwrap().parse().unwrap();
        assert!(wait > 0 && seconds == wait.div_ceil(1000), "{self:?}");
        Duration::from_millis(wait)
    }
}

/// An upgrade request, with more headers.
pub fn upgrade(headers: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// Sends a request on a connection of its own. Gives the answer, and the connection too, which for an upgrade
/// that was granted is a WebSocket.
pub async fn ask(port: u16, request: &str) -> (Response, TcpStream) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let response = answer(&mut stream).await.unwrap_or_else(|| panic!("no answer to {request:?}"));
    (response, stream)
}

/// The answer on a connection; `None` if it ends before there is a whole one.
pub async fn answer(stream: &mut TcpStream) -> Option<Response> {
    let mut bytes = Vec::new();
    let reading = async {
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(stream.read_u8().await.ok()?);
        }
        let mut response = Response { status: 0, head: String::from_utf8(bytes).ok()?, body: String::new() };
        response.status = response.head.split(' ').nth(1)?.parse().ok()?;
        let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        response.body = String::from_utf8(body).ok()?;
        Some(response)
    };
    timeout(DEADLINE, reading).await.expect("an answer in time")
}

/// Waits for the other side to end the connection; gives what it said before.
pub async fn ended(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // An end by a reset is an end.
    let _ = timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("the connection is ended");
    bytes
}
