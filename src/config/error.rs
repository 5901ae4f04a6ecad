//! What is wrong with a configuration.

/// Everything that is wrong with a configuration, each with its key and where it was set.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be used:\n  {}", .0.join("\n  "))]
pub struct ConfigError(pub Vec<String>);
