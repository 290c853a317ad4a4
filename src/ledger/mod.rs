//! The ledger: every file that should exist, and what each datacenter holds of it.
//!
//! One interface, shaped by what Cassandra can do, for it is the ledger's real home:
//!
//! - **No transactions, no read before write.** A write sets cells, each at a timestamp that is part of its value
//!   (a head's `version`, a replica's `since`, a gap's `observed`). The greater timestamp wins, on equal ones
//!   the greater bytes ([`Cell`](crate::file::Cell)). So every write may be repeated, delayed and reordered, and ends
//!   the same; one that is older than what is there succeeds and changes nothing.
//! - **Cells, not rows.** Head and class are cells of their own; replicas are set one datacenter at a time.
//! - **Streams instead of clocks.** A node numbers its changes 1, 2, 3 … without holes; a reader therefore
//!   knows what it has not seen.
//! - **Scans by token.** All files lie on a ring of 2^64 tokens and are read in pages of a range of it.
//!
//! Never here: deciding what to do about what the ledger says (`repair`), or keeping what it has not
//! taken yet (`journal`).

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::file::{
    Checksum, Class, ClassCell, Content, Datacenter, Domain, FileName, Held, NodeName, Replica,
    Revision,
};
use crate::version::Version;

pub mod awaited;
pub mod cassandra;
pub mod embedded;
#[cfg(test)]
mod laws;
mod membership;
mod rows;
#[cfg(any(test, feature = "ledger-suite"))]
pub mod suite;

pub use membership::{MemberState, Membership};

/// How sure an answer or a write has to be. The embedded ledger has one copy, so all are one to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strength {
    /// A quorum of this datacenter's copies: what everything ordinary uses.
    Local,
    /// A quorum over all datacenters together: for a hole in a stream, or a head that is older than its change. It
    /// finds more than [`Self::Local`], and works while a datacenter is away.
    Global,
    /// A quorum in each datacenter. Read so, it finds whatever was written at [`Self::Local`] in any of them: what it
    /// does not find is not there.
    Each,
    /// What the operator wants a write to reach in the end, by default every copy there is: how a debt is paid.
    Whole,
}

/// Why the ledger did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Not reached, or not enough copies, or too slow: the same call may work later.
    #[error("{doing}: the ledger is not available: {why}")]
    Unavailable {
        /// What was attempted, as a short present-tense phrase.
        doing: &'static str,
        /// What the store said.
        why: String,
    },
    /// The store has something that this program did not write or cannot read.
    #[error(
        "{doing}: the ledger holds something unreadable: {why}; was it written by a newer version?"
    )]
    Corrupt {
        /// What was attempted.
        doing: &'static str,
        /// Which value, and what is wrong with it.
        why: String,
    },
}

/// All that the ledger knows of one file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FileRecord {
    /// The newest revision; absent while only replicas have arrived.
    pub head: Option<Revision>,
    /// The newest class cell; see [`FileRecord::class`] for the one that counts.
    pub class_cell: Option<ClassCell>,
    /// One entry a datacenter that was ever observed.
    pub replicas: BTreeMap<Datacenter, Replica>,
}

impl FileRecord {
    /// The class that counts: the cell's, if it was set on the bytes that the head names. Where it was set on others, by somebody
    /// whom an overwrite had not reached yet, it may cover what the overwrite said; then the class counts that
    /// the bytes have where the head was made, else with the first who holds them.
    pub fn class(&self) -> Option<&Class> {
        let head = self.head.as_ref()?;
        let content = head.content()?;
        let cell = self.class_cell.as_ref()?;
        if cell.content == *content {
            return Some(&cell.class);
        }
        let origin = self.replicas.get(&head.origin);
        let mut holders = origin
            .into_iter()
            .chain(self.replicas.values())
            .filter_map(|replica| replica.held.as_ref())
            .filter(|held| held.content == *content && !held.claimed);
        holders.next().map(|held| &held.class)
    }

    /// The content that should be everywhere; `None` for a deleted or unknown file.
    pub fn content(&self) -> Option<&Content> {
        self.head.as_ref()?.content()
    }

    /// The digest of the bytes that should be everywhere: the one that the head names, else what all that have computed
    /// one of them agree on.
    pub fn checksum(&self) -> Option<&Checksum> {
        let put = self.head.as_ref()?.put()?;
        let held = self
            .replicas
            .values()
            .filter_map(|replica| replica.held.as_ref());
        let mut computed = held
            .filter(|held| held.content == put.content && !held.claimed)
            .filter_map(Held::checksum);
        put.checksum.as_ref().or_else(|| {
            let first = computed.next()?;
            computed.all(|other| other == first).then_some(first)
        })
    }

    /// Whether `datacenter`, if the file is due there (`due`), holds what it should, in the right
    /// class, and nothing that it should not.
    pub fn is_whole_in(&self, datacenter: &Datacenter, due: bool) -> bool {
        let held = self
            .replicas
            .get(datacenter)
            .and_then(|replica| replica.held.as_ref());
        match (self.content(), held) {
            (None, held) => held.is_none() || self.head.is_none(),
            (Some(_), None) => !due,
            (Some(content), Some(held)) => {
                !due || (held.content == *content
                    && !held.is_damaged()
                    && self.class().is_none_or(|class| *class == held.class))
            }
        }
    }

    /// Takes in another copy's or a later write's cells, each by its own merge rule.
    pub fn merge(&mut self, write: &FileWrite) {
        if let Some(head) = &write.head
            && self.head.as_ref().is_none_or(|mine| head.wins_over(mine))
        {
            self.head = Some(head.clone());
        }
        if let Some(class) = &write.class
            && self
                .class_cell
                .as_ref()
                .is_none_or(|mine| class.wins_over(mine))
        {
            self.class_cell = Some(class.clone());
        }
        if let Some((datacenter, replica)) = &write.replica
            && self
                .replicas
                .get(datacenter)
                .is_none_or(|mine| replica.wins_over(mine))
        {
            self.replicas.insert(datacenter.clone(), replica.clone());
        }
    }
}

/// Cells of one file to be set. Absent ones are left alone.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FileWrite {
    /// A new head, at its version.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub head: Option<Revision>,
    /// A class, at its version.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub class: Option<ClassCell>,
    /// What one datacenter holds, at the observation's time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub replica: Option<(Datacenter, Replica)>,
}

/// The changes of one node in one incarnation; `ma01/node1/5f0c…` as text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct StreamId {
    /// Whose changes.
    pub datacenter: Datacenter,
    /// Which process of it.
    pub node: NodeName,
    /// Which life of its journal: random, made with the journal folder.
    pub incarnation: String,
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.datacenter, self.node, self.incarnation)
    }
}

/// Numbers of a stream that lie together in the ledger. A reader finds what comes next over the edge of a block, but need not
/// find it beyond a whole block without an entry: streams have no holes but those of what is late or has expired.
///
/// At 200 bytes an entry a block is 10 MB, and full after 10 s at 5,000 mutations a second.
pub const CHANGES_IN_A_BLOCK: u64 = 50_000;

/// One entry of a stream: this file has a head or a class of at least this version. Never deleted; a number
/// is used once, and its cells carry `version` as their timestamp.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// Its number in the stream, from 1.
    pub number: u64,
    /// The file that changed; `None` where a number had to be used up without a change.
    pub file: Option<FileName>,
    /// The version to expect in the ledger. A reader that finds an older one has not seen the write yet.
    pub version: Version,
    /// Which cell to expect it in.
    pub about: About,
}

/// Which cell of a file was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// The head, and for a put the class too.
    #[default]
    Head,
    /// The class only.
    Class,
}

impl About {
    /// As it is kept in a column.
    pub fn word(self) -> &'static str {
        match self {
            About::Head => "head",
            About::Class => "class",
        }
    }
}

/// What the ledger is known to have of a file somewhere: who has not seen it must not take the file for done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Expected {
    /// A head of at least this version.
    pub head: Option<Version>,
    /// Whose it is, as long as somebody remembers. Two sites may stamp the same microsecond, so another's head of this version does not say
    /// that this one has been seen.
    #[serde(skip)]
    pub head_by: Option<Writer>,
    /// A class of at least this version, or a head, which has taken its place.
    pub class: Option<Version>,
}

/// A node of a datacenter, as a number that goes along everywhere: it tells two writers apart, in this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Writer(u64);

impl Writer {
    /// That of this node.
    pub fn of(datacenter: &Datacenter, node: &NodeName) -> Writer {
        let mut hasher = DefaultHasher::new();
        (datacenter, node).hash(&mut hasher);
        Writer(hasher.finish())
    }
}

impl Expected {
    /// What a change of this stream announces.
    pub fn by(stream: &StreamId, change: &Change) -> Expected {
        let version = Some(change.version);
        match change.about {
            About::Head => Expected {
                head: version,
                head_by: Some(Writer::of(&stream.datacenter, &stream.node)),
                class: None,
            },
            About::Class => Expected {
                class: version,
                ..Expected::default()
            },
        }
    }

    /// What a record shows.
    pub fn shown_by(record: &FileRecord) -> Expected {
        let head = record.head.as_ref();
        Expected {
            head: head.map(|head| head.version),
            head_by: head.map(|head| Writer::of(&head.origin, &head.node)),
            class: record.class_cell.as_ref().map(|cell| cell.version),
        }
    }

    /// Both.
    pub fn and(self, other: Expected) -> Expected {
        let head_by = match self.head.cmp(&other.head) {
            Ordering::Greater => self.head_by,
            Ordering::Less => other.head_by,
            Ordering::Equal => self.head_by.filter(|_| self.head_by == other.head_by),
        };
        Expected {
            head: self.head.max(other.head),
            head_by,
            class: self.class.max(other.class),
        }
    }

    /// The version that a record does not show for certain, if there is one: it is missing, or somebody else's of the same
    /// microsecond is in its place, which may have won, or come first.
    pub fn unsure_in(&self, record: &FileRecord) -> Option<Version> {
        let tied = record.head.as_ref().filter(|head| {
            Some(head.version) == self.head
                && self.head_by != Some(Writer::of(&head.origin, &head.node))
        });
        let tied = tied.map(|head| head.version);
        self.missing_in(record).max(tied)
    }

    /// The version that a record should show and does not, if there is one.
    pub fn missing_in(&self, record: &FileRecord) -> Option<Version> {
        let head = record.head.as_ref().map(|head| head.version);
        let class = record.class_cell.as_ref().map(|cell| cell.version);
        let wanted_head = self.head.filter(|version| head < Some(*version));
        let wanted_class = self
            .class
            .filter(|version| head.max(class) < Some(*version));
        wanted_head.max(wanted_class)
    }
}

/// A part of the ring of tokens, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenRange {
    /// The first token.
    pub first: i64,
    /// The last token.
    pub last: i64,
}

impl TokenRange {
    /// The whole ring.
    pub const ALL: TokenRange = TokenRange {
        first: i64::MIN,
        last: i64::MAX,
    };

    /// Part `part` of the ring cut in `parts` equal ones.
    pub fn part(part: u32, parts: u32) -> TokenRange {
        let edge =
            |n: u32| i128::from(i64::MIN) + ((1i128 << 64) * i128::from(n)) / i128::from(parts);
        TokenRange {
            first: edge(part) as i64,
            last: (edge(part + 1) - 1) as i64,
        }
    }

    /// Which share of the range lies up to a token of it, from 0 to 1.
    pub fn share_up_to(&self, token: i64) -> f64 {
        let from_first = |token: i64| (i128::from(token) - i128::from(self.first)) as f64;
        (from_first(token) / from_first(self.last).max(1.0)).clamp(0.0, 1.0)
    }
}

/// One page of a scan.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// Files with their records, in the ring's order.
    pub files: Vec<(FileName, FileRecord)>,
    /// Files of the page that this program cannot read. Left out of `files`, so that one bad row does not
    /// keep a scan from the rest; whoever scans has to name them to an operator.
    pub unreadable: Vec<Unreadable>,
    /// Where the next page begins; `None` when the range is done. Only this ledger can read it.
    pub next: Option<String>,
    /// The token of its last file: how far it is through the range.
    pub reached: Option<i64>,
}

/// A file whose record cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// Which file; `None` if no file can have the name that the row has.
    pub file: Option<FileName>,
    /// Which row, which cell of it, and what is wrong.
    pub why: String,
}

/// What did not work at once, in one datacenter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Gap {
    /// The file concerned.
    pub file: FileName,
    /// Since when the file is not as it should be: the version of the oldest change that is not applied, or, where no change
    /// has told of it, when it was first seen.
    pub since: Version,
    /// How often it was tried when its turn had come. Attempts that newer changes of the file gave cause for in between are not counted.
    pub attempts: u32,
    /// Why it did not work the last time.
    pub last_error: String,
    /// When it will be tried again.
    pub next_try: Version,
    /// Hybrid time of this observation; also the timestamp of the row's cells.
    pub observed: Version,
    /// What the file has to show before the gap may be closed.
    pub expected: Expected,
}

/// A node's own word about itself, published regularly.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The stream it writes now.
    pub stream: StreamId,
    /// The last number of it that was given to a change.
    pub last_number: u64,
    /// Every number up to this one is in the ledger, or was until it expired there.
    pub delivered: u64,
    /// The version of its oldest mutation that the ledger has not, delivered or open.
    pub oldest_undelivered: Option<Version>,
    /// The version of its oldest mutation whose outcome is not known.
    pub oldest_open: Option<Version>,
    /// Where its clock stands.
    pub clock_mark: Version,
    /// When it said so; also the timestamp of the row's cells.
    pub heartbeat: Version,
    /// Above that of every stream that this node has left, whatever its clock said then. 0 in words of earlier programs.
    #[serde(default)]
    pub generation: u64,
}

impl NodeRecord {
    /// A node whose word is there and cannot be read. It counts as one that has never delivered anything and has everything still to tell: nothing
    /// of it is passed by mistake, nobody is in sync while it stands, and nothing is forgotten; all else goes on.
    pub fn unread(stream: StreamId) -> NodeRecord {
        NodeRecord {
            stream,
            last_number: 0,
            delivered: 0,
            oldest_undelivered: Some(Version(1)),
            oldest_open: None,
            clock_mark: Version(0),
            heartbeat: Version(0),
            generation: 0,
        }
    }

    /// Whether it is one of [`Self::unread`].
    pub fn is_unread(&self) -> bool {
        self.heartbeat == Version(0)
    }
}

/// What a datacenter tells the others about itself. What an operator has said of it is its [`Membership`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatacenterRecord {
    /// Its name.
    pub name: Datacenter,
    /// Its trackers, `host:port`, as other datacenters reach them.
    pub trackers: Vec<String>,
    /// Its storage nodes, `host:port`: the only places that repair fetches from.
    pub storage_hosts: BTreeSet<String>,
    /// Its HTTP API, for people.
    pub api: Option<String>,
    /// When this was said; also the timestamp of the row's cells.
    pub updated: Version,
}

/// Which datacenters the files of a class are due in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Placement {
    /// The domain.
    pub domain: Domain,
    /// The class; `None` for all classes of the domain that have no placement of their own.
    pub class: Option<Class>,
    /// The datacenters. None at all: the placement was taken back, and what would count without it does.
    pub datacenters: BTreeSet<Datacenter>,
    /// Within which time, in seconds, a change is to be done in all of them; `None` where nobody has said, and
    /// [`LAG_GOAL`](crate::placement::LAG_GOAL) counts.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lag_goal_seconds: Option<u32>,
    /// Whether what is in a datacenter where it is not due is removed there.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub remove_extra: bool,
    /// When this was said; also the timestamp of the row's cells.
    pub updated: Version,
}

impl Placement {
    /// Whether it counts no more. It stays as a row, so that its time is known.
    pub fn is_taken_back(&self) -> bool {
        self.datacenters.is_empty()
    }
}

/// How far one datacenter has read: a stream of another's changes, or its own scan of all files; or since when it has seen
/// a stream to be left.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cursor {
    /// A stream's text, the name of a scan, or `left` and a stream's text.
    pub name: String,
    /// Everything up to here is done or parked by name in `gaps`. For a scan: the next part. For a stream that was left: the time, in µs.
    pub number: u64,
    /// More that the reader wants to keep: a scan's page, when it began and last ended.
    pub note: String,
    /// When this was said; also the timestamp of the row's cells.
    pub updated: Version,
}

/// A node of the cluster that is the ledger: one of Cassandra's, not of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterNode {
    /// Where it is.
    pub address: String,
    /// The datacenter that the cluster counts it to, which need not have the name of one of ours.
    pub datacenter: Option<String>,
    /// Whether it is reached from here.
    pub reached: bool,
}

impl std::fmt::Display for ClusterNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let datacenter = self.datacenter.as_deref().unwrap_or("no datacenter");
        write!(f, "{} ({datacenter})", self.address)
    }
}

/// The ledger. Every call may be repeated; none waits without limit.
///
/// Each `set_` keeps the later of what is there and what comes, as a whole, by [`Cell`](crate::file::Cell); so does
/// [`Self::write`] for each cell. What a reader cannot read in full is an error, and never a shorter list: who
/// decides by nodes, datacenters or placements must not decide by a part of them. (A node whose row at least names it may be given
/// as [`NodeRecord::unread`]: what one bad row costs is "in sync", and not the work of all.)
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Sets cells of one file.
    async fn write(
        &self,
        file: &FileName,
        write: &FileWrite,
        strength: Strength,
    ) -> Result<(), LedgerError>;
    /// What is known of one file; an empty record if nothing is.
    async fn read(&self, file: &FileName, strength: Strength) -> Result<FileRecord, LedgerError>;
    /// Up to `limit` files of a range, from its beginning or from an earlier page's `next`. A page may hold fewer,
    /// even none, before the end; only its `next` tells. What is not in a page at [`Strength::Each`] is not there.
    async fn scan(
        &self,
        range: TokenRange,
        from: Option<&str>,
        limit: usize,
        strength: Strength,
    ) -> Result<Page, LedgerError>;

    /// Removes these cells of a file, each at its own timestamp, at [`Strength::Whole`]; the head last. What was written
    /// later stays. (A late repetition of what was removed may bring it back: harmless, for it is old.)
    async fn forget(&self, file: &FileName, record: &FileRecord) -> Result<(), LedgerError>;

    /// Adds an entry to a stream. The file's own cells have been written before.
    async fn append_change(
        &self,
        stream: &StreamId,
        change: &Change,
        strength: Strength,
    ) -> Result<(), LedgerError>;
    /// Up to `limit` entries with a number greater than `after`, ascending. May have holes: the reader looks. See
    /// [`CHANGES_IN_A_BLOCK`]. An entry that cannot be read is a hole.
    async fn changes(
        &self,
        stream: &StreamId,
        after: u64,
        limit: usize,
        strength: Strength,
    ) -> Result<Vec<Change>, LedgerError>;

    /// Sets a gap of one datacenter.
    async fn set_gap(&self, datacenter: &Datacenter, gap: &Gap) -> Result<(), LedgerError>;
    /// Takes a gap away, as observed at `observed`: a later observation of it stays, an earlier or equal one that
    /// arrives afterwards is not set any more. (That is remembered for days, not for ever.)
    async fn clear_gap(
        &self,
        datacenter: &Datacenter,
        file: &FileName,
        observed: Version,
    ) -> Result<(), LedgerError>;
    /// One gap, if there is one.
    async fn gap(
        &self,
        datacenter: &Datacenter,
        file: &FileName,
    ) -> Result<Option<Gap>, LedgerError>;
    /// Up to `limit` gaps of a datacenter whose next try is at or before `due`, most urgent first.
    async fn gaps(
        &self,
        datacenter: &Datacenter,
        due: Version,
        limit: usize,
    ) -> Result<Vec<Gap>, LedgerError>;
    /// How many gaps a datacenter has.
    async fn count_gaps(&self, datacenter: &Datacenter) -> Result<u64, LedgerError>;
    /// The least `since` of a datacenter's gaps; `None` if it has none. As exact as [`Self::count_gaps`].
    async fn oldest_gap(&self, datacenter: &Datacenter) -> Result<Option<Version>, LedgerError>;

    /// Publishes a node's word about itself.
    async fn set_node(&self, node: &NodeRecord) -> Result<(), LedgerError>;
    /// All nodes ever registered, one row a (datacenter, node, incarnation).
    async fn nodes(&self) -> Result<Vec<NodeRecord>, LedgerError>;
    /// Registers a datacenter, or changes what it says of itself.
    async fn set_datacenter(&self, datacenter: &DatacenterRecord) -> Result<(), LedgerError>;
    /// All datacenters ever registered, sorted by name.
    async fn datacenters(&self) -> Result<Vec<DatacenterRecord>, LedgerError>;
    /// Says what an operator wants of a datacenter. Said once, as a placement is: at [`Strength::Each`] in the end.
    async fn set_membership(
        &self,
        membership: &Membership,
        strength: Strength,
    ) -> Result<(), LedgerError>;
    /// What operators have said, of those datacenters that they have said something of, sorted by name.
    async fn memberships(&self) -> Result<Vec<Membership>, LedgerError>;
    /// Sets a placement. Said once, so whoever sets it wants to know whether all datacenters hear it: [`Strength::Each`].
    async fn set_placement(
        &self,
        placement: &Placement,
        strength: Strength,
    ) -> Result<(), LedgerError>;
    /// All placements.
    async fn placements(&self) -> Result<Vec<Placement>, LedgerError>;
    /// Moves a cursor of one datacenter.
    async fn set_cursor(&self, datacenter: &Datacenter, cursor: &Cursor)
    -> Result<(), LedgerError>;
    /// One cursor.
    async fn cursor(
        &self,
        datacenter: &Datacenter,
        name: &str,
    ) -> Result<Option<Cursor>, LedgerError>;

    /// Whether a write at [`Strength::Local`] leaves a debt: it has yet to be asserted at [`Strength::Whole`].
    fn owes(&self) -> bool {
        false
    }
    /// The nodes that the ledger itself consists of, as far as is known; none of one that is in one piece, or not open yet.
    fn cluster(&self) -> Vec<ClusterNode> {
        Vec::new()
    }
    /// Those of them that cannot be reached from here, each with its datacenter, for people.
    fn unreachable(&self) -> Vec<String> {
        let away = self.cluster().into_iter().filter(|node| !node.reached);
        away.map(|node| node.to_string()).collect()
    }
    /// A line for `status`: which ledger this is.
    fn describe(&self) -> String;
    /// A number that is another one when somebody has written, for [`Self::wait_for_news_since`].
    fn news(&self) -> u64;
    /// Waits until somebody may have written since [`Self::news`] was `seen`, or `limit` has passed. Who
    /// takes `seen` before reading misses nothing that was written while it read.
    async fn wait_for_news_since(&self, seen: u64, limit: Duration);
    /// Waits until somebody may have written, or `limit` has passed: a hint that saves polling.
    async fn wait_for_news(&self, limit: Duration) {
        self.wait_for_news_since(self.news(), limit).await;
    }
}
