//! An indexed tree: how an object is kept once a tree action has acted on it.
//!
//! Becoming one costs one walk; from then on actions find nodes by id. It is the same value as before, to
//! the byte: it writes the same canonical form, and turns back into plain JSON when something reaches for
//! its `tree` array as a whole.

pub(crate) mod actions;
pub(crate) mod arena;
pub(crate) mod position;

use std::collections::HashMap;
use std::sync::Arc;

use self::arena::{Arena, ROOT};
use super::{Fields, Node};
use crate::json::canonical;
use crate::json::canonical::{commas, compare, field_size, write_key, write_string};
use crate::json::{Json, Opaque};

/// An object whose `tree` array is kept as an index.
#[derive(Debug)]
pub struct Tree {
    /// All fields but `tree`; `items` among them, which is an object.
    pub(crate) fields: Fields,
    /// The `tree` array, if there is one.
    pub(crate) nodes: Option<Nodes>,
}

/// The nodes of a tree.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) arena: Arena<Arc<str>>,
    /// The fields other than `id` and `children`, for the few nodes that have any.
    extras: HashMap<u32, Fields>,
}

/// What stands under a key of an object in the document.
#[derive(Clone, Copy)]
pub(crate) enum Child<'a> {
    Node(&'a Node),
    /// The `tree` array of an indexed tree, which is nowhere as a value.
    Array(&'a Nodes),
}

impl Child<'_> {
    pub(crate) fn is_object(self) -> bool {
        matches!(self, Child::Node(Json::Object(_) | Json::Opaque(_)))
    }

    pub(crate) fn size(self) -> usize {
        match self {
            Child::Node(node) => node.size(),
            Child::Array(nodes) => nodes.arena.size(),
        }
    }

    fn write(self, out: &mut Vec<u8>) {
        match self {
            Child::Node(node) => node.write(out),
            Child::Array(nodes) => nodes.write(out),
        }
    }
}

/// What stands under `key`, if `node` is an object that has it.
pub(crate) fn child<'a>(node: &'a Node, key: &str) -> Option<Child<'a>> {
    match node {
        Json::Object(fields) => fields.get(key).map(Child::Node),
        Json::Opaque(tree) if key == "tree" => tree.nodes.as_ref().map(Child::Array),
        Json::Opaque(tree) => tree.fields.get(key).map(Child::Node),
        _ => None,
    }
}

/// How many fields `node` has, if it is an object.
pub(crate) fn field_count(node: &Node) -> usize {
    match node {
        Json::Object(fields) => fields.len(),
        Json::Opaque(tree) => tree.fields.len() + usize::from(tree.nodes.is_some()),
        _ => 0,
    }
}

/// The fields of `node`, if it is an object, to change the one named `key`. An indexed tree whose `tree`
/// is meant becomes plain again.
pub(crate) fn fields_mut<'a>(node: &'a mut Node, key: &str) -> Option<&'a mut Fields> {
    if key == "tree" {
        make_plain(node);
    }
    match node {
        Json::Object(fields) => Some(fields),
        Json::Opaque(tree) => Some(&mut tree.fields),
        _ => None,
    }
}

/// Turns an indexed tree back into a plain object; leaves everything else.
pub(crate) fn make_plain(node: &mut Node) {
    if let Json::Opaque(tree) = node {
        let mut fields = std::mem::take(&mut tree.fields);
        if let Some(nodes) = tree.nodes.take() {
            fields.insert("tree".into(), nodes.into_array());
        }
        *node = Json::Object(fields);
    }
}

impl Tree {
    /// Indexes an object. Fails, in words and without a change, where it is no tree.
    pub(crate) fn index(fields: &mut Fields) -> Result<Self, String> {
        let nodes = match fields.get("tree") {
            None => None,
            Some(Json::Array(tree)) => {
                let arena = Arena::build(tree, Arc::from)?;
                let Some(Json::Array(tree)) = fields.remove("tree") else { return Err(String::new()) };
                Some(Nodes { arena, extras: extras_of(tree) })
            }
            Some(_) => return Err(NOT_AN_ARRAY.to_owned()),
        };
        Ok(Self { fields: std::mem::take(fields), nodes })
    }

    /// The nodes; an empty `tree` is made where there is none.
    pub(crate) fn nodes_mut(&mut self) -> &mut Nodes {
        self.nodes.get_or_insert_with(|| Nodes { arena: Arena::new(), extras: HashMap::new() })
    }

    /// The items, plain; an empty `items` is made where there is none. `None` when it is no object.
    pub(crate) fn items_mut(&mut self) -> Option<&mut Fields> {
        let items = self.fields.get_or_insert("items", || Json::Object(Fields::new()));
        make_plain(items);
        match items {
            Json::Object(items) => Some(items),
            _ => None,
        }
    }
}

/// What is wrong with a `tree` that is none.
pub(crate) const NOT_AN_ARRAY: &str = "`tree` is not an array";

impl Opaque for Box<Tree> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut entries: Vec<(&str, Child<'_>)> =
            self.fields.iter().map(|(key, value)| (key, Child::Node(value))).collect();
        if let Some(nodes) = &self.nodes {
            entries.push(("tree", Child::Array(nodes)));
        }
        entries.sort_by(|(a, _), (b, _)| compare(a, b));
        out.push(b'{');
        let mut first = true;
        for (key, value) in entries {
            write_key(key, &mut first, out);
            value.write(out);
        }
        out.push(b'}');
    }

    fn size(&self) -> usize {
        let fields: usize = self.fields.iter().map(|(key, value)| field_size(key, value.size())).sum();
        let tree = self.nodes.as_ref().map_or(0, |nodes| field_size("tree", nodes.arena.size()));
        2 + fields + tree + commas(self.fields.len() + usize::from(self.nodes.is_some()))
    }

    fn depth(&self) -> usize {
        let fields = self.fields.values().map(Json::depth).max().unwrap_or(0);
        1 + fields.max(self.nodes.as_ref().map_or(0, Nodes::depth))
    }
}

impl Nodes {
    /// Removes a node with all below it, and names them.
    pub(crate) fn remove(&mut self, slot: u32) -> Vec<Arc<str>> {
        let removed = self.arena.remove(slot);
        if !self.extras.is_empty() {
            for slot in &removed {
                self.extras.remove(slot);
            }
        }
        removed.into_iter().map(|slot| self.arena.held_id(slot)).collect()
    }

    fn depth(&self) -> usize {
        let mut depth = 0;
        let mut top = self.arena.first_child(ROOT);
        while let Some(slot) = top {
            depth = depth.max(self.arena.height(slot));
            top = self.arena.next_sibling(slot);
        }
        1 + depth
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        let mut at = self.arena.first_child(ROOT);
        while let Some(slot) = at {
            self.open(slot, out);
            at = self.arena.first_child(slot);
            let mut done = slot;
            // No child: close what is finished, up to something that has a next sibling.
            while at.is_none() {
                self.close(done, out);
                at = self.arena.next_sibling(done);
                if at.is_some() {
                    out.push(b',');
                } else {
                    done = self.arena.parent(done);
                    if done == ROOT {
                        break;
                    }
                }
            }
        }
        out.push(b']');
    }

    /// Writes a node as far as the content of its `children`, or as far as it goes without.
    fn open(&self, slot: u32, out: &mut Vec<u8>) {
        out.push(b'{');
        let mut first = true;
        self.write_extras(slot, |key| compare(key, "children").is_lt(), &mut first, out);
        if self.arena.has_children_key(slot) {
            write_key("children", &mut first, out);
            out.push(b'[');
        }
    }

    /// Writes the rest of a node.
    fn close(&self, slot: u32, out: &mut Vec<u8>) {
        let has_children = self.arena.has_children_key(slot);
        if has_children {
            out.push(b']');
        }
        let mut first = !has_children && !self.extras_before_children(slot);
        let between = |key: &str| compare(key, "children").is_gt() && compare(key, "id").is_lt();
        self.write_extras(slot, between, &mut first, out);
        write_key("id", &mut first, out);
        write_string(self.arena.id(slot), out);
        self.write_extras(slot, |key| compare(key, "id").is_gt(), &mut first, out);
        out.push(b'}');
    }

    fn extras_before_children(&self, slot: u32) -> bool {
        let before = |extras: &Fields| extras.keys().any(|key| compare(key, "children").is_lt());
        self.extras.get(&slot).is_some_and(before)
    }

    fn write_extras(&self, slot: u32, which: impl Fn(&str) -> bool, first: &mut bool, out: &mut Vec<u8>) {
        let Some(extras) = self.extras.get(&slot) else { return };
        for (key, value) in canonical::in_order(extras).filter(|(key, _)| which(key)) {
            write_key(key, first, out);
            value.write(out);
        }
    }

    /// The array as plain JSON again.
    fn into_array(mut self) -> Node {
        // Per open node its slot and the children made so far; the root's come out last.
        let mut open: Vec<(u32, Vec<Node>)> = vec![(ROOT, Vec::new())];
        let mut at = self.arena.first_child(ROOT);
        loop {
            if let Some(slot) = at {
                open.push((slot, Vec::new()));
                at = self.arena.first_child(slot);
                continue;
            }
            let Some((slot, children)) = open.pop() else { return Json::Array(Vec::new()) };
            if slot == ROOT {
                return Json::Array(children);
            }
            let mut fields = self.extras.remove(&slot).unwrap_or_default();
            fields.insert("id".into(), Json::String(self.arena.id(slot).into()));
            if self.arena.has_children_key(slot) {
                fields.insert("children".into(), Json::Array(children));
            }
            if let Some((_, siblings)) = open.last_mut() {
                siblings.push(Json::Object(fields));
            }
            at = self.arena.next_sibling(slot);
        }
    }
}

/// Takes the fields other than `id` and `children` out of an array of nodes. Slots are given in the order
/// in which [`Arena::build`] gives them: parents first.
fn extras_of(tree: Vec<Node>) -> HashMap<u32, Fields> {
    let mut extras = HashMap::new();
    let mut slot = 0;
    let mut open = vec![tree.into_iter()];
    while let Some(nodes) = open.last_mut() {
        match nodes.next() {
            Some(Json::Object(mut fields)) => {
                fields.remove("id");
                if let Some(Json::Array(children)) = fields.remove("children") {
                    open.push(children.into_iter());
                }
                if !fields.is_empty() {
                    extras.insert(slot, fields);
                }
                slot += 1;
            }
            Some(_) => {}
            None => {
                open.pop();
            }
        }
    }
    extras
}
