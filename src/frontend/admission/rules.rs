//! Who is connected when other rules of the application's come in force is asked about again, and ended where those do
//! not let him in. He comes back, and is told so.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::registry::DisconnectReason;
use crate::app::NoEntry;
use crate::frontend::shared::FrontendShared;

/// How long to wait before it is asked again what could not be said.
const AGAIN: Duration = Duration::from_secs(1);

/// Asks about everybody whenever other rules are in force, for as long as this is not dropped.
pub(crate) async fn ask_again(shared: Arc<FrontendShared>, mut activations: watch::Receiver<u64>) {
    while activations.changed().await.is_ok() {
        while !ask_all(&shared).await {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// One after the other, so that who comes meanwhile has its turn. False if not all could be asked about.
async fn ask_all(shared: &FrontendShared) -> bool {
    let mut is_done = true;
    for (connection, identity, partitions) in shared.registry.all() {
        for partition in partitions {
            match shared.entry.check(&identity, &partition).await {
                Ok(()) => {}
                Err(NoEntry::Unavailable) => is_done = false,
                Err(NoEntry::Refused | NoEntry::Failed) => {
                    shared.registry.end(connection, &identity, DisconnectReason::OtherRules);
                    break;
                }
            }
        }
    }
    is_done
}
