//! Which drafts of a slot are decided: what the slot's next owner must know of what clients were told.

use std::fmt;
use std::str::FromStr;

/// Which drafts of one slot are decided, by their sequence numbers in the queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decided {
    /// Which queue the numbers are of: when it was made, in Unix nanoseconds. A queue that is made again begins
    /// at 1. Empty where nothing is decided.
    pub queue: String,
    /// Every draft up to this one is decided,
    pub upto: u64,
    /// but these, in ascending order.
    pub open: Vec<u64>,
}

/// Why a text says nothing of what is decided.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} does not say which drafts are decided")]
pub struct NotDecided(String);

/// The queue, the last decided draft, and then how far each open one lies before the next: short numbers, since a
/// header of NATS holds at most 64 KiB.
impl fmt::Display for Decided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = if self.queue.is_empty() { "-" } else { &self.queue };
        write!(f, "{queue} {}", self.upto)?;
        let mut next = self.upto;
        for open in self.open.iter().rev() {
            write!(f, " {}", next - open)?;
            next = *open;
        }
        Ok(())
    }
}

impl FromStr for Decided {
    type Err = NotDecided;

    fn from_str(text: &str) -> Result<Self, NotDecided> {
        let wrong = || NotDecided(text.chars().take(100).collect());
        let mut parts = text.split(' ');
        let queue = parts.next().filter(|queue| !queue.is_empty()).ok_or_else(wrong)?;
        let mut numbers = parts.map(|number| number.parse::<u64>().map_err(|_| wrong()));
        let upto = numbers.next().ok_or_else(wrong)??;
        let (mut open, mut next) = (Vec::new(), upto);
        for distance in numbers {
            next = next.checked_sub(distance?).ok_or_else(wrong)?;
            open.push(next);
        }
        open.reverse();
        let queue = if queue == "-" { String::new() } else { queue.to_owned() };
        Ok(Self { queue, upto, open })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_open_ones_are_told_by_their_distances() {
        let decided = Decided { queue: "17".to_owned(), upto: 42, open: vec![3, 40, 41] };
        assert_eq!(decided.to_string(), "17 42 1 1 37");
        assert_eq!(Decided::default().to_string(), "- 0");
        assert_eq!("- 0".parse::<Decided>().unwrap(), Decided::default());
    }

    #[test]
    fn what_says_nothing_is_not_taken() {
        for text in ["", "17", "17 x", "17 5 6", " 5", "17 5 -1", "17  5"] {
            assert!(text.parse::<Decided>().is_err(), "{text:?}");
        }
    }

    /// As many as a validator has in hand, far apart: what a header of NATS holds is more.
    #[test]
    fn the_longest_fits_into_a_header() {
        let open: Vec<u64> = (1..=4_096).map(|n| n * 200_000_000_000).collect();
        let decided = Decided { queue: i128::MAX.to_string(), upto: u64::MAX, open };
        assert!(decided.to_string().len() < 60_000, "{}", decided.to_string().len());
    }

    proptest! {
        #[test]
        fn it_is_read_back_as_it_was_written(
            upto in 0_u64..1_000_000,
            open in proptest::collection::btree_set(0_u64..1_000_000, 0..50),
        ) {
            let open = open.into_iter().filter(|open| *open < upto).collect();
            let decided = Decided { queue: "1".to_owned(), upto, open };
            prop_assert_eq!(decided.to_string().parse::<Decided>().unwrap(), decided);
        }
    }
}
