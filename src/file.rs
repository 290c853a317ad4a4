//! The plain values that every part speaks of: names, revisions, replicas. No I/O, no clock.
//!
//! Always true: a [`Domain`], [`Key`] or [`Class`] holds the tracker's own escaping in its one
//! canonical form, so that equal bytes are equal names and every name is printable ASCII.
//! Which of two values wins is decided here, in [`Cell::wins_over`], and nowhere else.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use mogilefs_protocol::escape::{escape, unescape};
use serde::{Deserialize, Serialize};

use crate::version::Version;

macro_rules! escaped_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// From the bytes that the tracker sees after unescaping.
            pub fn from_bytes(raw: &[u8]) -> Self {
                Self(escape(raw).into())
            }

            /// From text that may be escaped in any accepted way; kept in the canonical one.
            pub fn from_escaped(text: &str) -> Self {
                Self::from_bytes(&unescape(text.as_bytes()))
            }

            /// In the tracker's escaping: ASCII, fit for a line, a log and a column.
            pub fn escaped(&self) -> &str {
                &self.0
            }

            /// The bytes themselves.
            pub fn bytes(&self) -> Cow<'_, [u8]> {
                unescape(self.0.as_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

escaped_name! {
    /// A namespace of keys; known to the tracker by name.
    Domain
}
escaped_name! {
    /// The name of a file within its domain: any bytes.
    Key
}
escaped_name! {
    /// A class of a domain. The tracker calls the one that always exists `default`.
    Class
}

impl Class {
    /// The class of a file for which none was named.
    pub fn default_class() -> Self {
        Self::from_bytes(b"default")
    }
}

/// A file: what clients and the ledger know by (domain, key).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileName {
    /// The domain.
    pub domain: Domain,
    /// The key within it.
    pub key: Key,
}

impl FileName {
    /// From unescaped bytes, as a request names them.
    pub fn from_bytes(domain: &[u8], key: &[u8]) -> Self {
        Self {
            domain: Domain::from_bytes(domain),
            key: Key::from_bytes(key),
        }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.domain, self.key)
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.domain, self.key)
    }
}

/// A name was not a short word of lower-case letters, digits, `-` and `_`.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no name: 1 to 32 of a-z, 0-9, '-' and '_', beginning with a letter or digit")]
pub struct BadName(pub String);

macro_rules! short_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
                let bytes = text.as_bytes();
                let fits = (1..=32).contains(&bytes.len())
                    && good(bytes[0])
                    && bytes.iter().all(|&b| good(b) || b == b'-' || b == b'_');
                if fits { Ok(Self(text.into())) } else { Err(BadName(text.to_owned())) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

short_name! {
    /// A site with its own tracker, such as `ma01`.
    Datacenter
}
short_name! {
    /// One phylactery process of a datacenter.
    NodeName
}

/// The number by which one tracker's database knows bytes. Never compared across datacenters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fid(pub u64);

impl fmt::Display for Fid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of bytes: the put that wrote them. Class changes and renames keep it.
///
/// Compared as a whole, never by version alone: two sites may stamp the same microsecond.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Content {
    /// When the put was stamped.
    pub version: Version,
    /// Where it was made.
    pub origin: Datacenter,
    /// The process that stamped it.
    pub node: NodeName,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}/{}", self.version, self.origin, self.node)
    }
}

/// One mutation of a file, as the ledger's `head` holds it.
///
/// The order of the parts matters: on equal versions Cassandra keeps the cell whose bytes compare
/// greater, so [`Revision::wins_over`] compares the same bytes, and a put comes after a delete.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Revision {
    /// Stamped once, when the intent is written; also the timestamp of the cell.
    pub version: Version,
    /// Where the mutation was made.
    pub origin: Datacenter,
    /// The process that recorded it.
    pub node: NodeName,
    /// What it did.
    pub op: Op,
}

/// What a [`Revision`] did to its file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Op {
    /// The file should exist, with these bytes.
    Put(Put),
    /// The file should not exist.
    Delete {
        /// The key that the bytes went to, if this is the second half of a rename.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        renamed_to: Option<Key>,
    },
}

/// The put half of [`Op`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Put {
    /// Which bytes.
    pub content: Content,
    /// Their number.
    pub size: u64,
    /// Their MD5, where somebody computed it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub checksum: Option<Checksum>,
    /// The fid at the origin.
    pub fid: Fid,
    /// The key that the bytes came from, if this is the first half of a rename.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub renamed_from: Option<Key>,
}

impl Revision {
    /// The content that should be everywhere, or `None` if the file should be nowhere.
    pub fn content(&self) -> Option<&Content> {
        self.put().map(|put| &put.content)
    }

    /// The put, if this is one.
    pub fn put(&self) -> Option<&Put> {
        match &self.op {
            Op::Put(put) => Some(put),
            Op::Delete { .. } => None,
        }
    }

    /// The merge rule: newest version wins as a whole; on a tie, the greater [`Cell::tie_bytes`].
    /// Any order and any repetition of merges ends with the same winner.
    pub fn wins_over(&self, other: &Revision) -> bool {
        Cell::wins_over(self, other)
    }
}

impl Cell for Revision {
    fn written_at(&self) -> Version {
        self.version
    }

    /// As the ledger's type `revision`. `put` is ahead of all that may differ: where two sites did different
    /// things in the same microsecond, the bytes stay.
    fn tie_bytes(&self) -> Vec<u8> {
        let head = |put: bool| {
            Frozen::default()
                .number(self.version.0)
                .flag(put)
                .text(self.origin.as_str())
                .text(self.node.as_str())
        };
        match &self.op {
            Op::Put(put) => head(true)
                .content(&put.content)
                .number(put.size as i64)
                .field(put.checksum.as_ref().map(|c| c.0.as_bytes()))
                .number(put.fid.0 as i64)
                .field(put.renamed_from.as_ref().map(|k| k.escaped().as_bytes()))
                .absent(1),
            Op::Delete { renamed_to } => head(false)
                .absent(7)
                .field(renamed_to.as_ref().map(|k| k.escaped().as_bytes())),
        }
        .0
    }
}

/// The class of a file, in a cell of its own: it counts only while `content` is the head's.
///
/// (In one cell with the head, a class change made where an overwrite had not arrived yet would
/// bring the old bytes back.)
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClassCell {
    /// When the class was set; also the timestamp of the cell.
    pub version: Version,
    /// The bytes that it was set on.
    pub content: Content,
    /// The class.
    pub class: Class,
}

impl ClassCell {
    /// Newest wins; on a tie the greater [`Cell::tie_bytes`].
    pub fn wins_over(&self, other: &ClassCell) -> bool {
        Cell::wins_over(self, other)
    }
}

impl Cell for ClassCell {
    fn written_at(&self) -> Version {
        self.version
    }

    /// As the ledger's type `class_cell`.
    fn tie_bytes(&self) -> Vec<u8> {
        Frozen::default()
            .number(self.version.0)
            .content(&self.content)
            .text(self.class.escaped())
            .0
    }
}

/// What one datacenter holds of a file, as last observed there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Replica {
    /// Hybrid time of the observation, taken under the key's lock; also the timestamp of the cell.
    pub since: Version,
    /// What is there; `None` when the datacenter is known not to hold the file (any more).
    pub held: Option<Held>,
}

/// The bytes that a [`Replica`] speaks of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Held {
    /// Which bytes.
    pub content: Content,
    /// The fid in this datacenter's tracker.
    pub fid: Fid,
    /// The class there.
    pub class: Class,
    /// Said by an outsider and never looked at by us: not a source, not a proof.
    #[serde(default)]
    pub claimed: bool,
    /// What was seen of the bytes when they were last looked at; `None` if nobody has since they came.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub checked: Option<Checked>,
    /// Its datacenter is about to remove it, as not due there: nobody relies on it any more.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub leaving: bool,
}

impl Held {
    /// Whether what is here is known not to be what it should be: not a source, and to be brought again.
    pub fn is_damaged(&self) -> bool {
        self.checked
            .as_ref()
            .is_some_and(|checked| checked.found == Found::Damaged)
    }

    /// The digest that was computed of these bytes in this datacenter, while they were good.
    pub fn checksum(&self) -> Option<&Checksum> {
        self.checked.as_ref()?.checksum.as_ref()
    }
}

/// A proof, or the contrary: when bytes were looked at where they are, how, and what was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Checked {
    /// When.
    pub at: Version,
    /// How, and what it came to.
    pub found: Found,
    /// Their digest, where the head names none and we have computed one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub checksum: Option<Checksum>,
}

/// How bytes were looked at, and what it came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// Their digest was computed as they were copied here; they were not read since.
    Copied,
    /// The tracker holds the fid, and a storage node says that it has as many bytes as there should be.
    Size,
    /// All of them were read, and have the digest that they should have, or had one for the first time.
    Bytes,
    /// They are not those that should be here, or are not there at all.
    Damaged,
}

impl Found {
    /// All there are.
    pub const ALL: [Found; 4] = [Found::Copied, Found::Size, Found::Bytes, Found::Damaged];

    /// As it is kept in a column.
    pub fn word(self) -> &'static str {
        match self {
            Found::Copied => "copied",
            Found::Size => "size",
            Found::Bytes => "bytes",
            Found::Damaged => "damaged",
        }
    }
}

impl Replica {
    /// The content held, if any.
    pub fn content(&self) -> Option<&Content> {
        self.held.as_ref().map(|held| &held.content)
    }

    /// Newest observation wins; on a tie the one that holds something, then the greater [`Cell::tie_bytes`].
    pub fn wins_over(&self, other: &Replica) -> bool {
        Cell::wins_over(self, other)
    }
}

impl Cell for Replica {
    fn written_at(&self) -> Version {
        self.since
    }

    /// As the ledger's type `replica`: `holds` ahead of what is held, and what was seen above what was claimed.
    fn tie_bytes(&self) -> Vec<u8> {
        let since = Frozen::default().number(self.since.0);
        match &self.held {
            Some(held) => since
                .flag(true)
                .content(&held.content)
                .number(held.fid.0 as i64)
                .text(held.class.escaped())
                .flag(!held.claimed)
                .checked(held.checked.as_ref())
                .flag_if(held.leaving),
            None => since.flag(false).absent(10),
        }
        .0
    }
}

/// A value that the ledger keeps whole, at a timestamp of its own, and the one rule by which two meet.
///
/// The rule is Cassandra's for two cells. So a write may be delayed, repeated and reordered, in any home of
/// the ledger, and ends the same.
pub trait Cell {
    /// The cell's timestamp; part of the value.
    fn written_at(&self) -> Version;

    /// The bytes that two values of one timestamp are compared by: those of the frozen value as Cassandra
    /// stores it. Different values have different bytes.
    fn tie_bytes(&self) -> Vec<u8>;

    /// Whether this replaces `other`: the later one wins, on a tie the greater bytes. Nothing replaces its equal.
    fn wins_over(&self, other: &Self) -> bool
    where
        Self: Sized,
    {
        match self.written_at().cmp(&other.written_at()) {
            Ordering::Greater => true,
            Ordering::Less => false,
            Ordering::Equal => self.tie_bytes() > other.tie_bytes(),
        }
    }
}

/// A user-defined type as Cassandra lays it out when frozen: its fields in order, each behind its four-byte
/// length, an absent one as the length -1.
///
/// Compared as unsigned bytes, so between texts the longer is greater, and absent is greater than anything:
/// a field that decides has to be present in all, and to come early.
#[derive(Default)]
pub(crate) struct Frozen(pub(crate) Vec<u8>);

impl Frozen {
    /// A field of any type.
    pub(crate) fn field(mut self, bytes: Option<&[u8]>) -> Self {
        let length = bytes.map_or(-1, |b| i32::try_from(b.len()).unwrap_or(i32::MAX));
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes.unwrap_or_default());
        self
    }

    /// A `text` or `ascii`.
    pub(crate) fn text(self, text: &str) -> Self {
        self.field(Some(text.as_bytes()))
    }

    /// A `bigint`.
    pub(crate) fn number(self, number: i64) -> Self {
        self.field(Some(&number.to_be_bytes()))
    }

    /// A `boolean`.
    pub(crate) fn flag(self, flag: bool) -> Self {
        self.field(Some(&[u8::from(flag)]))
    }

    /// A `boolean` that is absent unless it is true: one that was added to a type.
    pub(crate) fn flag_if(self, flag: bool) -> Self {
        self.field(flag.then_some(&[1][..]))
    }

    /// Three fields: a content's parts.
    pub(crate) fn content(self, content: &Content) -> Self {
        self.number(content.version.0)
            .text(content.origin.as_str())
            .text(content.node.as_str())
    }

    /// Three fields: a check's parts, all absent if there was none.
    pub(crate) fn checked(self, checked: Option<&Checked>) -> Self {
        match checked {
            Some(checked) => self
                .number(checked.at.0)
                .text(checked.found.word())
                .field(checked.checksum.as_ref().map(|sum| sum.0.as_bytes())),
            None => self.absent(3),
        }
    }

    /// A `list<text>` or (sorted) `set<text>`: the number of elements, then each behind its length.
    pub(crate) fn texts<'a>(self, texts: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let count = i32::try_from(texts.len()).unwrap_or(i32::MAX);
        let listed = texts.fold(Frozen(count.to_be_bytes().to_vec()), Frozen::text);
        self.field(Some(&listed.0))
    }

    /// Absent fields.
    pub(crate) fn absent(self, count: usize) -> Self {
        (0..count).fold(self, |out, _| out.field(None))
    }
}

/// A digest as the tracker writes it, `MD5:` and 32 lower-case hex digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Checksum(pub Arc<str>);

impl Checksum {
    /// Of an MD5's 16 bytes.
    pub fn md5(digest: &[u8]) -> Self {
        Self(format!("MD5:{}", hex::encode(digest)).into())
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
