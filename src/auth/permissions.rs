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

/// Actions that are ours; all others are types of an application's own events.
const OURS: [&str; 10] =
    ["read", "admin", "init", "set", "unset", "treePush", "treeDelete", "treeUpdate", "treeMove", "event"];

/// Says why a permission that is one may never permit what its author meant: nothing forbids an application to have
/// events of such a type.
pub fn doubt(permission: &str) -> Option<String> {
    let (action, target) = match permission.split_once(':') {
        Some((action, target)) => (action, Some(target)),
        None => (permission, None),
    };
    let of_all = |action: &&str| *action == "read" || *action == "admin";
    if target.is_some_and(|target| target != "*")
        && OURS.iter().filter(|one| of_all(one)).any(|one| *one == action)
    {
        return Some(format!(
            "{permission:?} never permits anything: {action} has no targets; write {action}"
        ));
    }
    let meant = OURS.iter().find(|one| is_nearly(action, one))?;
    Some(format!("{permission:?} permits events of the type {action:?}; did you mean {meant}?"))
}

/// Whether two words are different, but only in case or by one character too many, too few, other, or out of place.
fn is_nearly(word: &str, other: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (word.chars().collect(), other.chars().collect());
    if word == other || b.len() < 3 {
        return false;
    }
    let start = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[start..], &b[start..]);
    let end = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[..a.len() - end], &b[..b.len() - end]);
    let is_swapped = a.len() == 2 && b.len() == 2 && a[0] == b[1] && a[1] == b[0];
    word.eq_ignore_ascii_case(other) || (a.len() <= 1 && b.len() <= 1) || is_swapped
}

#[cfg(test)]
mod tests {
    use super::{allows, check, doubt};

    #[test]
    fn what_was_hardly_meant_is_doubted() {
        for good in ["*", "read", "set", "set:doc.*", "admin", "read:*", "todo.added", "treePush:a", "rename"]
        {
            assert_eq!(doubt(good), None);
        }
        for (doubtful, says) in [
            ("admn", "did you mean admin"),
            ("treepush:doc.*", "did you mean treePush"),
            ("raed", "did you mean read"),
            ("sets:a", "did you mean set"),
            ("read:doc.*", "never permits anything"),
            ("admin:x", "never permits anything"),
        ] {
            let said = doubt(doubtful).unwrap();
            assert!(said.contains(says), "{said}");
        }
    }

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
