//! TLS of clients' connections, with a certificate that can be replaced while the frontend runs.
//!
//! The two files are looked at again and again by their content: that needs nothing of the file system, and
//! sees a changed link as well as a changed file. A pair that cannot be used leaves the one before in force.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::cert_expiry;
use crate::frontend::metrics;

/// The most bytes of either file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The TLS of a frontend.
pub(crate) struct Tls {
    certificates: PathBuf,
    key: PathBuf,
    in_force: ArcSwap<InForce>,
}

/// What new connections get.
struct InForce {
    config: Arc<ServerConfig>,
    /// When the first certificate of the chain ends to be valid, in Unix seconds, if that can be read.
    ends: Option<i64>,
}

/// Files as they were read.
struct PemPair {
    certificates: Vec<u8>,
    key: Vec<u8>,
}

/// What a pair is known by.
pub(crate) type Fingerprint = [u8; 32];

impl Tls {
    /// Reads the files; the fingerprint is for [`Tls::reload_loop`].
    pub(crate) fn load(certificates: &Path, key: &Path) -> Result<(Self, Fingerprint), String> {
        let pair = PemPair::read(certificates, key)?;
        let tls = Self {
            certificates: certificates.to_owned(),
            key: key.to_owned(),
            in_force: ArcSwap::from_pointee(pair.parse(certificates, key)?),
        };
        Ok((tls, pair.fingerprint()))
    }

    /// Makes a connection a TLS connection.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.in_force.load().config.clone()).accept(stream).await
    }

    /// Takes changed files, until told to stop. Connections that stand keep what they have.
    pub(crate) async fn reload_loop(&self, mut known: Fingerprint, every: Duration, stop: CancellationToken) {
        self.report_expiry();
        // The reason of a failure is told once, not at every look.
        let mut told = String::new();
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            let looked = PemPair::read(&self.certificates, &self.key).and_then(|pair| {
                let fingerprint = pair.fingerprint();
                if fingerprint == known {
                    return Ok(None);
                }
                pair.parse(&self.certificates, &self.key).map(|parsed| Some((fingerprint, parsed)))
            });
            match looked {
                Ok(None) => told.clear(),
                Ok(Some((fingerprint, parsed))) => {
                    known = fingerprint;
                    told.clear();
                    self.in_force.store(Arc::new(parsed));
                    self.report_expiry();
                    metrics::count_by(metrics::TLS_RELOADS, "result", "ok");
                    info!(file = %self.certificates.display(), "a new certificate is in force");
                }
                Err(why) if why == told => {}
                Err(why) => {
                    metrics::count_by(metrics::TLS_RELOADS, "result", "failed");
                    error!(%why, "the changed certificate cannot be used; the one before stays in force");
                    told = why;
                }
            }
        }
    }

    fn report_expiry(&self) {
        match self.in_force.load().ends {
            Some(ends) => metrics::certificate_ends(ends),
            None => {
                warn!(file = %self.certificates.display(), "cannot parse certificate expiry");
            }
        }
    }
}

impl PemPair {
    fn read(certificates: &Path, key: &Path) -> Result<Self, String> {
        Ok(Self { certificates: read(certificates)?, key: read(key)? })
    }

    fn fingerprint(&self) -> Fingerprint {
        let hash = Sha256::new()
            .chain_update(self.certificates.len().to_le_bytes())
            .chain_update(&self.certificates)
            .chain_update(&self.key);
        hash.finalize().into()
    }

    fn parse(&self, certificates: &Path, key: &Path) -> Result<InForce, String> {
        let of = |file: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", file.display());
        let chain = CertificateDer::pem_slice_iter(&self.certificates)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| of(certificates, &error))?;
        if chain.is_empty() {
            return Err(of(certificates, &"there is no certificate in it (PEM is needed)"));
        }
        let ends = cert_expiry::ends(&chain);
        let private = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| of(key, &format!("there is no private key in it (PEM is needed): {error}")))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
            .map_err(|error| format!("{} with {}: {error}", certificates.display(), key.display()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(InForce { config: Arc::new(config), ends })
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let wrong = |why: String| format!("{}: {why}", file.display());
    let size = std::fs::metadata(file).map_err(|error| wrong(error.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(wrong(format!("{size} bytes are no PEM file; at most {FILE_BYTES_MAX} are read")));
    }
    std::fs::read(file).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_pair_that_does_not_belong_together_or_is_no_pair_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let load = || Tls::load(&certificate, &key).map(|_| ());
        assert!(load().unwrap_err().contains("cert.pem"));
        let (one, other) = (pair(), pair());
        let cases = [
            (&*one.0, &*one.1, None),
            (&*one.0, &*other.1, Some("key.pem")),
            (&*one.1, &*one.1, Some("cert.pem")),
            (&*one.0, &*one.0, Some("key.pem")),
            ("", &*one.1, Some("cert.pem")),
            (&*one.0, "", Some("key.pem")),
        ];
        for (chain, private, named) in cases {
            std::fs::write(&certificate, chain).unwrap();
            std::fs::write(&key, private).unwrap();
            match (load(), named) {
                (Ok(()), None) => {}
                (Err(error), Some(named)) => assert!(error.contains(named), "{error}"),
                (result, named) => panic!("{result:?} where {named:?} was to be named"),
            }
        }
    }
}
