//! `insieme-backend health`: the probe for images that have no curl.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use rustls::crypto::{CryptoProvider, ring};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::common::say;

const WAIT: Duration = Duration::from_secs(3);
const RESPONSE_BYTES_MAX: u64 = 64 * 1024;

/// Ask a frontend or validator whether it is well; fails unless the answer is 200.
#[derive(Debug, Args)]
pub(crate) struct Health {
    /// What to ask, such as http://127.0.0.1:3001/readyz.
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:3001/readyz")]
    url: String,
}

impl Health {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        if self.url.starts_with("https://") {
            return self.over_tls().await;
        }
        let (authority, path) = parts(&self.url)?;
        let response = timeout(WAIT, get(authority, path))
            .await
            .map_err(|_| anyhow!("{}: no answer within {} s", self.url, WAIT.as_secs()))?
            .with_context(|| self.url.clone())?;
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
        let status = head.lines().next().unwrap_or_default();
        if status.split(' ').nth(1) != Some("200") {
            bail!("{}: {status}: {}", self.url, body.trim());
        }
        say(body.trim_end())
    }
}

impl Health {
    /// Whoever vouches for the certificate: nothing is told that anybody should not hear, and what is asked is mostly
    /// this machine under a name that the certificate does not have.
    async fn over_tls(&self) -> anyhow::Result<()> {
        if CryptoProvider::get_default().is_none() {
            // Somebody may just have been faster; then there is one, which is all that matters.
            drop(ring::default_provider().install_default());
        }
        let client = Client::builder()
            .timeout(WAIT)
            .no_proxy()
            .redirect(Policy::none())
            .tls_danger_accept_invalid_certs(true)
            .build()?;
        let response = client.get(&self.url).send().await.with_context(|| self.url.clone())?;
        let status = response.status();
        let body = response.text().await.with_context(|| self.url.clone())?;
        if status != StatusCode::OK {
            bail!("{}: {status}: {}", self.url, body.trim());
        }
        say(body.trim_end())
    }
}

fn parts(url: &str) -> anyhow::Result<(&str, &str)> {
    let rest =
        url.strip_prefix("http://").ok_or_else(|| anyhow!("{url}: only http:// and https:// addresses"))?;
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    if authority.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        bail!("{url}: a host and a port are needed, such as http://127.0.0.1:3001/readyz");
    }
    Ok((authority, path))
}

async fn get(authority: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(authority).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(RESPONSE_BYTES_MAX).read_to_end(&mut response).await?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(parts("http://127.0.0.1:3001/readyz").unwrap(), ("127.0.0.1:3001", "/readyz"));
        assert_eq!(parts("http://[::1]:80").unwrap(), ("[::1]:80", "/"));
        assert!(parts("ftp://127.0.0.1:1/").is_err());
        assert!(parts("http://localhost/readyz").is_err());
    }
}
