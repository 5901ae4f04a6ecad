//! The product broken on purpose, in one way after the other: the judge must find each. A checker that has
//! never failed proves nothing.

use std::path::Path;
use std::time::Instant;

use super::engine::Kind;
use super::faults::{FoundBy, MUTATIONS, Mutation};
use super::world::Plan;
use super::{Arguments, torture};

/// Runs each until it is found, and names the test of those that the torture is not for; false if one is not found.
/// A mutation that is asked for by name is run, whatever finds it best.
pub async fn run(arguments: &Arguments, seed: u64) -> Result<bool, String> {
    println!("| broken | how it shows | found after |\n|---|---|---:|");
    let product = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
        .map_err(|error| format!("the product's sources: {error}"))?;
    let mut all = true;
    for mutation in MUTATIONS {
        let Mutation { fault, with, setting, what, found_by } = mutation;
        let point = format!("broken(\"{fault}\")");
        match found_by {
            _ if !arguments.only.is_empty() && !arguments.only.iter().any(|name| name == fault) => continue,
            FoundBy::Test(name) if arguments.only.is_empty() && product.contains(&point) => {
                println!("| `{fault}`: {what} | `tests/run {name}` | every time |");
                continue;
            }
            _ => {}
        }
        if !product.contains(&point) {
            println!("| `{fault}`: {what} | **NOT IN THE PRODUCT** | |");
            all = false;
            continue;
        }
        let began = Instant::now();
        let mut plan = Plan::of(seed, Kind::Single).broken(&format!("{fault},{with}"), *setting);
        // What is broken is to be found by itself.
        (plan.schemas_differ, plan.clocks_off) = (false, false);
        let (_, found) = torture(arguments, seed, plan, arguments.minutes_per_mutation, false).await?;
        let seconds = began.elapsed().as_secs();
        let shown: String = match found.first() {
            Some(first) => {
                eprintln!("{fault}: {first}");
                let plain = |c: char| if c == '|' || c.is_control() { '/' } else { c };
                first.chars().take(140).map(plain).collect()
            }
            None => {
                all = false;
                "**NOT FOUND**".to_owned()
            }
        };
        println!("| `{fault}`: {what} | {shown} | {seconds} s |");
    }
    Ok(all)
}

/// All of a folder's text.
fn sources(folder: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        text.push_str(&if path.is_dir() { sources(&path)? } else { std::fs::read_to_string(&path)? });
    }
    Ok(text)
}
