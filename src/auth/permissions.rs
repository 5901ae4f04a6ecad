//! Permissions: what the strings in a token allow.
//!
//! A permission is `<action>` or `<action>:<target>`. The action is an event type, `read` or `admin`, or `*`
//! for all but `admin`: an application's "may do everything" is no operator. The target is a path, `*` for all, or a path with a trailing `.*` for it and what lies below.

/// Whether one of the permissions allows `action` on `target`. Without a target, only a permission that is
/// not confined to one allows it.
pub fn allows(permissions: &[String], action: &str, target: Option<&str>) -> bool {
    permissions.iter().any(|permission| allows_one(permission, action, target))
}

/// Whether one of the permissions allows `action` on any target at all.
pub fn allows_somewhere(permissions: &[String], action: &str, _: Option<&str>) -> bool {
    let names = |permission: &str, name| {
        permission.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    permissions.iter().any(|permission| names(permission, action) || names(permission, "*"))
}

fn allows_one(permission: &str, action: &str, target: Option<&str>) -> bool {
    // The action's own text first: an application's event type may hold a colon.
    let all = (action != "admin").then_some("*");
    [Some(action), all]
        .into_iter()
        .flatten()
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

/// Says what is wrong with a permission that can never allow what its author meant.
pub fn check(permission: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("{permission:?} is no permission: {why}"));
    // An application's event type may hold a colon, so only the last part can be a target for sure.
    let (action, target) = match permission.split_once(':') {
        Some((action, target)) => (action, Some(target)),
        None => (permission, None),
    };
    if action.is_empty() {
        return wrong("it begins with an action: an event type, `read`, `admin`, or `*` for all");
    }
    if permission.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return wrong("it holds white space; one permission is one item of the list");
    }
    if action != "*" && action.contains('*') {
        return wrong("as an action, `*` stands alone, for all");
    }
    let Some(target) = target else { return Ok(()) };
    if target.is_empty() {
        return wrong("behind the colon there is no target; leave the colon out for all targets");
    }
    let path = target.strip_suffix(".*").unwrap_or(target);
    if target != "*" && path.contains('*') {
        return wrong("in a target, `*` stands alone, for all, or as `.*` at the end, for what lies below");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{allows, check};

    #[test]
    fn what_can_never_allow_anything_is_told() {
        for good in ["*", "read", "set", "set:a", "set:a.b.*", "*:a.*", "set:*", "todo:add", "todo.add:x"] {
            assert_eq!(check(good), Ok(()));
        }
        let bad = [
            ("", "begins with an action"),
            (":a", "begins with an action"),
            ("set:", "no target"),
            ("set*", "stands alone"),
            ("set:a*", "in a target"),
            ("set:*.a", "in a target"),
            ("read, set", "white space"),
        ];
        for (bad, says) in bad {
            let wrong = check(bad).unwrap_err();
            assert!(wrong.contains(says), "{wrong}");
        }
    }

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
            ("*", "admin", None, false),
            ("*:*", "admin", None, false),
            ("admin", "admin", None, true),
            ("admin", "set", None, false),
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
