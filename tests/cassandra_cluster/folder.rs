//! Where a cluster's data and logs lie: `target/tmp/cassandra/PID-N`, gone with the cluster that it belongs to.
//!
//! Always true: a folder whose process lives is locked by it; one that can be locked belongs to a run that was killed, and is
//! removed by the next run. (A process number alone would not tell: numbers are used again.)

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The folder of one cluster.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// A new one, after removing those of runs that are no more.
    pub fn new() -> std::io::Result<Folder> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cassandra");
        fs::create_dir_all(&home)?;
        // So that nobody takes a folder for abandoned that is not locked *yet*.
        let all = File::create(home.join("lock"))?;
        all.lock()?;
        sweep(&home)?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = home.join(format!("{}-{count}", std::process::id()));
        fs::create_dir(&path)?;
        let lock = File::create(path.join("lock"))?;
        lock.lock()?;
        Ok(Folder { path, _lock: lock })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next run.
        let _left = fs::remove_dir_all(&self.path);
    }
}

fn sweep(home: &Path) -> std::io::Result<()> {
    for found in fs::read_dir(home)? {
        let path = found?.path();
        if !path.is_dir() {
            continue;
        }
        let abandoned = match File::open(path.join("lock")) {
            Ok(lock) => lock.try_lock().is_ok(),
            // Killed before it was locked.
            Err(why) => why.kind() == std::io::ErrorKind::NotFound,
        };
        if abandoned {
            // A node of a run killed just now may still write its last file.
            let _left = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}
