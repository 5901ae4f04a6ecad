//! The fields of a JSON object: a sorted list while they are few, a search tree when they are many.
//!
//! Nearly all objects of a state have a handful of fields, and there a search tree's nodes of eleven places
//! would take twenty times the bytes of the JSON.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::convert::Infallible;

use super::Json;

/// Up to how many fields are kept as a list.
const FEW_MAX: usize = 16;

/// The fields of an object, in the order of their keys' UTF-8 bytes.
#[derive(Debug, Clone)]
pub struct Map<X = Infallible>(Repr<X>);

#[derive(Debug, Clone)]
enum Repr<X> {
    Few(Vec<(Box<str>, Json<X>)>),
    Many(BTreeMap<Box<str>, Json<X>>),
}

impl<X> Default for Map<X> {
    fn default() -> Self {
        Self::new()
    }
}

impl<X: PartialEq> PartialEq for Map<X> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<X> Map<X> {
    /// No fields.
    pub fn new() -> Self {
        Self(Repr::Few(Vec::new()))
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::Few(fields) => fields.len(),
            Repr::Many(fields) => fields.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The field `key`.
    pub fn get(&self, key: &str) -> Option<&Json<X>> {
        match &self.0 {
            Repr::Few(fields) => {
                place(fields, key).ok().and_then(|at| fields.get(at)).map(|(_, value)| value)
            }
            Repr::Many(fields) => fields.get(key),
        }
    }

    /// The field `key`, to change it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Json<X>> {
        match &mut self.0 {
            Repr::Few(fields) => {
                place(fields, key).ok().and_then(|at| fields.get_mut(at)).map(|(_, value)| value)
            }
            Repr::Many(fields) => fields.get_mut(key),
        }
    }

    /// Whether there is a field `key`.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Puts a field in, in place of one of that name. Gives the key back if there was one.
    pub fn insert(&mut self, key: Box<str>, value: Json<X>) -> Option<Box<str>> {
        self.make_room(&key);
        match &mut self.0 {
            Repr::Few(fields) => match place(fields, &key) {
                Ok(at) => {
                    fields[at].1 = value;
                    return Some(key);
                }
                Err(at) => put(fields, at, key, value),
            },
            Repr::Many(fields) => match fields.entry(key) {
                Entry::Occupied(mut there) => {
                    there.insert(value);
                    return Some(there.key().clone());
                }
                Entry::Vacant(free) => drop(free.insert(value)),
            },
        }
        None
    }

    /// The field `key`, which is made where it is missing.
    pub fn get_or_insert(&mut self, key: &str, make: impl FnOnce() -> Json<X>) -> &mut Json<X> {
        self.make_room(key);
        match &mut self.0 {
            Repr::Few(fields) => {
                let at = place(fields, key).unwrap_or_else(|at| {
                    put(fields, at, key.into(), make());
                    at
                });
                &mut fields[at].1
            }
            Repr::Many(fields) => fields.entry(key.into()).or_insert_with(make),
        }
    }

    /// Becomes a search tree where a field `key` would be one too many for a list.
    fn make_room(&mut self, key: &str) {
        if let Repr::Few(fields) = &mut self.0
            && fields.len() >= FEW_MAX
            && place(fields, key).is_err()
        {
            self.0 = Repr::Many(std::mem::take(fields).into_iter().collect());
        }
    }

    /// Takes a field out.
    pub fn remove(&mut self, key: &str) -> Option<Json<X>> {
        match &mut self.0 {
            Repr::Few(fields) => place(fields, key).ok().map(|at| fields.remove(at).1),
            Repr::Many(fields) => fields.remove(key),
        }
    }

    /// The fields in the order of their keys.
    pub fn iter(&self) -> Iter<'_, X> {
        match &self.0 {
            Repr::Few(fields) => Iter::Few(fields.iter()),
            Repr::Many(fields) => Iter::Many(fields.iter()),
        }
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(key, _)| key)
    }

    /// The values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &Json<X>> {
        self.iter().map(|(_, value)| value)
    }

    /// Takes the map apart, in the order of its keys.
    pub fn into_fields(self) -> impl Iterator<Item = (Box<str>, Json<X>)> {
        let (few, many) = match self.0 {
            Repr::Few(fields) => (Some(fields), None),
            Repr::Many(fields) => (None, Some(fields)),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }
}

/// The fields of a [`Map`]. Small, because values are walked by functions that call themselves.
#[derive(Debug)]
pub enum Iter<'a, X> {
    /// Of a list.
    Few(std::slice::Iter<'a, (Box<str>, Json<X>)>),
    /// Of a search tree.
    Many(std::collections::btree_map::Iter<'a, Box<str>, Json<X>>),
}

impl<'a, X> Iterator for Iter<'a, X> {
    type Item = (&'a str, &'a Json<X>);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Iter::Few(fields) => fields.next().map(|(key, value)| (&**key, value)),
            Iter::Many(fields) => fields.next().map(|(key, value)| (&**key, value)),
        }
    }
}

fn place<X>(fields: &[(Box<str>, Json<X>)], key: &str) -> Result<usize, usize> {
    fields.binary_search_by(|(there, _)| (**there).cmp(key))
}

fn put<X>(fields: &mut Vec<(Box<str>, Json<X>)>, at: usize, key: Box<str>, value: Json<X>) {
    // Room for one: most objects never get another.
    fields.reserve_exact(1);
    fields.insert(at, (key, value));
}
