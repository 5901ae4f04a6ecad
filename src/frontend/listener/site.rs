//! Pages beside the WebSocket: only where somebody gives some, which is `dev`.

use std::net::SocketAddr;

use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::pages::{self, Page};

/// What a frontend serves to browsers that ask for no WebSocket.
#[derive(Debug, Clone)]
pub struct Site {
    /// The pages.
    pub pages: &'static [Page],
    /// Where the administration shows the inspector, if it does.
    pub inspector: Option<SocketAddr>,
}

/// The path that leads to the inspector.
const INSPECTOR: &str = "/inspector";

impl Site {
    /// The answer to a request for a path, if there is something.
    pub(crate) fn answer(&self, path: &str) -> Option<Response<String>> {
        if path == INSPECTOR {
            return Some(self.to_inspector());
        }
        let page = pages::at(self.pages, path)?;
        let mut response = Response::new(page.text.to_owned());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page.kind));
        for (name, value) in pages::HEADERS {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        Some(response)
    }

    fn to_inspector(&self) -> Response<String> {
        let place = self.inspector.map(|address| format!("http://{address}{INSPECTOR}"));
        let place = place.and_then(|place| HeaderValue::from_str(&place).ok());
        let Some(place) = place else {
            let why = "the inspector is there only where `dev` listens on the loopback interface, or admin.listen is set";
            let mut response = Response::new(why.to_owned());
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        };
        let mut response = Response::new(String::new());
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        response.headers_mut().insert(header::LOCATION, place);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_with_their_policy_and_the_inspector_is_elsewhere_or_not_at_all() {
        let mut site = Site { pages: pages::DEMO, inspector: None };
        let page = site.answer("/").unwrap();
        assert!(
            page.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'")
        );
        assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
        assert!(page.body().contains("<!doctype html>"));
        assert!(site.answer("/demo/").is_none() && site.answer("/demo/../Cargo.toml").is_none());
        assert_eq!(site.answer("/inspector").unwrap().status(), StatusCode::NOT_FOUND);
        site.inspector = Some("127.0.0.1:8090".parse().unwrap());
        let away = site.answer("/inspector").unwrap();
        assert_eq!(away.status(), StatusCode::TEMPORARY_REDIRECT);
        assert_eq!(away.headers()["location"], "http://127.0.0.1:8090/inspector");
    }
}
