//! How entries and announcements become rows that a person can read with the `sqlite3` tool, and back.
//!
//! Always true: what is read back equals what was written; a row that this program cannot have written
//! is [`JournalError::Corrupt`]. Here alone it is said what a row weighs against `max_size`.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::de::DeserializeOwned;

use super::{Announcement, By, Details, Entry, JournalError, Mutation, Outcome, Outgoing};
use crate::file::{Checksum, Class, Domain, Fid, FileName, Key};
use crate::version::Version;

/// The tables. `by`, `kind`, `outcome` hold the words of [`By`], [`Mutation`], [`Outcome`]; `content`
/// and `write` hold JSON; versions and times are microseconds since 1970.
pub const TABLES: &str = r#"
    CREATE TABLE entries (
        seq      INTEGER PRIMARY KEY,
        version  INTEGER NOT NULL,
        "by"     TEXT NOT NULL,
        kind     TEXT NOT NULL,
        domain   TEXT NOT NULL,
        key      TEXT NOT NULL,
        to_key   TEXT,
        fid      INTEGER,
        class    TEXT,
        size     INTEGER,
        checksum TEXT,
        content  TEXT,
        outcome  TEXT,
        lost_at  INTEGER
    ) STRICT;
    CREATE TABLE outbox (
        id      INTEGER PRIMARY KEY,
        number  INTEGER,
        version INTEGER NOT NULL,
        domain  TEXT NOT NULL,
        key     TEXT NOT NULL,
        "write" TEXT NOT NULL
    ) STRICT;
    CREATE TABLE floors (
        domain  TEXT NOT NULL,
        key     TEXT NOT NULL,
        version INTEGER NOT NULL,
        PRIMARY KEY (domain, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE meta (
        name  TEXT PRIMARY KEY,
        value ANY NOT NULL
    ) STRICT, WITHOUT ROWID;
"#;

/// What a row counts for beside its texts: its numbers, its header, its place in the tree, and the
/// hundred bytes that the index keeps of it in memory. So `max_size` bounds memory and disk alike.
const ROW: usize = 128;

/// What a row about `file` with these further texts counts for.
fn weigh(file: &FileName, texts: &[Option<&str>]) -> u32 {
    let name = file.domain.escaped().len() + file.key.escaped().len();
    let texts: usize = texts.iter().flatten().map(|text| text.len()).sum();
    u32::try_from(ROW + name + texts).unwrap_or(u32::MAX)
}

/// What the changeable part of a put's row counts for.
pub fn weigh_details(details: &Details) -> u32 {
    let class = details.class.as_ref().map_or(0, |c| c.escaped().len());
    let checksum = details.checksum.as_ref().map_or(0, |c| c.0.len());
    u32::try_from(class + checksum).unwrap_or(u32::MAX)
}

/// An intent as its row will be, made before it is queued so that the writer only binds it.
#[derive(Debug)]
pub struct NewEntry {
    mutation: Mutation,
    /// `None` for a client's; else the JSON of the content that repair brings.
    repair: Option<Option<String>>,
}

impl NewEntry {
    pub fn new(by: By, mutation: Mutation) -> Result<Self, serde_json::Error> {
        let repair = match by {
            By::Client => None,
            By::Repair { content } => {
                Some(content.as_ref().map(serde_json::to_string).transpose()?)
            }
        };
        Ok(Self { mutation, repair })
    }

    /// `to_key`, `class`, `checksum` and `content`, as far as this kind has them.
    fn texts(&self) -> [Option<&str>; 4] {
        let content = self.repair.as_ref().and_then(|json| json.as_deref());
        match &self.mutation {
            Mutation::Put { details, .. } => [
                None,
                details.class.as_ref().map(Class::escaped),
                details.checksum.as_ref().map(|checksum| &*checksum.0),
                content,
            ],
            Mutation::Delete { .. } => [None, None, None, content],
            Mutation::Rename { to, .. } => [Some(to.key.escaped()), None, None, content],
            Mutation::SetClass { class, .. } => [None, Some(class.escaped()), None, content],
        }
    }

    /// The files that it touches.
    pub fn files(&self) -> Vec<&FileName> {
        self.mutation.files()
    }

    fn file(&self) -> &FileName {
        match &self.mutation {
            Mutation::Put { file, .. }
            | Mutation::Delete { file }
            | Mutation::SetClass { file, .. }
            | Mutation::Rename { from: file, .. } => file,
        }
    }

    /// What its row counts for.
    pub fn weight(&self) -> u32 {
        let [to_key, class, checksum, content] = self.texts();
        weigh(self.file(), &[to_key, class, checksum, content])
    }

    pub fn insert(&self, db: &Connection, seq: u64, version: Version) -> rusqlite::Result<()> {
        let file = self.file();
        let [to_key, class, checksum, content] = self.texts();
        let (kind, fid, size) = match &self.mutation {
            Mutation::Put { fid, details, .. } => {
                ("put", fid.map(|fid| fid.0 as i64), details.size)
            }
            Mutation::Delete { .. } => ("delete", None, None),
            Mutation::Rename { .. } => ("rename", None, None),
            Mutation::SetClass { .. } => ("set_class", None, None),
        };
        db.prepare_cached(
            r#"INSERT INTO entries (seq, version, "by", kind, domain, key, to_key, fid, class, size, checksum, content)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"#,
        )?
        .execute(params![
            seq as i64,
            version.0,
            if self.repair.is_none() { "client" } else { "repair" },
            kind,
            file.domain.escaped(),
            file.key.escaped(),
            to_key,
            fid,
            class,
            size.map(|size| size as i64),
            checksum,
            content,
        ])?;
        Ok(())
    }
}

/// Reads a row of [`SELECT_ENTRIES`], and what it counts for.
pub fn read_entry(row: &Row<'_>) -> Result<(Entry, u32), JournalError> {
    let text = |column: usize| column_of::<Option<String>>(row, column);
    let number = |column: usize| column_of::<Option<i64>>(row, column);
    let must = |column: usize| {
        text(column)?.ok_or_else(|| corrupt("entries", row, format!("column {column} is empty")))
    };
    let seq = column_of::<i64>(row, 0)? as u64;
    let (by, kind, domain, key) = (must(2)?, must(3)?, must(4)?, must(5)?);
    let (to_key, class, checksum, content) = (text(6)?, text(8)?, text(10)?, text(11)?);
    let file = name(&domain, &key);
    let texts = [&to_key, &class, &checksum, &content];
    let weight = weigh(&file, &texts.map(|text| text.as_deref()));
    let by = match by.as_str() {
        "client" => By::Client,
        "repair" => By::Repair {
            content: content
                .map(|json| from_json("entries", row, &json))
                .transpose()?,
        },
        other => return Err(corrupt("entries", row, format!("by {other:?}"))),
    };
    let mutation = match (kind.as_str(), to_key, class) {
        ("put", None, class) => Mutation::Put {
            file,
            fid: number(7)?.map(|fid| Fid(fid as u64)),
            details: Details {
                class: class.map(|class| Class::from_escaped(&class)),
                size: number(9)?.map(|size| size as u64),
                checksum: checksum.map(|text| Checksum(text.into())),
            },
        },
        ("delete", None, None) => Mutation::Delete { file },
        ("rename", Some(to_key), None) => Mutation::Rename {
            to: FileName {
                domain: file.domain.clone(),
                key: Key::from_escaped(&to_key),
            },
            from: file,
        },
        ("set_class", None, Some(class)) => Mutation::SetClass {
            file,
            class: Class::from_escaped(&class),
        },
        (other, ..) => return Err(corrupt("entries", row, format!("kind {other:?}"))),
    };
    let outcome = match text(12)?.as_deref() {
        None => None,
        Some(word) => Some(
            outcome_of(word).ok_or_else(|| corrupt("entries", row, format!("outcome {word:?}")))?,
        ),
    };
    let entry = Entry {
        seq,
        version: Version(column_of(row, 1)?),
        by,
        mutation,
        outcome,
        lost_at: number(13)?,
    };
    Ok((entry, weight))
}

/// The columns that [`read_entry`] reads; a condition and an order may follow.
pub const SELECT_ENTRIES: &str = r#"SELECT seq, version, "by", kind, domain, key, to_key, fid, class, size, checksum, content, outcome, lost_at FROM entries"#;

/// The word for an outcome in its column.
pub fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Happened => "happened",
        Outcome::DidNotHappen => "did_not_happen",
        Outcome::Doubtful => "doubtful",
        Outcome::Lost => "lost",
    }
}

fn outcome_of(text: &str) -> Option<Outcome> {
    [
        Outcome::Happened,
        Outcome::DidNotHappen,
        Outcome::Doubtful,
        Outcome::Lost,
    ]
    .into_iter()
    .find(|outcome| word(*outcome) == text)
}

/// Sets an outcome, and for a put what was learned of it.
pub fn set_outcome(
    db: &Connection,
    seq: u64,
    outcome: Outcome,
    lost_at: Option<i64>,
    details: Option<&Details>,
) -> rusqlite::Result<()> {
    match details {
        None => db
            .prepare_cached("UPDATE entries SET outcome = ?2, lost_at = ?3 WHERE seq = ?1")?
            .execute(params![seq as i64, word(outcome), lost_at])?,
        Some(details) => db
            .prepare_cached(
                "UPDATE entries SET outcome = ?2, lost_at = ?3, class = ?4, size = ?5, checksum = ?6 WHERE seq = ?1",
            )?
            .execute(params![
                seq as i64,
                word(outcome),
                lost_at,
                details.class.as_ref().map(Class::escaped),
                details.size.map(|size| size as i64),
                details.checksum.as_ref().map(|checksum| &*checksum.0),
            ])?,
    };
    Ok(())
}

/// Deletes an entry; the files that it touched, if it was there.
pub fn delete_entry(db: &Connection, seq: u64) -> rusqlite::Result<Option<Vec<FileName>>> {
    db.prepare_cached("DELETE FROM entries WHERE seq = ?1 RETURNING domain, key, to_key")?
        .query_row([seq as i64], |row| {
            let domain = Domain::from_escaped(row.get_ref(0)?.as_str()?);
            let mut files = vec![FileName {
                domain: domain.clone(),
                key: Key::from_escaped(row.get_ref(1)?.as_str()?),
            }];
            if let Some(to_key) = row.get_ref(2)?.as_str_or_null()? {
                files.push(FileName {
                    domain,
                    key: Key::from_escaped(to_key),
                });
            }
            Ok(files)
        })
        .optional()
}

/// An announcement as its row will be.
#[derive(Debug)]
pub struct NewAnnouncement {
    pub file: FileName,
    pub version: Version,
    pub change: bool,
    write: String,
}

impl NewAnnouncement {
    pub fn new(announcement: Announcement) -> Result<Self, serde_json::Error> {
        Ok(Self {
            write: serde_json::to_string(&announcement.write)?,
            file: announcement.file,
            version: announcement.version,
            change: announcement.change,
        })
    }

    pub fn weight(&self) -> u32 {
        weigh(&self.file, &[Some(&self.write)])
    }

    pub fn insert(&self, db: &Connection, id: u64, number: Option<u64>) -> rusqlite::Result<()> {
        db.prepare_cached(
            r#"INSERT INTO outbox (id, number, version, domain, key, "write") VALUES (?1, ?2, ?3, ?4, ?5, ?6)"#,
        )?
        .execute(params![
            id as i64,
            number.map(|number| number as i64),
            self.version.0,
            self.file.domain.escaped(),
            self.file.key.escaped(),
            self.write,
        ])?;
        Ok(())
    }
}

/// The columns that [`read_outgoing`] reads; a condition and an order may follow.
pub const SELECT_OUTBOX: &str = r#"SELECT id, number, version, domain, key, "write" FROM outbox"#;

/// Reads a row of [`SELECT_OUTBOX`], and what it counts for.
pub fn read_outgoing(row: &Row<'_>) -> Result<(Outgoing, u32), JournalError> {
    let number: Option<i64> = column_of(row, 1)?;
    let (domain, key): (String, String) = (column_of(row, 3)?, column_of(row, 4)?);
    let write: String = column_of(row, 5)?;
    let file = name(&domain, &key);
    let weight = weigh(&file, &[Some(&write)]);
    let outgoing = Outgoing {
        id: column_of::<i64>(row, 0)? as u64,
        number: number.map(|number| number as u64),
        announcement: Announcement {
            file,
            write: from_json("outbox", row, &write)?,
            version: Version(column_of(row, 2)?),
            change: number.is_some(),
        },
    };
    Ok((outgoing, weight))
}

/// Deletes an announcement; the file that it spoke of and its version, if it was there.
pub fn delete_outgoing(db: &Connection, id: u64) -> rusqlite::Result<Option<(FileName, Version)>> {
    db.prepare_cached("DELETE FROM outbox WHERE id = ?1 RETURNING domain, key, version")?
        .query_row([id as i64], |row| {
            let file = name(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?);
            Ok((file, Version(row.get(2)?)))
        })
        .optional()
}

/// The least number in the outbox. Numbers grow with ids.
pub fn first_number(db: &Connection) -> rusqlite::Result<Option<u64>> {
    let number: Option<i64> = db
        .prepare_cached("SELECT number FROM outbox WHERE number IS NOT NULL ORDER BY id LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(number.map(|number| number as u64))
}

/// Gives the changes in the outbox the numbers 1, 2, 3 … in their order. The last of them.
pub fn renumber(db: &Connection) -> rusqlite::Result<u64> {
    let changes = db.execute(
        "UPDATE outbox SET number = ordered.number
         FROM (SELECT id, row_number() OVER (ORDER BY id) AS number FROM outbox WHERE number IS NOT NULL) AS ordered
         WHERE outbox.id = ordered.id",
        [],
    )?;
    Ok(changes as u64)
}

/// The row of `meta` that [`super::Journal::remember`] writes.
const REMEMBERED: &str = "remembered";

/// Reads what was remembered.
pub fn remembered(db: &Connection) -> rusqlite::Result<Option<String>> {
    db.prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([REMEMBERED], |row| row.get(0))
        .optional()
}

/// Remembers `text` in place of what was remembered before.
pub fn remember(db: &Connection, text: &str) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?
        .execute([REMEMBERED, text])?;
    Ok(())
}

/// Begins another life of the journal.
pub fn set_incarnation(db: &Connection, incarnation: &str) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE meta SET value = ?1 WHERE name = 'incarnation'")?
        .execute([incarnation])?;
    Ok(())
}

/// Makes sure that a file's floor is at least `version`.
pub fn raise_floor(db: &Connection, file: &FileName, version: Version) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO floors (domain, key, version) VALUES (?1, ?2, ?3)
         ON CONFLICT (domain, key) DO UPDATE SET version = max(version, excluded.version)",
    )?
    .execute(params![
        file.domain.escaped(),
        file.key.escaped(),
        version.0
    ])?;
    Ok(())
}

/// Deletes the floors up to `mark`.
pub fn drop_floors(db: &Connection, mark: Version) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM floors WHERE version <= ?1")?
        .execute([mark.0])?;
    Ok(())
}

/// All floors.
pub fn read_floors(db: &Connection) -> rusqlite::Result<Vec<(FileName, Version)>> {
    let mut select = db.prepare("SELECT domain, key, version FROM floors")?;
    let found = select.query_map([], |row| {
        let file = name(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?);
        Ok((file, Version(row.get(2)?)))
    })?;
    found.collect()
}

/// A name as its columns hold it.
pub fn name(domain: &str, key: &str) -> FileName {
    FileName {
        domain: Domain::from_escaped(domain),
        key: Key::from_escaped(key),
    }
}

fn column_of<T: rusqlite::types::FromSql>(row: &Row<'_>, column: usize) -> Result<T, JournalError> {
    row.get(column)
        .map_err(|why| JournalError::Corrupt(format!("{why} in row {}", row_number(row))))
}

fn from_json<T: DeserializeOwned>(
    table: &str,
    row: &Row<'_>,
    json: &str,
) -> Result<T, JournalError> {
    serde_json::from_str(json).map_err(|why| corrupt(table, row, format!("{json:?} ({why})")))
}

fn corrupt(table: &str, row: &Row<'_>, what: String) -> JournalError {
    JournalError::Corrupt(format!("{what} in row {} of {table}", row_number(row)))
}

/// The first column of both tables is the row's number.
fn row_number(row: &Row<'_>) -> String {
    match row.get_ref(0) {
        Ok(value) if value.data_type() == Type::Integer => {
            value.as_i64().unwrap_or_default().to_string()
        }
        _ => "?".to_owned(),
    }
}
