//! Which client ids a person's devices may choose, where a token names the person and not the device.
//!
//! A client id belongs to one user: drafts are told apart by it, and limits count by it. So what is chosen begins
//! with the user, and a character stands between that does not come again: no two users can mean the same id.

use std::fmt;
use std::str::FromStr;

use crate::event::ClientId;

/// A form of client ids, such as `{user}:*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIds {
    before: String,
    /// What stands between the user and the device's own name; `None` where there is none.
    between: Option<char>,
}

const USER: &str = "{user}";

impl ClientIds {
    /// Whether a user's device may have this id.
    pub fn permits(&self, user: &str, client: &ClientId) -> bool {
        let rest =
            client.as_str().strip_prefix(self.before.as_str()).and_then(|rest| rest.strip_prefix(user));
        match (rest, self.between) {
            _ if user.is_empty() => false,
            (None, _) => false,
            (Some(rest), None) => rest.is_empty(),
            (Some(rest), Some(between)) => {
                let name = rest.strip_prefix(between);
                name.is_some_and(|name| !name.is_empty() && !name.contains(between))
            }
        }
    }
}

impl FromStr for ClientIds {
    type Err = String;

    fn from_str(form: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{form:?} is no form of client ids: it is {USER}, or {USER}, one character and *, such as {USER}:*; \
                 something may stand before"
            )
        };
        let (before, rest) = form.split_once(USER).ok_or_else(wrong)?;
        let mut rest = rest.chars();
        let between = match (rest.next(), rest.next(), rest.next()) {
            (None, ..) => None,
            (Some(between), Some('*'), None) if between != '*' => Some(between),
            _ => return Err(wrong()),
        };
        if before.contains(['{', '}', '*']) {
            return Err(wrong());
        }
        Ok(Self { before: before.to_owned(), between })
    }
}

impl fmt::Display for ClientIds {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}{USER}", self.before)?;
        match self.between {
            Some(between) => write!(f, "{between}*"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(form: &str, user: &str, client: &str) -> bool {
        form.parse::<ClientIds>().unwrap().permits(user, &ClientId::new(client).unwrap())
    }

    #[test]
    fn a_device_is_named_behind_its_user_and_no_two_users_share_an_id() {
        assert!(permits("{user}", "ann", "ann") && !permits("{user}", "ann", "ann:1"));
        assert!(permits("{user}:*", "ann", "ann:1") && permits("{user}:*", "auth0|5:f", "auth0|5:f:phone"));
        assert!(permits("app-{user}/*", "ann", "app-ann/1") && !permits("app-{user}/*", "ann", "ann/1"));
        for (user, client) in [
            ("ann", "ann"),
            ("ann", "ann:"),
            ("ann", "anna:1"),
            ("ann", "bob:1"),
            // This is a device of the user `ann:b`.
            ("ann", "ann:b:1"),
            ("", ":1"),
        ] {
            assert!(!permits("{user}:*", user, client), "{user} {client}");
        }
    }

    #[test]
    fn a_form_is_read_and_written_and_what_is_none_is_told() {
        for good in ["{user}", "{user}:*", "x-{user}/*", "{user}ü*"] {
            assert_eq!(good.parse::<ClientIds>().unwrap().to_string(), good);
        }
        for bad in
            ["", "*", "{user}*", "{user}::*", "{user}:*x", "{sub}:*", "{user}**", "*{user}", "{user}{user}"]
        {
            assert!(bad.parse::<ClientIds>().is_err(), "{bad}");
        }
    }
}
