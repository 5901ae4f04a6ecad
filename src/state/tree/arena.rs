//! The shape of a tree: its nodes in an arena, found by id, linked to parent, children and siblings.
//!
//! Taking a node out or putting one in changes a handful of links, however many siblings there are, and
//! asking for a node's ancestors walks up, never down. The arena knows the shape and the bytes of the
//! nodes, not the items.
//!
//! `I` is how ids are held: shared strings in a tree that is kept, borrowed ones in an index that is built
//! to answer one question about a tree which no event has touched yet.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use crate::json::Json;
use crate::json::canonical::{field_size, string_size};
use crate::state::{Fields, Node, Position};

/// No slot.
const NIL: u32 = u32::MAX;
/// The parent of the nodes at the top.
pub(crate) const ROOT: u32 = u32::MAX - 1;
/// The bytes of `,"children":[]`.
pub(crate) const CHILDREN_SIZE: usize = 14;

#[derive(Debug)]
pub(crate) struct Arena<I> {
    slots: Vec<Slot<I>>,
    free: Vec<u32>,
    index: HashMap<I, u32>,
    first: u32,
    last: u32,
}

#[derive(Debug)]
struct Slot<I> {
    id: I,
    parent: u32,
    first: u32,
    last: u32,
    prev: u32,
    next: u32,
    /// A node that came without `children` keeps having none until it gets a child.
    has_children: bool,
    /// The bytes of fields other than `id` and `children`, with their commas.
    extras_size: u32,
    /// How deep those fields nest.
    extras_depth: u32,
    /// No less than how many arrays and objects lie inside each other from this node down. Grows with
    /// what is put in and does not shrink with what is taken out, so that nobody walks siblings.
    height: u32,
}

impl<I: Borrow<str> + Hash + Eq + Clone> Arena<I> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), index: HashMap::new(), first: NIL, last: NIL }
    }

    /// Indexes the array at a tree's `tree`. Fails, in words, where it is none.
    pub(crate) fn build<'a>(tree: &'a [Node], hold: impl Fn(&'a str) -> I) -> Result<Self, String> {
        let mut arena = Self::new();
        // A stack of its own: documents nest deeper than one would like to call functions.
        let mut open = vec![(ROOT, tree.iter())];
        while let Some((parent, nodes)) = open.last_mut() {
            let parent = *parent;
            let Some(node) = nodes.next() else {
                open.pop();
                continue;
            };
            let fields = node.as_object().ok_or("a node of `tree` is not an object")?;
            let id = fields.get("id").and_then(Json::as_str).ok_or("a node of `tree` has no string `id`")?;
            let (extras_size, extras_depth) = extras_of(fields);
            let slot = arena.slots.len() as u32;
            arena.slots.push(Slot {
                id: hold(id),
                parent: NIL,
                first: NIL,
                last: NIL,
                prev: NIL,
                next: NIL,
                has_children: fields.contains_key("children"),
                extras_size: extras_size as u32,
                extras_depth: extras_depth as u32,
                height: 0,
            });
            if arena.index.insert(hold(id), slot).is_some() {
                return Err(format!("the id {id:?} is twice in `tree`"));
            }
            arena.link(slot, parent, arena.last(parent));
            match fields.get("children") {
                None => {}
                Some(Json::Array(children)) => open.push((slot, children.iter())),
                Some(_) => return Err(format!("the `children` of node {id:?} are not an array")),
            }
        }
        // Children stand behind their parents, so one pass from the back adds the heights up.
        for slot in (0..arena.slots.len() as u32).rev() {
            let own = arena.own_height(slot);
            let height = &mut arena.slots[slot as usize].height;
            *height = (*height).max(own);
            arena.raise(slot);
        }
        Ok(arena)
    }

    /// The slot of the node `id`; of `_root`, the parent of the top.
    pub(crate) fn find_parent(&self, id: &str) -> Option<u32> {
        if id == super::position::ROOT_ID { Some(ROOT) } else { self.find(id) }
    }

    /// The slot of the node `id`.
    pub(crate) fn find(&self, id: &str) -> Option<u32> {
        self.index.get(id).copied()
    }

    pub(crate) fn id(&self, slot: u32) -> &str {
        self.slot(slot).id.borrow()
    }

    pub(crate) fn held_id(&self, slot: u32) -> I {
        self.slot(slot).id.clone()
    }

    pub(crate) fn has_children_key(&self, slot: u32) -> bool {
        slot == ROOT || self.slot(slot).has_children
    }

    /// The first child.
    pub(crate) fn first_child(&self, parent: u32) -> Option<u32> {
        some(self.first(parent))
    }

    pub(crate) fn next_sibling(&self, slot: u32) -> Option<u32> {
        some(self.slot(slot).next)
    }

    pub(crate) fn parent(&self, slot: u32) -> u32 {
        self.slot(slot).parent
    }

    /// Whether nothing but `slot` is among its parent's children.
    pub(crate) fn is_only_child(&self, slot: u32) -> bool {
        let slot = self.slot(slot);
        slot.prev == NIL && slot.next == NIL
    }

    /// How far below the root: 1 at the top, 0 for the root itself.
    pub(crate) fn level(&self, mut slot: u32) -> usize {
        let mut level = 0;
        while slot != ROOT {
            level += 1;
            slot = self.slot(slot).parent;
        }
        level
    }

    /// Whether `slot` is `ancestor` or lies below it.
    pub(crate) fn is_within(&self, mut slot: u32, ancestor: u32) -> bool {
        while slot != ROOT {
            if slot == ancestor {
                return true;
            }
            slot = self.slot(slot).parent;
        }
        false
    }

    /// The bytes of the node without what stands in its `children`.
    pub(crate) fn own_size(&self, slot: u32) -> usize {
        let slot = self.slot(slot);
        let children = if slot.has_children { CHILDREN_SIZE } else { 0 };
        2 + field_size("id", string_size(slot.id.borrow())) + children + slot.extras_size as usize
    }

    /// The bytes of the node and all below it, without a comma before it.
    pub(crate) fn subtree_size(&self, slot: u32) -> usize {
        self.subtree(slot)
            .map(|(at, level)| {
                let comma = usize::from(level > 0 && self.slot(at).prev != NIL);
                comma + self.own_size(at)
            })
            .sum()
    }

    /// The bytes of the whole array.
    pub(crate) fn size(&self) -> usize {
        let mut size = 2;
        let mut top = self.first_child(ROOT);
        while let Some(slot) = top {
            top = self.next_sibling(slot);
            size += self.subtree_size(slot) + usize::from(top.is_some());
        }
        size
    }

    /// Whether the arrays and objects from this node down nest no deeper than `limit`. Exact, but cheap
    /// while the bound says so.
    pub(crate) fn is_height_within(&self, slot: u32, limit: usize) -> bool {
        self.slot(slot).height as usize <= limit || self.height(slot) <= limit
    }

    /// How many arrays and objects lie inside each other from this node down.
    pub(crate) fn height(&self, slot: u32) -> usize {
        self.subtree(slot).map(|(at, level)| 2 * level + self.own_height(at) as usize).max().unwrap_or(0)
    }

    /// The node and all below it, parents first, with how far below.
    pub(crate) fn subtree(&self, start: u32) -> impl Iterator<Item = (u32, usize)> {
        let mut next = Some((start, 0));
        std::iter::from_fn(move || {
            let (at, level) = next?;
            next = self.first_child(at).map(|child| (child, level + 1)).or_else(|| {
                let (mut at, mut level) = (at, level);
                while at != start {
                    if let Some(sibling) = self.next_sibling(at) {
                        return Some((sibling, level));
                    }
                    at = self.slot(at).parent;
                    level -= 1;
                }
                None
            });
            Some((at, level))
        })
    }

    /// Adds a node with an empty `children`.
    pub(crate) fn insert(&mut self, id: I, parent: u32, position: Position<'_>) {
        let slot = Slot {
            id: id.clone(),
            parent: NIL,
            first: NIL,
            last: NIL,
            prev: NIL,
            next: NIL,
            has_children: true,
            extras_size: 0,
            extras_depth: 0,
            height: 2,
        };
        let at = match self.free.pop() {
            Some(at) => {
                *self.slot_mut(at) = slot;
                at
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        self.index.insert(id, at);
        self.link(at, parent, self.place(parent, position));
        self.raise(at);
    }

    /// Takes a node out with all below it and puts it under `parent`, which must not be among them. A node that is put
    /// next to itself stays where it is.
    pub(crate) fn relocate(&mut self, slot: u32, parent: u32, position: Position<'_>) {
        if let Position::After(id) | Position::Before(id) = position
            && self.id(slot) == id
            && self.slot(slot).parent == parent
        {
            return;
        }
        // First out, then look for the sibling: a node is no sibling of itself.
        self.unlink(slot);
        self.link(slot, parent, self.place(parent, position));
        self.raise(slot);
    }

    /// Removes a node and all below it, and says which slots they had.
    pub(crate) fn remove(&mut self, slot: u32) -> Vec<u32> {
        let removed: Vec<u32> = self.subtree(slot).map(|(at, _)| at).collect();
        self.unlink(slot);
        for &at in &removed {
            let id = self.held_id(at);
            self.index.remove(id.borrow());
        }
        self.free.extend(&removed);
        removed
    }

    /// Behind which sibling (or [`NIL`]: before all) a position is. A sibling that is not there is none.
    fn place(&self, parent: u32, position: Position<'_>) -> u32 {
        let sibling = |id: &str| self.find(id).filter(|&at| self.slot(at).parent == parent);
        match position {
            Position::First => NIL,
            Position::Last => self.last(parent),
            Position::After(id) => sibling(id).unwrap_or_else(|| self.last(parent)),
            Position::Before(id) => sibling(id).map_or(NIL, |at| self.slot(at).prev),
        }
    }

    fn link(&mut self, slot: u32, parent: u32, prev: u32) {
        let next = if prev == NIL { self.first(parent) } else { self.slot(prev).next };
        let linked = self.slot_mut(slot);
        (linked.parent, linked.prev, linked.next) = (parent, prev, next);
        match prev {
            NIL => *self.first_mut(parent) = slot,
            _ => self.slot_mut(prev).next = slot,
        }
        match next {
            NIL => *self.last_mut(parent) = slot,
            _ => self.slot_mut(next).prev = slot,
        }
        if parent != ROOT {
            self.slot_mut(parent).has_children = true;
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { parent, prev, next, .. } = *self.slot(slot);
        match prev {
            NIL => *self.first_mut(parent) = next,
            _ => self.slot_mut(prev).next = next,
        }
        match next {
            NIL => *self.last_mut(parent) = prev,
            _ => self.slot_mut(next).prev = prev,
        }
        self.slot_mut(slot).parent = NIL;
    }

    /// Lets a node's height be seen in those above it.
    fn raise(&mut self, slot: u32) {
        let (mut parent, mut height) = (self.slot(slot).parent, self.slot(slot).height);
        while parent != ROOT {
            height += 2;
            let above = self.slot_mut(parent);
            if above.height >= height {
                return;
            }
            above.height = height;
            parent = above.parent;
        }
    }

    fn own_height(&self, slot: u32) -> u32 {
        let slot = self.slot(slot);
        1 + slot.extras_depth.max(u32::from(slot.has_children))
    }

    fn first(&self, parent: u32) -> u32 {
        if parent == ROOT { self.first } else { self.slot(parent).first }
    }

    fn last(&self, parent: u32) -> u32 {
        if parent == ROOT { self.last } else { self.slot(parent).last }
    }

    fn first_mut(&mut self, parent: u32) -> &mut u32 {
        if parent == ROOT { &mut self.first } else { &mut self.slot_mut(parent).first }
    }

    fn last_mut(&mut self, parent: u32) -> &mut u32 {
        if parent == ROOT { &mut self.last } else { &mut self.slot_mut(parent).last }
    }

    fn slot(&self, slot: u32) -> &Slot<I> {
        visit();
        &self.slots[slot as usize]
    }

    fn slot_mut(&mut self, slot: u32) -> &mut Slot<I> {
        visit();
        &mut self.slots[slot as usize]
    }
}

fn some(slot: u32) -> Option<u32> {
    (slot != NIL).then_some(slot)
}

/// The bytes and the depth of a node's fields other than `id` and `children`.
fn extras_of(fields: &Fields) -> (usize, usize) {
    fields
        .iter()
        .filter(|(key, _)| !matches!(*key, "id" | "children"))
        .fold((0, 0), |(size, depth), (key, value)| {
            (size + 1 + field_size(key, value.size()), depth.max(value.depth()))
        })
}

#[cfg(test)]
thread_local! {
    /// What a test counts instead of time.
    static VISITS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// How often a slot was looked at on this thread so far.
#[cfg(test)]
pub(crate) fn visits() -> u64 {
    VISITS.get()
}

#[cfg(test)]
fn visit() {
    VISITS.set(VISITS.get() + 1);
}

#[cfg(not(test))]
fn visit() {}
