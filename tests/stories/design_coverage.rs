//! `docs/DESIGN-COVERAGE.md` goes through the design document statement by statement. Every row names a test, and every
//! test that is named is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where tests are: Rust, JavaScript, and Python's stories of compose, monitoring and what is shipped.
const FOLDERS: [&str; 4] = ["src", "tests", "clients/js/tests", "benches"];
/// A row's cells: its number, the statement, what is here, the test, and where we differ.
const CELLS: usize = 5;
/// The document has about so many statements; fewer rows were lost.
const ROWS_MIN: usize = 150;

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "node_modules") {
                files(&path, found);
            }
        } else if path
            .extension()
            .is_some_and(|extension| ["rs", "mjs", "js", "py"].iter().any(|is| extension == *is))
        {
            found.push(path);
        }
    }
}

/// The rows of the document's tables, as cells.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| # |"));
    lines.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// What is between backticks and names a test: `file::name`.
fn tests_in(cell: &str) -> Vec<(&str, &str)> {
    cell.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::")).collect()
}

/// Whether a file's text has the test: a Rust or Python function of the name, or a JavaScript test whose name begins so.
fn has(text: &str, file: &str, name: &str) -> bool {
    let defined = |word: &str| text.contains(&format!("{word} {name}("));
    match file.rsplit('.').next() {
        Some("rs") => defined("fn"),
        Some("py") => defined("def"),
        _ => ["test(\"", "test(`", "test('"].iter().any(|begin| text.contains(&format!("{begin}{name}"))),
    }
}

/// What is wrong with a document.
fn wrong_with(text: &str, known: &[(String, String)]) -> Vec<String> {
    let (mut wrong, mut numbers) = (Vec::new(), BTreeSet::new());
    for cells in rows(text) {
        let row = cells.first().copied().unwrap_or_default();
        if cells.len() != CELLS || cells.iter().any(|cell| cell.is_empty()) {
            wrong.push(format!("row {row} has not {CELLS} cells with something in them: {cells:?}"));
            continue;
        }
        if !numbers.insert(row) {
            wrong.push(format!("row {row} is there twice"));
        }
        let tests = tests_in(cells[3]);
        if tests.is_empty() {
            wrong.push(format!("row {row} names no test"));
        }
        for (file, name) in tests {
            let is_it = |path: &str| path == file || path.ends_with(&format!("/{file}"));
            if !known.iter().any(|(path, text)| is_it(path) && has(text, file, name)) {
                wrong.push(format!("row {row}: there is no {file}::{name}"));
            }
        }
    }
    wrong
}

fn known() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in FOLDERS {
        files(&root.join(folder), &mut found);
    }
    let read = |path: PathBuf| (path.display().to_string(), std::fs::read_to_string(&path).unwrap());
    found.into_iter().map(read).collect()
}

#[test]
fn every_statement_of_the_design_document_has_a_test_that_exists() {
    let text = include_str!("../../docs/DESIGN-COVERAGE.md");
    let wrong = wrong_with(text, &known());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows(text).len() >= ROWS_MIN, "{} rows", rows(text).len());
}

#[test]
fn a_row_without_a_test_or_with_one_that_is_not_there_is_found() {
    let known = [
        ("tests/stories/a.rs".to_owned(), "async fn it_works() {}".to_owned()),
        ("tests/b.test.mjs".to_owned(), "test(\"it works too\", x)".to_owned()),
    ];
    let good = "| # | a | b | c | d |\n|---|---|---|---|---|\n| 1.1 | says | is | `a.rs::it_works` | no |\n| 1.2 | says | is | `b.test.mjs::it works` | no |\n";
    assert_eq!(wrong_with(good, &known), Vec::<String>::new());
    for (from, to) in [
        ("`a.rs::it_works`", "by hand"),
        ("`a.rs::it_works`", "`a.rs::it_work`"),
        ("`a.rs::it_works`", "`c.rs::it_works`"),
        ("b.test.mjs::it", "b.test.mjs::that it"),
        ("| no |\n| 1.2", "|\n| 1.2"),
        ("1.2", "1.1"),
    ] {
        assert_eq!(wrong_with(&good.replacen(from, to, 1), &known).len(), 1, "{to}");
    }
}
