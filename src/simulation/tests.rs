//! The runs.

use super::run::{Plan, play};
use super::world::Mutation;

/// The seeds that are played, or those of `INSIEME_TEST_SIMULATION_SEEDS`, `FROM..TO`.
fn seeds(usually: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(asked) = std::env::var("INSIEME_TEST_SIMULATION_SEEDS") else { return usually };
    let (from, to) = asked.split_once("..").expect("INSIEME_TEST_SIMULATION_SEEDS is FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// Plays a plan whose verdict must be clean.
fn must_be_clean(plan: Plan) -> super::history::Verdict {
    let (verdict, story) = play(plan);
    if !verdict.findings.is_empty() {
        let file = std::env::temp_dir().join(format!("insieme-simulation-{}.txt", plan.seed));
        std::fs::write(&file, story.join("\n")).expect("the story can be written");
        panic!("{plan:?}: {:#?}\nthe story is in {}", verdict.findings, file.display());
    }
    verdict
}

fn clean_over(seeds: std::ops::Range<u64>, overtaking: bool) {
    let (mut accepted, mut rejected, mut zombies, mut decided_before) = (0, 0, 0, 0);
    for seed in seeds.clone() {
        let verdict = must_be_clean(Plan { seed, mutation: None, overtaking });
        accepted += verdict.accepted;
        rejected += verdict.rejected;
        zombies += verdict.zombies;
        decided_before += verdict.decided_before;
    }
    println!(
        "{} runs: {accepted} accepted, {rejected} rejected ({decided_before} for what an earlier copy was), \
         {zombies} committed by a connection that was gone after a rejection elsewhere",
        seeds.count(),
    );
    assert!(accepted > 100 && rejected > 100, "the runs are about nothing");
}

#[test]
fn whatever_fails_nothing_is_lost_doubled_reordered_or_wrongly_committed() {
    clean_over(seeds(0..40), false);
}

#[test]
fn nor_when_drafts_overtake_each_other() {
    clean_over(seeds(0..15), true);
}

#[test]
fn a_seed_is_a_history() {
    for overtaking in [false, true] {
        let plan = Plan { seed: 7, mutation: None, overtaking };
        assert_eq!(play(plan), play(plan));
    }
}

/// A judge who never finds anything proves nothing.
#[test]
fn every_broken_promise_is_found() {
    use Mutation::*;
    // Some need a rare coincidence: then a little before the seed that has it.
    let all = [
        (UncheckedCommit, false, 0),
        (AnyoneWrites, false, 0),
        (NoOwnerCheck, false, 30),
        (NoFloor, false, 0),
        (NoFence, false, 22),
        (ForgottenIndex, false, 0),
        (UnsoughtDraft, false, 0),
        (NoSince, false, 0),
        (NoLastMoment, true, 200),
    ];
    let only = std::env::var("INSIEME_TEST_SIMULATION_MUTATION").ok();
    let mut missed = Vec::new();
    for (mutation, overtaking, from) in all {
        if only.as_ref().is_some_and(|only| *only != format!("{mutation:?}")) {
            continue;
        }
        let found = seeds(from..from + 300).find_map(|seed| {
            let (verdict, _) = play(Plan { seed, mutation: Some(mutation), overtaking });
            verdict.findings.first().map(|finding| (seed, finding.clone()))
        });
        match found {
            Some((seed, finding)) => println!("{mutation:?}: seed {seed}: {finding}"),
            None => missed.push(mutation),
        }
    }
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
}

/// Ways of breaking the product by its own switches, and the test that is clean without and must find each. In a process
/// of its own, since a switch is of a whole process.
#[test]
fn the_products_own_faults_are_found() {
    const RUNS: &str =
        "simulation::tests::whatever_fails_nothing_is_lost_doubled_reordered_or_wrongly_committed";
    const INDEX: &str =
        "state::draft_index::tests::what_the_log_said_of_a_draft_is_not_believed_once_it_is_committed";
    let all = [
        ("decide_unowned", RUNS),
        ("answer_before_ack", RUNS),
        ("believe_any_attempt", RUNS),
        ("believe_live", RUNS),
        ("keep_told", INDEX),
    ];
    for (fault, test) in all {
        let run = |fault: &str, seeds: &str| {
            let mut command = std::process::Command::new(std::env::current_exe().expect("this test's file"));
            command.args(["--exact", test, "--nocapture"]).env("INSIEME_FAULT", fault);
            let output = command.env("INSIEME_TEST_SIMULATION_SEEDS", seeds).output().expect("it starts");
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        if test == INDEX {
            let (clean, said) = run("", "0..1");
            assert!(clean && said.contains("1 passed"), "{said}");
        }
        let (clean, said) = run(fault, "0..200");
        assert!(!clean && said.contains("1 failed"), "nobody noticed {fault}: {said}");
    }
}
