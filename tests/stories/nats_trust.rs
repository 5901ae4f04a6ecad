//! Ways to a NATS server that does not trust everyone: TLS with certificates on both sides, nkeys, and
//! credentials files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::harness::client::Client;
use crate::harness::cluster::binary;
use crate::harness::nats::NatsServer;
use crate::harness::process::Process;
use crate::harness::temp_dir;

const JETSTREAM: &str = "jetstream { store_dir: $STORE, sync_interval: always }\nserver_name: test\n";

fn command(role: &str, url: &str, settings: &[(&str, &Path)]) -> Command {
    let mut command = binary();
    command.args([role, "--nats", url]);
    for (key, file) in settings {
        command.arg("--set").arg(format!("nats.{key}={}", file.display()));
    }
    command
}

/// Every role can do its work.
async fn works(url: &str, settings: &[(&str, &Path)]) {
    let dir = temp_dir();
    let output = command("bootstrap", url, settings).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let mut validator = Process::spawn("validator", command("validator", url, settings), dir.path());
    validator.line_with("validator ready: ").await;
    let mut frontend = command("frontend", url, settings);
    frontend.args(["--allow-anyone", "--listen", "127.0.0.1:0"]);
    let mut frontend = Process::spawn("frontend", frontend, dir.path());
    let address = frontend.line_with("frontend ready: ").await;
    let mut ann = Client::of(&address, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
}

/// Nobody gets in with these settings; gives what was said.
fn refused(url: &str, settings: &[(&str, &Path)]) -> String {
    let output =
        command("bootstrap", url, settings).args(["--set", "nats.connect_wait_ms=300"]).output().unwrap();
    assert!(!output.status.success(), "{}", said(&output));
    said(&output)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let file = dir.join(name);
    std::fs::write(&file, text).unwrap();
    file
}

/// An authority, and a certificate with its key that it has signed for this machine.
fn authority(dir: &Path, name: &str) -> (PathBuf, PathBuf, PathBuf) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    (
        write(dir, &format!("{name}-ca.pem"), &authority.pem()),
        write(dir, &format!("{name}.pem"), &certificate.pem()),
        write(dir, &format!("{name}-key.pem"), &key.serialize_pem()),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_by_tls_with_certificates_on_both_sides() {
    let dir = temp_dir();
    let (ca, certificate, key) = authority(dir.path(), "ours");
    let (other_ca, other_certificate, other_key) = authority(dir.path(), "theirs");
    let server = NatsServer::start_with(|port| {
        format!(
            "{JETSTREAM}listen: \"127.0.0.1:{port}\"\n\
             tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {ca:?}, verify: true }}\n"
        )
    })
    .await;
    let url = server.url();
    let trust = ("tls_ca_file", ca.as_path());
    works(&url, &[trust, ("tls_cert_file", &certificate), ("tls_key_file", &key)]).await;

    for settings in [
        // No TLS wanted; no certificate; somebody else's; a server that somebody else vouches for.
        &[][..],
        &[trust],
        &[trust, ("tls_cert_file", other_certificate.as_path()), ("tls_key_file", other_key.as_path())],
        &[
            ("tls_ca_file", other_ca.as_path()),
            ("tls_cert_file", certificate.as_path()),
            ("tls_key_file", key.as_path()),
        ],
    ] {
        assert!(refused(&url, settings).contains("connecting to NATS"));
    }
    let missing = dir.path().join("missing.pem");
    let said = refused(&url, &[("tls_ca_file", &missing)]);
    assert!(said.contains("nats.tls_ca_file") && said.contains("missing.pem"), "{said}");
    let said = refused(&url, &[trust, ("tls_cert_file", &certificate)]);
    assert!(said.contains("nats.tls_key_file"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_by_nkeys() {
    let dir = temp_dir();
    let user = nkeys::KeyPair::new_user();
    let server = NatsServer::start_with(|port| {
        let public = user.public_key();
        format!(
            "{JETSTREAM}listen: \"127.0.0.1:{port}\"\nauthorization {{ users: [ {{ nkey: {public} }} ] }}\n"
        )
    })
    .await;
    let seed = write(dir.path(), "seed.nk", &format!("{}\n", user.seed().unwrap()));
    works(&server.url(), &[("nkey_seed_file", &seed)]).await;

    let other = write(dir.path(), "other.nk", &nkeys::KeyPair::new_user().seed().unwrap());
    refused(&server.url(), &[("nkey_seed_file", &other)]);
    let none = write(dir.path(), "none.nk", "not a seed");
    let said = refused(&server.url(), &[("nkey_seed_file", &none)]);
    assert!(said.contains("nkey") && !said.contains("not a seed"), "{said}");
}

/// A token of NATS's own kind.
fn jwt(issuer: &nkeys::KeyPair, subject: &nkeys::KeyPair, name: &str, nats: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "jti": name, "iat": 1, "iss": issuer.public_key(), "sub": subject.public_key(), "name": name,
        "nats": nats,
    });
    let text = format!("{}.{}", part(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })), part(&claims));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}

/// What `nsc generate creds` writes.
fn credentials(account: &nkeys::KeyPair, user: &nkeys::KeyPair) -> String {
    let token = jwt(
        account,
        user,
        "user",
        &json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 }),
    );
    format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_by_a_credentials_file() {
    let dir = temp_dir();
    let operator = nkeys::KeyPair::new_operator();
    let [system, account, stranger] = std::array::from_fn(|_| nkeys::KeyPair::new_account());
    let of_account = |account: &nkeys::KeyPair, name: &str| {
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "mem_storage": if name == "system" { 0 } else { -1 },
            "disk_storage": if name == "system" { 0 } else { -1 }, "streams": -1, "consumer": -1,
        });
        let token =
            jwt(&operator, account, name, &json!({ "type": "account", "version": 2, "limits": limits }));
        format!("{}: {token}", account.public_key())
    };
    let server = NatsServer::start_with(|port| {
        let of_operator = jwt(&operator, &operator, "operator", &json!({ "type": "operator", "version": 2 }));
        format!(
            "{JETSTREAM}listen: \"127.0.0.1:{port}\"\noperator: {of_operator}\nresolver: MEMORY\n\
             system_account: {}\nresolver_preload {{\n{}\n{}\n}}\n",
            system.public_key(),
            of_account(&system, "system"),
            of_account(&account, "insieme"),
        )
    })
    .await;
    let user = nkeys::KeyPair::new_user();
    let file = write(dir.path(), "user.creds", &credentials(&account, &user));
    works(&server.url(), &[("credentials_file", &file)]).await;

    let file = write(dir.path(), "stranger.creds", &credentials(&stranger, &user));
    refused(&server.url(), &[("credentials_file", &file)]);
    refused(&server.url(), &[]);
    let file = write(dir.path(), "broken.creds", "nothing");
    let said = refused(&server.url(), &[("credentials_file", &file)]);
    assert!(said.contains("broken.creds"), "{said}");
}
