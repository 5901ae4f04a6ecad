//! The canonical form of JSON (RFC 8785).
