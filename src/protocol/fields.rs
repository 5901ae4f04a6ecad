//! Reads the known fields of a JSON object as text, without looking into them.
//!
//! What a client writes is never read into a value that can hold anything (`serde_json::Value`, an untagged
//! enum, a flattened struct). Such a value recurses as deep as the text is nested, and `serde_json` gives some
//! keys a meaning: an object `{"$serde_json::private::RawValue": "..."}` becomes the value that its string
//! holds, however deep that is nested. Here a value is skipped by a loop, and only strings, numbers and
//! booleans are ever decoded.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Some fields of an object, each as written.
pub(crate) struct Fields<'a, const N: usize> {
    /// In the order of the names that were asked for. Of a name given twice, the last.
    pub values: [Option<&'a RawValue>; N],
    /// The first of the names that is given twice.
    pub twice: Option<&'static str>,
}

impl<'a, const N: usize> Fields<'a, N> {
    /// Reads these fields; `None` if the text is no JSON object. Other fields are skipped.
    pub(crate) fn read(text: &'a str, names: &'static [&'static str; N]) -> Option<Self> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let fields = reader.deserialize_map(Wanted(names)).ok()?;
        reader.end().ok()?;
        Some(fields)
    }
}

struct Wanted<const N: usize>(&'static [&'static str; N]);

impl<'a, const N: usize> Visitor<'a> for Wanted<N> {
    type Value = Fields<'a, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields { values: [None; N], twice: None };
        while let Some(index) = map.next_key_seed(IndexOf(self.0))? {
            let value: &RawValue = map.next_value()?;
            let Some(index) = index else { continue };
            if fields.values[index].replace(value).is_some() {
                fields.twice = fields.twice.or(Some(self.0[index]));
            }
        }
        Ok(fields)
    }
}

/// Finds a key among the names. Keys are taken as bytes, since a key may be no text: with half of a surrogate pair.
struct IndexOf<'n>(&'n [&'static str]);

impl<'a> DeserializeSeed<'a> for IndexOf<'_> {
    type Value = Option<usize>;
    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for IndexOf<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E: Error>(self, key: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| name.as_bytes() == key))
    }
}

/// All fields of an object in their order; `None` if it is none, or if a key is no text.
pub(crate) fn all_fields(text: &str) -> Option<Vec<(String, &RawValue)>> {
    struct All;
    impl<'a> Visitor<'a> for All {
        type Value = Vec<(String, &'a RawValue)>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields = Vec::new();
            while let Some(field) = map.next_entry()? {
                fields.push(field);
            }
            Ok(fields)
        }
    }
    serde_json::Deserializer::from_str(text).deserialize_map(All).ok()
}

/// A field that is there and not `null`.
pub(crate) fn given(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|value| value.get() != "null")
}

/// The text, if the value is a string that is one: without half of a surrogate pair.
pub(crate) fn text(value: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(value?.get()).ok()
}

/// The number, if the value is one that is finite in a double.
pub(crate) fn number(value: Option<&RawValue>) -> Option<f64> {
    serde_json::from_str(value?.get()).ok()
}

/// The whole number that is not negative, however it is spelt (`5`, `5.0`, `5e0`), if the value is one. Past the
/// largest that fits, the largest.
pub(crate) fn whole(value: Option<&RawValue>) -> Option<u64> {
    let number = number(value)?;
    if let Some(exact) = value.and_then(|value| value.get().parse().ok()) {
        return Some(exact);
    }
    (number >= 0.0 && number.fract() == 0.0).then_some(number as u64)
}

/// Whether the value is an object.
pub(crate) fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(Option<&str>, Option<&str>, Option<&'static str>)> {
        let Fields { values: [a, b], twice } = Fields::read(text, &["a", "b"])?;
        Some((a.map(RawValue::get), b.map(RawValue::get), twice))
    }

    #[test]
    fn fields_are_found_as_written_and_nothing_else_is_read() {
        assert_eq!(
            read(r#"{ "b" : [ 1 ] , "x": {"a": 2}, "\u0061": "z" }"#),
            Some((Some("\"z\""), Some("[ 1 ]"), None))
        );
        assert_eq!(read(r#"{"a":1,"b":2,"b":3,"a":4}"#), Some((Some("4"), Some("3"), Some("b"))));
        assert_eq!(read(r#"{"\ud800":1,"\ud800":2,"a":"\udc00"}"#), Some((Some(r#""\udc00""#), None, None)));
        for none in ["", "[]", "null", "1", "{", "{}x", r#"{"a"}"#, r#"["a","b"]"#, r#"{"a":01}"#] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn no_depth_and_no_private_key_makes_it_recurse() {
        let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert!(read(&deep).is_some());
        let trick = format!(r#"{{"a":{{"$serde_json::private::RawValue":"{}"}}}}"#, "[".repeat(100_000));
        let Fields { values: [a], .. } = Fields::read(&trick, &["a"]).unwrap();
        assert_eq!((text(a), number(a), whole(a)), (None, None, None));
    }

    #[test]
    fn whole_numbers_are_taken_however_they_are_spelt() {
        let whole = |text: &str| super::whole(Some(&RawValue::from_string(text.to_owned()).unwrap()));
        for five in ["5", "5.0", "5e0", "0.5E1", "50e-1"] {
            assert_eq!(whole(five), Some(5), "{five}");
        }
        assert_eq!(whole("18446744073709551615"), Some(u64::MAX));
        assert_eq!((whole("1e300"), whole("-0")), (Some(u64::MAX), Some(0)));
        for none in ["5.5", "-1", "1e999", "\"5\"", "null", "true", "[5]", "{}"] {
            assert_eq!(whole(none), None, "{none}");
        }
    }
}
