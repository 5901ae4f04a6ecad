//! Connections that stand and do nothing: what each takes in the server.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::link::{Link, Target};
use crate::measure::{Named, Times, Watch, resident_bytes};
use crate::report::Report;
use crate::stage::{CONNECTING_MAX, Stage};

/// The numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    pub connections: usize,
    pub partitions: usize,
    /// How long they stand before memory is looked at, and then while CPU time is counted.
    pub seconds: f64,
}

pub async fn run(target: Target, run: String, plan: Plan, processes: &[Named]) -> Result<Report> {
    ensure!(plan.connections >= 10 && plan.partitions > 0, "at least ten connections are needed");
    let stage = Stage::new(target, run);
    let connecting = Rc::new(Semaphore::new(CONNECTING_MAX));
    let settle = Duration::from_secs_f64(plan.seconds / 2.0);
    let mut times = Times::new();
    // The first tenth brings what is there once: pools, caches, feeds.
    let first = plan.connections / 10;
    let mut links = connect(&stage, &connecting, 0..first, plan.partitions, &mut times).await?;
    tokio::time::sleep(settle).await;
    let before = memory(processes)?;
    links.extend(connect(&stage, &connecting, first..plan.connections, plan.partitions, &mut times).await?);
    tokio::time::sleep(settle).await;
    let after = memory(processes)?;
    let watch = Watch::begin(processes)?;
    tokio::time::sleep(settle).await;

    let mut report =
        Report { plan: serde_json::to_value(&plan)?, seconds: settle.as_secs_f64(), ..Report::default() };
    report.processes = watch.end()?;
    let added = (plan.connections - first) as f64;
    report.figure("connections", plan.connections as f64, "");
    for ((name, after), (_, before)) in after.into_iter().zip(before) {
        let each = (after as f64 - before as f64) / added / 1024.0;
        // The names are the caller's few; a report is made once.
        let name: &'static str = Box::leak(format!("memory_each_{name}").into_boxed_str());
        report.figure(name, each, "KiB");
    }
    report.time("connect", times.percentiles());
    for (number, link) in links.iter_mut().enumerate() {
        // Whoever was thrown out has been told by now.
        if let Err(error) = link.read(|_| Ok(())) {
            stage.ledger.borrow_mut().findings.fail(format!("connection {number}: {error:#}"));
        }
    }
    report.findings = stage.ledger.borrow().findings.clone();
    Ok(report)
}

async fn connect(
    stage: &Rc<Stage>,
    connecting: &Rc<Semaphore>,
    numbers: std::ops::Range<usize>,
    partitions: usize,
    times: &mut Times,
) -> Result<Vec<Link>> {
    let mut opening = JoinSet::new();
    for number in numbers {
        let (stage, connecting) = (Rc::clone(stage), Rc::clone(connecting));
        opening.spawn_local(async move {
            let _permit = connecting.acquire().await?;
            let began = stage.now();
            let names = stage.names(number % partitions, &format!("c{number}"));
            let mut link = Link::open(&stage.target, names, None).await?;
            link.connected(|_| Ok(())).await?;
            anyhow::Ok((link, stage.now() - began))
        });
    }
    let mut links = Vec::new();
    while let Some(opened) = opening.join_next().await {
        let (link, time) = opened??;
        times.record(time);
        links.push(link);
    }
    Ok(links)
}

fn memory(processes: &[Named]) -> Result<Vec<(String, u64)>> {
    processes.iter().map(|process| Ok((process.name.clone(), resident_bytes(process)?))).collect()
}
