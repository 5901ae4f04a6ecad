//! How large a state may get, and configurations of the rules that are refused.

/// How large and how deep a partition's state may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateLimits {
    /// The bytes of the canonical form.
    pub size_bytes_max: usize,
    /// How many arrays and objects may lie inside each other, the state itself counted.
    pub depth_max: usize,
}

impl Default for StateLimits {
    fn default() -> Self {
        Self { size_bytes_max: 16 << 20, depth_max: 256 }
    }
}

/// The largest [`StateLimits::size_bytes_max`]: what is indexed counts its bytes and nodes in 32 bits.
pub const SIZE_BYTES_MAX: usize = 1 << 30;

/// The largest [`StateLimits::depth_max`]: a snapshot must be readable again.
pub const DEPTH_MAX: usize = crate::json::DEPTH_MAX;

/// Why a configuration of the rules was not taken.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The size limit is 0 or over [`SIZE_BYTES_MAX`].
    #[error("a state's size limit is 2 to {SIZE_BYTES_MAX} bytes, not {0}")]
    Size(usize),
    /// The depth limit is 0 or over [`DEPTH_MAX`].
    #[error("a state's depth limit is 1 to {DEPTH_MAX}, not {0}")]
    Depth(usize),
    /// A built-in type's own schema does not compile: a defect of this program.
    #[error("the schema of the built-in type {0} does not compile: {1}")]
    BuiltIn(&'static str, String),
}
