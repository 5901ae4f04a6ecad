//! Text of others in our lines: cut to a bound, and without anything that a terminal or a reader of lines takes
//! for more than text.

use std::fmt::{self, Write};

/// What stands where a text was cut.
const CUT: char = '…';

/// A text of at most so many bytes. What is written to it beyond that is not even made.
pub(crate) struct Cut {
    text: String,
    bytes_max: usize,
    is_cut: bool,
}

impl Cut {
    pub(crate) fn to(bytes_max: usize) -> Self {
        Self { text: String::new(), bytes_max, is_cut: false }
    }

    /// What a value says of itself.
    pub(crate) fn of(value: &dyn fmt::Debug, bytes_max: usize) -> String {
        let mut cut = Self::to(bytes_max);
        // An error is ours: there is no room for more.
        let _ = write!(cut, "{value:?}");
        cut.finish()
    }

    /// A text.
    pub(crate) fn of_str(text: &str, bytes_max: usize) -> String {
        let mut cut = Self::to(bytes_max);
        let _ = cut.write_str(text);
        cut.finish()
    }

    pub(crate) fn finish(mut self) -> String {
        if self.is_cut {
            self.text.push(CUT);
        }
        self.text
    }
}

impl Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes_max - self.text.len();
        if text.len() <= room {
            self.text.push_str(text);
            return Ok(());
        }
        self.text.push_str(&text[..text.floor_char_boundary(room)]);
        self.is_cut = true;
        // Whoever writes on is told to stop: what would come costs nothing.
        Err(fmt::Error)
    }
}

/// Whether a character does something to what is around it: ends a line, moves the cursor, turns the direction of
/// reading round, or cannot be seen.
pub(crate) fn is_active(character: char) -> bool {
    matches!(
        character,
        '\u{0}'..='\u{1F}'
            | '\u{7F}'..='\u{9F}'
            | '\u{AD}'
            | '\u{61C}'
            | '\u{180E}'
            | '\u{200B}'..='\u{200F}'
            | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}'
            | '\u{FEFF}'
            | '\u{FFF9}'..='\u{FFFB}'
            | '\u{E0000}'..='\u{E007F}'
    )
}

/// Writes a text in which nothing is active: as it is, or as Rust writes such characters.
pub(crate) fn escape(text: &str, line: &mut String) {
    for character in text.chars() {
        if is_active(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
}

/// Writes a text in quotes: where it begins and ends can be seen, whatever is in it.
pub(crate) fn quote(text: &str, line: &mut String) {
    line.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => line.extend(['\\', character]),
            _ if is_active(character) => line.extend(character.escape_default()),
            _ => line.push(character),
        }
    }
    line.push('"');
}

/// Writes a text as JSON has it, in which nothing is active on a terminal either.
pub(crate) fn json(text: &str, line: &mut String) {
    line.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => line.extend(['\\', character]),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            _ if is_active(character) => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // Writing to a string does not fail.
                    let _ = write!(line, "\\u{unit:04x}");
                }
            }
            _ => line.push(character),
        }
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_says_so() {
        assert_eq!(Cut::of_str("abc", 3), "abc");
        assert_eq!(Cut::of_str("abcd", 3), "abc…");
        assert_eq!(Cut::of_str("aéé", 4), "aé…");
        assert_eq!(Cut::of(&format_args!("{}-{}", "a".repeat(9), "b".repeat(1 << 20)), 12), "aaaaaaaaa-bb…");
    }

    #[test]
    fn what_is_active_is_written_out() {
        let with = |write: fn(&str, &mut String), text: &str| {
            let mut line = String::new();
            write(text, &mut line);
            line
        };
        assert_eq!(with(escape, "a\r\nb\u{1b}[2J \u{202e}é"), "a\\r\\nb\\u{1b}[2J \\u{202e}é");
        assert_eq!(with(quote, "a\"b\\ c\n"), "\"a\\\"b\\\\ c\\n\"");
        assert_eq!(with(json, "\u{9b}\u{e0001}\u{0}"), "\"\\u009b\\udb40\\udc01\\u0000\"");
    }

    proptest! {
        #[test]
        fn json_says_the_text(text in any::<String>()) {
            let mut line = String::new();
            json(&text, &mut line);
            prop_assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
            prop_assert!(!line.chars().any(is_active));
        }
    }
}
