//! From a settled mutation to what the ledger shall be told: pure, no I/O.
//!
//! Always true: every cell carries the version of the mutation, so an announcement may be written any number of times.
//! The put half of a rename comes before its delete half, which names its target: whichever of the two another
//! datacenter hears of first, the bytes are not lost.

use crate::file::{
    Checked, Checksum, Class, ClassCell, Content, Datacenter, Fid, FileName, Found, Held, NodeName,
    Op, Put, Replica, Revision,
};
use crate::ledger::{FileRecord, FileWrite};
use crate::version::Version;

use super::{Announcement, By, Details};

/// Who announces: the origin of new revisions and the owner of the replicas.
#[derive(Clone, Debug)]
pub struct Announcer {
    /// This datacenter.
    pub datacenter: Datacenter,
    /// This process.
    pub node: NodeName,
}

/// Bytes that this datacenter holds under a key, as far as journal and ledger know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Believed {
    /// What is held.
    pub held: Held,
    /// The size and MD5, if the head that was read speaks of these very bytes.
    pub known: Option<(u64, Option<Checksum>)>,
}

/// What this datacenter is believed to hold of `file`: the ledger's record, and over it what is still on
/// its way there, oldest first.
pub fn believed<'a>(
    datacenter: &Datacenter,
    record: &FileRecord,
    outgoing: impl IntoIterator<Item = &'a FileWrite>,
) -> Option<Believed> {
    let mut merged = record.clone();
    let mut put = record.head.as_ref().and_then(Revision::put).cloned();
    for write in outgoing {
        merged.merge(write);
        // A local put describes its own bytes even where another datacenter's head has won meanwhile.
        put = write.head.as_ref().and_then(Revision::put).cloned().or(put);
    }
    let held = merged.replicas.remove(datacenter)?.held?;
    let head = merged.head.as_ref().and_then(Revision::put);
    let known = [put.as_ref(), head]
        .into_iter()
        .flatten()
        .find(|put| put.content == held.content)
        .map(|put| (put.size, put.checksum.clone()));
    Some(Believed { held, known })
}

/// Bytes with all that a revision says of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bytes {
    /// Which.
    pub content: Content,
    /// In the local tracker.
    pub fid: Fid,
    /// The class there.
    pub class: Class,
    /// How many.
    pub size: u64,
    /// Their MD5.
    pub checksum: Option<Checksum>,
}

impl Announcer {
    /// The identity of bytes that are new with the mutation of this version.
    pub fn new_content(&self, version: Version) -> Content {
        Content {
            version,
            origin: self.datacenter.clone(),
            node: self.node.clone(),
        }
    }

    /// The bytes of a client's or repair's put, once class and size are known.
    pub fn put_bytes(
        &self,
        version: Version,
        by: &By,
        fid: Fid,
        details: &Details,
    ) -> Option<Bytes> {
        Some(Bytes {
            content: self.content_of(version, by),
            fid,
            class: details.class.clone()?,
            size: details.size?,
            checksum: details.checksum.clone(),
        })
    }

    /// The content that a put of this version makes: new for a client, the copied one for repair.
    pub fn content_of(&self, version: Version, by: &By) -> Content {
        match by {
            By::Repair {
                content: Some(content),
            } => content.clone(),
            By::Repair { content: None } | By::Client => self.new_content(version),
        }
    }

    /// The file holds these bytes now.
    pub fn put(&self, version: Version, by: &By, file: &FileName, bytes: &Bytes) -> Announcement {
        self.arrived(version, by, file, bytes, None)
    }

    /// The file is not here any more.
    pub fn delete(&self, version: Version, by: &By, file: &FileName) -> Announcement {
        self.left(version, by, file, None)
    }

    /// The bytes went from one key to another.
    pub fn rename(
        &self,
        version: Version,
        by: &By,
        from: &FileName,
        to: &FileName,
        bytes: &Bytes,
    ) -> [Announcement; 2] {
        [
            self.arrived(version, by, to, bytes, Some(from)),
            self.left(version, by, from, Some(to)),
        ]
    }

    /// The bytes here are of another class now.
    pub fn set_class(
        &self,
        version: Version,
        by: &By,
        file: &FileName,
        held: &Held,
        class: &Class,
    ) -> Announcement {
        let mut held = held.clone();
        held.class = class.clone();
        let cell = ClassCell {
            version,
            content: held.content.clone(),
            class: class.clone(),
        };
        let client = matches!(by, By::Client);
        self.announcement(
            version,
            by,
            file,
            FileWrite {
                head: None,
                class: client.then_some(cell),
                replica: Some((
                    self.datacenter.clone(),
                    Replica {
                        since: version,
                        held: Some(held),
                    },
                )),
            },
        )
    }

    fn arrived(
        &self,
        version: Version,
        by: &By,
        file: &FileName,
        bytes: &Bytes,
        from: Option<&FileName>,
    ) -> Announcement {
        let client = matches!(by, By::Client);
        let head = Revision {
            version,
            origin: self.datacenter.clone(),
            node: self.node.clone(),
            op: Op::Put(Put {
                content: bytes.content.clone(),
                size: bytes.size,
                checksum: bytes.checksum.clone(),
                fid: bytes.fid,
                renamed_from: from.map(|from| from.key.clone()),
            }),
        };
        let class = ClassCell {
            version,
            content: bytes.content.clone(),
            class: bytes.class.clone(),
        };
        let held = Held {
            content: bytes.content.clone(),
            fid: bytes.fid,
            class: bytes.class.clone(),
            claimed: false,
            checked: match (by, from, &bytes.checksum) {
                // Computed on the way here.
                (By::Repair { .. }, None, Some(checksum)) => Some(Checked {
                    at: version,
                    found: Found::Copied,
                    checksum: Some(checksum.clone()),
                }),
                _ => None,
            },
            leaving: false,
        };
        self.announcement(
            version,
            by,
            file,
            FileWrite {
                head: client.then_some(head),
                class: client.then_some(class),
                replica: Some((
                    self.datacenter.clone(),
                    Replica {
                        since: version,
                        held: Some(held),
                    },
                )),
            },
        )
    }

    fn left(
        &self,
        version: Version,
        by: &By,
        file: &FileName,
        to: Option<&FileName>,
    ) -> Announcement {
        let head = Revision {
            version,
            origin: self.datacenter.clone(),
            node: self.node.clone(),
            op: Op::Delete {
                renamed_to: to.map(|to| to.key.clone()),
            },
        };
        self.announcement(
            version,
            by,
            file,
            FileWrite {
                head: matches!(by, By::Client).then_some(head),
                class: None,
                replica: Some((
                    self.datacenter.clone(),
                    Replica {
                        since: version,
                        held: None,
                    },
                )),
            },
        )
    }

    fn announcement(
        &self,
        version: Version,
        by: &By,
        file: &FileName,
        write: FileWrite,
    ) -> Announcement {
        Announcement {
            file: file.clone(),
            write,
            version,
            change: matches!(by, By::Client),
        }
    }
}
