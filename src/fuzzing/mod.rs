//! Fuzzing: whatever comes from outside is tried with a great many inputs that nobody thought of.
//!
//! A target is a function on bytes that panics on a defect. Its inputs are made by seed, from a few that clients
//! and NATS really send (`corpus/`), by the changes that break parsers: flipped bits, cut and doubled stretches,
//! pieces of other inputs, numbers at their limits, brackets without end. With the tests each target runs for
//! [`SECONDS`]; `tests/fuzz --seconds 600` runs them longer, with another seed each time. With `--guided` the build
//! counts which code an input reaches ([`coverage`]), and inputs that reach something new join the corpus.
//!
//! On a panic the input stands in the message, so that it can become a test.

mod coverage;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use coverage::Coverage;

/// For how long a target is tried with all other tests.
const SECONDS: f64 = 1.0;
const SECONDS_VARIABLE: &str = "INSIEME_FUZZ_SECONDS";
const SEED_VARIABLE: &str = "INSIEME_FUZZ_SEED";
/// The longest input.
const BYTES_MAX: usize = 64 * 1024;
/// How many inputs a guided run keeps.
const INPUTS_MAX: usize = 20_000;
/// How long one input may take; a parser that is not linear shows so.
const CASE_MAX: Duration = Duration::from_secs(2);

/// What breaks parsers.
const TOKENS: [&[u8]; 33] = [
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"true",
    b"-0",
    b"1e999",
    b"18446744073709551616",
    b"9007199254740993",
    b"__proto__",
    b"\"$serde_json::private::RawValue\":",
    b"\"$serde_json::private::Number\":",
    b"{\"$serde_json::private::RawValue\":\"",
    b"\\\"",
    b"\\udc00",
    b"\\ud83d\\ude00",
    b"{\"a\":",
    b"\"id\":\"e1\",",
    b"5.0",
    b"~",
    b".",
    b"*",
    b">",
    b"\xff\xfe",
    b"\0",
    b"\n",
];

/// A generator whose numbers follow from its seed (SplitMix64).
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// One below `bound`; 0 where that is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Tries a target for as long as it is to take; every input of the corpus first.
pub(crate) fn fuzz(name: &str, corpus: &[&[u8]], target: impl Fn(&[u8])) {
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<f64>().ok());
    let length = Duration::from_secs_f64(number(SECONDS_VARIABLE).unwrap_or(SECONDS));
    let seed = number(SEED_VARIABLE).unwrap_or(1.0) as u64;
    let mut numbers = Numbers::new(seed);
    let began = Instant::now();
    let mut cases = 0_u64;
    let guided = Coverage::is_counted();
    let mut coverage = Coverage::default();
    let mut inputs: Vec<Vec<u8>> = corpus.iter().map(|input| input.to_vec()).collect();
    for input in corpus {
        Coverage::start();
        try_one(name, seed, input, &target);
        coverage.is_new();
    }
    let edges = coverage.edges();
    while began.elapsed() < length {
        // The clock costs more than most inputs.
        for _ in 0..16 {
            let input = change(&mut numbers, &inputs);
            Coverage::start();
            try_one(name, seed, &input, &target);
            cases += 1;
            if guided && coverage.is_new() && inputs.len() < INPUTS_MAX {
                inputs.push(input);
            }
        }
    }
    print!("{name}: {cases} inputs in {:.1} s, seed {seed}", began.elapsed().as_secs_f64());
    if guided {
        print!(
            "; {} edges reached, {edges} of them by the corpus; {} inputs kept",
            coverage.edges(),
            inputs.len()
        );
    }
    println!();
    assert!(cases > 0);
}

fn try_one(name: &str, seed: u64, input: &[u8], target: &impl Fn(&[u8])) {
    let began = Instant::now();
    let done = catch_unwind(AssertUnwindSafe(|| target(input)));
    let took = began.elapsed();
    let shown = || String::from_utf8_lossy(input).escape_debug().to_string();
    assert!(
        done.is_ok(),
        "{name}, seed {seed}: panicked on {} bytes: {input:?}\nas text: {}",
        input.len(),
        shown()
    );
    assert!(took < CASE_MAX, "{name}, seed {seed}: took {took:?} for {} bytes: {}", input.len(), shown());
}

/// An input of the corpus, changed in a few ways.
fn change(numbers: &mut Numbers, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[numbers.below(corpus.len())].clone();
    for _ in 0..1 + numbers.below(4) {
        let at = numbers.below(input.len() + 1);
        let length = 1 + numbers.below(16.min(input.len() + 1 - at).max(1));
        let end = (at + length).min(input.len());
        match numbers.below(9) {
            0 if at < input.len() => input[at] ^= 1 << numbers.below(8),
            1 if at < input.len() => input[at] = numbers.next() as u8,
            2 => drop(input.drain(at..end)),
            3 => input.truncate(at),
            4 => {
                let stretch = input[at..end].to_vec();
                let times_max = if numbers.below(50) == 0 { 2_000 } else { 4 };
                let times = 1 + numbers.below(times_max);
                splice(&mut input, at, &stretch.repeat(times));
            }
            5 => {
                let other = &corpus[numbers.below(corpus.len())];
                let from = numbers.below(other.len() + 1);
                let upto = from + numbers.below(other.len() + 1 - from);
                splice(&mut input, at, &other[from..upto]);
            }
            6 => {
                let token = TOKENS[numbers.below(TOKENS.len())];
                let times = if numbers.below(20) == 0 { 1 + numbers.below(3_000) } else { 1 };
                splice(&mut input, at, &token.repeat(times));
            }
            7 => {
                let digits = (numbers.next() >> numbers.below(64)).to_string();
                splice(&mut input, at, digits.as_bytes());
            }
            _ => splice(&mut input, at, &[numbers.next() as u8]),
        }
    }
    input.truncate(BYTES_MAX);
    input
}

fn splice(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    input.splice(at..at, piece.iter().copied());
}

#[test]
fn the_driver_finds_what_is_wrong_with_a_target() {
    let found = catch_unwind(|| {
        fuzz("broken", &[b"{\"a\":1}"], |bytes| assert!(!bytes.contains(&b'}') || bytes.len() < 9))
    });
    assert!(found.is_err());
}
