//! What an operator gets told.

use super::settings::Config;
use super::*;
use crate::log::{Credentials, Password};

fn from_file(text: &str) -> Result<Loaded, ConfigError> {
    let mut problems = Vec::new();
    let leaves = layers::from_toml("insieme.toml", text, &mut problems);
    let loaded = layers::apply(leaves, &mut problems);
    if problems.is_empty() { Ok(loaded) } else { Err(ConfigError(problems)) }
}

fn flag(key: &str, value: &str) -> Override {
    Override { key: key.to_owned(), value: value.to_owned(), flag: format!("--set {key}") }
}

fn from_environment(variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    load(None, variables.iter().map(|(name, value)| (name.to_string(), value.to_string())), vec![])
}

#[test]
fn the_printed_defaults_are_the_defaults() {
    let loaded = from_file(&defaults_as_toml()).unwrap();
    assert_eq!(loaded.config, Config::default());
    // Every key that has a default was read, not left out.
    let printed: Vec<_> = loaded.origins.into_keys().collect();
    let set: Vec<_> = layers::defaults().into_iter().filter(|(_, v)| !v.is_null()).map(|(k, _)| k).collect();
    assert_eq!(printed, set);
}

#[test]
fn every_key_is_described_and_every_description_has_its_key() {
    let mut described = Vec::new();
    for (area, fields) in describe::areas() {
        for (key, doc) in fields {
            assert!(!doc.is_empty(), "{area}.{key} has no description");
            described.push(format!("{area}.{key}"));
        }
    }
    described.sort();
    assert_eq!(described, layers::defaults().into_keys().collect::<Vec<_>>());
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file_and_that_over_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("insieme.toml");
    std::fs::write(&file, "[nats]\nslots = 8\nreplicas = 3\nrequest_timeout_ms = 7\n").unwrap();
    let environment = [("INSIEME_NATS_SLOTS", "16"), ("INSIEME_NATS_REPLICAS", "5")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let loaded = load(Some(&file), environment, vec![flag("nats.slots", "32")]).unwrap();
    let nats = &loaded.config.nats;
    assert_eq!((nats.slots, nats.replicas, nats.request_timeout_ms), (32, 5, 7));
    assert_eq!(nats.drafts_age_max_ms, NatsConfig::default().drafts_age_max_ms);
    assert_eq!(loaded.origins["nats.slots"], "--set nats.slots");
    assert_eq!(loaded.origins["nats.replicas"], "environment variable INSIEME_NATS_REPLICAS");
    assert!(loaded.origins["nats.request_timeout_ms"].ends_with("insieme.toml line 4"));
}

#[test]
fn an_unknown_key_names_its_place_and_the_closest_known_one() {
    let error = from_file("[nats]\n\nslot = 4\n").unwrap_err().to_string();
    assert!(error.contains("nats.slot (insieme.toml line 3): there is no such key"), "{error}");
    assert!(error.contains("the closest is nats.slots"), "{error}");
    let error = from_environment(&[("INSIEME_NATS_SLOT", "4")]).unwrap_err().to_string();
    assert!(error.contains("the closest is INSIEME_NATS_SLOTS"), "{error}");
    let error = load(None, [], vec![flag("nat.slots", "4")]).unwrap_err().to_string();
    assert!(error.contains("nat.slots (--set nat.slots)"), "{error}");
}

#[test]
fn a_wrong_type_says_what_was_expected_and_where() {
    let error = from_file("[nats]\nslots = \"many\"\n").unwrap_err().to_string();
    assert!(
        error.contains("nats.slots (insieme.toml line 2): invalid type: string \"many\", expected u16"),
        "{error}"
    );
    let error = from_environment(&[("INSIEME_NATS_SLOTS", "-1")]).unwrap_err().to_string();
    assert!(error.contains("environment variable INSIEME_NATS_SLOTS") && error.contains("u16"), "{error}");
    let error = from_file("nats = 5\n").unwrap_err().to_string();
    assert!(error.contains("line 1") && error.contains("nats = 5"), "{error}");
}

#[test]
fn a_variable_that_is_none_of_ours_is_warned_of_and_one_that_is_nearly_ours_is_an_error() {
    let service = [("INSIEME_PORT", "tcp://10.0.0.1:3001"), ("INSIEME_FRONTEND_SERVICE_HOST", "10.0.0.1")];
    assert!(from_environment(&service).unwrap().warnings.is_empty());
    let warnings = from_environment(&[("INSIEME_HOMEPAGE_COLOUR", "red")]).unwrap().warnings;
    assert!(
        warnings[0].contains("INSIEME_HOMEPAGE_COLOUR (environment): there is no such variable"),
        "{warnings:?}"
    );
    for near in ["INSIEME_NATS_WHATEVER", "INSIEME_NAT_URLS", "INSIEME_FRONTEND_PORTS"] {
        let error = from_environment(&[(near, "1")]).unwrap_err().to_string();
        assert!(error.contains(near) && error.contains("the closest is INSIEME_"), "{error}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let error = from_environment(&[
        ("INSIEME_NATS_SLOTS", "0"),
        ("INSIEME_LOG_NOPE", "1"),
        ("INSIEME_LOG_FORMAT", "xml"),
    ])
    .unwrap_err();
    assert_eq!(error.0.len(), 3, "{error}");
}

#[test]
fn text_becomes_lists_numbers_and_paths_by_what_the_key_is() {
    let config = from_environment(&[
        ("INSIEME_NATS_URLS", "nats://a:1, nats://b:2"),
        ("INSIEME_NATS_USER", "17"),
        ("INSIEME_NATS_PASSWORD", "\"quoted\""),
        ("INSIEME_NATS_CREDENTIALS_FILE", ""),
        ("INSIEME_METRICS_LISTEN", "127.0.0.1:9100"),
        ("INSIEME_TEST_WHATEVER", "not ours"),
        ("PATH", "/bin"),
    ])
    .unwrap()
    .config;
    assert_eq!(config.nats.urls, ["nats://a:1", "nats://b:2"]);
    assert_eq!(config.nats.credentials_file, None);
    assert_eq!(config.metrics.listen, Some(([127, 0, 0, 1], 9100).into()));
    let credentials = config.nats.to_log_settings().unwrap().credentials;
    let is_as_set = matches!(
        &credentials,
        Some(Credentials::Password { user, password: Password::Given(password) })
            if user == "17" && password == "\"quoted\""
    );
    assert!(is_as_set, "{credentials:?}");
}

#[test]
fn passwords_are_never_printed() {
    let loaded = from_environment(&[
        ("INSIEME_NATS_URLS", "nats://joe:hunter2@a:1,nats://joe:hunter2@b:2"),
        ("INSIEME_NATS_USER", "joe"),
        ("INSIEME_NATS_PASSWORD", "hunter2"),
    ])
    .unwrap();
    let text = effective_as_text(&loaded);
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("nats://(hidden)@a:1"), "{text}");
    assert!(!format!("{:?}", loaded.config.nats.password).contains("hunter2"));
}

#[test]
fn a_password_file_is_read_and_its_absence_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("password");
    let seed = NatsConfig { nkey_seed_file: Some(path.clone()), ..Default::default() };
    let mut config =
        NatsConfig { user: Some("joe".into()), password_file: Some(path.clone()), ..Default::default() };
    assert!(config.to_log_settings().unwrap_err().to_string().contains("nats.password_file"));
    std::fs::write(&path, "hunter2\n").unwrap();
    let said = seed.to_log_settings().unwrap_err().to_string();
    assert!(
        said.contains("nats.nkey_seed_file") && said.contains("no seed") && !said.contains("hunter2"),
        "{said}"
    );
    assert!(config.to_log_settings().unwrap().credentials.is_some());
    config.user = None;
    let mut problems = Vec::new();
    config.check(&mut problems);
    assert_eq!(problems, ["nats.user: needed beside the password"]);
}
