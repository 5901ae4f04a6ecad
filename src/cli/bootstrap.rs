//! `insieme-backend bootstrap`

use anyhow::bail;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::common::{NatsArgs, say};
use super::connect;
use crate::config::settings::Config;
use crate::log::BootstrapReport;

/// Make the streams and buckets in NATS, once.
///
/// What is there already is checked, and never changed: where it differs from the configuration, the
/// command says how and fails. It may run any number of times, and before or after the other processes.
/// A cluster that is not whole yet is waited for (nats.connect_wait_ms).
#[derive(Debug, Args)]
pub(crate) struct Bootstrap {
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
}

impl Bootstrap {
    pub(crate) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let log = connect::connect(&config, "bootstrap", &shutdown).await?.ok_or_else(connect::stopped)?;
        let Some(report) = connect::make_streams(&log, &config, &shutdown).await? else {
            bail!("stopped before the streams were made");
        };
        say(&summary(&report))
    }
}

/// One line on what was made and what was there.
fn summary(report: &BootstrapReport) -> String {
    let list = |items: &[String]| if items.is_empty() { "nothing".to_owned() } else { items.join(", ") };
    format!("bootstrap done: created {}; present {}", list(&report.created), list(&report.present))
}
