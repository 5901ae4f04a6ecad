//! The long runs: one seed after the other, with one NATS server and, at the same time, with three, for a given time. Each
//! run is a process of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;

use super::{Arguments, totals};

/// How long one run rages. Healing, judging and filling the long partition come on top.
const RUN_MINUTES: f64 = 5.0;
const ROUND_SECONDS: f64 = 75.0;
/// Two runs at a time keep two processors busy with this.
const PACE: [&str; 8] = ["--clients", "48", "--pace-ms", "8", "--fault-ms", "1100", "--reset-ms", "800"];
/// No run begins when less than this is left.
const LAST_START: Duration = Duration::from_secs(150);
/// A folder in memory, where there is one: runs that wait for a disk do less.
const MEMORY: &str = "/dev/shm";

/// Runs them; false if one of them found something.
pub async fn run(arguments: &Arguments, seed: u64) -> Result<bool, String> {
    let until = Instant::now() + Duration::from_secs_f64(arguments.minutes * 60.0);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("torture-long-{seed}"));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let file = folder.join("totals.jsonl");
    println!(
        "seeds {seed} and up with one server, {} and up with three; logs in {}",
        seed + THREE,
        folder.display()
    );
    let (single, three) = tokio::join!(
        lane(arguments, seed, false, until, &folder, &file),
        lane(arguments, seed + THREE, true, until, &folder, &file),
    );
    print!("{}", totals::table(&file)?);
    Ok(single? & three?)
}

/// The seeds with three servers begin so much higher.
const THREE: u64 = 500;

async fn lane(
    arguments: &Arguments,
    mut seed: u64,
    cluster: bool,
    until: Instant,
    folder: &Path,
    totals: &Path,
) -> Result<bool, String> {
    let mut good = true;
    let mut run = 0;
    while until.saturating_duration_since(Instant::now()) > LAST_START || run == 0 {
        let left = until.saturating_duration_since(Instant::now()).as_secs_f64() / 60.0;
        let minutes = RUN_MINUTES.min(left - 0.8).max(0.5);
        let log = folder.join(format!("seed-{seed}.log"));
        let failed = |error: std::io::Error| format!("{}: {error}", log.display());
        let output = File::create(&log).map_err(failed)?;
        let program: PathBuf = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command
            .args(["--seed", &seed.to_string(), "--minutes", &format!("{minutes:.2}")])
            .args(["--round-seconds", &ROUND_SECONDS.to_string()])
            .args(PACE)
            .args(["--long-events", &arguments.long_events.to_string()])
            .arg("--totals")
            .arg(totals)
            .args(cluster.then_some("--cluster"));
        let store =
            arguments.store_in.clone().or_else(|| Some(PathBuf::from(MEMORY)).filter(|path| path.is_dir()));
        if let Some(store) = store {
            command.arg("--store-in").arg(store);
        }
        let errors = output.try_clone().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let began = Instant::now();
        let status = command.status().await.map_err(failed)?;
        println!(
            "seed {seed}{}: {status} after {} s",
            if cluster { " with three servers" } else { "" },
            began.elapsed().as_secs()
        );
        if !status.success() {
            good = false;
            let said = std::fs::read_to_string(&log).map_err(failed)?;
            let worth = said.lines().filter(|line| {
                line.starts_with("FOUND") || line.contains("TOO LITTLE") || line.contains("could not")
            });
            worth.take(5).for_each(|line| println!("    {}", line.chars().take(300).collect::<String>()));
        }
        seed += 1;
        run += 1;
    }
    Ok(good)
}
