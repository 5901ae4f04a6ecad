//! Who may do what.

pub mod permissions;
