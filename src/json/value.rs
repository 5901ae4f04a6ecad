//! A JSON value in memory, and how one is read.
//!
//! Not `serde_json::Value`: numbers are doubles (what every client computes with), keys are kept in one
//! order, and a value can hold a plug `X`, which is how the state puts an indexed tree where the JSON has
//! an object. Reading is where what no client could hold is refused: a number that is not finite in a
//! double, an unpaired surrogate, and nesting past [`DEPTH_MAX`], so that nothing behind it can run out of
//! stack.

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::map::Map;

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
    Opaque(X),
}

/// What a value in another form (`X` of [`Json`]) must be able to do.
pub trait Opaque {
    /// Appends its canonical form.
    fn write(&self, out: &mut Vec<u8>);
    /// The length of its canonical form, in bytes.
    fn size(&self) -> usize;
    /// How many arrays and objects lie inside each other, itself counted.
    fn depth(&self) -> usize;
}

impl Opaque for Infallible {
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
        Self::parse_noting(text, &mut None)
    }

    /// Reads a JSON text. Of a key given twice the last counts, and the first such key is noted.
    pub fn parse_noting(text: &[u8], twice: &mut Option<Box<str>>) -> Result<Self, CanonicalError> {
        let mut reader = serde_json::Deserializer::from_slice(text);
        reader.disable_recursion_limit();
        let reading = Reading { left: Cell::new(DEPTH_MAX), twice: Cell::new(None) };
        let json = Seed::<X>(&reading, PhantomData).deserialize(&mut reader)?;
        reader.end()?;
        *twice = reading.twice.into_inner();
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

impl<X: Opaque> Json<X> {
    /// How many arrays and objects lie inside each other: 0 for a scalar, 1 for `{}`.
    pub fn depth(&self) -> usize {
        match self {
            Json::Array(values) => 1 + values.iter().map(Json::depth).max().unwrap_or(0),
            Json::Object(fields) => 1 + fields.values().map(Json::depth).max().unwrap_or(0),
            Json::Opaque(other) => other.depth(),
            _ => 0,
        }
    }
}

/// A text that is being read.
struct Reading {
    /// How many more levels may follow.
    left: Cell<usize>,
    /// The first key that an object had twice.
    twice: Cell<Option<Box<str>>>,
}

impl Reading {
    fn enter<E: Error>(&self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| E::custom(format_args!("nested deeper than {DEPTH_MAX}")))?);
        Ok(())
    }

    fn leave(&self) {
        self.left.set(self.left.get() + 1);
    }
}

/// Reads one value. No larger than a pointer: it lies on the stack several times for every level.
struct Seed<'t, X>(&'t Reading, PhantomData<X>);

impl<X> Seed<'_, X> {
    fn again(&self) -> Self {
        Self(self.0, PhantomData)
    }

    /// Puts a field in, and notes if it was there. Apart, so that what it needs of the stack is not needed at every level.
    #[inline(never)]
    fn keep(&self, fields: &mut Map<X>, key: Box<str>, value: Json<X>) {
        if let Some(key) = fields.insert(key, value) {
            self.0.twice.set(Some(self.0.twice.take().unwrap_or(key)));
        }
    }
}

impl<'de, X> DeserializeSeed<'de> for Seed<'_, X> {
    type Value = Json<X>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<X>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, X> Visitor<'de> for Seed<'_, X> {
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
        self.0.enter()?;
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(self.again())? {
            values.push(value);
        }
        self.0.leave();
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<X>, A::Error> {
        self.0.enter()?;
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<Box<str>>()? {
            let value = map.next_value_seed(self.again())?;
            self.keep(&mut fields, key, value);
        }
        self.0.leave();
        Ok(Json::Object(fields))
    }
}

/// Why a JSON text has no canonical form.
#[derive(Debug, thiserror::Error)]
#[error("cannot be kept as JSON: {0}")]
pub struct CanonicalError(#[from] serde_json::Error);
