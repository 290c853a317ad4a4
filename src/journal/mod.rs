//! The journal: mutations made in this datacenter that the ledger has not yet confirmed.
//!
//! An entry's life, and the table it lives in:
//!
//! 1. **intent** (`entries`): durable before the tracker sees the request. Version and origin are final from here on.
//! 2. **outcome** (`entries`): happened, did not happen, or open. Appended without a sync of its own: it rides on the
//!    next commit, and always on that of the key's next intent. So after a crash only the last intent of a
//!    key can be open.
//! 3. **announcement** (`outbox`): what the ledger shall be told, made by [`settle`], with its number in the stream.
//!    Entry and announcement change places in one transaction; what is announced is never computed twice.
//! 4. **debt** (`debts`): the ledger has confirmed it ([`deliver`]), but not yet on as many copies as the operator wants. Announcement
//!    and debt change places in one transaction; only the file's name and version are kept. Where the ledger owes
//!    nothing ([`Ledger::owes`](crate::ledger::Ledger::owes)) this step is left out.
//! 5. **gone**: the debt is paid ([`debt`]), or a newer one of the same file has taken its place.
//!
//! Always true: an intent is on disk before [`Journal::intend`] returns. Announcing one twice is harmless. Numbers have no holes;
//! they begin anew only with a new incarnation ([`Journal::begin_stream`]).
//! The clock's mark and the stream's last number are as durable as the rows that carry them, and outlive them.
//! Never here: deciding which revision wins (`file`), or waiting for the ledger on a client's path.
//! A file whose versions are beyond what the shared clock accepts has a row in `floors`, the least that its next version
//! must pass, until the clock has passed it; in a sane world the table is empty.
//! `max_size` counts entries and announcements. Debts have a bound of their own, beyond which they collapse into
//! "assert again everything since T" (`owed`), so an outage of any length refuses no client on their account.
//! Killed in the middle: entries without an outcome are settled by what the tracker holds.
//!
//! Where to look: `folder` is the file on disk and who it belongs to, `rows` how values become columns, `writer` the
//! one thread that writes, `index` what is answered from memory, `core` what these two share with `handle`, which the
//! rest of the program calls;
//! [`settle`] makes announcements of entries, [`deliver`] takes them to the ledger, `owed` keeps the books of what it has not
//! everywhere, and [`debt`] pays.

pub mod announcement;
mod core;
pub mod debt;
pub mod deliver;
mod folder;
mod handle;
mod index;
mod later;
mod look;
mod owed;
mod rows;
pub mod settle;
mod writer;

use serde::{Deserialize, Serialize};

use crate::file::{Checksum, Class, Content, Fid, FileName};
use crate::ledger::FileWrite;
use crate::version::Version;

pub use handle::{Delivery, Intent, Journal};
pub use look::living;
pub use owed::{Debt, Debts, Most, Walk};

/// A change of the tracker's namespace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Mutation {
    /// `create_close` with a key.
    Put {
        /// Where the bytes go.
        file: FileName,
        /// Which upload is closed; `None` if the request does not say so in a form that we can read.
        fid: Option<Fid>,
        /// What is known of the bytes already.
        #[serde(default)]
        details: Details,
    },
    /// `delete`.
    Delete {
        /// What goes.
        file: FileName,
    },
    /// `rename` to another key of the same domain.
    Rename {
        /// The old name.
        from: FileName,
        /// The new name.
        to: FileName,
    },
    /// `updateclass`.
    SetClass {
        /// Of which file.
        file: FileName,
        /// The new class.
        class: Class,
    },
}

impl Mutation {
    /// The files it touches: one, or two for a rename.
    pub fn files(&self) -> Vec<&FileName> {
        match self {
            Mutation::Put { file, .. }
            | Mutation::Delete { file }
            | Mutation::SetClass { file, .. } => vec![file],
            Mutation::Rename { from, to } => vec![from, to],
        }
    }
}

/// What is known of an upload when it is closed; the rest is asked of the tracker afterwards.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Details {
    /// The class, from the create_open, if its domain was the same.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub class: Option<Class>,
    /// The size, if the tracker has compared it with the stored bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
    /// The MD5, if the tracker or repair has verified it; a mere claim is not kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub checksum: Option<Checksum>,
}

/// On whose behalf a mutation is made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum By {
    /// A client: the ledger gets a new revision.
    Client,
    /// Repair, making here what was done elsewhere: the ledger gets only what this datacenter now holds.
    Repair {
        /// The bytes that the (new) name holds afterwards; `None` for a removal.
        content: Option<Content>,
    },
}

/// What became of a mutation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The tracker said `OK`.
    Happened,
    /// The tracker refused it, or never saw it.
    DidNotHappen,
    /// The tracker answered with an error that a request gives which it had already done once (`unknown_key`,
    /// `no_temp_file`, `failure`): it may have happened.
    Doubtful,
    /// No answer: it may have happened, and may still happen.
    Lost,
}

/// One intent, with its outcome so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its place in the journal; grows.
    pub seq: u64,
    /// Final.
    pub version: Version,
    /// On whose behalf.
    pub by: By,
    /// What was asked of the tracker.
    pub mutation: Mutation,
    /// `None` while the request is under way in this process.
    pub outcome: Option<Outcome>,
    /// Wall clock (µs) when it was known that no answer comes: what a quiet time counts from. For an entry
    /// of an earlier process, when this one started.
    pub lost_at: Option<i64>,
}

/// What the ledger shall be told of one file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Announcement {
    /// Which file.
    pub file: FileName,
    /// The cells to set.
    pub write: FileWrite,
    /// The version of the entry it comes from.
    pub version: Version,
    /// Whether other datacenters must hear of it: it then takes a number of the stream. What repair
    /// did here concerns nobody else.
    pub change: bool,
}

/// An announcement on its way to the ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// Its place in the outbox; grows.
    pub id: u64,
    /// Its number in the stream, if it is a change.
    pub number: Option<u64>,
    /// What to tell.
    pub announcement: Announcement,
}

/// What the journal knows of a file that the ledger may not know yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// The newest version in the journal, whatever its outcome.
    pub newest: Option<Version>,
    /// Whether an outcome is not known yet.
    pub open: bool,
}

/// How full the journal is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Depth {
    /// Intents and announcements that the ledger has not confirmed.
    pub entries: u64,
    /// Intents whose outcome is not known, including those under way right now.
    pub open: u64,
    /// What they take, in bytes, as `max_size` counts it.
    pub bytes: u64,
    /// The oldest version among them.
    pub oldest: Option<Version>,
    /// The oldest version whose outcome is not known.
    pub oldest_open: Option<Version>,
}

/// Why a mutation was refused before the tracker saw it. Nothing has happened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refused {
    /// `max_size` is reached.
    #[error(
        "the journal is full ({bytes} bytes): the ledger has not confirmed anything for too long"
    )]
    Full {
        /// Bytes held.
        bytes: u64,
    },
    /// The disk would not take it.
    #[error("the journal cannot be written: {0}")]
    Unwritable(String),
}

/// Why a journal could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The folder or file could not be made or opened.
    #[error("open the journal in {folder}: {why}")]
    Open {
        /// Where.
        folder: String,
        /// What the system or SQLite said.
        why: String,
    },
    /// A row could not be read as this program writes it.
    #[error("the journal holds something unreadable: {0}; was it written by a newer version?")]
    Corrupt(String),
    /// A read or write of the journal failed.
    #[error("{doing}: {why}")]
    Failed {
        /// What was attempted.
        doing: &'static str,
        /// What SQLite said.
        why: String,
    },
}
