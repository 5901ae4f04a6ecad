//! JSON values as `jsonschema` reads them, with a meter: every look at a value is a step, and a thread has so many
//! steps for one check.
//!
//! What a schema costs is for its author to say, and what it is asked about for anybody: one frame against a recursive
//! `anyOf` took seconds. Steps are counted and not time, so that all validators decide alike. Once they are used up,
//! every value looks like `null`, and the check comes to its end by itself; what it says then is not believed.

use std::borrow::Cow;
use std::cell::Cell;

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, Node, NodeIdentity, Object, cmp, unique};
use serde_json::{Map, Number, Value};

/// Of a text's bytes, how many are read in a step.
const TEXT_BYTES_A_STEP: usize = 32;
/// The steps of a finding, which holds places and a message.
const FINDING_STEPS: u64 = 100;

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
}

#[cfg(test)]
thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

/// The steps that all checks of this thread have taken.
#[cfg(test)]
pub(crate) fn taken() -> u64 {
    TAKEN.get()
}

/// What a value is taken for once the steps are used up. A finding about it says nothing.
static USED_UP: Value = Value::Null;

/// Runs a check that may take so many steps; gives how many it took, or `None` if they did not suffice.
pub(crate) fn within<T>(steps: u64, check: impl FnOnce() -> T) -> (T, Option<u64>) {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            LEFT.set(u64::MAX);
        }
    }
    // A panic below must not leave its meter to the next check.
    let _restore = Restore;
    LEFT.set(steps);
    let result = check();
    let left = LEFT.get();
    #[cfg(test)]
    TAKEN.set(TAKEN.get() + (steps - left));
    (result, (left > 0).then(|| steps - left))
}

/// Whether a finding was made while the steps lasted.
pub(crate) fn is_sound(instance: &Value) -> bool {
    !std::ptr::eq(instance, &USED_UP)
}

/// Takes so many steps; false if they are used up.
fn step(steps: u64) -> bool {
    LEFT.with(|left| {
        let rest = left.get().saturating_sub(steps);
        left.set(rest);
        rest > 0
    })
}

fn text_steps(text: &str) -> u64 {
    1 + (text.len() / TEXT_BYTES_A_STEP) as u64
}

/// Takes a step for every value in it; false if they are used up.
fn step_through(value: &Value) -> bool {
    match value {
        Value::Array(values) => step(1) && values.iter().all(step_through),
        Value::Object(fields) => step(1) && fields.values().all(step_through),
        Value::String(text) => step(text_steps(text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => step(1),
    }
}

/// The metered form of JSON.
pub(crate) struct Metered;

/// A value.
#[derive(Clone, Copy)]
pub(crate) struct Look<'a>(pub &'a Value);

/// An object.
pub(crate) struct Fields<'a>(&'a Map<String, Value>);

/// An array.
pub(crate) struct Values<'a>(&'a [Value]);

impl Json for Metered {
    type Node<'a> = Look<'a>;
    type PreparedKey = String;
    type StringBuffer = Value;

    const KEYS_PER_LOOKUP: usize = 2;
    const ACYCLIC: bool = true;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Value, string: &str, f: impl FnOnce(Look<'_>) -> T) -> T {
        *buffer = Value::String(string.to_owned());
        f(Look(buffer))
    }
}

impl<'a> Node<'a, Metered> for Look<'a> {
    type Object = Fields<'a>;
    type Array = Values<'a>;
    type Number = &'a Number;

    fn as_object(&self) -> Option<Fields<'a>> {
        self.0.as_object().filter(|_| step(1)).map(Fields)
    }

    fn as_array(&self) -> Option<Values<'a>> {
        self.0.as_array().filter(|_| step(1)).map(|values| Values(values))
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        self.0.as_str().filter(|text| step(text_steps(text))).map(Cow::Borrowed)
    }

    fn as_number(&self) -> Option<&'a Number> {
        self.0.as_number().filter(|_| step(1))
    }

    fn as_boolean(&self) -> Option<bool> {
        self.0.as_bool().filter(|_| step(1))
    }

    fn is_null(&self) -> bool {
        !step(1) || self.0.is_null()
    }

    fn json_type(&self) -> JsonType {
        match self.0 {
            _ if !step(1) => JsonType::Null,
            Value::Null => JsonType::Null,
            Value::Bool(_) => JsonType::Boolean,
            Value::Number(_) => JsonType::Number,
            Value::String(_) => JsonType::String,
            Value::Array(_) => JsonType::Array,
            Value::Object(_) => JsonType::Object,
        }
    }

    fn equals_value(&self, expected: &Value) -> bool {
        let steps = self.0.as_str().map_or(1, text_steps);
        step(steps) && cmp::equal(self.0, expected)
    }

    fn to_value(&self) -> Cow<'a, Value> {
        Cow::Borrowed(if step(FINDING_STEPS) { self.0 } else { &USED_UP })
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref::<Value>(self.0) as usize))
    }
}

impl<'a> Object<'a, Metered> for Fields<'a> {
    type Node = Look<'a>;
    type MemberName = &'a str;
    type MembersIter = std::iter::MapWhile<serde_json::map::Iter<'a>, Metre<'a>>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<Look<'a>> {
        if step(1) { self.0.get(key.as_str()).map(Look) } else { None }
    }

    fn members(&self) -> Self::MembersIter {
        self.0.iter().map_while(|(key, value)| step(1).then_some((key.as_str(), Look(value))))
    }
}

/// What gives an object's fields, as long as there are steps.
type Metre<'a> = fn((&'a String, &'a Value)) -> Option<(&'a str, Look<'a>)>;

impl<'a> Array<'a, Metered> for Values<'a> {
    type Node = Look<'a>;
    type ElementsIter = std::iter::MapWhile<std::slice::Iter<'a, Value>, fn(&'a Value) -> Option<Look<'a>>>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> Self::ElementsIter {
        self.0.iter().map_while(|value| step(1).then_some(Look(value)))
    }

    fn is_unique(&self) -> bool {
        self.0.iter().all(step_through) && unique::is_unique(self.0)
    }
}
