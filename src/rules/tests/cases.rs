//! Cases per rule.
