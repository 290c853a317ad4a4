//! A file that is still coming: nameless until it is whole.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::{sync_dir, usage_of};
use crate::tracker::paths::{Devid, incoming_dir};

/// Bytes on their way to a device. Dropped before [`finish`](Incoming::finish), they are gone.
#[derive(Debug)]
pub struct Incoming {
    file: fs::File,
    path: PathBuf,
    finished: bool,
}

impl Incoming {
    /// Begins a file for a device.
    pub fn create(root: &Path, devid: Devid) -> io::Result<Incoming> {
        let path = incoming_dir(root, devid).join(uuid::Uuid::new_v4().simple().to_string());
        let file = fs::File::create_new(&path)?;
        Ok(Incoming {
            file,
            path,
            finished: false,
        })
    }

    /// Adds bytes, unless they would take what is kept free.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let folder = self.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        if usage_of(folder)?.room() < bytes.len() as u64 {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "the disk is full but for its reserve",
            ));
        }
        self.file.write_all(bytes)
    }

    /// Gives the file its name, replacing what had it, when all of it is on the disk. Folders that
    /// are missing between `root` and `target` are made.
    pub fn finish(mut self, root: &Path, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        let folder = target.parent().ok_or(io::ErrorKind::InvalidInput)?;
        if let Err(error) = fs::rename(&self.path, target) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            make_folders(root, folder)?;
            fs::rename(&self.path, target)?;
        }
        self.finished = true;
        sync_dir(folder)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "an unfinished file stays until the next start");
        }
    }
}

/// Makes a folder and those above it, each durable before the next.
fn make_folders(root: &Path, folder: &Path) -> io::Result<()> {
    if folder == root || folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().ok_or(io::ErrorKind::InvalidInput)?;
    make_folders(root, parent)?;
    match fs::create_dir(folder) {
        // Somebody else's file goes into the same folder.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    sync_dir(parent)
}
