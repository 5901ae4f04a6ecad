//! Environment variables: which of them are ours, and which only begin as ours do.
//!
//! Kubernetes puts variables into every container for every Service of its name space, and compose has some of its own:
//! of a Service named `insieme` they begin with `INSIEME_`, and nobody who runs a command means anything by them.

/// How every environment variable of ours begins.
const PREFIX: &str = "INSIEME_";
/// Variables that are no configuration keys: the file's name, fault points, and the tests' own.
const NO_KEYS: [&str; 2] = ["INSIEME_CONFIG", "INSIEME_FAULT"];
const TEST_PREFIX: &str = "INSIEME_TEST_";
/// How many characters of a name may be other for it to be a slip of the pen.
const SLIP_MAX: usize = 3;

/// Whose a variable is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Meant for us.
    Ours,
    /// Somebody else's, or no setting.
    Others,
}

/// The variable that sets a key.
pub(super) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// Whose a variable is that sets no key.
pub(super) fn kind_of(variable: &str) -> Kind {
    let is_other = match variable.strip_prefix(PREFIX) {
        None => true,
        Some(rest) => {
            variable.starts_with(TEST_PREFIX) || NO_KEYS.contains(&variable) || is_of_a_service(rest)
        }
    };
    if is_other { Kind::Others } else { Kind::Ours }
}

/// Whether Kubernetes makes such a variable of a Service (or Docker of a link): `SERVICE_HOST`, `SERVICE_PORT`,
/// `SERVICE_PORT_WS`, `PORT`, `PORT_3001_TCP`, `PORT_3001_TCP_ADDR`, and the same with the rest of the Service's name before.
fn is_of_a_service(rest: &str) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    (0..words.len()).any(|from| match &words[from..] {
        ["SERVICE", "HOST"] | ["SERVICE", "PORT", ..] | ["PORT"] => true,
        ["PORT", number, "TCP" | "UDP" | "SCTP"] => is_number(number),
        ["PORT", number, "TCP" | "UDP" | "SCTP", "PROTO" | "PORT" | "ADDR"] => is_number(number),
        _ => false,
    })
}

/// Whether somebody meant a setting: the name begins with the name of an area, or only a few characters are other.
pub(super) fn is_near_miss<'a>(
    variable: &str,
    how_far: usize,
    mut keys: impl Iterator<Item = &'a String>,
) -> bool {
    let rest = variable.strip_prefix(PREFIX).unwrap_or_default();
    let area = rest.split('_').next().unwrap_or_default().to_lowercase();
    how_far <= SLIP_MAX || keys.any(|key| key.split('.').next() == Some(area.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_and_compose_put_in_is_not_ours() {
        for other in [
            "INSIEME_SERVICE_HOST",
            "INSIEME_SERVICE_PORT",
            "INSIEME_SERVICE_PORT_WS",
            "INSIEME_PORT",
            "INSIEME_PORT_3001_TCP",
            "INSIEME_PORT_3001_TCP_ADDR",
            "INSIEME_PORT_3001_TCP_PORT",
            "INSIEME_PORT_3001_TCP_PROTO",
            "INSIEME_FRONTEND_SERVICE_HOST",
            "INSIEME_FRONTEND_PORT_3001_TCP_ADDR",
            "INSIEME_FRONTEND_PORT",
            "INSIEME_CONFIG",
            "INSIEME_TEST_ANY",
            "PORT",
        ] {
            assert_eq!(kind_of(other), Kind::Others, "{other}");
        }
        for ours in ["INSIEME_NATS_URL", "INSIEME_PORTS", "INSIEME_PORT_X_TCP", "INSIEME_HOST", "INSIEME_"] {
            assert_eq!(kind_of(ours), Kind::Ours, "{ours}");
        }
    }
}
