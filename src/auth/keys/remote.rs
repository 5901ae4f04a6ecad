//! Fetching a key set from its issuer over HTTPS: within a time, up to a size, from that address and no other.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderValue};
use reqwest::{Certificate, Client, StatusCode, Url, redirect};
use rustls::crypto::{CryptoProvider, ring};

/// How to fetch.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// The address.
    pub url: String,
    /// The certificates of those who may vouch for the issuer, in PEM; the system's if not given.
    pub ca_pem: Option<Vec<u8>>,
    /// How long all of it may take.
    pub timeout: Duration,
    /// The largest set.
    pub bytes_max: usize,
}

/// An issuer's address.
#[derive(Debug)]
pub struct Remote {
    client: Client,
    url: Url,
    bytes_max: usize,
}

impl Remote {
    /// Prepares to fetch; says what cannot work.
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
                return Err("there is no certificate in the file of auth.jwks_ca_file".to_owned());
            }
            client = client.tls_certs_only(authorities);
        }
        let client = client.build().map_err(|error| {
            format!(
                "{}; is there no file of the system's certificates? auth.jwks_ca_file names another",
                said(&error)
            )
        })?;
        Ok(Self { client, url, bytes_max: settings.bytes_max })
    }

    /// Fetches the set.
    pub(crate) async fn fetch(&self) -> Result<Vec<u8>, String> {
        let accept = HeaderValue::from_static("application/jwk-set+json, application/json");
        let request = self.client.get(self.url.clone()).header(ACCEPT, accept);
        let mut response = request.send().await.map_err(|error| said(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("it answers {}", response.status()));
        }
        let mut text = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| said(&error))? {
            if text.len() + part.len() > self.bytes_max {
                return Err(format!("its answer is larger than the {} bytes that are read", self.bytes_max));
            }
            text.extend_from_slice(&part);
        }
        Ok(text)
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without what may stand behind a question mark.
        write!(f, "{}{}", self.url.origin().ascii_serialization(), self.url.path())
    }
}

/// An address that keys may come from: whoever can change them on their way lets in whom he likes.
fn check_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{text:?} is no URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL with a user or password in it is not taken".to_owned());
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if url.host_str().is_some_and(is_loopback) => Ok(url),
        "http" => Err(format!("{text}: keys are fetched by https; by http only from this machine itself")),
        other => Err(format!("{text}: keys are fetched by https, not {other}")),
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
        _ => "it cannot be fetched".to_owned(),
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
