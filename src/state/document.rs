//! The document: a partition's state as JSON, with its size always known.
//!
//! Whatever changes it comes as a pair: `plan_…` says what the change would do and what stands against it,
//! without doing or copying anything; the change itself plans first and cannot fail from there on, so a
//! change that fails has changed nothing.

use sha2::{Digest, Sha256};

use super::tree::{Child, child, field_count, fields_mut};
use super::{Fields, Node};
use crate::json::Json;
use crate::json::canonical::{commas, field_size};
use crate::json::value::CanonicalError;

/// What stands against a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// The tree action's target is not there, or is no object.
    #[error("the target does not exist or is not an object")]
    TargetNotFound,
    /// The target's `items` and `tree` are not those of a tree; why.
    #[error("the target is not a tree: {0}")]
    NotATree(String),
    /// The path leads through something that is not an object.
    #[error("the path leads through {0:?}, which is not an object")]
    PathNotAnObject(String),
    /// The id is taken.
    #[error("the id {0:?} is already in the tree")]
    DuplicateId(String),
    /// The parent is no node.
    #[error("the parent {0:?} is not a node of the tree")]
    ParentNotFound(String),
    /// The id is nowhere in the tree.
    #[error("the id {0:?} is not in the tree")]
    NodeNotFound(String),
    /// The parent is the node itself or lies below it.
    #[error("the parent {0:?} is the node itself or one of its descendants")]
    Cycle(String),
    /// A state is an object.
    #[error("a state is an object")]
    NotAnObject,
}

/// What a change would do to the document's measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    /// The bytes of the canonical form afterwards.
    pub size: usize,
    /// How many arrays and objects lie inside each other at the deepest place that the change puts
    /// something, counted from the state itself; 0 where it puts nothing.
    pub depth: usize,
}

/// A partition's state.
#[derive(Debug)]
pub struct Document {
    pub(crate) root: Node,
    pub(crate) size: usize,
}

impl Default for Document {
    fn default() -> Self {
        Self { root: Json::Object(Fields::new()), size: 2 }
    }
}

impl Document {
    /// The state of an empty partition, `{}`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a state from its JSON. `None` in place of a document when it is not an object.
    pub fn parse(text: &[u8]) -> Result<Option<Self>, CanonicalError> {
        let root = Node::parse(text)?;
        let size = root.size();
        Ok(root.as_object().is_some().then_some(Self { root, size }))
    }

    /// The bytes of the canonical form.
    pub fn size(&self) -> usize {
        self.size
    }

    /// About how many bytes of memory it takes.
    pub fn memory_bytes(&self) -> usize {
        // Measured on an indexed tree of 100,000 small items (see the test `memory`); long strings take less.
        self.size * 10
    }

    /// Appends the canonical form.
    pub fn write_canonical(&self, out: &mut Vec<u8>) {
        out.reserve(self.size);
        self.root.write(out);
    }

    /// The canonical form.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_canonical(&mut out);
        out
    }

    /// The SHA-256 of the canonical form: a state's hash.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.canonical()).into()
    }

    /// What [`init`](Self::init) would do.
    pub fn plan_init(&self, value: &Node) -> Result<Effect, OpError> {
        match value {
            Json::Object(_) => Ok(Effect { size: value.size(), depth: value.depth() }),
            _ => Err(OpError::NotAnObject),
        }
    }

    /// Becomes `value`.
    pub fn init(&mut self, value: Node) -> Result<(), OpError> {
        self.size = self.plan_init(&value)?.size;
        self.root = value;
        Ok(())
    }

    /// What [`set`](Self::set) would do.
    pub fn plan_set(&self, target: &str, value: &Node, replace: bool) -> Result<Effect, OpError> {
        let depth = target.split('.').count() + value.depth();
        let (before, after) = self.set_sizes(target, value, replace)?;
        Ok(Effect { size: self.size + after - before, depth })
    }

    /// Puts `value` at the path `target`. Objects on the way are made where keys are missing or null. With
    /// `replace`, or where what is there or what comes is not an object, the key becomes `value`; otherwise
    /// its keys win over those there.
    pub fn set(&mut self, target: &str, value: Node, replace: bool) -> Result<(), OpError> {
        let size = self.plan_set(target, &value, replace)?.size;
        let mut at = &mut self.root;
        let mut keys = target.split('.').peekable();
        while let Some(key) = keys.next() {
            let fields = fields_mut(at, key).ok_or_else(|| through(key))?;
            if keys.peek().is_none() {
                put(fields, key, value, replace);
                break;
            }
            at = fields.get_or_insert(key, || Json::Null);
            if matches!(at, Json::Null) {
                *at = Json::Object(Fields::new());
            }
        }
        self.size = size;
        Ok(())
    }

    /// What [`unset`](Self::unset) would do.
    pub fn plan_unset(&self, target: &str) -> Result<Effect, OpError> {
        let gone = match self.locate(target)? {
            Some((parent, key, there)) => {
                field_size(key, there.size()) + usize::from(field_count(parent) > 1)
            }
            None => 0,
        };
        Ok(Effect { size: self.size - gone, depth: 0 })
    }

    /// Deletes the key at the path `target`. A path that leads nowhere changes nothing.
    pub fn unset(&mut self, target: &str) -> Result<(), OpError> {
        let size = self.plan_unset(target)?.size;
        let mut at = &mut self.root;
        let mut keys = target.split('.').peekable();
        while let Some(key) = keys.next() {
            let fields = fields_mut(at, key).ok_or_else(|| through(key))?;
            if keys.peek().is_none() {
                fields.remove(key);
                break;
            }
            match fields.get_mut(key) {
                Some(next) => at = next,
                None => break,
            }
        }
        self.size = size;
        Ok(())
    }

    /// The bytes that a `set` takes away and brings.
    fn set_sizes(&self, target: &str, value: &Node, replace: bool) -> Result<(usize, usize), OpError> {
        let mut at = &self.root;
        let mut keys = target.split('.').peekable();
        while let Some(key) = keys.next() {
            let there = child(at, key);
            if keys.peek().is_none() {
                return Ok(match there {
                    None => (0, field_size(key, value.size()) + usize::from(field_count(at) > 0)),
                    Some(Child::Node(old)) if !replace && Child::Node(old).is_object() => match value {
                        Json::Object(new) => merge_sizes(old, new.iter()),
                        _ => (old.size(), value.size()),
                    },
                    Some(old) => (old.size(), value.size()),
                });
            }
            match there {
                Some(Child::Node(Json::Null)) => return Ok((4, made_size(keys, value))),
                None => {
                    let comma = usize::from(field_count(at) > 0);
                    return Ok((0, field_size(key, made_size(keys, value)) + comma));
                }
                Some(Child::Node(next)) if Child::Node(next).is_object() => at = next,
                Some(_) => return Err(through(key)),
            }
        }
        Ok((0, 0))
    }

    /// The object that holds the last key of a path, that key, and what stands there; `None` where a key
    /// is missing.
    pub(crate) fn locate<'a, 'k>(
        &'a self,
        target: &'k str,
    ) -> Result<Option<(&'a Node, &'k str, Child<'a>)>, OpError> {
        let mut at = &self.root;
        let mut keys = target.split('.').peekable();
        while let Some(key) = keys.next() {
            let Some(there) = child(at, key) else { return Ok(None) };
            if keys.peek().is_none() {
                return Ok(Some((at, key, there)));
            }
            match there {
                Child::Node(next) if there.is_object() => at = next,
                _ => return Err(through(key)),
            }
        }
        Ok(None)
    }

    /// What stands at a path, to change it; the document's size is then the caller's to keep.
    pub(crate) fn at_mut(&mut self, target: &str) -> Option<&mut Node> {
        let mut at = &mut self.root;
        for key in target.split('.') {
            at = match at {
                Json::Object(fields) => fields.get_mut(key)?,
                Json::Opaque(tree) => tree.fields.get_mut(key)?,
                _ => return None,
            };
        }
        Some(at)
    }
}

fn through(key: &str) -> OpError {
    OpError::PathNotAnObject(key.to_owned())
}

/// Puts `value` under `key`, merged with the object there or in place of what is there.
pub(crate) fn put(fields: &mut Fields, key: &str, value: Node, replace: bool) {
    match (fields.get_mut(key), value) {
        (Some(old @ (Json::Object(_) | Json::Opaque(_))), Json::Object(new)) if !replace => {
            for (key, value) in new.into_fields() {
                if let Some(fields) = fields_mut(old, &key) {
                    fields.insert(key, value);
                }
            }
        }
        (Some(old), value) => *old = value,
        (None, value) => {
            fields.insert(key.into(), value);
        }
    }
}

/// The bytes that a shallow merge of `new` into the object `old` takes away and brings.
pub(crate) fn merge_sizes<'a>(old: &Node, new: impl Iterator<Item = (&'a str, &'a Node)>) -> (usize, usize) {
    let (mut before, mut after, mut count) = (0, 0, field_count(old));
    let commas_before = commas(count);
    for (key, value) in new {
        match child(old, key) {
            Some(there) => {
                before += there.size();
                after += value.size();
            }
            None => {
                count += 1;
                after += field_size(key, value.size());
            }
        }
    }
    (before + commas_before, after + commas(count))
}

/// The bytes of `{"a":{"b":value}}` for the keys a, b.
fn made_size<'a>(keys: impl Iterator<Item = &'a str>, value: &Node) -> usize {
    keys.map(|key| 2 + field_size(key, 0)).sum::<usize>() + value.size()
}
