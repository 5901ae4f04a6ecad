//! The tree actions on a document: what each needs, what it would cost, and the doing.
//!
//! A plan is made on the tree as it stands: on the index where there is one, else on one that is built for
//! the question and borrows everything. The action then makes the index to stay.

use super::arena::{Arena, CHILDREN_SIZE, ROOT};
use super::{Child, NOT_AN_ARRAY, Tree, child, field_count};
use crate::json::Json;
use crate::json::canonical::{commas, field_size, string_size};
use crate::state::document::{Document, Effect, OpError, merge_sizes};
use crate::state::tree::position::Position;
use crate::state::tree::position::ROOT_ID;
use crate::state::{Fields, Node};

use std::sync::Arc;

/// A tree as it stands, to plan on.
struct View<'a> {
    /// The target object.
    target: &'a Node,
    /// How many keys the path to it has.
    keys: usize,
    items: Option<&'a Node>,
    nodes: Option<Shape<'a>>,
}

enum Shape<'a> {
    Kept(&'a Arena<Arc<str>>),
    Fresh(Arena<&'a str>),
}

/// Asks an arena whichever way it holds its ids.
macro_rules! ask {
    ($view:expr, $default:expr, $arena:ident => $answer:expr) => {
        match &$view.nodes {
            None => $default,
            Some(Shape::Kept($arena)) => $answer,
            Some(Shape::Fresh($arena)) => $answer,
        }
    };
}

impl Document {
    /// What [`tree_push`](Self::tree_push) would do, or all that stands against it.
    pub fn plan_tree_push(
        &self,
        target: &str,
        id: &str,
        fields: &Fields,
        parent: &str,
    ) -> Result<Effect, Vec<OpError>> {
        let view = self.view(target)?;
        let mut errors = Vec::new();
        if view.has_item(id) || view.find(id).is_some() {
            errors.push(OpError::DuplicateId(id.to_owned()));
        }
        let under = view.find_parent(parent);
        if under.is_none() {
            errors.push(OpError::ParentNotFound(parent.to_owned()));
        }
        let (Some(under), true) = (under, errors.is_empty()) else { return Err(errors) };
        let value = item_size(fields);
        let item = field_size(id, value) + usize::from(view.item_count() > 0);
        let node = 2 + field_size("id", string_size(id)) + CHILDREN_SIZE;
        let size = self.size + view.missing_size() + item + node + view.child_size(under, None);
        let depth = (view.keys + 2 + item_depth(fields)).max(view.node_depth(under) + 1);
        Ok(Effect { size, depth })
    }

    /// Adds a node with its item. A field `id` is dropped.
    pub fn tree_push(
        &mut self,
        target: &str,
        id: &str,
        mut fields: Fields,
        parent: &str,
        position: Position<'_>,
    ) -> Result<(), OpError> {
        fields.remove("id");
        self.make_tree(target)?;
        let size = self.plan_tree_push(target, id, &fields, parent).map_err(first)?.size;
        let tree = self.tree_mut(target)?;
        let items = tree.items_mut().ok_or(OpError::TargetNotFound)?;
        items.insert(id.into(), Json::Object(fields));
        let arena = &mut tree.nodes_mut().arena;
        let under = arena.find_parent(parent).ok_or_else(|| OpError::ParentNotFound(parent.to_owned()))?;
        arena.insert(id.into(), under, position);
        self.size = size;
        Ok(())
    }

    /// What [`tree_delete`](Self::tree_delete) would do, or all that stands against it.
    pub fn plan_tree_delete(&self, target: &str, id: &str) -> Result<Effect, Vec<OpError>> {
        let view = self.view(target)?;
        // One of the two is enough: the item of a node may have been `unset`.
        if !view.has_item(id) && view.find(id).is_none() {
            return Err(vec![OpError::NodeNotFound(id.to_owned())]);
        }
        let mut gone = 0;
        let mut items = 0;
        let mut drop_item = |id: &str| {
            if let Some(item) = view.items.and_then(|items| child(items, id)) {
                gone += field_size(id, item.size());
                items += 1;
            }
        };
        let mut nodes = 0;
        match view.find(id) {
            None => drop_item(id),
            Some(slot) => ask!(view, (), arena => {
                arena.subtree(slot).for_each(|(at, _)| drop_item(arena.id(at)));
                nodes = arena.subtree_size(slot) + usize::from(!arena.is_only_child(slot));
            }),
        }
        let count = view.item_count();
        gone += nodes + commas(count) - commas(count - items);
        let depth = if view.nodes.is_none() { view.keys + 2 } else { 0 };
        Ok(Effect { size: self.size + view.missing_size() - gone, depth })
    }

    /// Removes a node and all below it, each with its item.
    pub fn tree_delete(&mut self, target: &str, id: &str) -> Result<(), OpError> {
        self.make_tree(target)?;
        let size = self.plan_tree_delete(target, id).map_err(first)?.size;
        let tree = self.tree_mut(target)?;
        let nodes = tree.nodes_mut();
        let removed = nodes.arena.find(id).map(|slot| nodes.remove(slot)).unwrap_or_default();
        let items = tree.items_mut().ok_or(OpError::TargetNotFound)?;
        items.remove(id);
        for id in removed {
            items.remove(&id);
        }
        self.size = size;
        Ok(())
    }

    /// What [`tree_update`](Self::tree_update) would do, or all that stands against it.
    pub fn plan_tree_update(
        &self,
        target: &str,
        id: &str,
        fields: &Fields,
        replace: bool,
    ) -> Result<Effect, Vec<OpError>> {
        let view = self.view(target)?;
        let Some(old) = view.items.and_then(|items| child(items, id)) else {
            return Err(vec![OpError::NodeNotFound(id.to_owned())]);
        };
        let (before, after) = match old {
            _ if replace => (old.size(), item_size(fields)),
            Child::Node(old) if Child::Node(old).is_object() => merge_sizes(old, item_fields(fields)),
            // JavaScript would spread a string or an array into numbered keys; nobody means that.
            _ => {
                let what = format!("the item {id:?} is not an object; `replace` makes it one");
                return Err(vec![OpError::NotATree(what)]);
            }
        };
        let depth = view.keys + 2 + item_depth(fields);
        Ok(Effect { size: self.size + after - before, depth })
    }

    /// Changes a node's item: its fields become `fields`, or with them win over those there.
    /// A field `id` is dropped.
    pub fn tree_update(
        &mut self,
        target: &str,
        id: &str,
        mut fields: Fields,
        replace: bool,
    ) -> Result<(), OpError> {
        fields.remove("id");
        self.make_tree(target)?;
        let size = self.plan_tree_update(target, id, &fields, replace).map_err(first)?.size;
        let items = self.tree_mut(target)?.items_mut().ok_or(OpError::TargetNotFound)?;
        crate::state::document::put(items, id, Json::Object(fields), replace);
        self.size = size;
        Ok(())
    }

    /// What [`tree_move`](Self::tree_move) would do, or all that stands against it. `depth_max` is how
    /// deep a state may nest: only whether the effect's depth is past it is exact, because a moved subtree
    /// is walked only when it might be.
    pub fn plan_tree_move(
        &self,
        target: &str,
        id: &str,
        parent: &str,
        depth_max: usize,
    ) -> Result<Effect, Vec<OpError>> {
        let view = self.view(target)?;
        let mut errors = Vec::new();
        let (slot, under) = (view.find(id), view.find_parent(parent));
        if slot.is_none() {
            errors.push(OpError::NodeNotFound(id.to_owned()));
        }
        if under.is_none() {
            errors.push(OpError::ParentNotFound(parent.to_owned()));
        }
        let (Some(slot), Some(under)) = (slot, under) else { return Err(errors) };
        if ask!(view, false, arena => arena.is_within(under, slot)) {
            return Err(vec![OpError::Cycle(parent.to_owned())]);
        }
        let only = ask!(view, true, arena => arena.is_only_child(slot));
        let size = self.size + view.child_size(under, Some(slot)) - usize::from(!only);
        let above = view.node_depth(under) - 1;
        let room = depth_max.saturating_sub(above);
        let fits = ask!(view, true, arena => arena.is_height_within(slot, room));
        Ok(Effect { size, depth: if fits { depth_max.min(above) } else { depth_max + 1 } })
    }

    /// Takes a node out with its children and puts it elsewhere.
    pub fn tree_move(
        &mut self,
        target: &str,
        id: &str,
        parent: &str,
        position: Position<'_>,
    ) -> Result<(), OpError> {
        self.make_tree(target)?;
        let size = self.plan_tree_move(target, id, parent, usize::MAX - 1).map_err(first)?.size;
        let arena = &mut self.tree_mut(target)?.nodes_mut().arena;
        let under = arena.find_parent(parent).ok_or_else(|| OpError::ParentNotFound(parent.to_owned()))?;
        let slot = arena.find(id).ok_or_else(|| OpError::NodeNotFound(id.to_owned()))?;
        arena.relocate(slot, under, position);
        self.size = size;
        Ok(())
    }

    fn view(&self, target: &str) -> Result<View<'_>, Vec<OpError>> {
        let there = self.locate(target).map_err(|error| vec![OpError::TargetNotFound, error])?;
        let node = match there {
            Some((_, _, there @ Child::Node(node))) if there.is_object() => node,
            _ => return Err(vec![OpError::TargetNotFound]),
        };
        let not_a_tree = |why: &str| vec![OpError::NotATree(why.to_owned())];
        let items = match child(node, "items") {
            None => None,
            Some(there @ Child::Node(items)) if there.is_object() => Some(items),
            Some(_) => return Err(not_a_tree("`items` is not an object")),
        };
        let nodes = match child(node, "tree") {
            None => None,
            Some(Child::Array(nodes)) => Some(Shape::Kept(&nodes.arena)),
            Some(Child::Node(Json::Array(tree))) => {
                Some(Shape::Fresh(Arena::build(tree, |id| id).map_err(|why| not_a_tree(&why))?))
            }
            Some(_) => return Err(not_a_tree(NOT_AN_ARRAY)),
        };
        Ok(View { target: node, keys: target.split('.').count(), items, nodes })
    }

    /// Indexes the object at `target`, unless it is already.
    fn make_tree(&mut self, target: &str) -> Result<(), OpError> {
        let node = self.at_mut(target).ok_or(OpError::TargetNotFound)?;
        match node {
            Json::Object(fields) => {
                let tree = Tree::index(fields).map_err(OpError::NotATree)?;
                *node = Json::Opaque(Box::new(tree));
                Ok(())
            }
            Json::Opaque(_) => Ok(()),
            _ => Err(OpError::TargetNotFound),
        }
    }

    fn tree_mut(&mut self, target: &str) -> Result<&mut Tree, OpError> {
        match self.at_mut(target) {
            Some(Json::Opaque(tree)) => Ok(tree),
            _ => Err(OpError::TargetNotFound),
        }
    }
}

impl View<'_> {
    fn has_item(&self, id: &str) -> bool {
        self.items.is_some_and(|items| child(items, id).is_some())
    }

    fn item_count(&self) -> usize {
        self.items.map_or(0, field_count)
    }

    fn find(&self, id: &str) -> Option<u32> {
        ask!(self, None, arena => arena.find(id))
    }

    fn find_parent(&self, id: &str) -> Option<u32> {
        ask!(self, (id == ROOT_ID).then_some(ROOT), arena => arena.find_parent(id))
    }

    /// The bytes of the `items` and `tree` that a push or a delete makes where they are missing.
    fn missing_size(&self) -> usize {
        let made = usize::from(self.items.is_none()) + usize::from(self.nodes.is_none());
        let there = field_count(self.target);
        let items = if self.items.is_none() { field_size("items", 2) } else { 0 };
        let tree = if self.nodes.is_none() { field_size("tree", 2) } else { 0 };
        items + tree + commas(there + made) - commas(there)
    }

    /// The bytes that a further child costs its parent: a comma, or a `children` that was not there.
    /// `without` is a node that is taken out first.
    fn child_size(&self, parent: u32, without: Option<u32>) -> usize {
        ask!(self, 0, arena => {
            let alone = match arena.first_child(parent) {
                None => true,
                Some(child) => Some(child) == without && arena.is_only_child(child),
            };
            let children = if arena.has_children_key(parent) { 0 } else { CHILDREN_SIZE };
            children + usize::from(!alone)
        })
    }

    /// How many arrays and objects a child of `parent` lies in, itself counted.
    fn node_depth(&self, parent: u32) -> usize {
        // The state, an object per key, the array; then an object and an array per level.
        let level = ask!(self, 0, arena => arena.level(parent));
        self.keys + 3 + 2 * level
    }
}

fn first(errors: Vec<OpError>) -> OpError {
    errors.into_iter().next().unwrap_or(OpError::TargetNotFound)
}

/// An item's fields: the payload's without `id`, which stands in `tree` and as the item's key.
fn item_fields(fields: &Fields) -> impl Iterator<Item = (&str, &Node)> {
    fields.iter().filter(|(key, _)| *key != "id")
}

fn item_size(fields: &Fields) -> usize {
    let all: usize = item_fields(fields).map(|(key, value)| field_size(key, value.size())).sum();
    2 + all + commas(item_fields(fields).count())
}

fn item_depth(fields: &Fields) -> usize {
    1 + item_fields(fields).map(|(_, value)| value.depth()).max().unwrap_or(0)
}
