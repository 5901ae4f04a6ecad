//! Which pages may have their visitors' browsers connect.
//!
//! A browser says which page opened a connection, and no page can change that. Whoever is no browser says
//! what it likes, or nothing: this keeps pages out, never people. Those need a token.

use std::net::Ipv6Addr;

/// The origins that are let in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origins(Vec<Allowed>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Allowed {
    /// What a page without an origin says, such as one from a file: browsers `null`, and Electron `file://`.
    Null,
    One(Origin),
    /// Every host below this one, not the host itself.
    Below(Origin),
}

/// Scheme, host and port, in lower case; no port where it is the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origins {
    /// Reads what an operator allows: `https://app.example.com`, `https://*.example.com`, `null`. An error
    /// names the one that is none of these.
    pub(crate) fn parse(texts: &[String]) -> Result<Self, String> {
        texts
            .iter()
            .map(|text| {
                let text = text.trim();
                let allowed = match text.split_once("://*.") {
                    _ if is_null(text) => Some(Allowed::Null),
                    Some((scheme, rest)) => Origin::parse(&format!("{scheme}://{rest}")).map(Allowed::Below),
                    None => Origin::parse(text).map(Allowed::One),
                };
                allowed.ok_or_else(|| {
                    format!("{text:?} is no origin such as https://app.example.com or https://*.example.com")
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether a connection may be opened that says this of where it comes from. No origins allow all.
    pub(crate) fn allow(&self, origin: &str) -> bool {
        if self.0.is_empty() {
            return true;
        }
        if is_null(origin) {
            return self.0.contains(&Allowed::Null);
        }
        let Some(origin) = Origin::parse(origin) else { return false };
        self.0.iter().any(|allowed| match allowed {
            Allowed::Null => false,
            Allowed::One(one) => *one == origin,
            Allowed::Below(above) => {
                above.scheme == origin.scheme
                    && above.port == origin.port
                    && origin.host.strip_suffix(&above.host).is_some_and(|below| {
                        below.len() > 1 && below.ends_with('.') && !below.starts_with('.')
                    })
            }
        })
    }
}

fn is_null(text: &str) -> bool {
    text.eq_ignore_ascii_case("null") || text.eq_ignore_ascii_case("file://")
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (scheme, rest) = text.split_once("://")?;
        if scheme.is_empty()
            || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        {
            return None;
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']')?;
                host.parse::<Ipv6Addr>().ok()?;
                (host, port)
            }
            None => {
                let end = rest.find(':').unwrap_or(rest.len());
                let (host, port) = rest.split_at(end);
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
                if host.is_empty() || !host.bytes().all(plain) {
                    return None;
                }
                (host, port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port.parse::<u16>().ok()?),
            None if port.is_empty() => None,
            None => return None,
        };
        let own = match scheme {
            "https" | "wss" => Some(443),
            "http" | "ws" => Some(80),
            _ => None,
        };
        Some(Self { scheme: scheme.to_owned(), host: host.to_owned(), port: port.filter(|_| port != own) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(texts: &[&str]) -> Origins {
        Origins::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn an_origin_is_let_in_to_the_letter_or_below_a_domain() {
        let allowed =
            origins(&["https://App.example.com", "https://*.example.org:8443", "http://[::1]:5173"]);
        for yes in [
            "https://app.example.com",
            "HTTPS://APP.EXAMPLE.COM:443",
            "https://a.example.org:8443",
            "https://a.b.example.org:8443",
            "http://[::1]:5173",
        ] {
            assert!(allowed.allow(yes), "{yes}");
        }
        for no in [
            "http://app.example.com",
            "https://app.example.com:444",
            "https://app.example.com.evil.net",
            "https://evilapp.example.com",
            "https://evil.net/https://app.example.com",
            "https://example.org:8443",
            "https://evilexample.org:8443",
            "https://.example.org:8443",
            "https://a.example.org",
            "https://app.example.com@evil.net",
            "null",
            "",
            "*",
        ] {
            assert!(!allowed.allow(no), "{no}");
        }
        assert!(origins(&[]).allow("https://anything.example") && origins(&[]).allow("null"));
        assert!(!origins(&["null"]).allow("https://a.example"));
        for allowed in ["null", "file://"].map(|text| origins(&[text])) {
            assert!(allowed.allow("null") && allowed.allow("file://") && !allowed.allow("file://host"));
        }
        assert!(!origins(&["https://a.example"]).allow("file://"));
        for app in ["app://.", "capacitor://localhost", "tauri://localhost", "chrome-extension://abc"] {
            assert!(origins(&[app]).allow(app), "{app}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused_by_name() {
        for wrong in ["example.com", "https://", "https://a/b", "https://a:port", "*", "https://a.*.com", ""]
        {
            let error = Origins::parse(&[wrong.to_owned()]).unwrap_err();
            assert!(error.contains(&format!("{wrong:?}")), "{error}");
        }
    }
}
