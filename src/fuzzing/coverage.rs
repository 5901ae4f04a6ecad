//! Which code an input reached, where the build counts it.
//!
//! `tests/fuzz --guided` compiles our code and our dependencies with one counter for each edge of the control flow
//! (LLVM's SanitizerCoverage, which the stable compiler has). Then an input that reaches something new is changed
//! further. Other builds have no counters, and every input is made from the corpus.

/// How many counters are compared with zeros at once.
const BLOCK: usize = 256;
const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// The edges reached so far, and how often: the counts 1, 2, 3, 4–7, 8–15, 16–31, 32–127 and more are told apart.
#[derive(Default)]
pub(super) struct Coverage {
    seen: Vec<u8>,
}

impl Coverage {
    /// True where the build counts.
    pub(super) fn is_counted() -> bool {
        !counters().is_empty()
    }

    /// Forgets what was counted before an input is tried.
    pub(super) fn start() {
        counters().fill(0);
    }

    /// True if the last input reached an edge, or reached it as often, as no input before.
    pub(super) fn is_new(&mut self) -> bool {
        let counted = counters();
        self.seen.resize(counted.len(), 0);
        let mut new = false;
        // Nearly all counters are 0, so they are looked at in blocks.
        for (seen, counted) in self.seen.chunks_mut(BLOCK).zip(counted.chunks(BLOCK)) {
            if counted == &ZEROS[..counted.len()] {
                continue;
            }
            for (seen, count) in seen.iter_mut().zip(counted) {
                let class = class(*count);
                new |= *seen & class != class;
                *seen |= class;
            }
        }
        new
    }

    /// How many edges were reached.
    pub(super) fn edges(&self) -> usize {
        self.seen.iter().filter(|seen| **seen > 0).count()
    }
}

/// One bit for each class of counts.
fn class(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..=7 => 8,
        8..=15 => 16,
        16..=31 => 32,
        32..=127 => 64,
        128.. => 128,
    }
}

#[cfg(not(fuzz_coverage))]
fn counters() -> &'static mut [u8] {
    &mut []
}

#[cfg(fuzz_coverage)]
#[allow(unsafe_code)] // The compiler's counters are memory that it names by two addresses.
mod instrumented {
    use std::sync::atomic::{AtomicUsize, Ordering};

    static START: AtomicUsize = AtomicUsize::new(0);
    static END: AtomicUsize = AtomicUsize::new(0);

    /// Each instrumented module calls this before `main`, always with the two ends of all counters of the program.
    #[unsafe(no_mangle)]
    extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, end: *mut u8) {
        START.store(start as usize, Ordering::Relaxed);
        END.store(end as usize, Ordering::Relaxed);
    }

    pub(super) fn counters() -> &'static mut [u8] {
        let (start, end) = (START.load(Ordering::Relaxed), END.load(Ordering::Relaxed));
        if start == 0 {
            return &mut [];
        }
        // The region lives as long as the program. Guided runs have one thread that tries inputs, and a count that
        // another thread changes meanwhile only makes an input look new.
        unsafe { std::slice::from_raw_parts_mut(start as *mut u8, end - start) }
    }
}
#[cfg(fuzz_coverage)]
use instrumented::counters;

#[test]
fn an_edge_counts_as_new_once_for_each_class_of_counts() {
    let classes: Vec<u8> = (0..=u8::MAX).map(class).collect();
    assert_eq!(classes[0], 0);
    assert!(classes[1..].iter().all(|class| class.count_ones() == 1));
    assert!(classes.is_sorted());
    let mut coverage = Coverage::default();
    Coverage::start();
    assert_eq!(Coverage::is_counted(), coverage.is_new(), "what is counted is new the first time");
}

/// Four bytes that must be right one after the other. An input made from the corpus alone has at most four changes.
#[cfg(fuzz_coverage)]
#[test]
fn a_guided_run_finds_what_takes_several_steps() {
    use std::panic::catch_unwind;

    fn one(byte: Option<&u8>, wanted: u8) -> bool {
        std::hint::black_box(byte.is_some_and(|byte| std::hint::black_box(*byte) == wanted))
    }
    let found = catch_unwind(|| {
        super::fuzz("four steps", &[b"....".as_slice()], |bytes| {
            if one(bytes.first(), b'f') && one(bytes.get(1), b'o') && one(bytes.get(2), b'u') {
                assert!(!one(bytes.get(3), b'r'));
            }
        });
    });
    assert!(found.is_err());
}
