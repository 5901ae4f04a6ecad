//! One WebSocket to a frontend, with a deadline on everything: whoever is paused or cut off never answers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

/// How long a connection may be without a sign of life.
pub const SILENCE_MAX: Duration = Duration::from_secs(4);
/// How long it may be before the client asks for one.
const PING_AFTER: Duration = Duration::from_secs(1);
/// How often [`Wire::next`] looks at the time.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub struct Wire {
    stream: WebSocketStream<TcpStream>,
    heard: Instant,
    pinged: Instant,
    /// A message whose state comes behind it in parts, the text so far, and how many parts are missing.
    parts: Option<(Value, String, u64)>,
    /// What came between the parts.
    between: VecDeque<Value>,
}

impl Wire {
    /// The port of this end.
    pub fn port(&self) -> u16 {
        self.stream.get_ref().local_addr().map_or(0, |address| address.port())
    }

    pub async fn open(port: u16) -> Result<Self, String> {
        let opening = async {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
            drop(stream.set_nodelay(true));
            let url = format!("ws://127.0.0.1:{port}/ws");
            client_async(url, stream).await.map_err(|error| error.to_string())
        };
        let (stream, _) = timeout(SILENCE_MAX, opening).await.map_err(|_| "no upgrade in time")??;
        let now = Instant::now();
        Ok(Self { stream, heard: now, pinged: now, parts: None, between: VecDeque::new() })
    }

    pub async fn send(&mut self, text: String) -> Result<(), String> {
        match timeout(SILENCE_MAX, self.stream.send(Message::text(text))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.end_of(error.to_string()).await),
            Err(_) => Err("nothing was taken in time".to_owned()),
        }
    }

    /// Says goodbye, whether it is heard or not.
    pub async fn close(&mut self) {
        drop(timeout(LOOK_EVERY, self.stream.close(None)).await);
    }

    /// What the server says at the end, if it says so now that something else has told that the end is near.
    pub async fn end_of(&mut self, sign: String) -> String {
        let reading = async {
            loop {
                if let Err(why) = self.next().await {
                    return why;
                }
            }
        };
        match timeout(LOOK_EVERY, reading).await {
            Ok(why) if why.starts_with("closed") => format!("{why} ({sign})"),
            _ => sign,
        }
    }

    /// The next message, with the whole state where that comes in parts; an error when the connection is over, or silent
    /// for too long. Cancel safe.
    pub async fn next(&mut self) -> Result<Value, String> {
        loop {
            if self.parts.is_none()
                && let Some(message) = self.between.pop_front()
            {
                return Ok(message);
            }
            let message = self.next_frame().await?;
            let payload = &message["payload"];
            let told = [&payload["stateParts"]["parts"], &payload["snapshot"]["stateParts"]["parts"]];
            let parts = told.into_iter().find_map(Value::as_u64);
            if let Some(parts) = parts {
                self.parts = Some((message, String::new(), parts));
                continue;
            }
            let Some((_, text, missing)) = &mut self.parts else { return Ok(message) };
            if message["type"] != "state_part" {
                self.between.push_back(message);
                continue;
            }
            text.push_str(payload["text"].as_str().unwrap_or_default());
            *missing -= 1;
            if *missing > 0 {
                continue;
            }
            let Some((mut told, text, _)) = self.parts.take() else { continue };
            let state: Value =
                serde_json::from_str(&text).map_err(|error| format!("{NOT_JSON} ({error})"))?;
            match told["payload"].get_mut("snapshot") {
                Some(snapshot) => snapshot["state"] = state,
                None => told["payload"]["initialState"] = state,
            }
            return Ok(told);
        }
    }

    /// The next frame's message.
    async fn next_frame(&mut self) -> Result<Value, String> {
        loop {
            match timeout(LOOK_EVERY, self.stream.next()).await {
                Ok(Some(Ok(message))) => {
                    self.heard = Instant::now();
                    match message {
                        Message::Text(text) => {
                            return serde_json::from_str(&text)
                                .map_err(|error| format!("{NOT_JSON} ({error}): {text:?}"));
                        }
                        Message::Close(frame) => {
                            return Err(match frame {
                                Some(frame) => format!("closed: {} {}", frame.code, frame.reason),
                                None => "closed".to_owned(),
                            });
                        }
                        _ => {}
                    }
                }
                Ok(Some(Err(error))) => return Err(error.to_string()),
                Ok(None) => return Err("ended".to_owned()),
                Err(_) if self.heard.elapsed() > SILENCE_MAX => return Err("silent for too long".to_owned()),
                Err(_) if self.heard.elapsed() > PING_AFTER && self.pinged.elapsed() > PING_AFTER => {
                    self.pinged = Instant::now();
                    if self.stream.send(Message::Ping(Default::default())).await.is_err() {
                        return Err("broken".to_owned());
                    }
                }
                Err(_) => {}
            }
        }
    }
}

/// How an error begins that only a defect of the server's can cause.
pub const NOT_JSON: &str = "not JSON";
