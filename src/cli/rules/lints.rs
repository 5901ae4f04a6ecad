//! What in a module's text may make its states differ between machines or moments, as far as its lines show it.

/// The most that is told.
const WARNINGS_MAX: usize = 50;

/// Warnings, each with file and line.
pub(super) fn lints<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in files {
        for (number, line) in text.lines().enumerate() {
            for why in of_line(line) {
                if found.len() < WARNINGS_MAX {
                    found.push(format!("{file}:{}: {why}", number + 1));
                }
            }
        }
    }
    found
}

fn of_line(line: &str) -> Vec<&'static str> {
    let mut found = Vec::new();
    let code = line.trim_start();
    if code.starts_with("//") || code.starts_with('*') || code.starts_with("/*") {
        return found;
    }
    if ["let ", "var ", "export let ", "export var "].iter().any(|word| line.starts_with(word)) {
        found.push("a variable of the file outlives an event: what it holds is in no state, and is lost whenever the state is read again; use const");
    }
    if code.contains("**") && !code.contains("/**") {
        found.push("`**` is computed by the machine's mathematics library, and may differ in its last digit");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_may_differ_are_told() {
        let text = "let seen = 0;\nconst a = 1;\n  let inner = 2;\nexport var b = 2 ** 0.5;\n/** let */\n// x ** y\n";
        let found = lints([("rules.js", text)].into_iter());
        let places: Vec<&str> = found.iter().map(|line| &line[..10]).collect();
        assert_eq!(places, ["rules.js:1", "rules.js:4", "rules.js:4"]);
    }
}
