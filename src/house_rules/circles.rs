//! No file imports another that imports it, directly or through others.
//!
//! A file imports the file that *defines* what it names: a re-export is followed to the definition, so a `mod.rs`
//! that only re-exports is part of no circle. Tests may import what they like. Methods called on a value are not
//! seen, since no path names them.

use std::collections::{BTreeMap, BTreeSet};

/// Files that may import each other, and why.
const ALLOWED: [(&[&str], &str); 1] = [(
    &["src/json/map.rs", "src/json/value.rs"],
    "a value holds maps, and a map holds values: one recursive type",
)];

/// Folders and files of tests.
const TESTS: [&str; 7] = [
    "src/fuzzing/",
    "src/simulation/",
    "src/house_rules/",
    "src/log/stand_in.rs",
    "/tests/",
    "/tests.rs",
    "/cases.rs",
];

type Path = Vec<String>;

/// What one file says of other modules.
#[derive(Default)]
struct Source {
    file: String,
    module: Path,
    children: BTreeSet<String>,
    /// Names that a `use` brings in, and what they stand for.
    imports: BTreeMap<String, Path>,
    /// Names that a `pub use` hands on.
    exports: BTreeMap<String, Path>,
    /// Every path that the code names, from the crate's root.
    named: BTreeSet<Path>,
}

/// Splits `a, b::{c, d}` at the commas outside of braces.
fn parts(list: &str) -> Vec<&str> {
    let (mut found, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                found.push(list[start..at].trim());
                start = at + 1;
            }
            _ => (),
        }
    }
    found.push(list[start..].trim());
    found.retain(|part| !part.is_empty());
    found
}

/// The paths of a `use` tree, each with the name that it brings in.
fn leaves(tree: &str, prefix: &[String], found: &mut Vec<(Path, String)>) {
    let tree = tree.trim();
    if let Some(open) = tree.find('{') {
        let mut prefix = prefix.to_vec();
        prefix.extend(
            tree[..open]
                .split("::")
                .filter(|part| !part.trim().is_empty())
                .map(|part| part.trim().to_owned()),
        );
        let close = tree.rfind('}').unwrap_or(tree.len());
        for part in parts(&tree[open + 1..close]) {
            leaves(part, &prefix, found);
        }
        return;
    }
    let (path, alias) = match tree.split_once(" as ") {
        Some((path, alias)) => (path, Some(alias.trim().to_owned())),
        None => (tree, None),
    };
    let mut full = prefix.to_vec();
    full.extend(path.split("::").map(|part| part.trim().to_owned()));
    if full.len() > 1 && full.last().is_some_and(|last| last == "self") {
        full.pop();
    }
    let name = alias.unwrap_or_else(|| full.last().cloned().unwrap_or_default());
    found.push((full, name));
}

/// A path from the crate's root; `None` for what is another crate's.
fn absolute(path: &[String], source: &Source) -> Option<Path> {
    let mut base = source.module.clone();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => return Some(path[1..].to_vec()),
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|first| first == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        child if source.children.contains(child) => (),
        name => {
            base = source.imports.get(name)?.clone();
            rest = &path[1..];
        }
    }
    base.extend(rest.iter().cloned());
    Some(base)
}

/// The code of a file without comments and without its tests, which stand at its end.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..end].lines().map(|line| match line.find("//") {
        Some(at) if !line[..at].contains('"') => &line[..at],
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Every `a::b::c` of the code, outside of `use`.
fn inline_paths(code: &str) -> Vec<Path> {
    let bytes = code.as_bytes();
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        if !is_word(bytes[at]) {
            at += 1;
            continue;
        }
        let before = if at == 0 { b' ' } else { bytes[at - 1] };
        let mut path = Path::new();
        loop {
            let start = at;
            while at < bytes.len() && is_word(bytes[at]) {
                at += 1;
            }
            path.push(code[start..at].to_owned());
            let goes_on = code[at..].starts_with("::") && bytes.get(at + 2).copied().is_some_and(is_word);
            if !goes_on {
                break;
            }
            at += 2;
        }
        if path.len() > 1 && !matches!(before, b'.' | b':' | b'\'' | b'$') {
            found.push(path);
        }
    }
    found
}

/// A line without `pub`, `pub(crate)`, `pub(super)` at its start.
fn without_visibility(line: &str) -> &str {
    let Some(rest) = line.strip_prefix("pub") else { return line };
    let rest = match rest.strip_prefix('(') {
        Some(inner) => inner.split_once(')').map_or(rest, |(_, after)| after),
        None => rest,
    };
    rest.strip_prefix(' ').unwrap_or(line)
}

fn parse(file: &str, text: &str) -> Source {
    let mut module: Path =
        file["src/".len()..].trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    module.retain(|part| part != "mod" && part != "lib");
    let mut source = Source { file: file.to_owned(), module, ..Source::default() };
    let code = code(text);
    let mut rest = String::new();
    let mut uses = Vec::new();
    let mut statement: Option<(bool, String)> = None;
    for line in code.lines() {
        if let Some((is_export, mut tree)) = statement.take() {
            tree.push_str(line);
            if line.contains(';') {
                uses.push((is_export, tree))
            } else {
                statement = Some((is_export, tree))
            }
            continue;
        }
        let bare = line.trim_start();
        let is_export = bare.starts_with("pub");
        let bare = without_visibility(bare);
        if let Some(tree) = bare.strip_prefix("use ") {
            let whole = (is_export, tree.to_owned());
            if line.contains(';') { uses.push(whole) } else { statement = Some(whole) }
        } else if let Some(child) = bare.strip_prefix("mod ").and_then(|name| name.strip_suffix(';')) {
            source.children.insert(child.to_owned());
        } else {
            rest.push_str(line);
            rest.push('\n');
        }
    }
    for (is_export, tree) in uses {
        let mut found = Vec::new();
        leaves(tree.trim_end_matches(';'), &[], &mut found);
        for (path, name) in found {
            let Some(path) = absolute(&path, &source) else { continue };
            if is_export {
                source.exports.insert(name, path);
            } else {
                source.named.insert(path.clone());
                source.imports.insert(name, path);
            }
        }
    }
    // What is handed on may be named in the file itself as well.
    let exports = source.exports.clone();
    for (name, path) in exports {
        source.imports.entry(name).or_insert(path);
    }
    let named: Vec<Path> = inline_paths(&rest).iter().filter_map(|path| absolute(path, &source)).collect();
    source.named.extend(named);
    source
}

/// The file that defines what a path names; `None` for a module as a whole.
fn defined_in<'a>(path: &[String], sources: &'a BTreeMap<Path, Source>) -> Option<&'a str> {
    let mut path = path.to_vec();
    for _ in 0..16 {
        let length = (0..=path.len()).rev().find(|length| sources.contains_key(&path[..*length]))?;
        let source = &sources[&path[..length]];
        let name = path.get(length)?;
        match source.exports.get(name) {
            Some(target) => path = target.iter().chain(&path[length + 1..]).cloned().collect(),
            None => return Some(&source.file),
        }
    }
    None
}

/// Which files each file imports.
fn graph(files: &[(String, String)]) -> BTreeMap<String, BTreeSet<String>> {
    let kept = files
        .iter()
        .filter(|(file, _)| !TESTS.iter().any(|test| file.contains(test)) && file != "src/main.rs");
    let sources: BTreeMap<Path, Source> =
        kept.map(|(file, text)| parse(file, text)).map(|source| (source.module.clone(), source)).collect();
    let imports = |source: &Source| {
        let defined = source.named.iter().filter_map(|path| defined_in(path, &sources));
        defined.filter(|file| *file != source.file).map(str::to_owned).collect()
    };
    sources.values().map(|source| (source.file.clone(), imports(source))).collect()
}

/// The groups of files that import each other: strongly connected components of more than one file.
fn circles(graph: &BTreeMap<String, BTreeSet<String>>) -> Vec<BTreeSet<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> = graph
        .keys()
        .map(|start| {
            let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
            while let Some(file) = open.pop() {
                for next in graph.get(file).into_iter().flatten() {
                    if seen.insert(next) {
                        open.push(next);
                    }
                }
            }
            (start, seen)
        })
        .collect();
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for file in graph.keys() {
        let circle: BTreeSet<String> = reached[file]
            .iter()
            .filter(|other| reached[**other].contains(file))
            .map(|f| (*f).clone())
            .collect();
        if circle.len() > 1 && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

/// The circles that are not allowed, each with the imports that make it.
fn offences(files: &[(String, String)]) -> Vec<String> {
    let graph = graph(files);
    let is_allowed = |circle: &BTreeSet<String>| {
        ALLOWED.iter().any(|(allowed, _)| circle.iter().all(|file| allowed.contains(&file.as_str())))
    };
    let circles = circles(&graph).into_iter().filter(|circle| !is_allowed(circle));
    circles
        .map(|circle| {
            let edges = circle.iter().map(|file| {
                let targets: Vec<_> = graph[file].iter().filter(|to| circle.contains(*to)).cloned().collect();
                format!("\n  {file} imports {}", targets.join(", "))
            });
            format!("{} files import each other:{}", circle.len(), edges.collect::<String>())
        })
        .collect()
}

#[test]
fn no_files_import_each_other() {
    let found = offences(&super::sources());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_file_is_included_from_elsewhere() {
    let marks = [["#[", "path"].concat(), ["include", "!("].concat()];
    let files = super::sources();
    let found: Vec<_> = files
        .iter()
        .filter(|(_, text)| marks.iter().any(|mark| text.contains(mark.as_str())))
        .map(|(file, _)| file)
        .collect();
    assert!(found.is_empty(), "a file belongs to one place of the tree: {found:?}");
}

#[test]
fn a_circle_is_found() {
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let mut files = vec![
        file("src/lib.rs", "mod a;\nmod b;\n"),
        file("src/a/mod.rs", "pub(super) mod deep;\npub(super) use deep::Thing;\n"),
        file(
            "src/a/deep.rs",
            "use std::sync::Arc;\nuse crate::b::{self, Other};\npub struct Thing(Other);\n",
        ),
        file("src/b.rs", "pub struct Other;\n#[cfg(test)]\nmod tests {\n    use crate::a::Thing;\n}\n"),
    ];
    assert_eq!(offences(&files), [""; 0], "a test's import makes no circle");
    for import in
        ["use crate::a::Thing;\n", "use super::a::deep::Thing as X;\n", "fn f(_: crate::a::Thing) {}\n"]
    {
        files[3].1 = format!("// crate::c::X\n{import}pub struct Other;\n");
        let found = offences(&files);
        assert_eq!(found.len(), 1, "{import}");
        assert!(found[0].contains("src/b.rs imports src/a/deep.rs"), "{}", found[0]);
    }
    files[3].1 = "use crate::a;\nfn f() { a::new() }\npub struct Other;\n".to_owned();
    files[1].1 = "mod deep;\npub(crate) fn new() { deep::x() }\n".to_owned();
    assert_eq!(offences(&files).len(), 1, "through a module that is imported as a whole");
    assert!(offences(&files)[0].starts_with("3 files"));
}
