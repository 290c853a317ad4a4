//! Files and uploads: what a fid is, and each step of its life.
//!
//! `open` makes a tempfile; `close` turns it into a file, or into rubbish; `delete` and overwriting
//! make rubbish of a file. Rubbish is a row in `delqueue`, which leaves when the bytes are gone.
//! Each function is called within one transaction, so a file is never in two of these states.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::unix_time;
use crate::tracker::answer::Refusal;
use crate::tracker::checksum::Checksum;
use crate::tracker::paths::{Devid, Fid};

/// An upload that is asked for.
#[derive(Debug)]
pub struct Opening {
    /// A number that the client wants, instead of the next one.
    pub fid: Option<Fid>,
    /// The domain of the request; `create_close` may name another.
    pub dmid: i64,
    /// The key, kept for information.
    pub key: Vec<u8>,
    /// The class, which the file will have.
    pub classid: i64,
    /// The devices that are offered.
    pub devids: Vec<Devid>,
}

/// Registers an upload. `None`: the number that was asked for is in use.
pub fn open(conn: &Connection, opening: &Opening) -> rusqlite::Result<Option<Fid>> {
    let fid = match opening.fid {
        None => next_fid(conn)?,
        Some(fid) => {
            if is_known(conn, fid)? {
                return Ok(None);
            }
            conn.prepare_cached(
                "UPDATE counter SET value = max(value, ?1) WHERE name = 'last_fid'",
            )?
            .execute([fid])?;
            fid
        }
    };
    let devids: Vec<String> = opening.devids.iter().map(ToString::to_string).collect();
    conn.prepare_cached(
        "INSERT INTO tempfile (fid, createtime, classid, dmid, dkey, devids) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![fid, unix_time(), opening.classid, opening.dmid, opening.key, devids.join(",")])?;
    Ok(Some(fid))
}

/// Uses up one number.
pub fn next_fid(conn: &Connection) -> rusqlite::Result<Fid> {
    conn.prepare_cached(
        "UPDATE counter SET value = value + 1 WHERE name = 'last_fid' RETURNING value",
    )?
    .query_row([], |row| row.get(0))
}

/// The greatest number handed out so far.
pub fn last_fid(conn: &Connection) -> rusqlite::Result<Fid> {
    conn.query_row(
        "SELECT value FROM counter WHERE name = 'last_fid'",
        [],
        |row| row.get(0),
    )
}

/// Whether anything is left of this fid, rubbish included: its bytes may still be on a device.
fn is_known(conn: &Connection, fid: Fid) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM tempfile WHERE fid = ?1) OR EXISTS (SELECT 1 FROM file WHERE fid = ?1)
             OR EXISTS (SELECT 1 FROM file_on WHERE fid = ?1) OR EXISTS (SELECT 1 FROM delqueue WHERE fid = ?1)
             OR EXISTS (SELECT 1 FROM replqueue WHERE fid = ?1)",
    )?
    .query_row([fid], |row| row.get(0))
}

/// An upload that is to become a file.
#[derive(Debug)]
pub struct Closing {
    /// The upload.
    pub fid: Fid,
    /// The device that the client says it wrote to.
    pub devid: Devid,
    /// The domain of the file.
    pub dmid: i64,
    /// The key; without one the upload is given up.
    pub key: Option<Vec<u8>>,
    /// What the storage node says: the length of the file, or why it cannot become one.
    pub found: Result<u64, Refusal>,
    /// What the client says about the content.
    pub checksum: Option<Checksum>,
}

/// Ends an upload. Unless it was not open, it is spent, whatever comes out.
pub fn close(conn: &Connection, closing: Closing) -> rusqlite::Result<Result<(), Refusal>> {
    let upload: Option<(i64, String)> = conn
        .prepare_cached("DELETE FROM tempfile WHERE fid = ?1 RETURNING classid, devids")?
        .query_row([closing.fid], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((classid, devids)) = upload else {
        return Ok(Err(Refusal::new("no_temp_file")));
    };
    let verdict = if !devids
        .split(',')
        .any(|offered| offered == closing.devid.to_string())
    {
        Err(Some(Refusal::with_text(
            "invalid_destdev",
            format!(
                "File uploaded to invalid dest {}. Valid devices were: {devids}",
                closing.devid
            ),
        )))
    } else {
        match (closing.key, closing.found) {
            (None, _) => Err(None),
            (Some(_), Err(refusal)) => Err(Some(refusal)),
            // The domain may have been deleted since the request was read.
            (Some(_), Ok(_)) if !domain_exists(conn, closing.dmid)? => {
                Err(Some(Refusal::new("unreg_domain")))
            }
            (Some(key), Ok(length)) => Ok((key, length)),
        }
    };
    let (key, length) = match verdict {
        Ok(file) => file,
        Err(why) => {
            add_copy(conn, closing.fid, closing.devid)?;
            make_rubbish(conn, closing.fid)?;
            return Ok(why.map_or(Ok(()), Err));
        }
    };
    if let Some(old) = find(conn, closing.dmid, &key)? {
        make_rubbish(conn, old.fid)?;
    }
    // So may the class; its files go to the default one, as nothing may belong to a class that is
    // not there.
    let hashtype: Option<Option<i64>> = conn
        .prepare_cached("SELECT hashtype FROM class WHERE dmid = ?1 AND classid = ?2")?
        .query_row([closing.dmid, classid], |row| row.get(0))
        .optional()?;
    let (classid, hashtype) = hashtype.map_or((0, None), |hashtype| (classid, hashtype));
    conn.prepare_cached(
        "INSERT INTO file (fid, dmid, dkey, length, classid, devcount) VALUES (?1, ?2, ?3, ?4, ?5, 1)",
    )?
    .execute(params![closing.fid, closing.dmid, key, i64::try_from(length).unwrap_or(i64::MAX), classid])?;
    add_copy(conn, closing.fid, closing.devid)?;
    if let Some(checksum) = closing.checksum
        && hashtype == Some(checksum.kind.id())
    {
        set_checksum(conn, closing.fid, &checksum)?;
    }
    enqueue_replication(conn, closing.fid)?;
    Ok(Ok(()))
}

fn domain_exists(conn: &Connection, dmid: i64) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM domain WHERE dmid = ?1)")?
        .query_row([dmid], |row| row.get(0))
}

/// Records that a device holds the bytes of a fid.
pub fn add_copy(conn: &Connection, fid: Fid, devid: Devid) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR IGNORE INTO file_on (fid, devid) VALUES (?1, ?2)")?
        .execute(params![fid, devid])?;
    Ok(())
}

/// Counts the copies of a fid again, after they changed.
pub fn count_copies(conn: &Connection, fid: Fid) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE file SET devcount = (SELECT count(*) FROM file_on WHERE fid = ?1) WHERE fid = ?1",
    )?
    .execute([fid])?;
    Ok(())
}

/// Keeps a digest.
pub fn set_checksum(conn: &Connection, fid: Fid, checksum: &Checksum) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO checksum (fid, hashtype, checksum) VALUES (?1, ?2, ?3)",
    )?
    .execute(params![fid, checksum.kind.id(), checksum.digest])?;
    Ok(())
}

/// Takes the name from a fid, and leaves its bytes to the cleaner.
pub fn make_rubbish(conn: &Connection, fid: Fid) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM file WHERE fid = ?1")?
        .execute([fid])?;
    conn.prepare_cached("DELETE FROM tempfile WHERE fid = ?1")?
        .execute([fid])?;
    conn.prepare_cached("DELETE FROM checksum WHERE fid = ?1")?
        .execute([fid])?;
    conn.prepare_cached("INSERT OR IGNORE INTO delqueue (fid, nexttry) VALUES (?1, ?2)")?
        .execute([fid, unix_time()])?;
    Ok(())
}

/// Asks for a look at whether a fid has copies enough.
pub fn enqueue_replication(conn: &Connection, fid: Fid) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR IGNORE INTO replqueue (fid, nexttry) VALUES (?1, 0)")?
        .execute([fid])?;
    Ok(())
}

/// Makes everything due that waits for its next try at replication; says how many.
pub fn retry_replication(conn: &Connection) -> rusqlite::Result<usize> {
    conn.execute(
        "UPDATE replqueue SET nexttry = ?1 WHERE nexttry > ?1",
        [unix_time()],
    )
}

/// A file with the names of its domain and class.
#[derive(Debug, Clone)]
pub struct File {
    /// Its number.
    pub fid: Fid,
    /// The number of its domain.
    pub dmid: i64,
    /// Its key.
    pub key: Vec<u8>,
    /// Its length in bytes.
    pub length: i64,
    /// The number of its class within the domain.
    pub classid: i64,
    /// How many devices hold it.
    pub devcount: i64,
    /// The name of its domain.
    pub domain: Vec<u8>,
    /// The name of its class.
    pub class: Vec<u8>,
    /// The kind of digest that its class keeps, by number.
    pub hashtype: Option<i64>,
    /// How many copies its class wants.
    pub mindevcount: i64,
}

const FILE: &str = "
    SELECT f.fid, f.dmid, f.dkey, f.length, f.classid, f.devcount, d.namespace,
           coalesce(c.classname, CAST('default' AS BLOB)), c.hashtype, c.mindevcount
    FROM file f JOIN domain d USING (dmid) LEFT JOIN class c ON c.dmid = f.dmid AND c.classid = f.classid ";

fn file_of(row: &Row<'_>) -> rusqlite::Result<File> {
    Ok(File {
        fid: row.get(0)?,
        dmid: row.get(1)?,
        key: row.get(2)?,
        length: row.get(3)?,
        classid: row.get(4)?,
        devcount: row.get(5)?,
        domain: row.get(6)?,
        class: row.get(7)?,
        hashtype: row.get(8)?,
        mindevcount: row
            .get::<_, Option<i64>>(9)?
            .unwrap_or(super::topology::DEFAULT_MINDEVCOUNT),
    })
}

/// The file under a key.
pub fn find(conn: &Connection, dmid: i64, key: &[u8]) -> rusqlite::Result<Option<File>> {
    conn.prepare_cached(&format!("{FILE} WHERE f.dmid = ?1 AND f.dkey = ?2"))?
        .query_row(params![dmid, key], file_of)
        .optional()
}

/// The file that a fid is, if it is one.
pub fn find_fid(conn: &Connection, fid: Fid) -> rusqlite::Result<Option<File>> {
    conn.prepare_cached(&format!("{FILE} WHERE f.fid = ?1"))?
        .query_row([fid], file_of)
        .optional()
}

/// Living files in the order of their numbers, beginning after `after`.
pub fn list_after(conn: &Connection, after: Fid, count: i64) -> rusqlite::Result<Vec<File>> {
    conn.prepare_cached(&format!("{FILE} WHERE f.fid > ?1 ORDER BY f.fid LIMIT ?2"))?
        .query_map([after, count], file_of)?
        .collect()
}

/// The devices that hold a fid.
pub fn devices_of(conn: &Connection, fid: Fid) -> rusqlite::Result<Vec<Devid>> {
    conn.prepare_cached("SELECT devid FROM file_on WHERE fid = ?1 ORDER BY devid")?
        .query_map([fid], |row| row.get(0))?
        .collect()
}

/// The digest that is kept of a fid.
pub fn checksum_of(conn: &Connection, fid: Fid) -> rusqlite::Result<Option<Checksum>> {
    let found: Option<(i64, Vec<u8>)> = conn
        .prepare_cached("SELECT hashtype, checksum FROM checksum WHERE fid = ?1")?
        .query_row([fid], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(found.and_then(|(kind, digest)| Checksum::from_row(kind, digest)))
}

/// Keys that begin with `prefix` and are greater than `after`, in the order of their bytes.
pub fn list_keys(
    conn: &Connection,
    dmid: i64,
    prefix: &[u8],
    after: &[u8],
    limit: i64,
) -> rusqlite::Result<Vec<Vec<u8>>> {
    let take = |row: &Row<'_>| row.get(0);
    match end_of_prefix(prefix) {
        None => conn
            .prepare_cached("SELECT dkey FROM file WHERE dmid = ?1 AND dkey >= ?2 AND dkey > ?3 ORDER BY dkey LIMIT ?4")?
            .query_map(params![dmid, prefix, after, limit], take)?
            .collect(),
        Some(end) => conn
            .prepare_cached(
                "SELECT dkey FROM file WHERE dmid = ?1 AND dkey >= ?2 AND dkey > ?3 AND dkey < ?5
                 ORDER BY dkey LIMIT ?4",
            )?
            .query_map(params![dmid, prefix, after, limit, end], take)?
            .collect(),
    }
}

/// The least byte string that is greater than all that begin with `prefix`; none if there is none.
fn end_of_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Gives a file another key.
pub fn rename(
    conn: &Connection,
    dmid: i64,
    from: &[u8],
    to: &[u8],
) -> rusqlite::Result<Result<(), Refusal>> {
    let Some(file) = find(conn, dmid, from)? else {
        return Ok(Err(Refusal::new("unknown_key")));
    };
    if from == to {
        return Ok(Ok(()));
    }
    if find(conn, dmid, to)?.is_some() {
        return Ok(Err(Refusal::new("key_exists")));
    }
    conn.prepare_cached("UPDATE file SET dkey = ?1 WHERE fid = ?2")?
        .execute(params![to, file.fid])?;
    Ok(Ok(()))
}

/// Deletes the file under a key.
pub fn delete(conn: &Connection, dmid: i64, key: &[u8]) -> rusqlite::Result<Result<(), Refusal>> {
    match find(conn, dmid, key)? {
        None => Ok(Err(Refusal::new("unknown_key"))),
        Some(file) => {
            make_rubbish(conn, file.fid)?;
            Ok(Ok(()))
        }
    }
}

/// Moves a file to another class of its domain.
pub fn set_class(
    conn: &Connection,
    dmid: i64,
    key: &[u8],
    classid: i64,
) -> rusqlite::Result<Result<(), Refusal>> {
    let class_exists: bool = classid == 0
        || conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM class WHERE dmid = ?1 AND classid = ?2)")?
            .query_row([dmid, classid], |row| row.get(0))?;
    if !class_exists {
        return Ok(Err(Refusal::new("class_not_found")));
    }
    let Some(file) = find(conn, dmid, key)? else {
        return Ok(Err(Refusal::new("invalid_key")));
    };
    if devices_of(conn, file.fid)?.is_empty() {
        return Ok(Err(Refusal::new("no_devices")));
    }
    if file.classid != classid {
        conn.prepare_cached("UPDATE file SET classid = ?1 WHERE fid = ?2")?
            .execute([classid, file.fid])?;
        enqueue_replication(conn, file.fid)?;
    }
    Ok(Ok(()))
}

/// A row of one of the queues, as `file_debug` shows it: column names and values.
pub type DebugRow = Vec<(&'static str, Vec<u8>)>;

/// The rows of `tempfile`, `replqueue` and `delqueue` for a fid.
pub fn debug_rows(conn: &Connection, fid: Fid) -> rusqlite::Result<Vec<DebugRow>> {
    const TABLES: [(&str, &[&str]); 3] = [
        (
            "SELECT classid, dmid, dkey, CAST(devids AS BLOB) FROM tempfile WHERE fid = ?1",
            &[
                "tempfile_classid",
                "tempfile_dmid",
                "tempfile_dkey",
                "tempfile_devids",
            ],
        ),
        (
            "SELECT fid, nexttry, fromdevid, failcount, flags FROM replqueue WHERE fid = ?1",
            &[
                "replqueue_fid",
                "replqueue_nexttry",
                "replqueue_fromdevid",
                "replqueue_failcount",
                "replqueue_flags",
            ],
        ),
        (
            "SELECT fid, nexttry, failcount FROM delqueue WHERE fid = ?1",
            &["delqueue_fid", "delqueue_nexttry", "delqueue_failcount"],
        ),
    ];
    let mut rows = Vec::new();
    for (query, columns) in TABLES {
        let row = conn
            .prepare_cached(query)?
            .query_row([fid], |row| {
                columns
                    .iter()
                    .enumerate()
                    .map(|(at, &name)| Ok((name, as_bytes(row, at)?)))
                    .collect()
            })
            .optional()?;
        rows.extend::<Option<DebugRow>>(row);
    }
    Ok(rows)
}

fn as_bytes(row: &Row<'_>, at: usize) -> rusqlite::Result<Vec<u8>> {
    use rusqlite::types::ValueRef;
    Ok(match row.get_ref(at)? {
        ValueRef::Null => Vec::new(),
        ValueRef::Integer(number) => number.to_string().into_bytes(),
        ValueRef::Real(number) => number.to_string().into_bytes(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_just_past_it() {
        assert_eq!(end_of_prefix(b"ab").as_deref(), Some(&b"ac"[..]));
        assert_eq!(end_of_prefix(b"a\xff\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(end_of_prefix(b"\xff"), None);
        assert_eq!(end_of_prefix(b""), None);
    }
}
