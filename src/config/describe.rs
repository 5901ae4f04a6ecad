//! Printing configuration: all keys with their descriptions and defaults, and what is in force.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::layers;
use super::settings::{Config, Loaded};

/// Where each area's struct is declared. Its doc comments are the descriptions, so that there is no second
/// place to keep them.
const DECLARATIONS: &[(&str, &str, &str)] = &[
    ("nats", "NatsConfig", include_str!("nats.rs")),
    ("auth", "AuthSettings", include_str!("auth.rs")),
    ("frontend", "FrontendSettings", include_str!("../frontend/settings.rs")),
    ("validator", "ValidatorSettings", include_str!("../validator/settings.rs")),
    ("rules", "RulesSettings", include_str!("rules.rs")),
    ("log", "LogOutput", include_str!("../telemetry/logs.rs")),
    ("metrics", "MetricsConfig", include_str!("settings.rs")),
    ("admin", "AdminSettings", include_str!("../admin/settings.rs")),
    ("control", "ControlSettings", include_str!("../control/settings.rs")),
    ("traces", "TracesConfig", include_str!("../telemetry/traces.rs")),
    ("process", "ProcessConfig", include_str!("process.rs")),
];

/// A configuration file with every key, described, at its default. Keys that are unset by default are
/// commented out.
pub fn defaults_as_toml() -> String {
    let defaults = layers::defaults();
    let mut text = String::from(
        "# Every key of insieme-backend at its default. Keys that begin with # are unset by default.\n\
         # The same key in the environment: INSIEME_NATS_URLS for urls under [nats].\n",
    );
    for (area, name, source) in DECLARATIONS {
        let _ = writeln!(text, "\n[{area}]");
        for (key, doc) in fields(source, name) {
            for line in doc.lines() {
                let _ = writeln!(text, "# {line}");
            }
            let _ = match defaults.get(&format!("{area}.{key}")) {
                None | Some(Value::Null) => writeln!(text, "#{key} ="),
                Some(value) => writeln!(text, "{key} = {}", literal(value)),
            };
        }
    }
    text
}

/// Every key with the value in force and where it was set, secrets hidden.
pub fn effective_as_text(loaded: &Loaded) -> String {
    let tree = serde_json::to_value(&loaded.config).unwrap_or_default();
    let mut text = String::new();
    for key in layers::defaults().keys() {
        let Some((area, name)) = key.split_once('.') else { continue };
        let value = match &tree[area][name] {
            Value::Null => "(unset)".to_owned(),
            value => without_passwords(&literal(value)),
        };
        let origin = loaded.origins.get(key).map_or("default", String::as_str);
        let _ = writeln!(text, "{key} = {value}  # {origin}");
    }
    text
}

/// The fields of a struct and their doc comments, read off its source.
pub(crate) fn fields(source: &str, name: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut doc: Vec<&str> = Vec::new();
    let start = format!("pub struct {name} {{");
    for line in source.lines().map(str::trim).skip_while(|line| *line != start).skip(1) {
        if line == "}" {
            break;
        } else if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
        } else if let Some((field, _)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(':')) {
            all.insert(field.to_owned(), std::mem::take(&mut doc).join("\n"));
        }
    }
    all
}

fn literal(value: &Value) -> String {
    toml::Value::try_from(value).map_or_else(|_| value.to_string(), |value| value.to_string())
}

/// Hides `user:password@` in addresses.
fn without_passwords(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let end = after.find(['"', ',', '/']).unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                out.push_str("(hidden)@");
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = tail;
    }
    out + rest
}

/// The areas that are described; for the test that none is forgotten.
#[cfg(test)]
pub(crate) fn areas() -> impl Iterator<Item = (&'static str, BTreeMap<String, String>)> {
    DECLARATIONS.iter().map(|(area, name, source)| (*area, fields(source, name)))
}

const _: fn(&Config) = |config| {
    // A new area does not compile until it stands here, and then in DECLARATIONS.
    let Config {
        nats: _,
        auth: _,
        frontend: _,
        validator: _,
        rules: _,
        log: _,
        metrics: _,
        admin: _,
        control: _,
        traces: _,
        process: _,
    } = config;
};
