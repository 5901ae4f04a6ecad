//! A bare WebSocket: sends what it is told to, however wrong, and gives back what comes.

use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::{FutureExt, SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::DEADLINE;

/// The connection is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// The server's close code, where it said goodbye.
    pub code: Option<u16>,
}

/// An open WebSocket.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    messages_sent: u64,
}

impl Socket {
    /// Connects; fails where nobody listens or the upgrade is refused.
    pub async fn open(url: &str) -> Result<Self, String> {
        Self::open_with(url, WebSocketConfig::default().max_message_size(None).max_frame_size(None)).await
    }

    async fn open_with(url: &str, config: WebSocketConfig) -> Result<Self, String> {
        match timeout(DEADLINE, connect_async_with_config(url, Some(config), true)).await {
            Ok(Ok((stream, _))) => Ok(Self { stream, messages_sent: 0 }),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the upgrade took too long".to_owned()),
        }
    }

    /// Connects and says `connect`; gives the answer too.
    pub async fn greeted(url: &str, client: &str) -> (Self, Value) {
        Self::open(url).await.unwrap().greet(client).await
    }

    /// The same with a library that takes no frame of more than so many bytes.
    pub async fn greeted_with_frames_of(url: &str, client: &str, bytes_max: usize) -> (Self, Value) {
        let config =
            WebSocketConfig::default().max_message_size(Some(bytes_max)).max_frame_size(Some(bytes_max));
        Self::open_with(url, config).await.unwrap().greet(client).await
    }

    async fn greet(self, client: &str) -> (Self, Value) {
        let mut socket = self;
        socket.send("connect", json!({ "clientId": client, "version": "test" })).await.unwrap();
        let answer = socket.expect("connected").await;
        (socket, answer)
    }

    /// Sends a message of the classic dialect and gives its id.
    pub async fn send(&mut self, kind: &str, payload: Value) -> Result<String, Gone> {
        self.messages_sent += 1;
        let id = format!("m-{}", self.messages_sent);
        let message = json!({ "id": id, "type": kind, "timestamp": now_ms(), "payload": payload });
        self.send_text(message.to_string()).await.map(|()| id)
    }

    pub async fn send_text(&mut self, text: impl Into<String>) -> Result<(), Gone> {
        self.send_message(Message::text(text.into())).await
    }

    pub async fn send_binary(&mut self, bytes: Vec<u8>) -> Result<(), Gone> {
        self.send_message(Message::binary(bytes)).await
    }

    /// Sends texts and a close after them in one go, and waits for nothing.
    pub async fn send_and_close(&mut self, texts: &[String]) -> Result<(), Gone> {
        let all = async {
            for text in texts {
                self.stream.feed(Message::text(text.as_str())).await?;
            }
            self.stream.feed(Message::Close(None)).await?;
            self.stream.flush().await
        };
        match timeout(DEADLINE, all).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Gone { code: None }),
            Err(_) => panic!("the server has taken nothing for {DEADLINE:?}"),
        }
    }

    async fn send_message(&mut self, message: Message) -> Result<(), Gone> {
        match timeout(DEADLINE, self.stream.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Gone { code: None }),
            Err(_) => panic!("the server has taken nothing for {DEADLINE:?}"),
        }
    }

    /// The next message. Panics when none comes; pings are none.
    pub async fn receive(&mut self) -> Result<Value, Gone> {
        timeout(DEADLINE, self.next_message())
            .await
            .unwrap_or_else(|_| panic!("waited {DEADLINE:?} in vain for a message"))
    }

    /// The next message as it came, which is not parsed.
    pub async fn receive_text(&mut self) -> Result<String, Gone> {
        let next = async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
                    Some(Ok(Message::Close(frame))) => {
                        return Err(Gone { code: frame.map(|frame| frame.code.into()) });
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(Gone { code: None }),
                }
            }
        };
        timeout(DEADLINE, next).await.unwrap_or_else(|_| panic!("waited {DEADLINE:?} in vain for a message"))
    }

    /// The next message, if it is here already.
    pub fn try_receive(&mut self) -> Option<Result<Value, Gone>> {
        self.next_message().now_or_never()
    }

    async fn next_message(&mut self) -> Result<Value, Gone> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    return Ok(serde_json::from_str(&text).unwrap_or_else(|error| {
                        panic!("the server sent what is not JSON ({error}): {text:?}")
                    }));
                }
                Some(Ok(Message::Binary(bytes))) => panic!("the server sent a binary frame: {bytes:?}"),
                Some(Ok(Message::Close(frame))) => {
                    return Err(Gone { code: frame.map(|frame| frame.code.into()) });
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Gone { code: None }),
            }
        }
    }

    /// The next message must be of this kind.
    pub async fn expect(&mut self, kind: &str) -> Value {
        let message = self.receive().await.unwrap_or_else(|gone| panic!("{gone:?} instead of `{kind}`"));
        assert_eq!(message["type"], kind, "instead came {message}");
        message
    }

    /// The state that comes behind a message in parts, if one does.
    pub async fn state_in_parts(&mut self, told: &Value) -> Option<Value> {
        let (count, bytes) = (told["stateParts"]["parts"].as_u64()?, told["stateParts"]["bytes"].as_u64()?);
        let mut text = String::new();
        for part in 1..=count {
            let payload = self.expect("state_part").await["payload"].clone();
            assert_eq!((&payload["part"], &payload["parts"]), (&json!(part), &json!(count)));
            text.push_str(payload["text"].as_str().unwrap());
        }
        assert_eq!(text.len() as u64, bytes);
        Some(serde_json::from_str(&text).unwrap())
    }

    /// The next message must be an `error` of this code.
    pub async fn expect_error(&mut self, code: &str) -> Value {
        let message = self.expect("error").await;
        assert_eq!(message["payload"]["code"], code, "instead came {message}");
        message
    }

    /// The next message past broadcasts must be of this kind.
    pub async fn expect_past_broadcasts(&mut self, kind: &str) -> Value {
        loop {
            let message = self.receive().await.unwrap();
            if message["type"] == kind {
                return message;
            }
            assert_eq!(message["type"], "broadcast", "{message}");
        }
    }

    /// The connection answers as if nothing had happened.
    pub async fn expect_alive(&mut self) {
        let id = self.send("heartbeat", json!({})).await.unwrap();
        assert_eq!(self.expect("heartbeat").await["replyTo"], id);
    }

    /// Nothing more may come but the end; gives its close code.
    pub async fn expect_closed(&mut self) -> u16 {
        match self.receive().await {
            Err(Gone { code: Some(code) }) => code,
            Err(Gone { code: None }) => panic!("the connection ended without a close frame"),
            Ok(message) => panic!("the connection was to be closed, but there came {message}"),
        }
    }

    /// Says on the TCP connection that nothing more will come.
    pub async fn shut_down_writing(&mut self) {
        use tokio::io::AsyncWriteExt;
        self.stream.get_mut().shutdown().await.unwrap();
    }

    /// The connection under the WebSocket.
    pub fn into_tcp(self) -> TcpStream {
        match self.stream.into_inner() {
            MaybeTlsStream::Plain(stream) => stream,
            _ => unreachable!("no test uses TLS"),
        }
    }

    /// Says goodbye.
    pub async fn close(&mut self) {
        let _ = timeout(DEADLINE, self.stream.close(None)).await;
    }
}

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}
