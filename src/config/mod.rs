//! Configuration: flags over environment over file over defaults.
//!
//! Every key is `area.key`, declared once as a field of the structs here. Its environment variable is
//! `INSIEME_` and that path in capitals with underscores (`INSIEME_NATS_URLS`); its description is the
//! field's doc comment, which `check-config --print-defaults` prints. An unknown key is an error that names the
//! closest known one, so that a misspelt limit never silently stays at its default. So is an unknown variable that
//! looks like a setting of ours; others may be somebody else's (`environment`).

mod auth;
mod describe;
mod environment;
pub(crate) mod error;
mod layers;
mod nats;
mod process;
mod rules;
mod schema_folder;
pub(crate) mod settings;
#[cfg(test)]
mod tests;

use self::error::ConfigError;
use self::settings::Loaded;
use std::path::Path;

pub use auth::AuthSettings;
pub use describe::{defaults_as_toml, effective_as_text};
pub use layers::Override;
pub use nats::NatsConfig;
pub use process::ProcessConfig;
pub use rules::{BaseEventId, RulesSettings, UnknownTypes};
pub use schema_folder::{Fingerprint, SchemaFolder, SchemaFolderError};

/// Loads the configuration: the defaults, under `file`, under the `INSIEME_` variables of `environment`,
/// under `flags`.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: Vec<Override>,
) -> Result<Loaded, ConfigError> {
    let mut problems = Vec::new();
    let mut leaves = Vec::new();
    if let Some(path) = file {
        match std::fs::read_to_string(path) {
            Ok(text) => leaves.extend(layers::from_toml(&path.display().to_string(), &text, &mut problems)),
            Err(error) => problems.push(format!("{}: {error}", path.display())),
        }
    }
    let mut warnings = Vec::new();
    leaves.extend(layers::from_environment(environment, &mut problems, &mut warnings));
    leaves.extend(layers::from_overrides(flags, &mut problems));
    let loaded = Loaded { warnings, ..layers::apply(leaves, &mut problems) };
    loaded.config.check(&mut problems);
    let mut loaded = loaded;
    loaded.warnings.extend(loaded.config.doubts());
    if problems.is_empty() { Ok(loaded) } else { Err(ConfigError(problems)) }
}
