//! NATS with its users as shipped, and a backend whose processes each come as their user.

use std::process::Command;

use async_nats::{Client as Nats, ConnectOptions};

use super::cluster::binary;
use super::process::Process;

/// A NATS server as shipped, with the streams, a validator and a frontend, each as its user.
pub struct Shipped {
    pub url: String,
    pub server: Process,
    pub validator: Process,
    pub frontend: Process,
    /// The frontend's address.
    pub address: String,
    pub dir: tempfile::TempDir,
}

impl Shipped {
    /// Starts them on a server, with these arguments of the validator and of the frontend.
    pub async fn start_on(
        dir: tempfile::TempDir,
        (url, server): (String, Process),
        of_validator: &[&str],
        of_frontend: &[&str],
    ) -> Self {
        let bootstrap = as_user("bootstrap", "operator", &url).output().unwrap();
        assert!(bootstrap.status.success(), "{}", String::from_utf8_lossy(&bootstrap.stderr));
        let mut command = as_user("validator", "validator", &url);
        command.args(of_validator);
        let mut validator = Process::spawn("validator", command, dir.path());
        validator.line_with("validator ready: ").await;
        let mut command = as_user("frontend", "frontend", &url);
        command.args(["--allow-anyone", "--listen", "127.0.0.1:0"]).args(of_frontend);
        let mut frontend = Process::spawn("frontend", command, dir.path());
        let address = frontend.line_with("frontend ready: ").await;
        Self { url, server, validator, frontend, address, dir }
    }
}

/// A command that comes to NATS as a user.
pub fn as_user(role: &str, user: &str, url: &str) -> Command {
    let mut command = binary();
    command.arg(role).env("INSIEME_NATS_URLS", url);
    command.env("INSIEME_NATS_USER", user).env("INSIEME_NATS_PASSWORD", format!("{user}Secret"));
    if user == "frontend" {
        command.env("INSIEME_NATS_API_PREFIX", "core");
    }
    command
}

/// A connection to NATS as a user.
pub async fn connect(user: &str, url: &str) -> Nats {
    let options = ConnectOptions::with_user_and_password(user.into(), format!("{user}Secret"));
    options.connect(url).await.unwrap()
}
