//! What a request says in its body: JSON, of known fields only. An empty body says nothing.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// Reads a body. `takes` shows what it may hold.
pub(crate) fn read<T: DeserializeOwned + Default>(
    body: Result<Bytes, BytesRejection>,
    takes: &str,
) -> Result<T, Problem> {
    let body = body.map_err(|error| {
        Problem::bad_request(format!("the body: {} (admin.body_bytes_max bounds it)", error.body_text()))
    })?;
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("the body: {error}; it takes JSON such as {takes}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Asked {
        reconnect: bool,
    }

    #[test]
    fn a_body_is_read_and_what_is_wrong_with_it_told() {
        let read = |text: &'static str| super::read::<Asked>(Ok(Bytes::from_static(text.as_bytes())), "{}");
        assert_eq!(read(" ").unwrap(), Asked { reconnect: false });
        assert_eq!(read(r#"{"reconnect":true}"#).unwrap(), Asked { reconnect: true });
        for wrong in [r#"{"reconect":true}"#, r#"{"reconnect":1}"#, "[]x", "\u{1}"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
