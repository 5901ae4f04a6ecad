//! A JSON value in memory, and how one is read.
//!
//! Not `serde_json::Value`: numbers are doubles (what every client computes with), keys are kept in one
//! order, and a value can hold a plug `X`, which is how the state puts an indexed tree where the JSON has
//! an object. Reading is where what no client could hold is refused: a number that is not finite in a
//! double, an unpaired surrogate, and nesting past [`DEPTH_MAX`], so that nothing behind it can run out of
//! stack.

use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::canonical::CanonicalError;
pub use super::map::Map;

/// The deepest nesting of arrays and objects that is read at all.
pub const DEPTH_MAX: usize = 1024;

/// A JSON value. `X` stands for values that a user of this module keeps in a form of its own; the default
/// has none.
#[derive(Debug, Clone, PartialEq)]
pub enum Json<X = Infallible> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, always finite.
    Number(f64),
    /// A string.
    String(Box<str>),
    /// An array.
    Array(Vec<Json<X>>),
    /// An object.
    Object(Map<X>),
    /// A value in another form.
    Other(X),
}

/// What a value in another form (`X` of [`Json`]) must be able to do.
pub trait Form {
    /// Appends its canonical form.
    fn write(&self, out: &mut Vec<u8>);
    /// The length of its canonical form, in bytes.
    fn size(&self) -> usize;
    /// How many arrays and objects lie inside each other, itself counted.
    fn depth(&self) -> usize;
}

impl Form for Infallible {
    fn write(&self, _: &mut Vec<u8>) {
        match *self {}
    }
    fn size(&self) -> usize {
        match *self {}
    }
    fn depth(&self) -> usize {
        match *self {}
    }
}

impl<X> Json<X> {
    /// Reads a JSON text. Of a key given twice the last counts.
    pub fn parse(text: &[u8]) -> Result<Self, CanonicalError> {
        let mut reader = serde_json::Deserializer::from_slice(text);
        reader.disable_recursion_limit();
        let json = Seed::<X>::of(DEPTH_MAX).deserialize(&mut reader)?;
        reader.end()?;
        Ok(json)
    }

    /// Reads a raw value.
    pub fn of(raw: &RawValue) -> Result<Self, CanonicalError> {
        Self::parse(raw.get().as_bytes())
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::String(string) => Some(string),
            _ => None,
        }
    }

    /// The fields, if it is a plain object.
    pub fn as_object(&self) -> Option<&Map<X>> {
        match self {
            Json::Object(fields) => Some(fields),
            _ => None,
        }
    }

    /// The field `key`, if it is a plain object that has one.
    pub fn get(&self, key: &str) -> Option<&Json<X>> {
        self.as_object()?.get(key)
    }
}

impl<X: Form> Json<X> {
    /// How many arrays and objects lie inside each other: 0 for a scalar, 1 for `{}`.
    pub fn depth(&self) -> usize {
        match self {
            Json::Array(values) => 1 + values.iter().map(Json::depth).max().unwrap_or(0),
            Json::Object(fields) => 1 + fields.values().map(Json::depth).max().unwrap_or(0),
            Json::Other(other) => other.depth(),
            _ => 0,
        }
    }
}

/// Reads one value that may hold `left` more levels.
struct Seed<X> {
    left: usize,
    form: PhantomData<X>,
}

impl<X> Seed<X> {
    fn of(left: usize) -> Self {
        Self { left, form: PhantomData }
    }

    fn inner<E: Error>(&self) -> Result<usize, E> {
        self.left.checked_sub(1).ok_or_else(|| E::custom(format_args!("nested deeper than {DEPTH_MAX}")))
    }
}

impl<'de, X> DeserializeSeed<'de> for Seed<X> {
    type Value = Json<X>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<X>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, X> Visitor<'de> for Seed<X> {
    type Value = Json<X>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<X>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<X>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<X>, E> {
        Ok(Json::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<X>, E> {
        Ok(Json::Number(value as f64))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json<X>, E> {
        if value.is_finite() { Ok(Json::Number(value)) } else { Err(E::custom("number out of range")) }
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<X>, E> {
        Ok(Json::String(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json<X>, E> {
        Ok(Json::String(value.into_boxed_str()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json<X>, A::Error> {
        let left = self.inner()?;
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(Seed::of(left))? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<X>, A::Error> {
        let left = self.inner()?;
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<Box<str>>()? {
            fields.insert(key, map.next_value_seed(Seed::of(left))?);
        }
        Ok(Json::Object(fields))
    }
}
