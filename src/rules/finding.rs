//! Findings, bounded: what a draft makes the rules say must not be larger than what they say it about.
//!
//! Names and values from a payload end up in fields and messages. A payload of 256 KiB can hold thousands of
//! mistakes below one very long key, and an answer is one message on the bus.

use crate::event::FieldError;

/// The most findings that one answer lists.
pub(crate) const FINDINGS_MAX: usize = 100;
/// The longest field of a finding, in bytes; what is cut off is shown as `…`.
const FIELD_BYTES_MAX: usize = 256;
/// The longest message of a finding, in bytes.
const MESSAGE_BYTES_MAX: usize = 512;

/// One finding.
pub(crate) fn finding(field: &str, code: &str, message: &str) -> FieldError {
    FieldError {
        field: shortened(field, FIELD_BYTES_MAX),
        message: shortened(message, MESSAGE_BYTES_MAX),
        code: code.to_owned(),
    }
}

fn shortened(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes_max - '…'.len_utf8());
    format!("{}…", text.get(..end).unwrap_or_default())
}
