//! One layer of configuration over another, key by key, so that every error can name the key and the place
//! where it was set.

use std::collections::BTreeMap;

use serde_json::Value;
use toml::Spanned;

use super::environment::{self, Kind};
use super::settings::{Config, Loaded};

/// A key set by a flag.
#[derive(Debug, Clone)]
pub struct Override {
    /// `area.key`.
    pub key: String,
    /// The value as text.
    pub value: String,
    /// The flag, as the person typed it.
    pub flag: String,
}

/// One key set in one place. `candidates` are the ways to read the text, the likelier first; a value from
/// the file has just the one.
pub(crate) struct Leaf {
    key: String,
    candidates: Vec<Value>,
    origin: String,
}

/// The defaults as a tree of two levels, whose keys are all the keys there are.
pub(crate) fn defaults() -> BTreeMap<String, Value> {
    let tree = serde_json::to_value(Config::default()).unwrap_or_default();
    let mut all = BTreeMap::new();
    for (area, keys) in tree.as_object().into_iter().flatten() {
        for (key, value) in keys.as_object().into_iter().flatten() {
            all.insert(format!("{area}.{key}"), value.clone());
        }
    }
    all
}

pub(crate) fn from_toml(name: &str, text: &str, problems: &mut Vec<String>) -> Vec<Leaf> {
    type Areas = BTreeMap<Spanned<String>, BTreeMap<Spanned<String>, toml::Value>>;
    let areas: Areas = match toml::from_str(text) {
        Ok(areas) => areas,
        Err(error) => {
            problems.push(format!("{name}: {}", error.to_string().trim_end().replace('\n', "\n  ")));
            return Vec::new();
        }
    };
    let known = defaults();
    let mut leaves = Vec::new();
    for (area, keys) in areas {
        for (key, value) in keys {
            let line = text[..key.span().start.min(text.len())].matches('\n').count() + 1;
            let origin = format!("{name} line {line}");
            let key = format!("{}.{}", area.get_ref(), key.get_ref());
            if !known.contains_key(&key) {
                problems.push(unknown("key", &key, &origin, known.keys()));
                continue;
            }
            let value = serde_json::to_value(value).unwrap_or_default();
            leaves.push(Leaf { key, candidates: vec![value], origin });
        }
    }
    leaves
}

pub(crate) fn from_environment(
    environment: impl IntoIterator<Item = (String, String)>,
    problems: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Vec<Leaf> {
    let known = defaults();
    let by_variable: BTreeMap<String, &String> =
        known.keys().map(|key| (environment::variable_of(key), key)).collect();
    let mut leaves = Vec::new();
    for (variable, text) in environment {
        if let Some(key) = by_variable.get(&variable) {
            leaves.push(Leaf {
                candidates: readings(&known[*key], &text),
                key: (*key).clone(),
                origin: format!("environment variable {variable}"),
            });
            continue;
        }
        match environment::kind_of(&variable) {
            Kind::Others => {}
            Kind::Ours => {
                let (closest, how_far) = closest(&variable, by_variable.keys());
                let said = unknown_beside("variable", &variable, "environment", closest);
                match environment::is_near_miss(&variable, how_far, known.keys()) {
                    true => problems.push(said),
                    false => warnings.push(format!("{said}; it changes nothing")),
                }
            }
        }
    }
    leaves
}

pub(crate) fn from_overrides(overrides: Vec<Override>, problems: &mut Vec<String>) -> Vec<Leaf> {
    let known = defaults();
    let mut leaves = Vec::new();
    for Override { key, value, flag } in overrides {
        match known.get(&key) {
            Some(default) => leaves.push(Leaf { candidates: readings(default, &value), key, origin: flag }),
            None => problems.push(unknown("key", &key, &flag, known.keys())),
        }
    }
    leaves
}

/// The ways to read a text as a value, given what the default looks like: as it stands, as a TOML literal,
/// or as a list with commas. An empty text unsets what may be unset.
fn readings(default: &Value, text: &str) -> Vec<Value> {
    let raw = Value::String(text.to_owned());
    let literal = toml::from_str::<BTreeMap<String, toml::Value>>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| serde_json::to_value(table.remove("value")?).ok());
    let list = || text.split(',').map(|item| Value::String(item.trim().to_owned())).collect();
    match default {
        Value::Null if text.is_empty() => vec![Value::Null],
        Value::Null | Value::String(_) => vec![raw].into_iter().chain(literal).collect(),
        Value::Array(_) => literal.into_iter().chain([list()]).collect(),
        _ => literal.into_iter().chain([raw]).collect(),
    }
}

/// Lays the leaves over the defaults, later ones over earlier ones. A leaf that does not fit is left out.
pub(crate) fn apply(leaves: Vec<Leaf>, problems: &mut Vec<String>) -> Loaded {
    let mut loaded = Loaded { config: Config::default(), origins: BTreeMap::new(), warnings: Vec::new() };
    // Secrets serialise as nothing that could be read back, so the tree is kept beside the config.
    let mut tree = serde_json::to_value(&loaded.config).unwrap_or_default();
    for Leaf { key, candidates, origin } in leaves {
        let Some((area, name)) = key.split_once('.') else { continue };
        let mut first_error = None;
        let fits = candidates.into_iter().find_map(|value| {
            let mut next = tree.clone();
            next[area][name] = value;
            match serde_json::from_value::<Config>(next.clone()) {
                Ok(config) => Some((next, config)),
                Err(error) => {
                    first_error.get_or_insert(error);
                    None
                }
            }
        });
        match (fits, first_error) {
            (Some((next, config)), _) => {
                tree = next;
                loaded.config = config;
                loaded.origins.insert(key, origin);
            }
            (None, Some(error)) => problems.push(format!("{key} ({origin}): {error}")),
            (None, None) => problems.push(format!("{key} ({origin}): cannot be read")),
        }
    }
    loaded
}

fn unknown<'a>(what: &str, name: &str, origin: &str, known: impl Iterator<Item = &'a String>) -> String {
    unknown_beside(what, name, origin, closest(name, known).0)
}

fn unknown_beside(what: &str, name: &str, origin: &str, closest: &str) -> String {
    format!("{name} ({origin}): there is no such {what}; the closest is {closest}")
}

/// The known name that is spelt most like this one, and how many characters are other.
fn closest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> (&'a str, usize) {
    let all = known.map(|candidate| (candidate.as_str(), distance(name, candidate)));
    all.min_by_key(|(_, distance)| *distance).unwrap_or_default()
}

/// The Levenshtein distance: how many characters to put in, take out or change.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
