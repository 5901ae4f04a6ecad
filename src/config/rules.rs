//! The rules, as an operator writes them down.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::error::ConfigError;
use super::schema_folder::{SchemaFolder, SchemaFolderError};
use crate::rules::limits::StateLimits;
use crate::rules::{ConflictPolicies, ConflictPolicy, Rules, RulesConfig, SchemaSet};

/// What validators refuse beyond the built-in rules. All validators must be given the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RulesSettings {
    /// A JSON file with the state that every partition begins with; it is committed as its first event.
    /// Frontends need the key too, or `frontend.open_empty_partitions`, to have that done when a partition's
    /// first client connects.
    pub initial_state_file: Option<PathBuf>,
    /// A folder of JSON Schema files for domain events: `<schema>.json`, or `<schema>@<version>.json` for
    /// one version. In a file's name a `/`, `@` or `%` of the schema's, or a `.` in front, is percent-encoded.
    /// Validators take changes without a restart, when all files are good.
    pub schema_dir: Option<PathBuf>,
    /// How often validators look for changes in that folder where the file system does not tell of them, in
    /// milliseconds, 100 to 3600000.
    pub schema_poll_ms: u64,
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
    /// What becomes of v1 events of registered types in a version that has no schema: `accept` or `refuse`.
    /// As `unknown_v1_types` unless set.
    pub unknown_v1_versions: Option<UnknownTypes>,
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

/// What becomes of events of unknown types or versions.
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
            schema_poll_ms: 2_000,
            state_bytes_max: rules.limits.size_bytes_max,
            state_depth_max: rules.limits.depth_max,
            base_event_id: BaseEventId::default(),
            base_event_id_by_prefix: BTreeMap::new(),
            unknown_v1_types: UnknownTypes::default(),
            unknown_v1_versions: None,
        }
    }
}

/// What is wrong with a folder of schemas, a line for each file.
fn in_config(folder: &SchemaFolder, error: SchemaFolderError) -> Vec<String> {
    match error {
        SchemaFolderError::Folder { .. } => vec![format!("rules.schema_dir: {error}")],
        SchemaFolderError::Files(broken) => {
            let within = folder.path().display();
            broken.iter().map(|error| format!("rules.schema_dir: {within}/{error}")).collect()
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
    /// Says what cannot work, though every single value is of the right kind.
    pub(crate) fn check(&self, problems: &mut Vec<String>) {
        if !(100..=3_600_000).contains(&self.schema_poll_ms) {
            problems.push(format!("rules.schema_poll_ms: 100 to 3600000, not {}", self.schema_poll_ms));
        }
    }

    /// The folder of schema files, if there is one.
    pub fn schema_folder(&self) -> Option<SchemaFolder> {
        self.schema_dir.clone().map(SchemaFolder::new)
    }

    /// The rules, with all schema files read and compiled.
    pub fn load(&self) -> Result<Rules, ConfigError> {
        let schemas = match self.schema_folder() {
            Some(folder) => folder.load().map_err(|error| ConfigError(in_config(&folder, error)))?,
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
            refuse_unknown_v1_versions: self.unknown_v1_versions.unwrap_or(self.unknown_v1_types)
                == UnknownTypes::Refuse,
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
