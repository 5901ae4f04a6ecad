//! Says when each request is to be sent, for loads that do not wait for answers.
//!
//! tokio's timers are good to a millisecond, which is more than many an answer takes; a thread that sleeps is
//! good to some fifty microseconds.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::Notify;

use crate::stage::Stage;

/// What one writer is to send: the intended times of its requests.
#[derive(Default)]
pub struct Due {
    pub times: RefCell<VecDeque<u64>>,
    pub wake: Notify,
}

/// Gives out intended times, one request every `interval` nanoseconds, to the writers in turn; from `start`
/// to `end`.
pub async fn run(stage: Rc<Stage>, writers: Vec<Rc<Due>>, interval: f64, start: u64, end: u64) -> Result<()> {
    let timer = Timer::new()?;
    let mut count = 0u64;
    loop {
        let now = stage.now();
        let mut next;
        loop {
            next = start + (count as f64 * interval) as u64;
            if next > now || next >= end {
                break;
            }
            let writer = &writers[(count % writers.len() as u64) as usize];
            writer.times.borrow_mut().push_back(next);
            writer.wake.notify_one();
            count += 1;
        }
        if next >= end {
            return Ok(());
        }
        timer.wait(next - now).await?;
    }
}

/// A thread that sleeps for us; it ends when this is dropped.
struct Timer {
    sleeps: mpsc::Sender<Duration>,
    over: Arc<Notify>,
}

impl Timer {
    fn new() -> Result<Self> {
        let (sleeps, asked) = mpsc::channel();
        let over = Arc::new(Notify::new());
        let timer = Self { sleeps, over: Arc::clone(&over) };
        std::thread::Builder::new().name("pacer".to_owned()).spawn(move || {
            while let Ok(sleep) = asked.recv() {
                std::thread::sleep(sleep);
                over.notify_one();
            }
        })?;
        Ok(timer)
    }

    async fn wait(&self, nanos: u64) -> Result<()> {
        self.sleeps.send(Duration::from_nanos(nanos)).context("the timer's thread has ended")?;
        self.over.notified().await;
        Ok(())
    }
}
