//! What a write does inside the writer's transaction: read the timestamp, keep the later value.
//!
//! Always true: a cell that cannot be read is still replaced by a later one, so a bad row heals by being written.

use rusqlite::{Connection, OptionalExtension, ToSql, params, params_from_iter};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::file::token;
use super::{Fault, read};
use crate::file::{Cell, Datacenter, FileName};
use crate::ledger::{Change, Expected, FileRecord, FileWrite, Gap};
use crate::version::{Version, wall_clock};

/// Sets cells of one file, each by itself.
pub(super) fn cells(sql: &Connection, file: &FileName, write: &FileWrite) -> Result<(), Fault> {
    if *write == FileWrite::default() {
        return Ok(());
    }
    let (token, domain, key) = (token(file), file.domain.escaped(), file.key.escaped());
    // The row is there for scans even if all that is known is a replica.
    sql.prepare_cached("INSERT OR IGNORE INTO files (token, domain, key) VALUES (?1, ?2, ?3)")?
        .execute(params![token, domain, key])?;
    if let Some(head) = &write.head {
        let cell = Place {
            name: || format!("files, head of {file}"),
            select: "SELECT head_version, head FROM files WHERE token = ? AND domain = ? AND key = ?",
            set: "UPDATE files SET head_version = ?, head = ? WHERE token = ? AND domain = ? AND key = ?",
        };
        cell.put(sql, &[&token, &domain, &key], head)?;
    }
    if let Some(class) = &write.class {
        let cell = Place {
            name: || format!("files, class_cell of {file}"),
            select: "SELECT class_version, class_cell FROM files WHERE token = ? AND domain = ? AND key = ?",
            set: "UPDATE files SET class_version = ?, class_cell = ? WHERE token = ? AND domain = ? AND key = ?",
        };
        cell.put(sql, &[&token, &domain, &key], class)?;
    }
    if let Some((datacenter, replica)) = &write.replica {
        let cell = Place {
            name: || format!("replicas, {datacenter} of {file}"),
            select: "SELECT since, replica FROM replicas
                WHERE token = ? AND domain = ? AND key = ? AND datacenter = ?",
            set: "INSERT OR REPLACE INTO replicas (since, replica, token, domain, key, datacenter)
                VALUES (?, ?, ?, ?, ?, ?)",
        };
        let key: [&dyn ToSql; 4] = [&token, &domain, &key, &datacenter.as_str()];
        cell.put(sql, &key, replica)?;
    }
    Ok(())
}

/// Removes cells of one file that have these timestamps, and the row when nothing is left of it.
pub(super) fn forget(sql: &Connection, file: &FileName, record: &FileRecord) -> Result<(), Fault> {
    let (token, domain, key) = (token(file), file.domain.escaped(), file.key.escaped());
    for (datacenter, replica) in &record.replicas {
        sql.prepare_cached(
            "DELETE FROM replicas
                WHERE token = ? AND domain = ? AND key = ? AND datacenter = ? AND since = ?",
        )?
        .execute(params![
            token,
            domain,
            key,
            datacenter.as_str(),
            replica.since.0
        ])?;
    }
    if let Some(class) = &record.class_cell {
        sql.prepare_cached(
            "UPDATE files SET class_version = NULL, class_cell = NULL
                WHERE token = ? AND domain = ? AND key = ? AND class_version = ?",
        )?
        .execute(params![token, domain, key, class.version.0])?;
    }
    if let Some(head) = &record.head {
        sql.prepare_cached(
            "UPDATE files SET head_version = NULL, head = NULL
                WHERE token = ? AND domain = ? AND key = ? AND head_version = ?",
        )?
        .execute(params![token, domain, key, head.version.0])?;
    }
    sql.prepare_cached(
        "DELETE FROM files WHERE token = ?1 AND domain = ?2 AND key = ?3 AND head IS NULL AND class_cell IS NULL
            AND NOT EXISTS (SELECT 1 FROM replicas WHERE token = ?1 AND domain = ?2 AND key = ?3)",
    )?
    .execute(params![token, domain, key])?;
    Ok(())
}

/// Adds an entry to a stream.
pub(super) fn change(sql: &Connection, stream: &str, change: &Change) -> Result<(), Fault> {
    let number = i64::try_from(change.number)
        .map_err(|_| Fault::Unreadable(format!("changes, {stream} {}", change.number)))?;
    let file = change.file.as_ref();
    let row = params![
        stream,
        number,
        file.map(|f| f.domain.escaped()),
        file.map(|f| f.key.escaped()),
        change.version.0,
        change.about.word(),
    ];
    let added = sql
        .prepare_cached("INSERT OR IGNORE INTO changes (stream, number, domain, key, version, about) VALUES (?, ?, ?, ?, ?, ?)")?
        .execute(row)?;
    if added == 0
        && let Some(held) = read::changes(sql, stream, change.number.saturating_sub(1), 1)?.first()
        && change.wins_over(held)
    {
        sql.prepare_cached("INSERT OR REPLACE INTO changes (stream, number, domain, key, version, about) VALUES (?, ?, ?, ?, ?, ?)")?
            .execute(row)?;
    }
    Ok(())
}

/// Sets a gap, unless a later word of it is there, or it was cleared at the same time or later.
pub(super) fn set_gap(sql: &Connection, datacenter: &Datacenter, gap: &Gap) -> Result<(), Fault> {
    let stays = match read::gap(sql, datacenter, &gap.file)? {
        None => false,
        Some(read::HeldGap::Cleared(at)) => at >= gap.observed,
        Some(read::HeldGap::Open(held)) => !gap.wins_over(&held),
    };
    if !stays {
        put_gap(sql, datacenter, gap, None)?;
    }
    Ok(())
}

/// Clears a gap, unless a later word of it is there. Leaves a mark, for words that are still under way.
pub(super) fn clear_gap(
    sql: &Connection,
    datacenter: &Datacenter,
    file: &FileName,
    observed: Version,
) -> Result<(), Fault> {
    let stays = match read::gap(sql, datacenter, file)? {
        None => false,
        Some(read::HeldGap::Cleared(at)) => at >= observed,
        Some(read::HeldGap::Open(held)) => held.observed > observed,
    };
    if !stays {
        let nothing = Gap {
            file: file.clone(),
            since: observed,
            attempts: 0,
            last_error: String::new(),
            next_try: observed,
            observed,
            expected: Expected::default(),
        };
        put_gap(sql, datacenter, &nothing, Some(wall_clock()))?;
    }
    Ok(())
}

fn put_gap(
    sql: &Connection,
    datacenter: &Datacenter,
    gap: &Gap,
    cleared_at: Option<Version>,
) -> Result<(), Fault> {
    sql.prepare_cached(
        "INSERT OR REPLACE INTO gaps
            (datacenter, domain, key, observed, cleared_at, since, attempts, last_error, next_try, expected_head, expected_class)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        datacenter.as_str(),
        gap.file.domain.escaped(),
        gap.file.key.escaped(),
        gap.observed.0,
        cleared_at.map(|at| at.0),
        gap.since.0,
        gap.attempts,
        gap.last_error,
        gap.next_try.0,
        gap.expected.head.map(|version| version.0),
        gap.expected.class.map(|version| version.0),
    ])?;
    Ok(())
}

/// Forgets up to `most` gaps that were cleared before `before`; how many it were.
pub(super) fn forget_cleared_gaps(
    sql: &Connection,
    before: Version,
    most: usize,
) -> rusqlite::Result<usize> {
    sql.prepare_cached(
        "DELETE FROM gaps WHERE (datacenter, domain, key) IN
            (SELECT datacenter, domain, key FROM gaps WHERE cleared_at < ?1 LIMIT ?2)",
    )?
    .execute(params![before.0, most as i64])
}

/// A table of whole rows: its key, when it was said, and what.
pub(super) struct RowTable {
    name: &'static str,
    select: &'static str,
    set: &'static str,
}

pub(super) const NODES: RowTable = RowTable {
    name: "nodes",
    select: "SELECT heartbeat, record FROM nodes WHERE datacenter = ? AND node = ? AND incarnation = ?",
    set: "INSERT OR REPLACE INTO nodes (heartbeat, record, datacenter, node, incarnation) VALUES (?, ?, ?, ?, ?)",
};

pub(super) const DATACENTERS: RowTable = RowTable {
    name: "datacenters",
    select: "SELECT updated, record FROM datacenters WHERE name = ?",
    set: "INSERT OR REPLACE INTO datacenters (updated, record, name) VALUES (?, ?, ?)",
};

pub(super) const MEMBERSHIPS: RowTable = RowTable {
    name: "memberships",
    select: "SELECT updated, record FROM memberships WHERE name = ?",
    set: "INSERT OR REPLACE INTO memberships (updated, record, name) VALUES (?, ?, ?)",
};

pub(super) const PLACEMENTS: RowTable = RowTable {
    name: "placements",
    select: "SELECT updated, record FROM placements WHERE domain = ? AND class_name = ?",
    set: "INSERT OR REPLACE INTO placements (updated, record, domain, class_name) VALUES (?, ?, ?, ?)",
};

pub(super) const CURSORS: RowTable = RowTable {
    name: "cursors",
    select: "SELECT updated, record FROM cursors WHERE datacenter = ? AND name = ?",
    set: "INSERT OR REPLACE INTO cursors (updated, record, datacenter, name) VALUES (?, ?, ?, ?)",
};

/// Replaces a row by a later one.
pub(super) fn row<T: Cell + Serialize + DeserializeOwned>(
    sql: &Connection,
    table: &RowTable,
    key: &[&str],
    row: &T,
) -> Result<(), Fault> {
    let place = Place {
        name: || format!("{}, {}", table.name, key.join(" ")),
        select: table.select,
        set: table.set,
    };
    let key: Vec<&dyn ToSql> = key.iter().map(|part| part as &dyn ToSql).collect();
    place.put(sql, &key, row)
}

/// Where one cell lives: how it is read by its key, and set by timestamp, value and key.
struct Place<N: Fn() -> String> {
    name: N,
    select: &'static str,
    set: &'static str,
}

impl<N: Fn() -> String> Place<N> {
    fn put<T: Cell + Serialize + DeserializeOwned>(
        &self,
        sql: &Connection,
        key: &[&dyn ToSql],
        cell: &T,
    ) -> Result<(), Fault> {
        let at = cell.written_at().0;
        let value = serde_json::to_string(cell)
            .map_err(|why| Fault::Unreadable(format!("{}: {why}", (self.name)())))?;
        let held: Option<(Option<i64>, Option<String>)> = sql
            .prepare_cached(self.select)?
            .query_row(params_from_iter(key), |r| Ok((r.get(0)?, r.get(1)?)))
            .optional()?;
        let wins = match held {
            Some((Some(held_at), Some(_))) if held_at != at => at > held_at,
            Some((Some(_), Some(held))) if held == value => false,
            Some((Some(_), Some(held))) => cell.wins_over(&read::decode(&held, &self.name)?),
            _ => true,
        };
        if wins {
            let (at, value): (&dyn ToSql, &dyn ToSql) = (&at, &value);
            let values = [at, value].into_iter().chain(key.iter().copied());
            sql.prepare_cached(self.set)?
                .execute(params_from_iter(values))?;
        }
        Ok(())
    }
}
