//! Two sets of schemas that differ in one bound, so that two validators decide the same draft differently.

use std::path::Path;

use serde_json::json;

/// The most that the one set allows, and the other.
pub const STRICT_MAX: u64 = 10;
pub const LENIENT_MAX: u64 = 20;

/// The schema that both sets have.
pub const NAME: &str = "measure";

/// Puts a set into a validator's folder, in place of the one that is there.
pub fn write(folder: &Path, lenient: bool) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let most = if lenient { LENIENT_MAX } else { STRICT_MAX };
    let schema = json!({
        "type": "object",
        "required": ["size"],
        "properties": { "size": { "type": "integer", "maximum": most } },
    });
    // Complete or not there: a validator may look at any time.
    let half = folder.join("half");
    std::fs::write(&half, schema.to_string())?;
    std::fs::rename(&half, folder.join(format!("{NAME}.json")))
}
