//! Where in a tree a node goes.

/// Where among its siblings a node goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position<'a> {
    /// Before all.
    First,
    /// Behind all.
    Last,
    /// Behind this sibling; behind all if it is not there.
    After(&'a str),
    /// Before this sibling; before all if it is not there.
    Before(&'a str),
}

/// The name by which the top of a tree is given as a parent.
pub(crate) const ROOT_ID: &str = "_root";
