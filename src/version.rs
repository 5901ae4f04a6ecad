//! What this binary is: name, version, the commit that it was built from, the protocols that it speaks.
//!
//! The commit is what `build.rs` found: `GIT_REVISION` in the environment of the build (the image's build argument of
//! that name), or the commit of the checkout in a release build. Where there is neither it is not told.

use std::sync::LazyLock;

use serde_json::json;

/// The version, as in Cargo.toml.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit, where the build was told.
pub const REVISION: Option<&str> = option_env!("INSIEME_BUILD_REVISION");

/// What `insieme-backend --version` says behind the name.
pub fn line() -> &'static str {
    static LINE: LazyLock<String> = LazyLock::new(|| match REVISION {
        Some(revision) if !revision.is_empty() => format!("{VERSION} ({revision})"),
        _ => VERSION.to_owned(),
    });
    &LINE
}

/// What `/version` answers.
pub fn as_json() -> String {
    let revision = REVISION.filter(|revision| !revision.is_empty());
    json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": VERSION,
        "revision": revision,
        "protocols": [
            { "dialect": "classic" },
            { "dialect": "v1", "protocolVersion": crate::protocol::V1_VERSION },
        ],
    })
    .to_string()
}
