//! Files that would outlast an upload: read into a folder first, however long that takes, and from there into an upload.
//!
//! Always true: no more lies there than `repair.spool_size`, counted by what is going to; nobody works on a file that another one works on;
//! what is there is digested before it is believed, be it from this process or an earlier one.
//! Killed in the middle: what was read lies there, and the next try goes on behind it. What nobody came back for goes when its room is
//! needed, the oldest first.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use md5::{Digest, Md5};
use parking_lot::Mutex;
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::config::SpoolConfig;
use crate::file::Content;

/// Bytes read from a file at a time.
const PART: usize = 256 << 10;

/// How the names of its files end; what is named otherwise is not ours.
const ENDING: &str = ".part";

/// The folder.
pub(super) struct Spool {
    config: SpoolConfig,
    /// The files that somebody works on, and how large they are going to be.
    claimed: Arc<Mutex<BTreeMap<String, u64>>>,
}

/// Why a file cannot be spooled.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    #[error("its {size} bytes are more than repair.spool_size, which is {most}")]
    TooLarge { size: u64, most: u64 },
    #[error(
        "the spool has no room for its {size} bytes beside others that are being copied; repair.spool_size is {most}"
    )]
    Full { size: u64, most: u64 },
    #[error("it is being spooled already")]
    Claimed,
    #[error("the spool {path}: {why}")]
    Disk { path: PathBuf, why: io::Error },
}

/// A file in the spool, of which nobody else has anything.
pub(super) struct Spooled {
    pub(super) path: PathBuf,
    file: File,
    name: String,
    claimed: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Spool {
    pub(super) fn new(config: SpoolConfig) -> Spool {
        Spool {
            config,
            claimed: Arc::default(),
        }
    }

    /// The file of a content, with what is there of it already.
    pub(super) async fn claim(&self, content: &Content, size: u64) -> Result<Spooled, SpoolError> {
        let most = self.config.size;
        if size > most {
            return Err(SpoolError::TooLarge { size, most });
        }
        let Content {
            version,
            origin,
            node,
        } = content;
        let name = format!("{}-{origin}-{node}{ENDING}", version.0);
        let path = self.config.dir.join(&name);
        {
            let mut claimed = self.claimed.lock();
            if claimed.contains_key(&name) {
                return Err(SpoolError::Claimed);
            }
            if claimed.values().sum::<u64>().saturating_add(size) > most {
                return Err(SpoolError::Full { size, most });
            }
            claimed.insert(name.clone(), size);
        }
        // From here on given back, whatever happens.
        let claim = Claim {
            name: &name,
            claimed: &self.claimed,
            kept: false,
        };
        let disk = |why| SpoolError::Disk {
            path: path.clone(),
            why,
        };
        fs::create_dir_all(&self.config.dir).await.map_err(disk)?;
        self.make_room(most).await.map_err(disk)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .await
            .map_err(disk)?;
        claim.keep();
        Ok(Spooled {
            path: path.clone(),
            file,
            name,
            claimed: Arc::clone(&self.claimed),
        })
    }

    /// Removes files of earlier tries, the oldest first, until what is claimed has room.
    async fn make_room(&self, most: u64) -> io::Result<()> {
        let mut taken = self.claimed.lock().values().sum::<u64>();
        let mut left: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        let mut folder = fs::read_dir(&self.config.dir).await?;
        while let Some(entry) = folder.next_entry().await? {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(ENDING) || self.claimed.lock().contains_key(&name) {
                continue;
            }
            let about = entry.metadata().await?;
            taken = taken.saturating_add(about.len());
            left.push((about.modified()?, about.len(), entry.path()));
        }
        left.sort();
        for (_, length, path) in left {
            if taken <= most {
                break;
            }
            fs::remove_file(path).await?;
            taken -= length;
        }
        Ok(())
    }
}

struct Claim<'a> {
    name: &'a str,
    claimed: &'a Mutex<BTreeMap<String, u64>>,
    kept: bool,
}

impl Claim<'_> {
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.claimed.lock().remove(self.name);
        }
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        self.claimed.lock().remove(&self.name);
    }
}

impl Spooled {
    /// How much is there, and its digest; what comes next is written behind it. More than `size` cannot be right, and goes.
    pub(super) async fn there(&mut self, size: u64) -> io::Result<(u64, Md5)> {
        if self.file.metadata().await?.len() > size {
            self.clear().await?;
        }
        let mut digest = Md5::new();
        let mut length = 0;
        self.rewind().await?;
        while let Some(part) = self.read().await? {
            digest.update(&part);
            length += part.len() as u64;
        }
        Ok((length, digest))
    }

    /// Nothing is there any more.
    pub(super) async fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0).await?;
        self.rewind().await
    }

    pub(super) async fn write(&mut self, chunk: &Bytes) -> io::Result<()> {
        self.file.write_all(chunk).await
    }

    pub(super) async fn rewind(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        self.file.rewind().await.map(|_beginning| ())
    }

    /// The next part; `None` at the end.
    pub(super) async fn read(&mut self) -> io::Result<Option<Bytes>> {
        let mut part = BytesMut::with_capacity(PART);
        let read = self.file.read_buf(&mut part).await?;
        Ok((read > 0).then(|| part.freeze()))
    }

    /// It is not needed any more.
    pub(super) async fn remove(self) {
        remove(&self.path).await;
    }
}

async fn remove(path: &Path) {
    if let Err(why) = fs::remove_file(path).await {
        tracing::warn!("remove {} from the spool: {why}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Version;

    fn content(version: i64) -> Content {
        Content {
            version: Version(version),
            origin: "ma01".parse().expect("a name"),
            node: "node1".parse().expect("a name"),
        }
    }

    #[tokio::test]
    async fn a_spool_goes_on_where_it_was_and_is_bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("spool");
        let config = SpoolConfig {
            dir: dir.clone(),
            size: 100,
        };
        let spool = Spool::new(config.clone());
        let mut one = spool.claim(&content(1), 60).await.expect("room");
        assert_eq!(one.there(60).await.expect("read").0, 0);
        one.write(&Bytes::from_static(b"0123456789"))
            .await
            .expect("written");
        one.rewind().await.expect("on disk");
        assert!(matches!(
            spool.claim(&content(1), 60).await,
            Err(SpoolError::Claimed)
        ));
        assert!(matches!(
            spool.claim(&content(2), 60).await,
            Err(SpoolError::Full { .. })
        ));
        assert!(matches!(
            spool.claim(&content(2), 101).await,
            Err(SpoolError::TooLarge { .. })
        ));
        drop(one);

        // Another process.
        let spool = Spool::new(config);
        let mut one = spool.claim(&content(1), 60).await.expect("room");
        let (length, digest) = one.there(60).await.expect("read");
        assert_eq!(
            (length, digest.finalize()),
            (10, Md5::digest(b"0123456789"))
        );
        one.write(&Bytes::from_static(b"ab"))
            .await
            .expect("written");
        assert_eq!(one.there(60).await.expect("read").0, 12);
        assert_eq!(
            one.there(11).await.expect("read").0,
            0,
            "too long to be right"
        );
        drop(one);

        // What nobody came back for gives way, and what is not ours does not.
        std::fs::write(dir.join("other"), [0; 90]).expect("written");
        std::fs::write(dir.join("9-ma01-node1.part"), [0; 90]).expect("written");
        let two = spool.claim(&content(2), 60).await.expect("room");
        assert!(!dir.join("9-ma01-node1.part").exists());
        assert!(dir.join("other").exists());
        two.remove().await;
        assert!(!dir.join("2-ma01-node1.part").exists());
    }
}
