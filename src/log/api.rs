//! Answers of JetStream's API.

use serde::Deserialize;

/// JetStream's acknowledgement of a publish, or its refusal.
#[derive(Debug, Deserialize)]
pub(crate) struct PublishAck {
    #[serde(default)]
    pub seq: u64,
    pub error: Option<ApiError>,
}

/// An error of JetStream's API.
#[derive(Debug, Deserialize)]
pub(crate) struct ApiError {
    #[serde(default)]
    pub code: u64,
    #[serde(default)]
    pub err_code: u64,
    #[serde(default)]
    pub description: String,
}

impl ApiError {
    pub(crate) fn is_full(&self) -> bool {
        FULL_CODES.contains(&self.err_code)
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (error {})", self.description, self.err_code)
    }
}

/// JetStream's error codes for a stream that cannot take more.
pub(crate) const FULL_CODES: [u64; 5] = [10023, 10047, 10054, 10077, 10123];
