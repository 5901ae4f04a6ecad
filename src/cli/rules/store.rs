//! `insieme-backend rules publish | activate | rollback | list | show`: versions in NATS, and which is in force.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::check::program;
use crate::app::{Module, Published};
use crate::cli::common::{NatsArgs, say};
use crate::cli::connect;
use crate::config::Override;
use crate::config::settings::Config;
use crate::event::{RulesInForceId, RulesVersion};
use crate::log::{Log, RulesPublished};
use crate::util::time;

/// Load rules, and store them in NATS under their version. Changes nothing until they are activated.
#[derive(Debug, Args)]
pub(super) struct Publish {
    #[command(flatten)]
    nats: NatsArgs,
    /// The module's file. What it imports is stored with it.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Put a published version in force, for all partitions. A partition goes over to it with its next event.
#[derive(Debug, Args)]
pub(super) struct Activate {
    #[command(flatten)]
    nats: NatsArgs,
    /// The version: its number, or its name or the beginning of that, as `publish` and `list` tell it.
    #[arg(value_name = "VERSION")]
    version: String,
}

/// Put the version in force again that was so before the one that is.
#[derive(Debug, Args)]
pub(super) struct Rollback {
    #[command(flatten)]
    nats: NatsArgs,
}

/// List the versions that are published, and which is in force.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    nats: NatsArgs,
}

/// Print the files of a version; without one, of that in force.
#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    nats: NatsArgs,
    /// The version: its number, or its name or the beginning of that.
    #[arg(value_name = "VERSION")]
    version: Option<String>,
}

async fn log(config: &Config, shutdown: &CancellationToken) -> anyhow::Result<Log> {
    connect::connect_to_streams(config, "rules", shutdown).await?.ok_or_else(connect::stopped)
}

impl Publish {
    pub(super) fn overrides(&self) -> Vec<Override> {
        self.nats.overrides()
    }

    pub(super) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let (version, body) = tokio::task::block_in_place(|| prepared(&self.file))?;
        let log = log(&config, &shutdown).await?;
        let is_new = publish(&log, version, body).await?;
        say(&format!("{} {version}", if is_new { "published" } else { "published before:" }))?;
        say(&format!("put it in force with: insieme-backend rules activate {version}"))
    }
}

/// Loads a module, and makes of it what is published.
pub(crate) fn prepared(file: &Path) -> anyhow::Result<(RulesVersion, Vec<u8>)> {
    let module =
        Module::load(file, &program()?).with_context(|| format!("{} is not loaded", file.display()))?;
    Ok(Published::of(module.version(), module.folder(), module.authorizes())?)
}

/// Stores a version. False if it was stored before.
pub(crate) async fn publish(log: &Log, version: RulesVersion, body: Vec<u8>) -> anyhow::Result<bool> {
    let (bytes, max) = (body.len(), log.rules_bytes_max());
    if bytes > max {
        bail!(
            "with all its files the module has {bytes} bytes, and NATS takes {max} (max_payload of its server)"
        );
    }
    Ok(log.publish_rules(version, Bytes::from(body)).await?)
}

impl Activate {
    pub(super) fn overrides(&self) -> Vec<Override> {
        self.nats.overrides()
    }

    pub(super) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let log = log(&config, &shutdown).await?;
        let published = log.rules_published().await?;
        let version = found(&published, &self.version)?.version;
        let last = log.rules_activations().await?.last().map(|last| last.rules);
        if let Some(last) = last.filter(|last| last.version == version) {
            return say(&format!("{version} is in force already, by activation {}", last.activation));
        }
        activate(&log, version).await
    }
}

async fn activate(log: &Log, version: RulesVersion) -> anyhow::Result<()> {
    let RulesInForceId { activation, version } = log.activate_rules(version, log.now_ms()).await?;
    say(&format!(
        "{version} is in force, by activation {activation}; validators take it within a second or two"
    ))
}

impl Rollback {
    pub(super) fn overrides(&self) -> Vec<Override> {
        self.nats.overrides()
    }

    pub(super) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let log = log(&config, &shutdown).await?;
        let activations = log.rules_activations().await?;
        let Some(last) = activations.last() else { bail!("no rules are in force but the built-in ones") };
        let before = activations.iter().rev().find(|before| before.rules.version != last.rules.version);
        let Some(before) = before else {
            bail!(
                "no other version was in force before {}; the built-in rules cannot be put in force again",
                last.rules.version
            )
        };
        activate(&log, before.rules.version).await
    }
}

impl List {
    pub(super) fn overrides(&self) -> Vec<Override> {
        self.nats.overrides()
    }

    pub(super) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let log = log(&config, &shutdown).await?;
        let (published, activations) = (log.rules_published().await?, log.rules_activations().await?);
        if published.is_empty() {
            return say("nothing is published; the built-in rules decide");
        }
        let in_force = activations.last().map(|last| last.rules.version);
        for RulesPublished { version, body } in published {
            let last = activations.iter().rev().find(|activation| activation.rules.version == version);
            let state = match last {
                Some(last) => {
                    let is = if in_force == Some(version) { "in force since" } else { "last put in force" };
                    format!("{is} {} (activation {})", time::rfc3339(last.at), last.rules.activation)
                }
                None => "never in force".to_owned(),
            };
            say(&format!("{version}  {} bytes  {state}", body.len()))?;
        }
        Ok(())
    }
}

impl Show {
    pub(super) fn overrides(&self) -> Vec<Override> {
        self.nats.overrides()
    }

    pub(super) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let log = log(&config, &shutdown).await?;
        let published = log.rules_published().await?;
        let kept = match &self.version {
            Some(text) => found(&published, text)?,
            None => {
                let last = log.rules_activations().await?.last().map(|last| last.rules.version);
                let kept = last.and_then(|last| published.iter().find(|kept| kept.version == last));
                kept.context("no rules are in force but the built-in ones")?
            }
        };
        let module = Published::read(kept.version, &kept.body).map_err(anyhow::Error::msg)?;
        for (name, text) in module.files() {
            say(&format!("// {} {name}\n{text}", kept.version))?;
        }
        Ok(())
    }
}

/// The one version that is meant.
fn found<'a>(published: &'a [RulesPublished], text: &str) -> anyhow::Result<&'a RulesPublished> {
    let is_meant = |kept: &&RulesPublished| {
        let name = kept.version.to_string();
        kept.version.number.to_string() == text || text.contains('-') && name.starts_with(text)
    };
    let meant: Vec<&RulesPublished> = published.iter().filter(is_meant).collect();
    match meant.as_slice() {
        [one] => Ok(one),
        [] => bail!("no version {text} is published; `insieme-backend rules list` lists what is"),
        several => {
            let names: Vec<String> = several.iter().map(|kept| kept.version.to_string()).collect();
            bail!("{text} is {} versions; name one of {}", several.len(), names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_by_its_number_or_the_beginning_of_its_name() {
        let kept = |number, hash| RulesPublished {
            version: RulesVersion { number, hash: [hash; 16] },
            body: Bytes::new(),
        };
        let published = [kept(1, 0xaa), kept(2, 0xbb), kept(2, 0xcc)];
        assert_eq!(found(&published, "1").unwrap().version, published[0].version);
        assert_eq!(found(&published, "2-cc").unwrap().version, published[2].version);
        assert!(found(&published, "2").unwrap_err().to_string().contains("2 versions"));
        for text in ["3", "", "2-dd", "aa"] {
            assert!(found(&published, text).unwrap_err().to_string().contains("rules list"), "{text}");
        }
    }
}
