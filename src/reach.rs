//! Whether what a configuration names can be reached from this machine: its ledger, and its trackers.
//!
//! Owns nothing, and remembers nothing. Always true: nothing is made or changed, here or there. A tracker gets one `noop`; a cluster
//! is asked what it is and what it holds; an SQLite file is read without its being locked for anybody. So it is safe beside a
//! running process. Each look has a time limit, and all go on at once.
//! Never here: what is wrong with the configuration by itself ([`config::load`](crate::config::load) says that).

use std::path::{Path, PathBuf};
use std::time::Duration;

use mogilefs_protocol::client::{Client, ClientError, Timeouts};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use rustix::fs::{Access, access};

use crate::config::{CassandraConfig, Config, LedgerConfig};
use crate::ledger::cassandra::CassandraLedger;
use crate::ledger::embedded::{OpenError, SCHEMA};
use crate::ledger::{DatacenterRecord, Ledger};
use crate::split;
use crate::trackers::{Trackers, chain};

/// A tracker on the next rack answers a `noop` within a millisecond; a busy one that has not in five seconds keeps clients
/// waiting too.
const TRACKER: Timeouts = Timeouts {
    connect: Duration::from_secs(2),
    reply: Duration::from_secs(5),
};

/// A session took 60 s to open where one node hung. Longer is no answer any more.
const CLUSTER: Duration = Duration::from_secs(90);

/// What was found at one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What should be there: `ledger` or `tracker`; or `storage`, which should be nobody else's.
    pub part: &'static str,
    /// Where it should be, as the configuration names it.
    pub at: String,
    /// What is there; or what is wrong, and what to do.
    pub found: Result<String, String>,
}

/// Looks at the ledger, and at each tracker of the proxy, all at once.
pub async fn look(config: &Config) -> Vec<Finding> {
    let trackers = config.proxy.trackers.iter().map(|addr| tracker(addr));
    let (ledger, trackers, storage) = tokio::join!(
        ledger(&config.ledger),
        futures::future::join_all(trackers),
        storage(config)
    );
    let found = std::iter::once(ledger).chain(trackers);
    found.chain(storage).collect()
}

/// Whether another datacenter names a storage node of this one. `None` where ledger or tracker do not say; they have a finding of their own.
async fn storage(config: &Config) -> Option<Finding> {
    let known = match &config.ledger {
        LedgerConfig::Embedded { path } => {
            let path = path.clone();
            let reading = tokio::task::spawn_blocking(move || registered(&path));
            reading.await.ok()?.ok()?
        }
        LedgerConfig::Cassandra(config) => {
            let opening = tokio::time::timeout(CLUSTER, CassandraLedger::open(config));
            let ledger = opening.await.ok()?.ok()?;
            ledger.datacenters().await.ok()?
        }
    };
    let here = &config.datacenter;
    let hosts = match &here.storage_hosts {
        Some(hosts) => hosts.clone(),
        None => {
            let trackers = Trackers::new(config.proxy.trackers.clone(), 1).with_timeouts(TRACKER);
            split::storage_urls(&trackers.get_hosts().await.ok()?)
        }
    };
    Some(Finding {
        part: "storage",
        at: format!("{} nodes", hosts.len()),
        found: match split::clash(&here.name, &hosts, &known) {
            None => Ok("no other datacenter names one of them".to_owned()),
            Some(clash) => Err(clash.to_string()),
        },
    })
}

async fn tracker(addr: &str) -> Finding {
    let asked = async { Client::connect(addr, TRACKER).await?.noop().await };
    let found = match asked.await {
        Ok(()) => Ok("answers".to_owned()),
        Err(why) => {
            let hint = match why {
                ClientError::Connect { .. } => {
                    "is a tracker running there, and may this machine connect to it? (proxy.trackers)"
                }
                _ => "is that a tracker, and is it well? (proxy.trackers)",
            };
            Err(format!("{}; {hint}", chain(&why)))
        }
    };
    Finding {
        part: "tracker",
        at: addr.to_owned(),
        found,
    }
}

/// Looks at the ledger alone.
pub async fn ledger(config: &LedgerConfig) -> Finding {
    let (at, found) = match config {
        LedgerConfig::Embedded { path } => {
            let shown = path.display().to_string();
            let path = path.clone();
            let looking = tokio::task::spawn_blocking(move || embedded(&path));
            let found = looking.await;
            (shown, found.unwrap_or_else(|why| Err(why.to_string())))
        }
        LedgerConfig::Cassandra(config) => {
            (config.contact_points.join(", "), cassandra(config).await)
        }
    };
    Finding {
        part: "ledger",
        at,
        found,
    }
}

async fn cassandra(config: &CassandraConfig) -> Result<String, String> {
    let opening = CassandraLedger::open(config);
    match tokio::time::timeout(CLUSTER, opening).await {
        Ok(Ok(ledger)) => {
            let mut found = ledger.describe();
            let away = ledger.unreachable();
            if !away.is_empty() {
                found.push_str("; not connected to ");
                found.push_str(&away.join(", "));
            }
            Ok(found)
        }
        Ok(Err(why)) => Err(why.to_string()),
        Err(_) => Err(format!(
            "no session after {} s: a node hangs; look at `nodetool status`, or name other nodes in ledger.contact_points",
            CLUSTER.as_secs()
        )),
    }
}

/// Opening it as a node does would make what is missing, so it is only read.
fn embedded(path: &Path) -> Result<String, String> {
    let failed = |why: &dyn std::fmt::Display| {
        let why = why.to_string();
        let path = path.to_owned();
        let failed = OpenError::Failed { path, why };
        format!("{failed}; is it a ledger, and may this user read and write it? (ledger.path)")
    };
    if !path.try_exists().map_err(|why| failed(&why))? {
        return will_be_made(path);
    }
    access(path, Access::READ_OK | Access::WRITE_OK).map_err(|why| failed(&why))?;
    match schema_of(path).map_err(|why| failed(&why))? {
        Tables::None => Ok("an empty file; the first process makes its tables".to_owned()),
        Tables::OfOthers => Err(OpenError::NotALedger {
            path: path.to_owned(),
        }
        .to_string()),
        Tables::Ours(found) if found == SCHEMA.to_string() => {
            Ok(format!("there, with tables of version {SCHEMA}"))
        }
        Tables::Ours(found) if found.parse::<u32>().is_ok_and(|found| found < SCHEMA) => {
            Ok(format!(
                "there, with tables of version {found}; the next start makes them version {SCHEMA}"
            ))
        }
        Tables::Ours(found) => Err(OpenError::Newer {
            path: path.to_owned(),
            found,
        }
        .to_string()),
    }
}

/// A file that is not there yet is no mistake, as long as it can be made.
fn will_be_made(path: &Path) -> Result<String, String> {
    let folders = path.ancestors().skip(1);
    let Some(nearest) = folders.into_iter().find(|folder| folder.exists()) else {
        return Err(format!("{} has no folder to be in", path.display()));
    };
    if nearest.is_dir() && access(nearest, Access::WRITE_OK | Access::EXEC_OK).is_ok() {
        return Ok("not there yet; the first process makes it".to_owned());
    }
    Err(format!(
        "not there yet, and this user cannot make it in {}; make a folder that it may write to, or name another one in ledger.path",
        nearest.display()
    ))
}

enum Tables {
    None,
    OfOthers,
    Ours(String),
}

/// Reads without a trace. Beside a running process the log and its index are there and are read as they are; else nobody
/// writes, and the file alone is looked at, for SQLite would make both.
fn schema_of(path: &Path) -> rusqlite::Result<Tables> {
    let has_log = || {
        ["-wal", "-shm"].iter().all(|suffix| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name).exists()
        })
    };
    match has_log() {
        true => match read_schema(path, "mode=ro&readonly_shm=1") {
            // The last process has closed it just now, and the log with it.
            Err(_) if !has_log() => read_schema(path, "immutable=1"),
            read => read,
        },
        false => read_schema(path, "immutable=1"),
    }
}

/// What datacenters have registered in an embedded ledger, read without a trace.
fn registered(path: &Path) -> rusqlite::Result<Vec<DatacenterRecord>> {
    // Another version's rows may have another form; those are not judged.
    let Tables::Ours(_) = schema_of(path)? else {
        return Ok(Vec::new());
    };
    let file = without_a_trace(path, "mode=ro&readonly_shm=1")
        .and_then(|file| file.query_row("SELECT 1", [], |_| Ok(())).map(|()| file))
        .or_else(|_| without_a_trace(path, "immutable=1"))?;
    let mut rows = file.prepare("SELECT record FROM datacenters")?;
    let records = rows.query_map([], |row| row.get::<_, String>(0))?;
    let records: Vec<String> = records.collect::<rusqlite::Result<_>>()?;
    let read = records.iter().map(|record| serde_json::from_str(record));
    Ok(read.filter_map(Result::ok).collect())
}

fn read_schema(path: &Path, how: &str) -> rusqlite::Result<Tables> {
    let file = without_a_trace(path, how)?;
    let count = |of: &str| file.query_row(of, [], |row| row.get::<_, i64>(0));
    if count("SELECT count(*) FROM sqlite_schema")? == 0 {
        return Ok(Tables::None);
    }
    if count("SELECT count(*) FROM sqlite_schema WHERE name IN ('meta', 'files', 'changes')")? < 3 {
        return Ok(Tables::OfOthers);
    }
    let version = "SELECT value FROM meta WHERE name = 'schema'";
    let version = file.query_row(version, [], |row| row.get(0)).optional()?;
    Ok(version.map_or(Tables::OfOthers, Tables::Ours))
}

fn without_a_trace(path: &Path, how: &str) -> rusqlite::Result<Connection> {
    /// What has a meaning of its own in the URI of a file.
    const MEANT: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'#');
    let name = percent_encode(path.as_os_str().as_encoded_bytes(), MEANT);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let file = Connection::open_with_flags(format!("file:{name}?{how}"), flags)?;
    file.busy_timeout(Duration::from_secs(1))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ledger::embedded::EmbeddedLedger;

    /// Every file of a folder, with its bytes.
    fn all_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = std::fs::read_dir(folder).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
            .collect()
    }

    /// Looks, and sees that the look has left no trace.
    fn looked(path: &Path) -> Result<String, String> {
        let folder = path.parent().unwrap();
        let before = all_of(folder);
        let found = embedded(path);
        assert_eq!(all_of(folder), before, "the look has changed something");
        found
    }

    #[test]
    fn a_ledger_is_read_without_a_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("the ledger?#1%20.db");
        assert!(
            looked(&path)
                .unwrap()
                .contains("the first process makes it")
        );
        let there = format!("there, with tables of version {SCHEMA}");
        let running = EmbeddedLedger::open(&path).unwrap();
        assert_eq!(looked(&path), Ok(there.clone()), "beside a running process");
        drop(running);
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        // Its writer closes the file a moment after it was dropped.
        while all_of(folder.path()).len() > 1 {
            assert!(std::time::Instant::now() < deadline, "it is not closed");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(looked(&path), Ok(there), "when nobody has it open");
    }

    #[test]
    fn what_a_killed_process_left_is_read_without_a_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        let running = EmbeddedLedger::open(&path).unwrap();
        // As if it had been killed here: log and index are there, and nobody holds a lock.
        let killed = tempfile::tempdir().unwrap();
        for (from, bytes) in all_of(folder.path()) {
            std::fs::write(killed.path().join(from.file_name().unwrap()), bytes).unwrap();
        }
        drop(running);
        let found = looked(&killed.path().join("ledger.db"));
        assert_eq!(found, Ok(format!("there, with tables of version {SCHEMA}")));
    }

    #[test]
    fn what_is_no_ledger_is_told_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.db");
        let other = Connection::open(&path).unwrap();
        other
            .execute_batch("CREATE TABLE cats (name TEXT)")
            .unwrap();
        drop(other);
        let told = looked(&path).unwrap_err();
        assert!(
            told.contains("no ledger; give ledger.path a name of its own"),
            "{told}"
        );

        std::fs::write(&path, "meow ".repeat(1000)).unwrap();
        let told = looked(&path).unwrap_err();
        assert!(told.contains("not a database; is it a ledger"), "{told}");

        std::fs::write(&path, "").unwrap();
        assert!(looked(&path).unwrap().contains("an empty file"));
    }

    #[test]
    fn a_newer_ledger_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        drop(EmbeddedLedger::open(&path).unwrap());
        let newer = Connection::open(&path).unwrap();
        newer.execute("UPDATE meta SET value = '77'", []).unwrap();
        drop(newer);
        let told = looked(&path).unwrap_err();
        assert!(told.contains("schema 77"), "{told}");
    }

    #[test]
    fn a_file_that_could_not_be_made_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let told = embedded(&file.join("deeper/ledger.db")).unwrap_err();
        assert!(told.contains("ledger.path"), "{told}");
    }
}
