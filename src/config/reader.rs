//! Reads a TOML file key by key and remembers every mistake with its place.
//!
//! Always true: a key that nobody asked for is a mistake, so a key exists exactly if `load` reads it.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use toml_edit::{Document, Item, Key, TableLike, Value};

use super::mistake::{Mistake, Mistakes};

/// The longest part of a wrong value that is shown: enough to recognise it.
const SHOWN: usize = 80;

/// A parsed file, and what was found wrong so far.
pub(super) struct Reader {
    document: Document<String>,
    sections: RefCell<Vec<&'static str>>,
    mistakes: RefCell<Vec<Mistake>>,
}

impl Reader {
    /// Parses. A file that is no TOML has one mistake: nothing after it can be trusted.
    pub(super) fn new(text: String) -> Result<Reader, Mistake> {
        let document = Document::parse(text.clone()).map_err(|error| {
            let at = error.span().map(|span| span.start);
            let shown = at.map(|at| whole_line(&text, at));
            Mistake {
                line: at.map(|at| line_of(&text, at)),
                key: String::new(),
                value: None,
                wrong: match shown {
                    Some(line) => format!("not TOML at `{line}`"),
                    None => "not TOML".to_owned(),
                },
                // The parser may speak in several lines.
                right: error.message().split('\n').collect::<Vec<_>>().join(", "),
            }
        })?;
        Ok(Reader {
            document,
            sections: RefCell::default(),
            mistakes: RefCell::default(),
        })
    }

    /// One `[section]`; empty if the file has none.
    pub(super) fn section(&self, name: &'static str) -> Section<'_> {
        self.sections.borrow_mut().push(name);
        let found = self.document.as_table().get_key_value(name);
        let line = found.and_then(|(key, item)| self.line(start(key, item)));
        let table = found.and_then(|(key, item)| {
            let table = item.as_table_like();
            if table.is_none() {
                self.refuse(Mistake {
                    line: self.line(start(key, item)),
                    key: name.to_owned(),
                    value: item.as_value().map(|value| self.shown(value)),
                    wrong: "not a section".to_owned(),
                    right: format!("write [{name}] once, and its keys below"),
                });
            }
            table
        });
        Section {
            reader: self,
            name,
            table,
            broken: found.is_some() && table.is_none(),
            line,
            asked: RefCell::default(),
            settled: RefCell::default(),
        }
    }

    /// Remembers a mistake.
    pub(super) fn refuse(&self, mistake: Mistake) {
        self.mistakes.borrow_mut().push(mistake);
    }

    /// Ends the reading: what nobody asked for is wrong. `Ok` if nothing was.
    pub(super) fn finish(self, file: &Path) -> Result<(), Mistakes> {
        let sections = self.sections.borrow().clone();
        for (name, item) in self.document.as_table().iter() {
            if sections.contains(&name) {
                continue;
            }
            let key = self.document.as_table().get_key_value(name);
            let line = key.and_then(|(key, item)| self.line(start(key, item)));
            let (wrong, shown) = match item.as_value() {
                Some(_) if may_be_secret(name) => ("no such key", None),
                Some(value) => ("no such key", Some(self.shown(value))),
                None => ("no such section", None),
            };
            self.refuse(Mistake {
                line,
                key: name.to_owned(),
                value: shown,
                wrong: wrong.to_owned(),
                right: meant(name, &sections).map_or_else(
                    || format!("the sections are {}", sections.join(", ")),
                    |near| format!("did you mean [{near}]?"),
                ),
            });
        }
        let mut found = self.mistakes.into_inner();
        if found.is_empty() {
            return Ok(());
        }
        // What is missing altogether has no line, and comes last.
        found.sort_by_key(|mistake| mistake.line.unwrap_or(usize::MAX));
        Err(Mistakes {
            file: file.to_owned(),
            found,
        })
    }

    fn line(&self, at: Option<usize>) -> Option<usize> {
        at.map(|at| line_of(self.document.raw(), at))
    }

    /// A value as the file writes it, on one line.
    fn shown(&self, value: &Value) -> String {
        let raw = value
            .span()
            .and_then(|span| self.document.raw().get(span))
            .unwrap_or("…");
        shortened(&raw.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// One `[section]` of a file.
pub(super) struct Section<'a> {
    reader: &'a Reader,
    name: &'static str,
    table: Option<&'a dyn TableLike>,
    /// Something of that name is there, and is no table: said already, so nothing in it is missing.
    broken: bool,
    line: Option<usize>,
    asked: RefCell<Vec<&'static str>>,
    /// Keys that are not asked for, and have been spoken of or need not be.
    settled: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// A key that may be absent. `None` also if it is wrong; that is remembered.
    pub(super) fn optional<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&Spot<'_>) -> Option<T>,
    ) -> Option<T> {
        self.asked.borrow_mut().push(key);
        let item = self.table?.get(key)?;
        let path = format!("{}.{key}", self.name);
        let Some(value) = item.as_value() else {
            self.reader.refuse(Mistake {
                line: self.line_of(key),
                key: path,
                value: None,
                wrong: "a table".to_owned(),
                right: "a value belongs here".to_owned(),
            });
            return None;
        };
        parse(&Spot {
            reader: self.reader,
            key: path,
            value,
        })
    }

    /// A key with a default.
    pub(super) fn or<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&Spot<'_>) -> Option<T>,
        default: T,
    ) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    /// A key that must be there; `example` shows how it would be written.
    pub(super) fn required<T>(
        &self,
        key: &'static str,
        example: &str,
        parse: impl Fn(&Spot<'_>) -> Option<T>,
    ) -> Option<T> {
        if !self.broken && self.table.is_none_or(|table| !table.contains_key(key)) {
            let place = match self.table {
                Some(_) => String::new(),
                None => format!(" below [{}]", self.name),
            };
            self.reader.refuse(Mistake {
                line: self.line,
                key: format!("{}.{key}", self.name),
                value: None,
                wrong: "missing".to_owned(),
                right: format!("write {key} = {example}{place}"),
            });
        }
        self.optional(key, parse)
    }

    /// Says that the value of a key contradicts another one.
    pub(super) fn contradiction(&self, key: &'static str, wrong: String, right: &str) {
        let value = self.table.and_then(|table| table.get(key)?.as_value());
        self.reader.refuse(Mistake {
            line: self.line_of(key).or(self.line),
            key: format!("{}.{key}", self.name),
            value: value.map(|value| self.reader.shown(value)),
            wrong,
            right: right.to_owned(),
        });
    }

    /// Says of each of these keys that is there that this is no place for it.
    pub(super) fn misplaced(&self, keys: &[&'static str], wrong: &str, right: &str) {
        for key in keys {
            let Some(item) = self.table.and_then(|table| table.get(key)) else {
                continue;
            };
            self.reader.refuse(Mistake {
                line: self.line_of(key),
                key: format!("{}.{key}", self.name),
                value: self.shown_of(key, item),
                wrong: wrong.to_owned(),
                right: right.to_owned(),
            });
        }
        self.unjudged(keys);
    }

    /// Says nothing of these keys: whether they belong here depends on another one that is wrong.
    pub(super) fn unjudged(&self, keys: &[&'static str]) {
        self.settled.borrow_mut().extend(keys);
    }

    /// Whether a key is there, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Whether nothing was wrong with a key so far, so that its value may be held against others.
    pub(super) fn is_sound(&self, key: &str) -> bool {
        let path = format!("{}.{key}", self.name);
        let mistakes = self.reader.mistakes.borrow();
        !mistakes.iter().any(|found| found.key.starts_with(&path))
    }

    /// Ends the reading of this section: what nobody asked for is wrong.
    pub(super) fn finish(self) {
        let Some(table) = self.table else { return };
        let (asked, settled) = (self.asked.borrow(), self.settled.borrow());
        for (name, item) in table.iter() {
            if asked.contains(&name) || settled.contains(&name) {
                continue;
            }
            self.reader.refuse(Mistake {
                line: self.line_of(name),
                key: format!("{}.{name}", self.name),
                value: self.shown_of(name, item),
                wrong: "no such key".to_owned(),
                right: meant(name, &asked).map_or_else(
                    || format!("the keys of [{}] are {}", self.name, asked.join(", ")),
                    |near| format!("did you mean {near}?"),
                ),
            });
        }
    }

    /// The value of a key that is not ours, unless it is nobody's business.
    fn shown_of(&self, key: &str, item: &Item) -> Option<String> {
        let value = item.as_value()?;
        (!may_be_secret(key)).then(|| self.reader.shown(value))
    }

    fn line_of(&self, key: &str) -> Option<usize> {
        let (key, item) = self.table?.get_key_value(key)?;
        self.reader.line(start(key, item))
    }
}

/// A value and its place: what a parser of values is given, and complains to.
pub(super) struct Spot<'a> {
    reader: &'a Reader,
    key: String,
    /// The value itself.
    pub(super) value: &'a Value,
}

impl Spot<'_> {
    /// Remembers that this value is wrong; returns `None` for the parser to return.
    pub(super) fn refuse<T>(
        &self,
        wrong: impl Into<String>,
        right: impl Into<String>,
    ) -> Option<T> {
        self.reader.refuse(Mistake {
            line: self.reader.line(self.value.span().map(|span| span.start)),
            key: self.key.clone(),
            value: Some(self.reader.shown(self.value)),
            wrong: wrong.into(),
            right: right.into(),
        });
        None
    }

    /// The `index`-th element of this list, at its own place.
    pub(super) fn element<'b>(&'b self, index: usize, value: &'b Value) -> Spot<'b> {
        Spot {
            reader: self.reader,
            key: format!("{}[{index}]", self.key),
            value,
        }
    }
}

/// The name that was probably meant, if one is near.
fn meant(name: &str, known: &[&'static str]) -> Option<&'static str> {
    // Above 0.8 are slips of a key and plurals; "retry" for "retry_most" is still near, "host" for "most" is not.
    known
        .iter()
        .map(|near| (strsim::jaro_winkler(name, near), *near))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, near)| near)
}

/// Where a key begins; for a section without a key of its own, where its header does.
fn start(key: &Key, item: &Item) -> Option<usize> {
    let begins = |span: Range<usize>| span.start;
    key.span().or_else(|| item.span()).map(begins)
}

fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().iter().take(at);
    1 + before.filter(|&&byte| byte == b'\n').count()
}

fn whole_line(text: &str, at: usize) -> String {
    let line = text.lines().nth(line_of(text, at) - 1).unwrap_or_default();
    match line.split_once('=') {
        Some((key, _)) if may_be_secret(key.trim()) => format!("{} = …", key.trim()),
        _ => shortened(line.trim()),
    }
}

/// Whether what stands behind a key of this name may be a password. No key of ours is one, but somebody may have tried, and
/// what is told of a mistake ends in logs.
fn may_be_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let names_one = ["pass", "pwd", "secret"]
        .iter()
        .any(|word| key.contains(word));
    names_one && !key.ends_with("_file")
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
