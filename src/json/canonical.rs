//! The canonical form of JSON (RFC 8785).
//!
//! One value, one text: keys sorted by their UTF-16 code units, numbers as ECMAScript prints them, no
//! escape that is not needed. States are hashed and compared in it, and it decides whether two drafts say
//! the same.

use crate::json::value::CanonicalError;
use std::cmp::Ordering;

use serde_json::value::RawValue;

use super::{Json, Map, Opaque};
use crate::event::{ContentHash, Draft};

/// The canonical form of a value.
pub fn canonical(json: &RawValue) -> Result<Vec<u8>, CanonicalError> {
    Ok(Json::<std::convert::Infallible>::of(json)?.canonical())
}

/// The hash of what a draft says: for a classic one its type and payload; for a v1 one all that its client
/// fixed, which leaves out `meta.clientId` (the connection's, not the event's).
pub fn content_hash(draft: &Draft) -> Result<ContentHash, CanonicalError> {
    let meta = draft.v1.as_ref().map(|v1| Json::<std::convert::Infallible>::of(&v1.meta)).transpose()?;
    Ok(content_hash_of(draft, &canonical(&draft.payload)?, meta.as_ref()))
}

/// [`content_hash`] of a draft whose payload has this canonical form, and whose meta was read.
pub fn content_hash_of<X: Opaque>(draft: &Draft, payload: &[u8], meta: Option<&Json<X>>) -> ContentHash {
    // The keys in their canonical order, so the whole is a canonical form too.
    let mut out = Vec::with_capacity(payload.len() + 128);
    out.push(b'{');
    if let Some(v1) = &draft.v1 {
        out.extend_from_slice(b"\"meta\":");
        match meta {
            None => out.extend_from_slice(b"null"),
            Some(Json::Object(fields)) => write_without(fields, "clientId", &mut out),
            Some(meta) => meta.write(&mut out),
        }
        out.extend_from_slice(b",\"partition\":");
        write_string(&v1.label, &mut out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"payload\":");
    out.extend_from_slice(payload);
    if let Some(v1) = &draft.v1 {
        out.extend_from_slice(b",\"schemaVersion\":");
        out.extend_from_slice(v1.schema_version.to_string().as_bytes());
    }
    out.extend_from_slice(b",\"type\":");
    write_string(&draft.event_type, &mut out);
    if let Some(user) = draft.v1.as_ref().and_then(|v1| v1.user_id.as_deref()) {
        out.extend_from_slice(b",\"userId\":");
        write_string(user, &mut out);
    }
    out.push(b'}');
    ContentHash::of(&out)
}

/// Appends an object's canonical form, but for one key.
fn write_without<X: Opaque>(fields: &Map<X>, without: &str, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut first = true;
    for (key, value) in in_order(fields).filter(|(key, _)| *key != without) {
        write_key(key, &mut first, out);
        value.write(out);
    }
    out.push(b'}');
}

impl<X: Opaque> Json<X> {
    /// The canonical form.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// Appends the canonical form.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Json::Null => out.extend_from_slice(b"null"),
            Json::Bool(true) => out.extend_from_slice(b"true"),
            Json::Bool(false) => out.extend_from_slice(b"false"),
            Json::Number(number) => {
                out.extend_from_slice(ryu_js::Buffer::new().format_finite(*number).as_bytes());
            }
            Json::String(string) => write_string(string, out),
            Json::Array(values) => {
                out.push(b'[');
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    value.write(out);
                }
                out.push(b']');
            }
            Json::Object(fields) => {
                out.push(b'{');
                let mut first = true;
                for (key, value) in in_order(fields) {
                    write_key(key, &mut first, out);
                    value.write(out);
                }
                out.push(b'}');
            }
            Json::Opaque(other) => other.write(out),
        }
    }

    /// The length of the canonical form, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Json::Null | Json::Bool(true) => 4,
            Json::Bool(false) => 5,
            Json::Number(number) => ryu_js::Buffer::new().format_finite(*number).len(),
            Json::String(string) => string_size(string),
            Json::Array(values) => 2 + commas(values.len()) + values.iter().map(Json::size).sum::<usize>(),
            Json::Object(fields) => {
                2 + commas(fields.len())
                    + fields.iter().map(|(key, value)| field_size(key, value.size())).sum::<usize>()
            }
            Json::Opaque(other) => other.size(),
        }
    }
}

/// The fields in canonical order. The order of UTF-8 bytes is that of UTF-16 code units but for characters
/// past U+FFFF, so sorting again is the exception.
pub fn in_order<X>(fields: &Map<X>) -> impl Iterator<Item = (&str, &Json<X>)> {
    let plain = |key: &str| key.bytes().all(|byte| byte < 0xF0);
    let (kept, sorted) = if fields.keys().all(plain) {
        (Some(fields.iter()), Vec::new())
    } else {
        let mut sorted: Vec<_> = fields.iter().collect();
        sorted.sort_by(|(a, _), (b, _)| compare(a, b));
        (None, sorted)
    };
    kept.into_iter().flatten().chain(sorted)
}

/// The order of two keys by their UTF-16 code units.
pub fn compare(a: &str, b: &str) -> Ordering {
    // Where two strings part, UTF-8 orders as code points do. UTF-16 differs in one thing: characters past
    // U+FFFF are surrogate pairs and come before U+E000 to U+FFFF, whose first bytes are 0xEE and 0xEF.
    let rank = |byte: u8| if matches!(byte, 0xEE | 0xEF) { byte + 0x10 } else { byte };
    match a.bytes().zip(b.bytes()).find(|(x, y)| x != y) {
        Some((x, y)) => rank(x).cmp(&rank(y)),
        None => a.len().cmp(&b.len()),
    }
}

/// Appends a string with its quotes.
pub fn write_string(string: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = string.as_bytes();
    let mut written = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if escape_size(byte) == 1 {
            continue;
        }
        out.extend_from_slice(&bytes[written..index]);
        written = index + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0A => out.extend_from_slice(b"\\n"),
            0x0C => out.extend_from_slice(b"\\f"),
            0x0D => out.extend_from_slice(b"\\r"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

/// Appends an object's key with its colon, and the comma before it unless it is the first.
pub fn write_key(key: &str, first: &mut bool, out: &mut Vec<u8>) {
    if !std::mem::take(first) {
        out.push(b',');
    }
    write_string(key, out);
    out.push(b':');
}

/// The bytes of a string with its quotes.
pub fn string_size(string: &str) -> usize {
    2 + string.bytes().map(escape_size).sum::<usize>()
}

/// The bytes of one field of an object, without a comma.
pub fn field_size(key: &str, value: usize) -> usize {
    string_size(key) + 1 + value
}

/// The commas between `count` elements.
pub fn commas(count: usize) -> usize {
    count.saturating_sub(1)
}

fn escape_size(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | 0x08 | 0x09 | 0x0A | 0x0C | 0x0D => 2,
        0x00..0x20 => 6,
        _ => 1,
    }
}
