//! The device folders: `DIR/devN`, and the bytes in them.
//!
//! Always true: a file below a device folder is whole. Bytes that are still coming grow in
//! `devN/.incoming`; they get their name when the last one is on the disk, and the folder is synced
//! after that. So an answered PUT survives whatever happens next.
//!
//! Killed in the middle: what is in `.incoming` is thrown away at the next start.

mod http;
mod incoming;

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

pub use http::router;
pub use incoming::Incoming;

use crate::tracker::checksum::{Checksum, Hasher, Kind};
use crate::tracker::paths::{Devid, Fid, device_dir, fid_file, incoming_dir};

/// As much as is read or copied at once.
const CHUNK: usize = 256 << 10;

/// Files leave so many bytes of a disk free, or an eighth of a small one. Deleting needs room in the
/// database: a disk that files could fill to the last byte could not be emptied again.
const RESERVE: u64 = 100 << 20;

/// The folders of one tracker's devices.
#[derive(Debug, Clone)]
pub struct Storage {
    root: PathBuf,
}

/// How full the disk of a device is, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// What files may have in all: used and available.
    pub total: u64,
    /// What is taken.
    pub used: u64,
}

impl Storage {
    /// Over the folder that holds the device folders.
    #[must_use]
    pub fn new(root: PathBuf) -> Storage {
        Storage { root }
    }

    /// Makes a device's folder, and throws away what an earlier process left unfinished there.
    pub async fn prepare_device(&self, devid: Devid) -> io::Result<()> {
        let (root, incoming) = (self.root.clone(), incoming_dir(&self.root, devid));
        blocking(move || {
            match fs::remove_dir_all(&incoming) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::create_dir_all(&incoming)?;
            sync_dir(&device_dir(&root, devid))?;
            sync_dir(&root)
        })
        .await
    }

    /// How full the disk of a device is; none if that cannot be known.
    #[must_use]
    pub fn usage(&self, devid: Devid) -> Option<Usage> {
        usage_of(&device_dir(&self.root, devid)).ok()
    }

    /// How many bytes more a device takes.
    #[must_use]
    pub fn room(&self, devid: Devid) -> u64 {
        self.usage(devid).map_or(0, Usage::room)
    }

    /// The length of a fid's file; none if there is no such file.
    pub async fn length(&self, devid: Devid, fid: Fid) -> io::Result<Option<u64>> {
        let path = fid_file(&self.root, devid, fid);
        blocking(move || match fs::symlink_metadata(path) {
            Ok(found) if found.is_file() => Ok(Some(found.len())),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    /// The digest of a fid's file.
    pub async fn digest(&self, devid: Devid, fid: Fid, kind: Kind) -> io::Result<Checksum> {
        let path = fid_file(&self.root, devid, fid);
        blocking(move || {
            let mut hasher = Hasher::new(kind);
            read_chunks(&mut open_plain(&path)?, |chunk| {
                hasher.update(chunk);
                Ok(())
            })?;
            Ok(hasher.finish())
        })
        .await
    }

    /// Copies a fid's file from one device to another, whole or not at all; says its length and,
    /// if a kind is given, its digest.
    pub async fn copy(
        &self,
        fid: Fid,
        from: Devid,
        to: Devid,
        expected: u64,
        kind: Option<Kind>,
    ) -> io::Result<Option<Checksum>> {
        let root = self.root.clone();
        blocking(move || {
            let mut source = open_plain(&fid_file(&root, from, fid))?;
            let mut hasher = kind.map(Hasher::new);
            let mut length = 0;
            let mut incoming = Incoming::create(&root, to)?;
            read_chunks(&mut source, |chunk| {
                length += chunk.len() as u64;
                if let Some(hasher) = &mut hasher {
                    hasher.update(chunk);
                }
                incoming.write(chunk)
            })?;
            if length != expected {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("dev{from} has {length} bytes of fid {fid}, which has {expected}"),
                ));
            }
            incoming.finish(&root, &fid_file(&root, to, fid))?;
            Ok(hasher.map(Hasher::finish))
        })
        .await
    }

    /// Removes the files of a fid from devices. One that is not there is fine.
    pub async fn remove(&self, fid: Fid, devids: Vec<Devid>) -> io::Result<()> {
        let root = self.root.clone();
        blocking(move || {
            for devid in devids {
                match fs::remove_file(fid_file(&root, devid, fid)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        })
        .await
    }
}

impl Usage {
    /// What is available but for the reserve.
    fn room(self) -> u64 {
        let reserve = RESERVE.min(self.total / 8);
        (self.total - self.used).saturating_sub(reserve)
    }
}

/// How full the disk of a folder is.
fn usage_of(folder: &Path) -> io::Result<Usage> {
    let stat = rustix::fs::statvfs(folder)?;
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Usage {
        total: bytes(used).saturating_add(bytes(stat.f_bavail)),
        used: bytes(used),
    })
}

/// Opens a file that is no symbolic link.
fn open_plain(path: &Path) -> io::Result<fs::File> {
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(no_follow)
        .open(path)
}

fn read_chunks(
    file: &mut fs::File,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(()),
            n => each(&chunk[..n])?,
        }
    }
}

/// Makes the entries of a folder durable.
fn sync_dir(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Runs what may wait for a disk away from the async threads.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(job)
        .await
        .map_err(io::Error::other)?
}
