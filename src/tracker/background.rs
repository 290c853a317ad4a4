//! Work that nobody waits for: removing bytes that no key names, and making further copies.
//!
//! Both workers only look at what the database says is due, do it, and then say so there. Killed in
//! between, they do it again: a file that is gone already is gone, a copy is overwritten with itself.
//!
//! A file may be deleted while it is being copied. The copy is then removed, or, if the process dies
//! before that, found again by its row in `replqueue`, which stays until the copy is settled.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rusqlite::{Connection, params};

use crate::tracker::checksum::{Checksum, Kind};
use crate::tracker::core::Core;
use crate::tracker::paths::{Devid, Fid};
use crate::tracker::store::files::{self, File};
use crate::tracker::store::{StoreError, unix_time};
use crate::tracker::topology::{DeviceStatus, Topology};

/// As many fids as one round takes.
const BATCH: i64 = 200;

/// What gathers within this time after a poke is done in one round.
const SETTLE: Duration = Duration::from_millis(100);

/// A fid that wants more copies than there are devices is looked at again after this many seconds,
/// or at `replicate_now`.
const NO_DEVICE_RETRY: i64 = 3600;

/// What failed is tried again after this many seconds, then twice as many, up to [`MAX_RETRY`].
const FIRST_RETRY: i64 = 15;
const MAX_RETRY: i64 = 6 * 3600;

/// Removes the bytes of deleted, overwritten and abandoned fids, and ends old uploads, until the
/// tracker stops.
pub async fn clean(core: Arc<Core>) {
    loop {
        match clean_round(&core).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => complain(&core, "delete", &error),
        }
        // What was just deleted is due in a moment.
        let settle = SETTLE
            + core
                .config
                .delete_delay
                .min(core.config.background_interval);
        if wait(&core, &core.poke_cleaner, settle).await.is_none() {
            return;
        }
    }
}

/// Makes copies until every file has as many as its class wants, until the tracker stops.
pub async fn replicate(core: Arc<Core>) {
    loop {
        match replicate_round(&core).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => complain(&core, "replicate", &error),
        }
        if wait(&core, &core.poke_replicator, SETTLE).await.is_none() {
            return;
        }
    }
}

/// Waits for the next round; none if there is not to be one.
async fn wait(core: &Core, poke: &tokio::sync::Notify, settle: Duration) -> Option<()> {
    let next = async {
        tokio::select! {
            () = poke.notified() => tokio::time::sleep(settle).await,
            () = tokio::time::sleep(core.config.background_interval) => {}
        }
    };
    core.shutdown.run_until_cancelled(next).await
}

fn complain(core: &Core, job: &str, error: &StoreError) {
    tracing::error!(
        error = error as &dyn std::error::Error,
        job,
        "a round of background work failed"
    );
    core.activity
        .complain(&format!("[{job}({})] {error}", std::process::id()));
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn backoff(failures: i64) -> i64 {
    FIRST_RETRY
        .saturating_mul(1 << failures.clamp(0, 20))
        .min(MAX_RETRY)
}

/// One round of cleaning; true if there is more to do.
async fn clean_round(core: &Core) -> Result<bool, StoreError> {
    let topology = core.topology();
    let expired = unix_time().saturating_sub(seconds(core.config.upload_expiry));
    let due = unix_time().saturating_sub(seconds(core.config.delete_delay));
    let dead: Vec<Devid> = topology
        .devices
        .iter()
        .filter(|device| device.status == DeviceStatus::Dead)
        .map(|device| device.devid)
        .collect();
    let (old_uploads, lost_copies, rubbish) = core
        .store
        .read(move |conn| {
            let old_uploads: Vec<Fid> = conn
                .prepare_cached("SELECT fid FROM tempfile WHERE createtime < ?1 LIMIT ?2")?
                .query_map([expired, BATCH], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let mut lost_copies: Vec<(Devid, Vec<Fid>)> = Vec::new();
            for devid in dead {
                let fids = conn
                    .prepare_cached("SELECT fid FROM file_on WHERE devid = ?1 LIMIT ?2")?
                    .query_map(params![devid, BATCH], |row| row.get(0))?
                    .collect::<rusqlite::Result<Vec<Fid>>>()?;
                if !fids.is_empty() {
                    lost_copies.push((devid, fids));
                }
            }
            let rubbish: Vec<(Fid, i64)> = conn
                .prepare_cached("SELECT fid, failcount FROM delqueue WHERE nexttry <= ?1 ORDER BY nexttry LIMIT ?2")?
                .query_map([due, BATCH], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let rubbish = rubbish
                .into_iter()
                .map(|(fid, failures)| Ok((fid, failures, files::devices_of(conn, fid)?)))
                .collect::<rusqlite::Result<Vec<_>>>()?;
            Ok((old_uploads, lost_copies, rubbish))
        })
        .await?;
    let more = [old_uploads.len(), rubbish.len()]
        .iter()
        .any(|&count| i64::try_from(count) == Ok(BATCH))
        || !lost_copies.is_empty();

    if !old_uploads.is_empty() || !lost_copies.is_empty() {
        tracing::info!(
            uploads = old_uploads.len(),
            dead_devices = lost_copies.len(),
            "ending what nobody will end"
        );
        core.store
            .write(move |conn| forget(conn, &old_uploads, &lost_copies))
            .await?;
        core.poke_replicator.notify_one();
    }
    if rubbish.is_empty() {
        return Ok(more);
    }
    let mut gone = Vec::new();
    let mut failed = Vec::new();
    for (fid, failures, devids) in rubbish {
        match remove_bytes(core, &topology, fid, &devids).await {
            Ok(()) => gone.push(fid),
            Err(why) => {
                tracing::warn!(fid, why, "the bytes of a fid are not removed yet");
                failed.push((fid, unix_time() + backoff(failures)));
            }
        }
    }
    core.activity.cleaned.fetch_add(gone.len() as u64, Relaxed);
    core.store
        .write(move |conn| {
            for fid in gone {
                conn.prepare_cached("DELETE FROM file_on WHERE fid = ?1")?
                    .execute([fid])?;
                conn.prepare_cached("DELETE FROM delqueue WHERE fid = ?1")?
                    .execute([fid])?;
            }
            for (fid, next) in failed {
                conn.prepare_cached(
                    "UPDATE delqueue SET nexttry = ?2, failcount = failcount + 1 WHERE fid = ?1",
                )?
                .execute([fid, next])?;
            }
            Ok(())
        })
        .await?;
    Ok(more)
}

/// Ends uploads that are too old, and takes dead devices' copies off the books.
fn forget(
    conn: &Connection,
    uploads: &[Fid],
    copies: &[(Devid, Vec<Fid>)],
) -> rusqlite::Result<()> {
    for &fid in uploads {
        // It may have been closed since.
        let open: bool = conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM tempfile WHERE fid = ?1)")?
            .query_row([fid], |row| row.get(0))?;
        if open {
            files::make_rubbish(conn, fid)?;
        }
    }
    for (devid, fids) in copies {
        for &fid in fids {
            conn.prepare_cached("DELETE FROM file_on WHERE fid = ?1 AND devid = ?2")?
                .execute(params![fid, devid])?;
            files::count_copies(conn, fid)?;
            if files::find_fid(conn, fid)?.is_some() {
                files::enqueue_replication(conn, fid)?;
            }
        }
    }
    Ok(())
}

/// Removes a fid's file from every device where it may be. An upload to several destinations can
/// have left bytes on one that the database does not name.
async fn remove_bytes(
    core: &Core,
    topology: &Topology,
    fid: Fid,
    on: &[Devid],
) -> Result<(), String> {
    let blocked = topology.own_devices().find(|(device, host)| {
        on.contains(&device.devid)
            && !device.may_delete(host)
            && device.status != DeviceStatus::Dead
    });
    if let Some((device, _)) = blocked {
        return Err(format!(
            "dev{} is {} or its host is not alive",
            device.devid,
            device.status.name()
        ));
    }
    let devids = topology
        .own_devices()
        .filter(|(device, host)| device.may_delete(host))
        .map(|(device, _)| device.devid);
    core.storage
        .remove(fid, devids.collect())
        .await
        .map_err(|error| error.to_string())
}

/// What became of one fid in a round of replication.
enum Settled {
    /// Enough copies, or no file any more.
    Done,
    /// Look again after so many seconds.
    Later(i64),
}

/// One round of copying; true if there is more to do.
async fn replicate_round(core: &Core) -> Result<bool, StoreError> {
    let now = unix_time();
    let due = core
        .store
        .read(move |conn| {
            conn.prepare_cached("SELECT fid, failcount FROM replqueue WHERE nexttry <= ?1 ORDER BY nexttry LIMIT ?2")?
                .query_map([now, BATCH], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<Vec<(Fid, i64)>>>()
        })
        .await?;
    let more = i64::try_from(due.len()) == Ok(BATCH);
    let mut settled = Vec::with_capacity(due.len());
    for (fid, failures) in due {
        if core.shutdown.is_cancelled() {
            break;
        }
        settled.push((fid, settle(core, fid, failures).await?));
    }
    if !settled.is_empty() {
        core.store
            .write(move |conn| {
                for (fid, outcome) in settled {
                    match outcome {
                        // A class change during the copying may have asked for another look.
                        Settled::Done => conn
                            .prepare_cached("DELETE FROM replqueue WHERE fid = ?1 AND nexttry <= ?2")?
                            .execute([fid, now])?,
                        Settled::Later(seconds) => conn
                            .prepare_cached(
                                "UPDATE replqueue SET nexttry = ?2, failcount = failcount + 1 WHERE fid = ?1",
                            )?
                            .execute([fid, unix_time() + seconds])?,
                    };
                }
                Ok(())
            })
            .await?;
    }
    Ok(more && !core.shutdown.is_cancelled())
}

/// Makes the copies that one fid is short of.
async fn settle(core: &Core, fid: Fid, failures: i64) -> Result<Settled, StoreError> {
    let found = core
        .store
        .read(move |conn| {
            let Some(file) = files::find_fid(conn, fid)? else {
                return Ok(None);
            };
            Ok(Some((
                file,
                files::devices_of(conn, fid)?,
                files::checksum_of(conn, fid)?,
            )))
        })
        .await?;
    let topology = core.topology();
    let Some((file, mut on, checksum)) = found else {
        // Deleted. If it was being copied then, the copy may be nowhere in the database.
        return Ok(match remove_bytes(core, &topology, fid, &[]).await {
            Ok(()) => Settled::Done,
            Err(_) => Settled::Later(backoff(failures)),
        });
    };
    while i64::try_from(on.len()).unwrap_or(i64::MAX) < file.mindevcount {
        let Some(target) = next_device(core, &topology, &on, file.length) else {
            return Ok(Settled::Later(NO_DEVICE_RETRY));
        };
        let readable = |&&devid: &&Devid| {
            topology
                .device(devid)
                .is_some_and(|(device, host)| device.may_read(host))
        };
        let Some(&source) = on.iter().find(readable) else {
            return Ok(Settled::Later(backoff(failures)));
        };
        match copy(core, &file, source, target, checksum.as_ref()).await {
            Ok(digest) => {
                let stored = core
                    .store
                    .write(move |conn| record_copy(conn, fid, target, digest.as_ref()))
                    .await?;
                if !stored {
                    // Deleted meanwhile, and perhaps cleaned already.
                    return Ok(Settled::Later(0));
                }
                core.activity.replicated.fetch_add(1, Relaxed);
                on.push(target);
            }
            Err(why) => {
                tracing::warn!(fid, source, target, why, "a copy could not be made");
                core.activity.complain(&format!(
                    "[replicate({})] fid {fid}: {why}",
                    std::process::id()
                ));
                return Ok(Settled::Later(backoff(failures)));
            }
        }
    }
    Ok(Settled::Done)
}

/// A device with room for a further copy: if possible of a host that has none.
fn next_device(core: &Core, topology: &Topology, on: &[Devid], length: i64) -> Option<Devid> {
    let length = u64::try_from(length).unwrap_or(0);
    let hosts: Vec<i64> = on
        .iter()
        .filter_map(|&devid| Some(topology.device(devid)?.1.hostid))
        .collect();
    topology
        .own_devices()
        .filter(|(device, host)| device.may_write(host) && !on.contains(&device.devid))
        .filter(|(device, _)| core.storage.room(device.devid) > length)
        .min_by_key(|(device, host)| (hosts.contains(&host.hostid), device.devid))
        .map(|(device, _)| device.devid)
}

/// Copies the bytes and checks them on the way. The digest is that which the class keeps and nobody
/// has given yet.
async fn copy(
    core: &Core,
    file: &File,
    source: Devid,
    target: Devid,
    known: Option<&Checksum>,
) -> Result<Option<Checksum>, String> {
    let kind = known
        .map(|checksum| checksum.kind)
        .or_else(|| file.hashtype.and_then(Kind::from_id));
    let length = u64::try_from(file.length).unwrap_or(0);
    let digest = core
        .storage
        .copy(file.fid, source, target, length, kind)
        .await
        .map_err(|error| error.to_string())?;
    match known {
        Some(known) if digest.as_ref() != Some(known) => {
            core.storage
                .remove(file.fid, vec![target])
                .await
                .map_err(|error| error.to_string())?;
            let actual = digest.map_or("nothing".to_owned(), |digest| digest.to_string());
            Err(format!(
                "dev{source} has bytes of {actual}, expected {known}"
            ))
        }
        Some(_) => Ok(None),
        None => Ok(digest),
    }
}

/// Notes a copy; false if the file is no more.
fn record_copy(
    conn: &Connection,
    fid: Fid,
    devid: Devid,
    digest: Option<&Checksum>,
) -> rusqlite::Result<bool> {
    if files::find_fid(conn, fid)?.is_none() {
        return Ok(false);
    }
    files::add_copy(conn, fid, devid)?;
    files::count_copies(conn, fid)?;
    if let Some(digest) = digest {
        files::set_checksum(conn, fid, digest)?;
    }
    Ok(true)
}
