//! What this program serves to browsers: the demo of `dev`, and the administration's inspector.
//!
//! Plain modules, as they stand in the repository, within the binary; nothing is built, and nothing is loaded from
//! elsewhere. The demo takes the client for applications out of `clients/js` as it is.
//!
//! **Invariant:** a page is the same for everybody and holds nothing of anybody's: what it shows, its modules ask
//! for, with the rights of who looks at it.

/// A file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Where it is.
    pub path: &'static str,
    /// What it is.
    pub kind: &'static str,
    /// What stands in it.
    pub text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

macro_rules! pages {
    ($($path:literal $kind:ident $file:literal)*) => {
        &[$(Page { path: $path, kind: $kind, text: include_str!($file) }),*]
    };
}

/// The demo: two people at one board, on one page.
pub const DEMO: &[Page] = pages! {
    "/" HTML "demo/index.html"
    "/icon.svg" PICTURE "icon.svg"
    "/demo/style.css" STYLE "demo/style.css"
    "/demo/main.js" SCRIPT "demo/main.js"
    "/demo/board.js" SCRIPT "demo/board.js"
    "/demo/person.js" SCRIPT "demo/person.js"
    "/demo/network.js" SCRIPT "demo/network.js"
    "/client/client.js" SCRIPT "../../clients/js/src/client.js"
    "/client/connection.js" SCRIPT "../../clients/js/src/connection.js"
    "/client/engine.js" SCRIPT "../../clients/js/src/engine.js"
    "/client/env.js" SCRIPT "../../clients/js/src/env.js"
    "/client/fold.js" SCRIPT "../../clients/js/src/fold.js"
    "/client/index.js" SCRIPT "../../clients/js/src/index.js"
    "/client/indexeddb.js" SCRIPT "../../clients/js/src/indexeddb.js"
    "/client/json.js" SCRIPT "../../clients/js/src/json.js"
    "/client/memory.js" SCRIPT "../../clients/js/src/memory.js"
    "/client/persistence.js" SCRIPT "../../clients/js/src/persistence.js"
    "/client/replica.js" SCRIPT "../../clients/js/src/replica.js"
};

/// The inspector: what is in the log, and who is there.
pub const INSPECTOR: &[Page] = pages! {
    "/inspector" HTML "inspector/index.html"
    "/icon.svg" PICTURE "icon.svg"
    "/inspector/style.css" STYLE "inspector/style.css"
    "/inspector/main.js" SCRIPT "inspector/main.js"
    "/inspector/ask.js" SCRIPT "inspector/ask.js"
    "/inspector/dom.js" SCRIPT "inspector/dom.js"
    "/inspector/partitions.js" SCRIPT "inspector/partitions.js"
    "/inspector/partition.js" SCRIPT "inspector/partition.js"
    "/inspector/log.js" SCRIPT "inspector/log.js"
    "/inspector/state.js" SCRIPT "inspector/state.js"
    "/inspector/tree.js" SCRIPT "inspector/tree.js"
    "/inspector/people.js" SCRIPT "inspector/people.js"
    "/inspector/rejections.js" SCRIPT "inspector/rejections.js"
    "/inspector/backend.js" SCRIPT "inspector/backend.js"
};

/// What goes with every page. Scripts, styles and answers come from where the page came from; no script is made of
/// text, and no other page shows this one in a frame.
pub const HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-cache"),
];

/// The page at a path.
pub fn at(pages: &'static [Page], path: &str) -> Option<&'static Page> {
    pages.iter().find(|page| page.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the modules that a file imports are, by its own place.
    fn imports(page: &Page) -> Vec<String> {
        let folder = page.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let from = |line: &str| {
            let (_, name) = line.split_once("from \"")?;
            name.split_once('"').map(|(name, _)| name.to_owned())
        };
        let lines =
            page.text.lines().filter(|line| line.starts_with("import ") || line.starts_with("export "));
        lines
            .filter_map(from)
            .map(|name| match name.strip_prefix("./") {
                Some(beside) => format!("{folder}/{beside}"),
                None => name,
            })
            .collect()
    }

    #[test]
    fn every_module_that_a_page_imports_is_served_beside_it() {
        for pages in [DEMO, INSPECTOR] {
            let mut count = 0;
            for page in pages.iter().filter(|page| page.kind == SCRIPT) {
                for name in imports(page) {
                    assert!(at(pages, &name).is_some(), "{} imports {name}", page.path);
                    count += 1;
                }
            }
            assert!(count > 5, "imports were found");
        }
    }

    #[test]
    fn a_page_has_no_script_and_no_style_of_its_own_and_nothing_from_elsewhere() {
        for page in DEMO.iter().chain(INSPECTOR) {
            for never in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "localStorage.setItem(\"token",
            ] {
                let own = !page.path.starts_with("/client/");
                assert!(!(own && page.text.contains(never)), "{} has {never}", page.path);
            }
            if page.kind == HTML {
                for never in ["style=", "onclick", "onload", "<style", "<script>", "http://", "https://"] {
                    assert!(!page.text.contains(never), "{} has {never}", page.path);
                }
            }
        }
    }
}
