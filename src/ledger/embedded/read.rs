//! What a read does: one short transaction, never more than a page.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::de::DeserializeOwned;

use super::Fault;
use super::file::token;
use crate::file::{Datacenter, Domain, FileName, Key};
use crate::ledger::{
    About, Change, Cursor, Expected, FileRecord, Gap, Page, TokenRange, Unreadable,
};
use crate::version::Version;

/// A page ends early when its text reaches this: keys may be 60,000 bytes long.
const PAGE_BYTES: usize = 4 << 20;

/// A value as JSON; `name` says which.
pub(super) fn decode<T: DeserializeOwned>(
    text: &str,
    name: impl Fn() -> String,
) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|why| Fault::Unreadable(format!("{}: {why}", name())))
}

fn file_name(domain: &str, key: &str) -> FileName {
    FileName {
        domain: Domain::from_escaped(domain),
        key: Key::from_escaped(key),
    }
}

/// One file.
pub(super) fn record(sql: &Connection, file: &FileName) -> Result<FileRecord, Fault> {
    let reading = sql.unchecked_transaction()?;
    let cells = reading
        .prepare_cached(
            "SELECT head, class_cell FROM files WHERE token = ? AND domain = ? AND key = ?",
        )?
        .query_row(
            params![token(file), file.domain.escaped(), file.key.escaped()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    match cells {
        Some((head, class)) => whole_record(&reading, file, head, class),
        None => Ok(FileRecord::default()),
    }
}

fn whole_record(
    sql: &Connection,
    file: &FileName,
    head: Option<String>,
    class: Option<String>,
) -> Result<FileRecord, Fault> {
    let mut record = FileRecord::default();
    if let Some(head) = head {
        record.head = Some(decode(&head, || format!("files, head of {file}"))?);
    }
    if let Some(class) = class {
        record.class_cell = Some(decode(&class, || format!("files, class_cell of {file}"))?);
    }
    let mut replicas = sql.prepare_cached(
        "SELECT datacenter, replica FROM replicas WHERE token = ? AND domain = ? AND key = ?",
    )?;
    let mut rows = replicas.query(params![
        token(file),
        file.domain.escaped(),
        file.key.escaped()
    ])?;
    while let Some(row) = rows.next()? {
        let (name, replica): (String, String) = (row.get(0)?, row.get(1)?);
        let place = || format!("replicas, {name} of {file}");
        let datacenter: Datacenter = name
            .parse()
            .map_err(|why| Fault::Unreadable(format!("{}: {why}", place())))?;
        record.replicas.insert(datacenter, decode(&replica, place)?);
    }
    Ok(record)
}

/// After which file a page begins. As text: token, domain and key with blanks between, which escaped names
/// never contain.
pub(super) struct Position {
    token: i64,
    domain: String,
    key: String,
}

impl Position {
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        let mut parts = text.split(' ');
        let parsed = (|| {
            let position = Position {
                token: parts.next()?.parse().ok()?,
                domain: parts.next()?.to_owned(),
                key: parts.next()?.to_owned(),
            };
            parts.next().is_none().then_some(position)
        })();
        parsed.ok_or_else(|| {
            let start: String = text.chars().take(80).collect();
            Fault::Unreadable(format!("{start:?} is no position of a scan in this ledger"))
        })
    }
}

/// One page of a scan.
pub(super) fn page(
    sql: &Connection,
    range: TokenRange,
    from: Option<Position>,
    limit: usize,
) -> Result<Page, Fault> {
    let reading = sql.unchecked_transaction()?;
    let from = from.filter(|from| from.token >= range.first);
    let begins = from.is_none();
    // Nothing sorts before the empty name: the beginning of a range is a position too, itself included.
    let limit = limit.max(1);
    let after = from.unwrap_or(Position {
        token: range.first,
        domain: String::new(),
        key: String::new(),
    });
    let mut files = reading.prepare_cached(if begins {
        "SELECT token, domain, key, head, class_cell FROM files
            WHERE (token, domain, key) >= (?1, ?2, ?3) AND token <= ?4 ORDER BY token, domain, key LIMIT ?5"
    } else {
        "SELECT token, domain, key, head, class_cell FROM files
            WHERE (token, domain, key) > (?1, ?2, ?3) AND token <= ?4 ORDER BY token, domain, key LIMIT ?5"
    })?;
    let mut rows = files.query(params![
        after.token,
        after.domain,
        after.key,
        range.last,
        limit as i64
    ])?;
    let mut page = Page::default();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let token: i64 = row.get(0)?;
        let (domain, key): (String, String) = (row.get(1)?, row.get(2)?);
        let (head, class): (Option<String>, Option<String>) = (row.get(3)?, row.get(4)?);
        let texts = [head.as_deref(), class.as_deref(), Some(&domain), Some(&key)];
        bytes += texts.iter().flatten().map(|text| text.len()).sum::<usize>();
        let file = file_name(&domain, &key);
        page.reached = Some(token);
        match whole_record(&reading, &file, head, class) {
            Ok(record) => page.files.push((file, record)),
            Err(Fault::Unreadable(why)) => page.unreadable.push(Unreadable {
                file: Some(file),
                why,
            }),
            Err(fault) => return Err(fault),
        }
        if page.files.len() + page.unreadable.len() == limit || bytes >= PAGE_BYTES {
            page.next = Some(format!("{token} {domain} {key}"));
            break;
        }
    }
    Ok(page)
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

/// Entries of a stream.
pub(super) fn changes(
    sql: &Connection,
    stream: &str,
    after: u64,
    limit: usize,
) -> Result<Vec<Change>, Fault> {
    let mut statement = sql.prepare_cached(
        "SELECT number, domain, key, version, about FROM changes
            WHERE stream = ? AND number > ? ORDER BY number LIMIT ?",
    )?;
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![stream, after, limit as i64])?;
    let mut changes = Vec::new();
    while let Some(row) = rows.next()? {
        let number = unsigned(row, 0)?;
        let (domain, key): (Option<String>, Option<String>) = (row.get(1)?, row.get(2)?);
        let about: String = row.get(4)?;
        let known = [About::Head, About::Class]
            .into_iter()
            .find(|word| word.word() == about);
        // A hole to its readers, who scan all files instead.
        let Some(about) = known else {
            tracing::debug!("changes, {stream} {number}: about is {about:?}");
            continue;
        };
        changes.push(Change {
            number,
            file: domain.zip(key).map(|(d, k)| file_name(&d, &k)),
            version: Version(row.get(3)?),
            about,
        });
    }
    Ok(changes)
}

/// What is kept of a gap.
pub(super) enum HeldGap {
    Open(Gap),
    Cleared(Version),
}

impl HeldGap {
    pub(super) fn open(self) -> Option<Gap> {
        match self {
            HeldGap::Open(gap) => Some(gap),
            HeldGap::Cleared(_) => None,
        }
    }
}

fn gap_of(row: &Row<'_>) -> rusqlite::Result<Gap> {
    let (domain, key): (String, String) = (row.get(0)?, row.get(1)?);
    Ok(Gap {
        file: file_name(&domain, &key),
        observed: Version(row.get(2)?),
        since: Version(row.get(3)?),
        attempts: row.get(4)?,
        last_error: row.get(5)?,
        next_try: Version(row.get(6)?),
        expected: Expected {
            head_by: None,
            head: row.get::<_, Option<i64>>(7)?.map(Version),
            class: row.get::<_, Option<i64>>(8)?.map(Version),
        },
    })
}

/// One gap, open or cleared.
pub(super) fn gap(
    sql: &Connection,
    datacenter: &Datacenter,
    file: &FileName,
) -> Result<Option<HeldGap>, Fault> {
    let held = sql
        .prepare_cached(
            "SELECT domain, key, observed, since, attempts, last_error, next_try,
                expected_head, expected_class, cleared_at FROM gaps
                WHERE datacenter = ? AND domain = ? AND key = ?",
        )?
        .query_row(
            params![
                datacenter.as_str(),
                file.domain.escaped(),
                file.key.escaped()
            ],
            |row| {
                let gap = gap_of(row)?;
                Ok(match row.get::<_, Option<i64>>(9)? {
                    Some(_) => HeldGap::Cleared(gap.observed),
                    None => HeldGap::Open(gap),
                })
            },
        )
        .optional()?;
    Ok(held)
}

/// Gaps to be tried, the one that waits longest first.
pub(super) fn due_gaps(
    sql: &Connection,
    datacenter: &Datacenter,
    due: Version,
    limit: usize,
) -> Result<Vec<Gap>, Fault> {
    let mut statement = sql.prepare_cached(
        "SELECT domain, key, observed, since, attempts, last_error, next_try,
            expected_head, expected_class FROM gaps INDEXED BY gaps_due
            WHERE datacenter = ? AND cleared_at IS NULL AND next_try <= ? ORDER BY next_try LIMIT ?",
    )?;
    let rows = statement.query_map(params![datacenter.as_str(), due.0, limit as i64], gap_of)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How many gaps are open: entries of the index, not rows.
pub(super) fn count_gaps(sql: &Connection, datacenter: &Datacenter) -> Result<u64, Fault> {
    let count = sql
        .prepare_cached(
            "SELECT count(*) FROM gaps INDEXED BY gaps_due WHERE datacenter = ? AND cleared_at IS NULL",
        )?
        .query_row([datacenter.as_str()], |row| unsigned(row, 0))?;
    Ok(count)
}

/// The least `since` of those that are open: the first entry of an index.
pub(super) fn oldest_gap(
    sql: &Connection,
    datacenter: &Datacenter,
) -> Result<Option<Version>, Fault> {
    // One that cannot be read has no age.
    let oldest = sql
        .prepare_cached(
            "SELECT min(since) FROM gaps WHERE datacenter = ? AND cleared_at IS NULL AND since > 0",
        )?
        .query_row([datacenter.as_str()], |row| row.get::<_, Option<i64>>(0))?;
    Ok(oldest.map(Version))
}

/// All of a table of whole rows. `table` and `order` are words of this program, never input.
pub(super) fn rows<T: DeserializeOwned>(
    sql: &Connection,
    table: &'static str,
    order: &'static str,
) -> Result<Vec<T>, Fault> {
    let mut statement = sql.prepare_cached(&format!(
        "SELECT record, {order} FROM {table} ORDER BY {order}"
    ))?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let record: String = row.get(0)?;
        let key = (1..columns).map(|column| row.get(column));
        let key: Vec<String> = key.collect::<Result<_, _>>()?;
        all.push(decode(&record, || format!("{table}, {}", key.join(" ")))?);
    }
    Ok(all)
}

/// One cursor.
pub(super) fn cursor(
    sql: &Connection,
    datacenter: &Datacenter,
    name: &str,
) -> Result<Option<Cursor>, Fault> {
    sql.prepare_cached("SELECT record FROM cursors WHERE datacenter = ? AND name = ?")?
        .query_row([datacenter.as_str(), name], |row| row.get::<_, String>(0))
        .optional()?
        .map(|text| decode(&text, || format!("cursors, {datacenter} {name}")))
        .transpose()
}
