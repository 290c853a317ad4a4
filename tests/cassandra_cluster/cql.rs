//! The files of `schema/`, taken apart into statements as cqlsh does it.

use std::path::{Path, PathBuf};

/// All files of `schema/`, in the order in which an operator pastes them.
pub fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|why| panic!("{}: {why}", folder.display()))
        .map(|found| found.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "cql"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no *.cql in {}", folder.display());
    files
}

/// The statements of all files in order, but for those that name a keyspace.
pub fn schema() -> Vec<String> {
    let mut all = Vec::new();
    for file in files() {
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|why| panic!("{}: {why}", file.display()));
        all.extend(statements(&text));
    }
    all.retain(|statement| {
        let words: Vec<String> = statement
            .split_whitespace()
            .take(2)
            .map(str::to_ascii_uppercase)
            .collect();
        words[0] != "USE" && words != ["CREATE", "KEYSPACE"]
    });
    all
}

/// The statements of a text, without comments and the semicolons between them. Knows quotes (`'…'`, `"…"`, `$$…$$`) and comments
/// (`--`, `//`, `/* … */`).
pub fn statements(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut statement = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        // How much of the text is one thing, and whether it belongs to the statement.
        let (length, kept) = if rest.starts_with("--") || rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if rest.starts_with("/*") {
            (end_of(rest, 2, "*/"), false)
        } else if rest.starts_with("$$") {
            (end_of(rest, 2, "$$"), true)
        } else if next == '\'' || next == '"' {
            // A doubled quote ends one string and begins the next, which comes to the same.
            (end_of(rest, 1, &rest[..1]), true)
        } else if next == ';' {
            all.push(std::mem::take(&mut statement));
            (1, false)
        } else {
            (next.len_utf8(), true)
        };
        if kept {
            statement.push_str(&rest[..length]);
        } else {
            // A comment parts two words.
            statement.push(' ');
        }
        rest = &rest[length..];
    }
    all.push(statement);
    for statement in &mut all {
        *statement = statement.trim().to_owned();
    }
    all.retain(|statement| !statement.is_empty());
    all
}

fn end_of(text: &str, from: usize, end: &str) -> usize {
    text[from..]
        .find(end)
        .map_or(text.len(), |at| from + at + end.len())
}
