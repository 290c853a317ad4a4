//! The plain values that every part speaks of: names, revisions, replicas. No I/O, no clock.
//!
//! Always true: a [`Domain`], [`Key`] or [`Class`] holds the tracker's own escaping in its one
//! canonical form, so that equal bytes are equal names and every name is printable ASCII.
//! Which of two revisions wins is decided here, in [`Revision::wins_over`], and nowhere else.

use std::borrow::Cow;
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

    /// The merge rule: newest version wins as a whole; on a tie, the greater [`Self::tie_bytes`].
    /// Any order and any repetition of merges ends with the same winner.
    pub fn wins_over(&self, other: &Revision) -> bool {
        (self.version, self.tie_bytes()) > (other.version, other.tie_bytes())
    }

    /// The bytes that two revisions of one version are compared by: the fields in the order of the
    /// ledger's type `revision`, each behind its four-byte length (absent: -1), as Cassandra lays out a
    /// frozen value. `put` is a tinyint ahead of all that may differ: where two sites did
    /// different things in the same microsecond, the bytes stay.
    pub fn tie_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        let mut field = |bytes: Option<&[u8]>| {
            let length = bytes.map_or(-1, |b| i32::try_from(b.len()).unwrap_or(i32::MAX));
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(bytes.unwrap_or_default());
        };
        field(Some(&self.version.0.to_be_bytes()));
        match &self.op {
            Op::Put(put) => {
                field(Some(&[1]));
                field(Some(self.origin.as_str().as_bytes()));
                field(Some(self.node.as_str().as_bytes()));
                field(Some(&put.content.version.0.to_be_bytes()));
                field(Some(put.content.origin.as_str().as_bytes()));
                field(Some(put.content.node.as_str().as_bytes()));
                field(Some(&put.size.to_be_bytes()));
                field(put.checksum.as_ref().map(|c| c.0.as_bytes()));
                field(Some(&put.fid.0.to_be_bytes()));
                field(put.renamed_from.as_ref().map(|k| k.escaped().as_bytes()));
                field(None);
            }
            Op::Delete { renamed_to } => {
                field(Some(&[0]));
                field(Some(self.origin.as_str().as_bytes()));
                field(Some(self.node.as_str().as_bytes()));
                for _ in 0..7 {
                    field(None);
                }
                field(renamed_to.as_ref().map(|k| k.escaped().as_bytes()));
            }
        }
        out
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
    /// Newest wins; on a tie the greater (content, class), as Cassandra compares the bytes.
    pub fn wins_over(&self, other: &ClassCell) -> bool {
        let key = |c: &ClassCell| {
            let lengths = |s: &str| (s.len(), s.to_owned());
            let content = &c.content;
            (
                c.version,
                content.version.0.to_be_bytes(),
                lengths(content.origin.as_str()),
                lengths(content.node.as_str()),
                lengths(c.class.escaped()),
            )
        };
        key(self) > key(other)
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
}

impl Replica {
    /// The content held, if any.
    pub fn content(&self) -> Option<&Content> {
        self.held.as_ref().map(|held| &held.content)
    }

    /// Newest observation wins; on a tie the one that holds something, then the greater content.
    pub fn wins_over(&self, other: &Replica) -> bool {
        let key = |r: &Replica| {
            (
                r.since,
                r.held
                    .as_ref()
                    .map(|h| (h.content.clone(), h.fid, h.class.clone(), !h.claimed)),
            )
        };
        key(self) > key(other)
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
