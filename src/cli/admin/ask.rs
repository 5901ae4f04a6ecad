//! Asking the administration over HTTP, as `curl` would, with a token out of a file.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Certificate, Client, Method, Response, Url, redirect};
use rustls::crypto::{CryptoProvider, ring};
use serde_json::Value;

use crate::config::settings::Config;

/// The largest answer that is read whole, in bytes: a state can be large.
const ANSWER_BYTES_MAX: usize = 512 << 20;

/// The administration at its address.
pub(crate) struct Administration {
    client: Client,
    url: Url,
    token: Option<HeaderValue>,
    timeout: Duration,
}

impl Administration {
    /// As configured: `admin.url`, `admin.token_file`.
    pub(crate) fn of(config: &Config) -> anyhow::Result<Self> {
        let settings = &config.admin;
        let address = &settings.url;
        let url = Url::parse(address).with_context(|| format!("admin.url: {address:?} is no address"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            bail!("admin.url: {address:?} is no address such as http://127.0.0.1:8090");
        }
        let token = settings.token_file.as_ref().map(|file| {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("admin.token_file: {}", file.display()))?;
            let mut value = HeaderValue::from_str(&format!("Bearer {}", text.trim()))
                .with_context(|| format!("admin.token_file: {}: this is no token", file.display()))?;
            value.set_sensitive(true);
            anyhow::Ok(value)
        });
        let token = token.transpose()?;
        let timeout = Duration::from_millis(settings.client_timeout_ms);
        if CryptoProvider::get_default().is_none() {
            // Somebody may just have been faster; then there is one, which is all that matters.
            drop(ring::default_provider().install_default());
        }
        // The token goes where it was meant to go, and nowhere that it is sent to from there.
        let mut client =
            Client::builder().redirect(redirect::Policy::none()).no_proxy().read_timeout(timeout);
        if url.scheme() == "http" {
            // Without TLS nobody needs to vouch, and a machine without certificates will do.
            client = client.tls_certs_only(Vec::<Certificate>::new());
        }
        let client = client.build().context("preparing to ask the administration")?;
        Ok(Self { client, url, token, timeout })
    }

    /// Asks, and reads the answer whole.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &Path,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let asking = async {
            let mut response = self.send(method, path, body, None).await?;
            let mut bytes = Vec::new();
            while let Some(part) = response.chunk().await.context("the answer broke off")? {
                if bytes.len() + part.len() > ANSWER_BYTES_MAX {
                    bail!("the answer is larger than {ANSWER_BYTES_MAX} bytes");
                }
                bytes.extend_from_slice(&part);
            }
            serde_json::from_slice(&bytes).context("the answer is no JSON; is this the administration?")
        };
        let timed_out =
            || anyhow!("no answer within {} ms (admin.client_timeout_ms)", self.timeout.as_millis());
        let answer = tokio::time::timeout(self.timeout, asking).await.unwrap_or_else(|_| Err(timed_out()));
        answer.with_context(|| format!("asking {}", self.url))
    }

    pub(crate) async fn get(&self, path: &Path) -> anyhow::Result<Value> {
        self.ask(Method::GET, path, None).await
    }

    /// Writes an answer to standard output as it comes.
    pub(crate) async fn copy(&self, path: &Path, accept: &'static str) -> anyhow::Result<()> {
        let what = || format!("asking {}", self.url);
        let mut response = self.send(Method::GET, path, None, Some(accept)).await.with_context(what)?;
        while let Some(part) = response.chunk().await.context("the answer broke off").with_context(what)? {
            let mut out = std::io::stdout().lock();
            out.write_all(&part).and_then(|()| out.flush()).context("writing to standard output")?;
        }
        Ok(())
    }

    async fn send(
        &self,
        method: Method,
        path: &Path,
        body: Option<&Value>,
        accept: Option<&'static str>,
    ) -> anyhow::Result<Response> {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{}", self.url.path().trim_end_matches('/'), path.path));
        url.set_query((!path.query.is_empty()).then_some(path.query.as_str()));
        let mut request = self.client.request(method, url);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let response = request.send().await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            anyhow!(
                "it cannot be reached ({cause}); `insieme-backend admin serve` is it, and --url says where"
            )
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        let told = serde_json::from_str::<Value>(&text).ok();
        let message = told.as_ref().and_then(|told| told["error"]["message"].as_str());
        let hint = match (status.as_u16(), &self.token) {
            (401, None) => "; --token-file names a file with a token",
            _ => "",
        };
        bail!("{status}: {}{hint}", message.unwrap_or("it says no more"))
    }
}

/// A path of the administration's, of parts that may hold anything.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    path: String,
    query: String,
}

impl Path {
    /// Of these parts.
    pub(crate) fn of(parts: &[&str]) -> Self {
        let path = parts.iter().map(|part| format!("/{}", encoded(part))).collect();
        Self { path, query: String::new() }
    }

    /// With a parameter, if it is given.
    pub(crate) fn with(mut self, name: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            let separator = if self.query.is_empty() { "" } else { "&" };
            self.query = format!("{}{separator}{name}={}", self.query, encoded(&value.to_string()));
        }
        self
    }
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => out.push(char::from(byte)),
            // A part of dots alone would be taken for a way up.
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_may_hold_anything() {
        let path =
            Path::of(&["partitions", "a/b ü?", "..", "state"]).with("at", Some(7)).with("x", None::<u8>);
        assert_eq!(path.path, "/partitions/a%2Fb%20%C3%BC%3F/%2E%2E/state");
        assert_eq!(path.with("after", Some("a&b")).query, "at=7&after=a%26b");
    }
}
