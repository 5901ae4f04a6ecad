//! A client of plain HTTP, as a backend's `curl` would be.

use serde_json::{Value, json};

use super::admin::{Answer, EventStream, Operator};

/// Somebody who speaks plain HTTP to a frontend, of the partition `default` unless said otherwise.
pub struct Plain {
    asks: Operator,
    /// Who he says that he is; left to his token if there is one.
    client: Option<String>,
}

/// A draft that sets a value.
pub fn draft(id: &str, target: &str, value: Value) -> Value {
    json!({ "id": id, "type": "set", "payload": { "target": target, "value": value } })
}

impl Plain {
    /// A client of a frontend that takes anyone.
    pub fn of(port: u16, client: &str) -> Self {
        Self { asks: Operator::new(&format!("127.0.0.1:{port}"), None), client: Some(client.to_owned()) }
    }

    /// One with a token, or with none, who leaves it to the token to say who he is.
    pub fn with(url: &str, token: Option<&str>) -> Self {
        let address = url.trim_start_matches("ws://").trim_end_matches("/ws");
        Self { asks: Operator::new(address, token), client: None }
    }

    fn path(&self, path: &str) -> String {
        let sign = if path.contains('?') { '&' } else { '?' };
        let client = self.client.iter().map(|client| format!("{sign}clientId={client}")).collect::<String>();
        format!("/partitions/{path}{client}")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.asks.get(&self.path(path)).await
    }

    pub async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        self.asks.ask(method, &self.path(path), headers, body).await
    }

    /// Sends a draft, and waits for what becomes of it.
    pub async fn submit(&self, draft: &Value) -> Answer {
        self.submit_to("default", draft).await
    }

    pub async fn submit_to(&self, partition: &str, draft: &Value) -> Answer {
        let path = format!("{partition}/events");
        self.ask("POST", &path, "Content-Type: application/json\r\n", &draft.to_string()).await
    }

    /// Follows the partition `default`.
    pub async fn follow(&self, query: &str, headers: &str) -> EventStream {
        self.asks.follow(&self.path(&format!("default/events{query}")), headers).await
    }
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The answer must be of this status, with this code; gives its body.
    pub fn expect(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        assert_eq!(body["code"], code, "{self:?}");
        let waits = body["retryAfterMs"].as_u64().map(|wait| wait.div_ceil(1000).to_string());
        assert_eq!(self.header("retry-after"), waits.as_deref(), "{self:?}");
        assert_eq!(waits.is_some(), matches!(status, 429 | 503 | 504), "{self:?}");
        body
    }

    /// The draft must be committed, now or before; gives its event's id.
    pub fn expect_committed(&self, status: u16) -> u64 {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        assert_eq!(body["duplicate"], status == 200, "{self:?}");
        assert_eq!(body["event"]["eventId"], body["eventId"], "{self:?}");
        body["eventId"].as_u64().unwrap()
    }
}
