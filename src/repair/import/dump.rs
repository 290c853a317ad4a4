//! A dump of MogileFS's table `file`, as MySQL writes it: one row a line, columns apart by tabs.
//!
//! Both forms are read: that of `SELECT … INTO OUTFILE`, in which a backslash stands before a tab or line end that belongs to a value, and that of
//! `mysql --batch`, which writes `\t` and `\n`. Bytes stay bytes.
//! Always true: a line is read by itself, whatever those before it were; one that cannot be read is told with its number.
//! Never here: what a row means for the ledger.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader};

use crate::file::{Class, Domain};

/// A line that is longer is none of this table: a key has 255 characters there.
const LONGEST: u64 = 1 << 20;

/// What is wrong with a dump as a whole.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// It cannot be opened or read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A table of names has a line that is none of it.
    #[error("{}, line {line}: {why}", path.display())]
    Names {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What is wrong, and what would be right.
        why: String,
    },
}

/// A row of the table `file`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// `fid`
    pub fid: u64,
    /// `dmid`
    pub dmid: u64,
    /// `dkey`
    pub key: Vec<u8>,
    /// `length`
    pub length: u64,
    /// `classid`
    pub classid: u64,
}

/// One line of a dump.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// Its number, from 1.
    pub number: u64,
    /// What it says, or why that cannot be read.
    pub row: Result<Row, String>,
}

/// Where a reader is in a file: before the line after `line`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Bytes before it.
    pub offset: u64,
    /// Lines before it.
    pub line: u64,
}

/// Reads a dump.
pub struct Dump {
    path: PathBuf,
    lines: BufReader<File>,
    place: Place,
}

impl Dump {
    /// Opens a dump, and goes to a place in it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn open(path: &Path, place: Place) -> Result<Dump, DumpError> {
        let opened = async {
            let mut file = File::open(path).await?;
            file.seek(std::io::SeekFrom::Start(place.offset)).await?;
            Ok(file)
        };
        let file = opened.await.map_err(|source| DumpError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(Dump {
            path: path.to_owned(),
            lines: BufReader::with_capacity(1 << 16, file),
            place,
        })
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn next(&mut self) -> Result<Option<Line>, DumpError> {
        let Some((number, text)) = self.record().await? else {
            return Ok(None);
        };
        let row = text.and_then(|text| Row::read(&text));
        Ok(Some(Line { number, row }))
    }

    /// The next line's number, and its text without the end, or what is wrong with it as a whole.
    async fn record(&mut self) -> Result<Option<(u64, Result<Vec<u8>, String>)>, DumpError> {
        let failed = |source| DumpError::Read {
            path: self.path.clone(),
            source,
        };
        let number = self.place.line + 1;
        let (mut text, mut too_long) = (Vec::new(), false);
        loop {
            let mut part = Vec::new();
            let limited = (&mut self.lines).take(LONGEST);
            let read = { limited }.read_until(b'\n', &mut part).await;
            let read = read.map_err(failed)?;
            self.place.offset += read as u64;
            let ended = part.last() == Some(&b'\n');
            if !too_long {
                text.extend_from_slice(&part);
            }
            if read == 0 {
                break;
            }
            if ended {
                self.place.line += 1;
                // One that has a backslash before it belongs to the value.
                let backslashes = text
                    .iter()
                    .rev()
                    .skip(1)
                    .take_while(|b| **b == b'\\')
                    .count();
                if backslashes % 2 == 0 {
                    break;
                }
            }
            if text.len() as u64 > LONGEST {
                too_long = true;
                text.clear();
                if ended {
                    break;
                }
            }
        }
        if text.is_empty() && !too_long && self.place.line < number {
            return Ok(None);
        }
        if text.last() == Some(&b'\n') {
            text.pop();
        } else if !too_long && self.place.line < number {
            self.place.line = number;
        }
        let whole = match too_long {
            true => Err("longer than any line of this table".to_owned()),
            false => Ok(text),
        };
        Ok(Some((number, whole)))
    }
}

impl Row {
    /// `fid dmid dkey length classid`, and what may follow.
    fn read(line: &[u8]) -> Result<Row, String> {
        let columns = columns(line);
        if columns.len() < 5 {
            return Err(format!(
                "{} columns, where at least five are expected: fid, dmid, dkey, length, classid",
                columns.len()
            ));
        }
        let number = |nth: usize, name: &str| {
            let text = columns[nth].as_deref().unwrap_or(b"NULL");
            let number = std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok());
            number.ok_or_else(|| {
                format!(
                    "{name} is {:?}, which is no number",
                    String::from_utf8_lossy(text)
                )
            })
        };
        let row = Row {
            fid: number(0, "fid")?,
            dmid: number(1, "dmid")?,
            key: columns[2].clone().unwrap_or_default(),
            length: number(3, "length")?,
            classid: number(4, "classid")?,
        };
        if row.key.is_empty() {
            return Err("dkey is empty".to_owned());
        }
        if row.fid == 0 {
            return Err("fid is 0".to_owned());
        }
        Ok(row)
    }
}

/// The values of a line; `None` for NULL.
fn columns(line: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut columns = Vec::new();
    let (mut value, mut null) = (Vec::new(), false);
    let mut bytes = line.iter().copied();
    loop {
        match bytes.next() {
            Some(b'\\') => match bytes.next() {
                Some(b'0') => value.push(0),
                Some(b'n') => value.push(b'\n'),
                Some(b't') => value.push(b'\t'),
                Some(b'r') => value.push(b'\r'),
                Some(b'b') => value.push(8),
                Some(b'Z') => value.push(0x1a),
                Some(b'N') if value.is_empty() => null = true,
                // Itself: a backslash, a tab, a line end.
                Some(other) => value.push(other),
                None => value.push(b'\\'),
            },
            Some(b'\t') => {
                let ended = std::mem::take(&mut value);
                columns.push((!std::mem::take(&mut null)).then_some(ended));
            }
            Some(byte) => value.push(byte),
            None => {
                columns.push((!null).then_some(value));
                return columns;
            }
        }
    }
}

/// The names of domains and classes by their numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    domains: HashMap<u64, Domain>,
    classes: HashMap<(u64, u64), Class>,
}

impl Names {
    /// What `(dmid, classid)` are called, as far as it is known. The class 0 is `default` where no row says otherwise.
    pub fn of(&self, dmid: u64, classid: u64) -> Option<(Domain, Class)> {
        let domain = self.domains.get(&dmid)?;
        let class = self.classes.get(&(dmid, classid)).cloned();
        let class = class.or_else(|| (classid == 0).then(Class::default_class))?;
        Some((domain.clone(), class))
    }

    /// Learns what a file's numbers are called.
    pub fn learn(&mut self, dmid: u64, classid: u64, domain: Domain, class: Class) {
        self.domains.insert(dmid, domain);
        self.classes.insert((dmid, classid), class);
    }

    /// Reads a dump of the table `domain`: `dmid namespace`.
    ///
    /// # Errors
    /// If it cannot be read, or has a line of another form.
    pub async fn read_domains(&mut self, path: &Path) -> Result<(), DumpError> {
        for (numbers, name) in table(path, "dmid, namespace", 2).await? {
            self.domains.insert(numbers[0], Domain::from_bytes(&name));
        }
        Ok(())
    }

    /// Reads a dump of the table `class`: `dmid classid classname`, and what may follow.
    ///
    /// # Errors
    /// As for domains.
    pub async fn read_classes(&mut self, path: &Path) -> Result<(), DumpError> {
        for (numbers, name) in table(path, "dmid, classid, classname", 3).await? {
            let key = (numbers[0], numbers[1]);
            self.classes.insert(key, Class::from_bytes(&name));
        }
        Ok(())
    }
}

/// A small table: numbers, and a name behind them.
async fn table(
    path: &Path,
    form: &str,
    width: usize,
) -> Result<Vec<(Vec<u64>, Vec<u8>)>, DumpError> {
    let mut dump = Dump::open(path, Place::default()).await?;
    let mut rows = Vec::new();
    while let Some((line, text)) = dump.record().await? {
        let wrong = |why: String| DumpError::Names {
            path: path.to_owned(),
            line,
            why,
        };
        let text = text.map_err(wrong)?;
        let columns: Vec<Vec<u8>> = columns(&text).into_iter().flatten().collect();
        let numbers = columns.iter().take(width - 1).map(|column| {
            let text = std::str::from_utf8(column).ok();
            text.and_then(|text| text.parse().ok())
        });
        let numbers: Option<Vec<u64>> = numbers.collect();
        let named = columns.get(width - 1).filter(|name| !name.is_empty());
        match (numbers, named) {
            (Some(numbers), Some(name)) if numbers.len() == width - 1 => {
                rows.push((numbers, name.clone()));
            }
            _ => return Err(wrong(format!("not of the form {form}, apart by tabs"))),
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &[u8]) -> Vec<Line> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut dump = Dump::open(file.path(), Place::default()).await.unwrap();
        let mut lines = Vec::new();
        while let Some(line) = dump.next().await.unwrap() {
            // Whoever goes on at this place reads the same as who read on.
            let mut again = Dump::open(file.path(), dump.place()).await.unwrap();
            lines.push(line);
            drop(again.next().await.unwrap());
        }
        assert_eq!(dump.place().offset, text.len() as u64);
        lines
    }

    fn key(line: &Line) -> &[u8] {
        &line.row.as_ref().unwrap().key
    }

    #[tokio::test]
    async fn both_forms_of_mysql_are_read_and_bytes_stay_bytes() {
        let text = b"1\t2\tplain\t10\t0\t3\n\
            2\t2\ttab\\\tin\\\nit\t10\t0\t3\n\
            3\t2\ttab\\tin\\nit\t10\t0\t3\n\
            4\t2\tback\\\\\t10\t0\t3\n\
            5\t2\tnul\\0 \xff\xc3\xa9\t10\t0\t3\n\
            6\t2\tlast\t10\t7";
        let lines = lines(text).await;
        let keys: Vec<&[u8]> = lines.iter().map(key).collect();
        assert_eq!(
            keys,
            [
                &b"plain"[..],
                b"tab\tin\nit",
                b"tab\tin\nit",
                b"back\\",
                b"nul\0 \xff\xc3\xa9",
                b"last"
            ]
        );
        assert_eq!(lines[5].row.as_ref().unwrap().classid, 7);
        // The second one lies on two lines of the file.
        let numbers: Vec<u64> = lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [1, 2, 4, 5, 6, 7]);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_told_with_its_line_and_the_rest_is_read() {
        let long = "x".repeat(3 << 20);
        let text = format!(
            "1\t1\ta\t1\t0\nnonsense\n\n2\tx\tb\t1\t0\n3\t1\t\\N\t1\t0\n{long}\n4\t1\tz\t1\t0\n"
        );
        let lines = lines(text.as_bytes()).await;
        let told: Vec<(u64, String)> = lines
            .iter()
            .filter_map(|line| Some((line.number, line.row.clone().err()?)))
            .collect();
        let numbers: Vec<u64> = told.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [2, 3, 4, 5, 6], "{told:?}");
        assert!(told[0].1.contains("1 columns"), "{told:?}");
        assert!(told[2].1.contains("dmid is \"x\""), "{told:?}");
        assert!(told[3].1.contains("dkey is empty"), "{told:?}");
        assert_eq!(key(lines.last().unwrap()), b"z");
    }

    #[tokio::test]
    async fn names_come_from_the_tables_of_names() {
        let folder = tempfile::tempdir().unwrap();
        let (domains, classes) = (folder.path().join("d"), folder.path().join("c"));
        std::fs::write(&domains, "1\tphotos\n2\ta\\\tb\n").unwrap();
        std::fs::write(
            &classes,
            "1\t1\tthumb\t2\t\\N\t\\N\n2\t0\tother\t1\t\\N\t\\N\n",
        )
        .unwrap();
        let mut names = Names::default();
        names.read_domains(&domains).await.unwrap();
        names.read_classes(&classes).await.unwrap();
        let name = |dmid, classid| {
            let (domain, class) = names.of(dmid, classid)?;
            Some(format!("{domain}:{class}"))
        };
        assert_eq!(name(1, 0).unwrap(), "photos:default");
        assert_eq!(name(1, 1).unwrap(), "photos:thumb");
        assert_eq!(name(2, 0).unwrap(), "a%09b:other");
        assert_eq!(name(1, 2), None);
        assert_eq!(name(3, 0), None);
        std::fs::write(&domains, "1\tphotos\nx\ty\n").unwrap();
        let wrong = Names::default().read_domains(&domains).await.unwrap_err();
        assert!(
            wrong
                .to_string()
                .contains("line 2: not of the form dmid, namespace"),
            "{wrong}"
        );
    }
}
