//! The rules, as an operator writes them down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ConfigError;
use crate::rules::{ConflictPolicies, ConflictPolicy, Rules, RulesConfig, SchemaSet, StateLimits};

/// What validators refuse beyond the built-in rules. All validators must be given the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RulesSettings {
    /// A JSON file with the state that every partition begins with; it is committed as its first event.
    /// Frontends need the key too, or `frontend.open_empty_partitions`, to have that done when a partition's
    /// first client connects.
    pub initial_state_file: Option<PathBuf>,
    /// A folder of JSON Schema files for domain events: `<schema>.json`, or `<schema>@<version>.json` for
    /// one version.
    pub schema_dir: Option<PathBuf>,
    /// The most bytes of a partition's state, in canonical form.
    pub state_bytes_max: usize,
    /// How deep a state may be nested, itself counted.
    pub state_depth_max: usize,
    /// What becomes of `baseEventId`: `mandatory`, `optional`, or `ignored` (the last write always wins).
    pub base_event_id: BaseEventId,
    /// The same for single targets and what lies below them, such as `{ "board.cards" = "mandatory" }`.
    pub base_event_id_by_prefix: BTreeMap<String, BaseEventId>,
    /// What becomes of v1 events of types that are neither built in nor registered: `accept` or `refuse`.
    pub unknown_v1_types: UnknownTypes,
}

/// What becomes of a draft's `baseEventId`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseEventId {
    /// A draft without it is refused.
    Mandatory,
    /// It counts where it is given.
    #[default]
    Optional,
    /// It never counts.
    Ignored,
}

/// What becomes of events of unknown types.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownTypes {
    /// Committed as they are.
    #[default]
    Accept,
    /// Rejected.
    Refuse,
}

impl Default for RulesSettings {
    fn default() -> Self {
        let rules = RulesConfig::default();
        Self {
            initial_state_file: None,
            schema_dir: None,
            state_bytes_max: rules.limits.size_bytes_max,
            state_depth_max: rules.limits.depth_max,
            base_event_id: BaseEventId::default(),
            base_event_id_by_prefix: BTreeMap::new(),
            unknown_v1_types: UnknownTypes::default(),
        }
    }
}

impl From<BaseEventId> for ConflictPolicy {
    fn from(policy: BaseEventId) -> Self {
        match policy {
            BaseEventId::Mandatory => Self::Mandatory,
            BaseEventId::Optional => Self::Optional,
            BaseEventId::Ignored => Self::Ignored,
        }
    }
}

impl RulesSettings {
    /// The rules, with all schema files read and compiled.
    pub fn load(&self) -> Result<Rules, ConfigError> {
        let schemas = match &self.schema_dir {
            Some(folder) => {
                let wrong =
                    |why: String| ConfigError(vec![format!("rules.schema_dir: {}: {why}", folder.display())]);
                let files = json_files(folder).map_err(|error| wrong(error.to_string()))?;
                SchemaSet::from_files(files).map_err(|error| wrong(error.to_string()))?
            }
            None => SchemaSet::default(),
        };
        let by_prefix =
            self.base_event_id_by_prefix.iter().map(|(prefix, policy)| (prefix.clone(), (*policy).into()));
        Rules::new(RulesConfig {
            limits: StateLimits { size_bytes_max: self.state_bytes_max, depth_max: self.state_depth_max },
            conflicts: ConflictPolicies {
                default: self.base_event_id.into(),
                by_prefix: by_prefix.collect(),
            },
            refuse_unknown_v1_types: self.unknown_v1_types == UnknownTypes::Refuse,
            schemas,
        })
        .map_err(|error| ConfigError(vec![format!("rules: {error}")]))
    }

    /// The configured initial state: a JSON object.
    pub fn initial_state(&self) -> Result<Option<Box<RawValue>>, ConfigError> {
        let Some(path) = &self.initial_state_file else { return Ok(None) };
        let wrong =
            |why: String| ConfigError(vec![format!("rules.initial_state_file: {}: {why}", path.display())]);
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let state: Box<RawValue> = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if !state.get().starts_with('{') {
            return Err(wrong("a state is a JSON object".to_owned()));
        }
        Ok(Some(state))
    }
}

/// The names and texts of a folder's `.json` files, sorted by name.
fn json_files(folder: &Path) -> std::io::Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".json") {
            files.push((name, std::fs::read_to_string(&path)?));
        }
    }
    files.sort();
    Ok(files)
}
