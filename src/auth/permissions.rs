//! Permissions: what the strings in a token allow.
//!
//! A permission is `<action>` or `<action>:<target>`. The action is an event type, `read` or `admin`, or `*`
//! for all. The target is a path, `*` for all, or a path with a trailing `.*` for it and what lies below.

/// Whether one of the permissions allows `action` on `target`. Without a target, only a permission that is
/// not confined to one allows it.
pub fn allows(permissions: &[String], action: &str, target: Option<&str>) -> bool {
    permissions.iter().any(|permission| allows_one(permission, action, target))
}

fn allows_one(permission: &str, action: &str, target: Option<&str>) -> bool {
    // The action's own text first: an application's event type may hold a colon.
    [action, "*"]
        .into_iter()
        .filter_map(|name| permission.strip_prefix(name))
        .any(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(|pattern| covers(pattern, target)))
}

fn covers(pattern: &str, target: Option<&str>) -> bool {
    if pattern == "*" {
        return true;
    }
    let Some(target) = target else { return false };
    match pattern.strip_suffix(".*") {
        None => target == pattern,
        Some(path) => {
            let below = target.strip_prefix(path);
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::allows;

    #[test]
    fn permissions_cover_what_they_say() {
        let cases = [
            ("set", "set", Some("a.b"), true),
            ("set", "set", None, true),
            ("set", "unset", Some("a"), false),
            ("set", "setx", Some("a"), false),
            ("setx", "set", Some("a"), false),
            ("*", "init", None, true),
            ("*", "read", None, true),
            ("*:a", "set", Some("a"), true),
            ("*:a", "set", Some("a.b"), false),
            ("*:a.*", "treePush", Some("a.b"), true),
            ("set:*", "set", Some("x"), true),
            ("set:*", "set", None, true),
            ("set:a", "set", Some("a"), true),
            ("set:a", "set", Some("ab"), false),
            ("set:a", "set", None, false),
            ("set:a.*", "set", Some("a"), true),
            ("set:a.*", "set", Some("a.b.c"), true),
            ("set:a.*", "set", Some("ab"), false),
            ("set:a.*", "set", Some("a."), true),
            ("set:a.*", "set", None, false),
            ("set:", "set", Some("a"), false),
            ("todo:add", "todo:add", None, true),
            ("read", "set", Some("a"), false),
            ("", "set", Some("a"), false),
        ];
        for (permission, action, target, expected) in cases {
            let found = allows(&[permission.to_owned()], action, target);
            assert_eq!(found, expected, "{permission:?} on {action} {target:?}");
        }
        assert!(!allows(&[], "set", Some("a")));
    }
}
