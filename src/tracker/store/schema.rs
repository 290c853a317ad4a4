//! The tables, and how a database file is made and recognised.
//!
//! Names, keys and everything else that clients send are BLOBs: bytes are stored as they came and
//! compared as bytes. Column names are those of the protocol where `file_debug` shows them.

use std::path::Path;

use rusqlite::Connection;

use super::StoreError;

/// The format of the file, kept in `user_version`. Zero is a file without tables.
pub const FORMAT: i64 = 1;

/// What `server_setting key=schema_version` answers on a tracker of version 2.73.
const SCHEMA_VERSION: &[u8] = b"17";

const TABLES: &str = "
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counter VALUES ('last_fid', 0);

-- Ids of domains, classes and hosts are never used again, so nothing that was left behind can
-- come to mean something else.
CREATE TABLE domain (
    dmid INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace BLOB NOT NULL UNIQUE,
    last_classid INTEGER NOT NULL DEFAULT 0);
CREATE TABLE class (
    dmid INTEGER NOT NULL,
    classid INTEGER NOT NULL,
    classname BLOB NOT NULL,
    mindevcount INTEGER NOT NULL,
    hashtype INTEGER,
    replpolicy BLOB NOT NULL DEFAULT x'',
    PRIMARY KEY (dmid, classid),
    UNIQUE (dmid, classname)) WITHOUT ROWID;

CREATE TABLE file (
    fid INTEGER PRIMARY KEY,
    dmid INTEGER NOT NULL,
    dkey BLOB NOT NULL,
    length INTEGER NOT NULL,
    classid INTEGER NOT NULL,
    devcount INTEGER NOT NULL);
CREATE UNIQUE INDEX file_by_key ON file (dmid, dkey);
CREATE TABLE tempfile (
    fid INTEGER PRIMARY KEY,
    createtime INTEGER NOT NULL,
    classid INTEGER NOT NULL,
    dmid INTEGER NOT NULL,
    dkey BLOB NOT NULL,
    devids TEXT NOT NULL);
CREATE INDEX tempfile_by_age ON tempfile (createtime);
CREATE TABLE file_on (
    fid INTEGER NOT NULL,
    devid INTEGER NOT NULL,
    PRIMARY KEY (fid, devid)) WITHOUT ROWID;
CREATE INDEX file_on_by_device ON file_on (devid);
CREATE TABLE checksum (
    fid INTEGER PRIMARY KEY,
    hashtype INTEGER NOT NULL,
    checksum BLOB NOT NULL);

-- Fids whose bytes are to be removed, and fids that may need more copies.
CREATE TABLE delqueue (
    fid INTEGER PRIMARY KEY,
    nexttry INTEGER NOT NULL,
    failcount INTEGER NOT NULL DEFAULT 0);
CREATE INDEX delqueue_due ON delqueue (nexttry);
CREATE TABLE replqueue (
    fid INTEGER PRIMARY KEY,
    nexttry INTEGER NOT NULL,
    fromdevid INTEGER,
    failcount INTEGER NOT NULL DEFAULT 0,
    flags INTEGER NOT NULL DEFAULT 0);
CREATE INDEX replqueue_due ON replqueue (nexttry);

CREATE TABLE host (
    hostid INTEGER PRIMARY KEY AUTOINCREMENT,
    hostname BLOB NOT NULL UNIQUE,
    status TEXT NOT NULL,
    hostip BLOB NOT NULL,
    http_port BLOB NOT NULL DEFAULT x'',
    http_get_port BLOB NOT NULL DEFAULT x'',
    altip BLOB NOT NULL DEFAULT x'',
    altmask BLOB NOT NULL DEFAULT x'');
CREATE TABLE device (
    devid INTEGER PRIMARY KEY,
    hostid INTEGER NOT NULL,
    status TEXT NOT NULL,
    weight INTEGER NOT NULL DEFAULT 100);

CREATE TABLE setting (field BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
";

/// Makes the tables in a new file; refuses a file that a later version made.
pub fn prepare(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let found: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match found {
        FORMAT => Ok(()),
        0 => {
            let tx = conn.unchecked_transaction()?;
            tx.execute_batch(TABLES)?;
            tx.execute(
                "INSERT INTO setting VALUES (?1, ?2)",
                (&b"schema_version"[..], SCHEMA_VERSION),
            )?;
            tx.pragma_update(None, "user_version", FORMAT)?;
            tx.commit()?;
            Ok(())
        }
        found => Err(StoreError::Format {
            path: path.to_owned(),
            found,
        }),
    }
}
