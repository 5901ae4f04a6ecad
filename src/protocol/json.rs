//! Writing JSON by hand around parts that are JSON already.

use serde::Serialize;

/// Appends a value that is made of strings, numbers and already valid JSON, which cannot fail to
/// serialise.
pub(crate) fn push_json<T: Serialize + ?Sized>(out: &mut String, value: &T) {
    match serde_json::to_string(value) {
        Ok(text) => out.push_str(&text),
        Err(_) => out.push_str("null"),
    }
}

/// Appends a list, each entry written by `push`.
pub(crate) fn push_list<T>(
    out: &mut String,
    entries: impl Iterator<Item = T>,
    push: impl Fn(&mut String, T),
) {
    out.push('[');
    for (index, entry) in entries.enumerate() {
        if index > 0 {
            out.push(',');
        }
        push(out, entry);
    }
    out.push(']');
}
