//! A process's ear for orders: carries them out, and says every so often that the process is there.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::messages::{Answer, Command, CommandEnvelope, CommandReply, LogFilter, Process, Role};
use super::settings::ControlSettings;
use crate::log::{Log, LogError, Orders};
use crate::telemetry::LogControl;
use crate::util::time;

/// How long the last word of a process that goes away may take.
const LEAVING_WAIT: Duration = Duration::from_millis(200);

/// Whoever can do what is asked of a process of his role.
pub trait CommandHandler: Send + Sync + 'static {
    /// Does it, and answers. What is not his business is [`Answer::NotUnderstood`].
    fn obey(&self, demand: Command) -> impl Future<Output = Answer> + Send;
}

/// A role that does nothing but what every process does.
pub struct NoCommands;

impl CommandHandler for NoCommands {
    async fn obey(&self, _: Command) -> Answer {
        Answer::NotUnderstood
    }
}

/// A process's place among those that can be given orders.
pub struct ControlAgent {
    log: Log,
    me: Process,
    started_ms: u64,
    settings: ControlSettings,
    orders: Orders,
}

impl ControlAgent {
    /// Listens from now on, under the name by which the process goes in its role.
    pub async fn open(log: Log, role: Role, id: &str, settings: ControlSettings) -> Result<Self, LogError> {
        let orders = log.orders(role.as_str()).await?;
        let started_ms = time::now_ms();
        Ok(Self { log, me: Process { role, id: id.to_owned() }, started_ms, settings, orders })
    }

    /// Carries orders out until told to stop, or until the connection to NATS is closed for good.
    pub async fn run(mut self, obey: Arc<impl CommandHandler>, stop: CancellationToken) {
        let period = Duration::from_millis(self.settings.announce_ms);
        let mut ticks = interval_at(Instant::now(), period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut at_work = FuturesUnordered::new();
        loop {
            let has_room = at_work.len() < self.settings.orders_at_once_max;
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {
                    restore_log_filter();
                    self.announce(Answer::Present).await;
                }
                Some((order, answer)) = at_work.next() => self.report(&order, answer).await,
                order = self.orders.next(), if has_room => {
                    let Some(body) = order else { return };
                    match serde_json::from_slice::<CommandEnvelope>(&body) {
                        Ok(order) => at_work.push(carry_out(obey.clone(), order)),
                        Err(error) => warn!(%error, "an order that cannot be read; ignored"),
                    }
                }
            }
        }
        // Best effort: who hears nothing of it notices the silence.
        let leaving = async {
            self.announce(Answer::Leaving).await;
            // The process may end at once: what only waits to be written would not be said.
            self.log.flush().await
        };
        if !matches!(timeout(LEAVING_WAIT, leaving).await, Ok(Ok(()))) {
            debug!("failed to announce to the administration that this process stops");
        }
    }

    /// Says something unasked. Without NATS nobody could hear it, so it is not said.
    async fn announce(&self, answer: Answer) {
        if self.log.state().borrow().connected {
            self.say(None, None, answer).await;
        }
    }

    async fn report(&self, order: &CommandEnvelope, answer: Answer) {
        self.say(Some(&order.asker), Some(order.number), answer).await;
    }

    async fn say(&self, to: Option<&str>, number: Option<u64>, answer: Answer) {
        let report = CommandReply {
            by: self.me.clone(),
            version: crate::version::VERSION.to_owned(),
            started_ms: self.started_ms,
            announce_ms: self.settings.announce_ms,
            number,
            answer,
        };
        let said = match serde_json::to_vec(&report) {
            Ok(body) => self.log.report(to, body.into()).await,
            Err(error) => {
                warn!(%error, "a report that cannot be written");
                return;
            }
        };
        if let Err(error) = said {
            debug!(%error, "a report did not leave; who asked will miss it");
        }
    }
}

async fn carry_out(obey: Arc<impl CommandHandler>, order: CommandEnvelope) -> (CommandEnvelope, Answer) {
    let answer = match serde_json::from_str::<Command>(order.demand.get()) {
        Ok(Command::Presence) => Answer::Present,
        Ok(Command::Log(filter)) => log_filter(filter),
        Ok(demand) => obey.obey(demand).await,
        Err(error) => {
            info!(%error, "an order that is not understood here; is the administration of another version?");
            Answer::NotUnderstood
        }
    };
    (order, answer)
}

/// Puts a log filter in force, if one is given; tells the one that is.
fn log_filter(filter: Option<LogFilter>) -> Answer {
    let Some(control) = LogControl::of_process() else {
        return Answer::Failed("this process's logs cannot be changed".to_owned());
    };
    if let Some(LogFilter { filter, seconds }) = filter {
        let before = control.filter();
        let set = match seconds {
            Some(seconds) => control.set_filter_for(&filter, Duration::from_secs(seconds)),
            None => control.set_filter(&filter),
        };
        if let Err(error) = set {
            warn!(%error, "the log filter stays as it was");
            return Answer::Failed(error.to_string());
        }
        info!(filter, before, seconds, "the log filter was changed, by the administration");
    }
    Answer::Log(control.filter())
}

/// Puts the log filter back that was in force before one whose time is up.
fn restore_log_filter() {
    let Some(control) = LogControl::of_process() else { return };
    match control.restore_if_due() {
        Ok(Some(filter)) => {
            info!(filter, "the log filter is what it was before the administration changed it")
        }
        Ok(None) => {}
        Err(error) => warn!(%error, "the log filter cannot be put back"),
    }
}
