//! Asking an address over HTTPS that decides who may come in: an issuer for its keys, or the application itself. Within
//! a time, up to a size, at that address and no other.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Certificate, Client, RequestBuilder, StatusCode, Url, redirect};
use rustls::crypto::{CryptoProvider, ring};

/// How to ask.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// The address.
    pub url: String,
    /// The certificates of those who may vouch for the issuer, in PEM; the system's if not given.
    pub ca_pem: Option<Vec<u8>>,
    /// How long all of it may take.
    pub timeout: Duration,
    /// The largest answer.
    pub bytes_max: usize,
    /// The key of the configuration that names those certificates.
    pub ca_key: &'static str,
}

/// An address that is asked.
#[derive(Debug)]
pub struct Remote {
    client: Client,
    url: Url,
    bytes_max: usize,
}

impl Remote {
    /// Prepares to ask; says what cannot work.
    pub fn new(settings: &RemoteSettings) -> Result<Self, String> {
        let url = check_url(&settings.url)?;
        let mut client = Client::builder()
            .timeout(settings.timeout)
            // Whom we trust for keys is who was configured, not whom he sends us to.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("insieme-backend/", env!("CARGO_PKG_VERSION")));
        if CryptoProvider::get_default().is_none() {
            // Somebody may just have been faster; then there is one, which is all that matters.
            drop(ring::default_provider().install_default());
        }
        if url.scheme() == "http" {
            // Without TLS nobody needs to vouch, and a machine without certificates will do.
            client = client.tls_certs_only([]);
        } else if let Some(pem) = &settings.ca_pem {
            let authorities = Certificate::from_pem_bundle(pem).map_err(|error| said(&error))?;
            if authorities.is_empty() {
                return Err(format!("there is no certificate in the file of {}", settings.ca_key));
            }
            client = client.tls_certs_only(authorities);
        }
        let client = client.build().map_err(|error| {
            format!(
                "{}; is there no file of the system's certificates? {} names another",
                said(&error),
                settings.ca_key
            )
        })?;
        Ok(Self { client, url, bytes_max: settings.bytes_max })
    }

    /// Fetches a key set.
    pub(super) async fn fetch(&self) -> Result<Vec<u8>, String> {
        let accept = HeaderValue::from_static("application/jwk-set+json, application/json");
        match self.answer(self.client.get(self.url.clone()).header(ACCEPT, accept)).await? {
            (StatusCode::OK, text) => Ok(text),
            (status, _) => Err(format!("it answers {status}")),
        }
    }

    /// Sends JSON, under a secret if there is one, and gives the answer.
    pub(in crate::auth) async fn post(
        &self,
        json: Vec<u8>,
        secret: Option<&str>,
    ) -> Result<(StatusCode, Vec<u8>), String> {
        let json_type = HeaderValue::from_static("application/json");
        let mut request = self.client.post(self.url.clone()).header(CONTENT_TYPE, json_type).body(json);
        if let Some(secret) = secret {
            request = request.bearer_auth(secret);
        }
        self.answer(request).await
    }

    async fn answer(&self, request: RequestBuilder) -> Result<(StatusCode, Vec<u8>), String> {
        let mut response = request.send().await.map_err(|error| said(&error))?;
        let mut text = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| said(&error))? {
            if text.len() + part.len() > self.bytes_max {
                return Err(format!("its answer is larger than the {} bytes that are read", self.bytes_max));
            }
            text.extend_from_slice(&part);
        }
        Ok((response.status(), text))
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without what may stand behind a question mark.
        write!(f, "{}{}", self.url.origin().ascii_serialization(), self.url.path())
    }
}

/// An address that may decide who comes in: whoever can change its answers on their way lets in whom he likes.
fn check_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{text:?} is no URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL with a user or password in it is not taken".to_owned());
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if url.host_str().is_some_and(is_loopback) => Ok(url),
        "http" => Err(format!("{text}: it is asked by https; by http only from this machine itself")),
        other => Err(format!("{text}: it is asked by https, not {other}")),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// An error and what caused it, without the address, which may hold what is nobody's business.
fn said(error: &reqwest::Error) -> String {
    let mut text = match error {
        error if error.is_timeout() => "it takes too long".to_owned(),
        error if error.is_connect() => "it cannot be reached".to_owned(),
        _ => "it cannot be asked".to_owned(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::check_url;

    #[test]
    fn keys_come_by_https_or_from_this_machine() {
        for good in
            ["https://a.example/jwks", "http://127.0.0.1:1/a", "http://[::1]/a", "http://localhost:8/"]
        {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in [
            "http://a.example/jwks",
            "http://127.0.0.1.example/",
            "http://localhost.example/",
            "http://10.0.0.1/",
            "https://user:secret@a.example/",
            "ftp://a.example/",
            "file:///etc/passwd",
            "jwks.json",
            "",
        ] {
            let error = check_url(bad).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
