//! The names of an application's rules, as events and snapshots carry them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One version of an application's rules: the number that its author gave it, and the hash of what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RulesVersion {
    /// The module's `version`.
    pub number: u64,
    /// The first half of the SHA-256 of what was published.
    pub hash: [u8; 16],
}

/// A version as it was put in force. The same one may be so several times; what counts is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RulesInForceId {
    /// The how-manieth activation it was, from 1.
    pub activation: u64,
    /// The version.
    pub version: RulesVersion,
}

/// A text that names no rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no version of rules; one is a number, a '-', and 32 hexadecimal digits")]
pub struct NoVersion(String);

impl fmt::Display for RulesVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.number)?;
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for RulesVersion {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        parse_version(text).ok_or_else(|| NoVersion(shown(text)))
    }
}

fn parse_version(text: &str) -> Option<RulesVersion> {
    let (number, hash) = text.split_once('-')?;
    let is_hash = hash.len() == 32 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let hash = is_hash.then(|| u128::from_str_radix(hash, 16).ok()).flatten()?;
    Some(RulesVersion { number: parse_number(number)?, hash: hash.to_be_bytes() })
}

fn parse_number(text: &str) -> Option<u64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    is_number.then(|| text.parse().ok()).flatten()
}

/// As much of it as stands in a message.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl fmt::Display for RulesInForceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.activation, self.version)
    }
}

impl FromStr for RulesInForceId {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let parsed = || {
            let (activation, version) = text.split_once('-')?;
            Some(Self { activation: parse_number(activation)?, version: parse_version(version)? })
        };
        parsed().ok_or_else(|| NoVersion(shown(text)))
    }
}

impl From<RulesVersion> for String {
    fn from(version: RulesVersion) -> Self {
        version.to_string()
    }
}

impl TryFrom<String> for RulesVersion {
    type Error = NoVersion;

    fn try_from(text: String) -> Result<Self, NoVersion> {
        text.parse()
    }
}

impl From<RulesInForceId> for String {
    fn from(id: RulesInForceId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for RulesInForceId {
    type Error = NoVersion;

    fn try_from(text: String) -> Result<Self, NoVersion> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let version = RulesVersion { number: 3, hash: [0xab; 16] };
        let id = RulesInForceId { activation: 7, version };
        assert_eq!(id.to_string(), format!("7-3-{}", "ab".repeat(16)));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(serde_json::from_str::<RulesInForceId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let hash = "ab".repeat(16);
        for text in [
            "",
            "3",
            "3-",
            "3-ab",
            &hash,
            &format!("+3-{hash}"),
            &format!("03-{hash}"),
            &format!("3-{}", hash.to_uppercase()),
        ] {
            assert!(text.parse::<RulesVersion>().is_err(), "{text}");
        }
    }
}
