//! The types of `schema/` in Rust, and what they mean.
//!
//! Always true: what is written equals, byte for byte, what [`Cell::tie_bytes`](crate::file::Cell::tie_bytes) of the value
//! says; the tests on a real cluster compare them. Every field may be absent when read: what a row lacks, or holds
//! in a form that this program does not write, makes that row unreadable and no other.

use std::borrow::Cow;

use scylla::{DeserializeValue, SerializeValue};

use crate::file::{
    Checked, Checksum, Class, ClassCell, Content, Datacenter, Domain, Fid, FileName, Found, Held,
    Key, NodeName, Op, Put, Replica, Revision,
};
use crate::ledger::{
    About, Change, Cursor, DatacenterRecord, Expected, Gap, MemberState, Membership, NodeRecord,
    Placement, StreamId,
};
use crate::version::Version;

/// What is wrong with a value, in a few words; who reads it adds which one it is.
pub(super) type Wrong = Cow<'static, str>;

/// A value that has to be there.
fn there<T>(value: Option<T>, name: &'static str) -> Result<T, Wrong> {
    value.ok_or_else(|| format!("it has no {name}").into())
}

fn parsed<T: std::str::FromStr<Err = impl std::fmt::Display>>(text: &str) -> Result<T, Wrong> {
    text.parse()
        .map_err(|why: T::Err| Wrong::from(why.to_string()))
}

/// A name in the tracker's escaping, in its one canonical form: another form would be another row.
macro_rules! canonical {
    ($text:expr, $name:ident) => {{
        let name = $name::from_escaped($text);
        if name.escaped() == $text {
            Ok(name)
        } else {
            Err(Wrong::from(format!(
                "{:?} is not escaped as a tracker would",
                shortened($text)
            )))
        }
    }};
}

fn shortened(text: &str) -> &str {
    text.char_indices()
        .nth(80)
        .map_or(text, |(end, _)| &text[..end])
}

/// A file by the columns that name it.
pub(super) fn file_name(domain: &str, key: &str) -> Result<FileName, Wrong> {
    Ok(FileName {
        domain: canonical!(domain, Domain)?,
        key: canonical!(key, Key)?,
    })
}

/// `revision`
#[derive(SerializeValue, DeserializeValue, Default)]
pub(super) struct RevisionValue<'a> {
    version: Option<i64>,
    put: Option<bool>,
    origin: Option<&'a str>,
    node: Option<&'a str>,
    content_version: Option<i64>,
    content_origin: Option<&'a str>,
    content_node: Option<&'a str>,
    size: Option<i64>,
    checksum: Option<&'a str>,
    fid: Option<i64>,
    renamed_from: Option<&'a str>,
    renamed_to: Option<&'a str>,
}

impl<'a> From<&'a Revision> for RevisionValue<'a> {
    fn from(revision: &'a Revision) -> Self {
        let common = RevisionValue {
            version: Some(revision.version.0),
            origin: Some(revision.origin.as_str()),
            node: Some(revision.node.as_str()),
            ..RevisionValue::default()
        };
        match &revision.op {
            Op::Put(put) => RevisionValue {
                put: Some(true),
                content_version: Some(put.content.version.0),
                content_origin: Some(put.content.origin.as_str()),
                content_node: Some(put.content.node.as_str()),
                size: Some(put.size as i64),
                checksum: put.checksum.as_ref().map(|checksum| &*checksum.0),
                fid: Some(put.fid.0 as i64),
                renamed_from: put.renamed_from.as_ref().map(Key::escaped),
                ..common
            },
            Op::Delete { renamed_to } => RevisionValue {
                put: Some(false),
                renamed_to: renamed_to.as_ref().map(Key::escaped),
                ..common
            },
        }
    }
}

impl RevisionValue<'_> {
    pub(super) fn revision(&self) -> Result<Revision, Wrong> {
        let key = |text: Option<&str>| text.map(|text| canonical!(text, Key)).transpose();
        let op = if there(self.put, "put")? {
            Op::Put(Put {
                content: content(self.content_version, self.content_origin, self.content_node)?,
                size: there(self.size, "size")? as u64,
                checksum: self.checksum.map(|text| Checksum(text.into())),
                fid: Fid(there(self.fid, "fid")? as u64),
                renamed_from: key(self.renamed_from)?,
            })
        } else {
            Op::Delete {
                renamed_to: key(self.renamed_to)?,
            }
        };
        Ok(Revision {
            version: Version(there(self.version, "version")?),
            origin: parsed(there(self.origin, "origin")?)?,
            node: parsed(there(self.node, "node")?)?,
            op,
        })
    }
}

fn content(
    version: Option<i64>,
    origin: Option<&str>,
    node: Option<&str>,
) -> Result<Content, Wrong> {
    Ok(Content {
        version: Version(there(version, "content_version")?),
        origin: parsed(there(origin, "content_origin")?)?,
        node: parsed(there(node, "content_node")?)?,
    })
}

/// `class_cell`
#[derive(SerializeValue, DeserializeValue)]
pub(super) struct ClassValue<'a> {
    version: Option<i64>,
    content_version: Option<i64>,
    content_origin: Option<&'a str>,
    content_node: Option<&'a str>,
    class_name: Option<&'a str>,
}

impl<'a> From<&'a ClassCell> for ClassValue<'a> {
    fn from(cell: &'a ClassCell) -> Self {
        ClassValue {
            version: Some(cell.version.0),
            content_version: Some(cell.content.version.0),
            content_origin: Some(cell.content.origin.as_str()),
            content_node: Some(cell.content.node.as_str()),
            class_name: Some(cell.class.escaped()),
        }
    }
}

impl ClassValue<'_> {
    pub(super) fn cell(&self) -> Result<ClassCell, Wrong> {
        Ok(ClassCell {
            version: Version(there(self.version, "version")?),
            content: content(self.content_version, self.content_origin, self.content_node)?,
            class: canonical!(there(self.class_name, "class_name")?, Class)?,
        })
    }
}

/// `replica`
#[derive(SerializeValue, DeserializeValue, Default)]
pub(super) struct ReplicaValue<'a> {
    since: Option<i64>,
    holds: Option<bool>,
    content_version: Option<i64>,
    content_origin: Option<&'a str>,
    content_node: Option<&'a str>,
    fid: Option<i64>,
    class_name: Option<&'a str>,
    seen: Option<bool>,
    checked: Option<i64>,
    found: Option<&'a str>,
    checksum: Option<&'a str>,
    leaving: Option<bool>,
}

impl<'a> From<&'a Replica> for ReplicaValue<'a> {
    fn from(replica: &'a Replica) -> Self {
        let since = Some(replica.since.0);
        match &replica.held {
            None => ReplicaValue {
                since,
                holds: Some(false),
                ..ReplicaValue::default()
            },
            Some(held) => ReplicaValue {
                since,
                holds: Some(true),
                content_version: Some(held.content.version.0),
                content_origin: Some(held.content.origin.as_str()),
                content_node: Some(held.content.node.as_str()),
                fid: Some(held.fid.0 as i64),
                class_name: Some(held.class.escaped()),
                seen: Some(!held.claimed),
                checked: held.checked.as_ref().map(|checked| checked.at.0),
                found: held.checked.as_ref().map(|checked| checked.found.word()),
                checksum: held.checksum().map(|checksum| &*checksum.0),
                leaving: held.leaving.then_some(true),
            },
        }
    }
}

impl ReplicaValue<'_> {
    pub(super) fn replica(&self) -> Result<Replica, Wrong> {
        let held = if there(self.holds, "holds")? {
            Some(Held {
                content: content(self.content_version, self.content_origin, self.content_node)?,
                fid: Fid(there(self.fid, "fid")? as u64),
                class: canonical!(there(self.class_name, "class_name")?, Class)?,
                claimed: !there(self.seen, "seen")?,
                checked: self.check()?,
                leaving: self.leaving.unwrap_or_default(),
            })
        } else {
            None
        };
        Ok(Replica {
            since: Version(there(self.since, "since")?),
            held,
        })
    }
}

impl ReplicaValue<'_> {
    fn check(&self) -> Result<Option<Checked>, Wrong> {
        let Some(at) = self.checked else {
            return Ok(None);
        };
        let word = there(self.found, "found")?;
        let found = Found::ALL.into_iter().find(|found| found.word() == word);
        Ok(Some(Checked {
            at: Version(at),
            found: found.ok_or_else(|| Wrong::from(format!("found is {:?}", shortened(word))))?,
            checksum: self.checksum.map(|text| Checksum(text.into())),
        }))
    }
}

/// A datacenter that a map of `replicas` names.
pub(super) fn datacenter(name: &str) -> Result<Datacenter, Wrong> {
    parsed(name)
}

/// A stream by the columns that name it.
pub(super) fn stream(datacenter: &str, node: &str, incarnation: &str) -> Result<StreamId, Wrong> {
    Ok(StreamId {
        datacenter: self::datacenter(datacenter)?,
        node: parsed::<NodeName>(node)?,
        incarnation: incarnation.to_owned(),
    })
}

/// A row of `changes`, without the stream.
pub(super) type ChangeRow<'a> = (
    i64,
    Option<&'a str>,
    Option<&'a str>,
    Option<i64>,
    Option<&'a str>,
);

pub(super) fn change(
    (number, domain, key, version, about): ChangeRow<'_>,
) -> Result<Change, Wrong> {
    let file = match (domain, key) {
        (Some(domain), Some(key)) => Some(file_name(domain, key)?),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err("it names half a file".into()),
    };
    let about = there(about, "about")?;
    let about = [About::Head, About::Class]
        .into_iter()
        .find(|word| word.word() == about)
        .ok_or_else(|| Wrong::from(format!("about is {:?}", shortened(about))))?;
    Ok(Change {
        number: u64::try_from(number).map_err(|_| Wrong::from("its number is negative"))?,
        file,
        version: Version(there(version, "version")?),
        about,
    })
}

/// `gap`
#[derive(SerializeValue, DeserializeValue)]
pub(super) struct GapValue<'a> {
    observed: Option<i64>,
    since: Option<i64>,
    attempts: Option<i64>,
    next_try: Option<i64>,
    last_error: Option<&'a str>,
    domain: Option<&'a str>,
    key: Option<&'a str>,
    expected_head: Option<i64>,
    expected_class: Option<i64>,
}

impl<'a> From<&'a Gap> for GapValue<'a> {
    fn from(gap: &'a Gap) -> Self {
        GapValue {
            observed: Some(gap.observed.0),
            since: Some(gap.since.0),
            attempts: Some(gap.attempts.into()),
            next_try: Some(gap.next_try.0),
            last_error: Some(&gap.last_error),
            domain: Some(gap.file.domain.escaped()),
            key: Some(gap.file.key.escaped()),
            expected_head: gap.expected.head.map(|version| version.0),
            expected_class: gap.expected.class.map(|version| version.0),
        }
    }
}

impl GapValue<'_> {
    pub(super) fn gap(&self) -> Result<Gap, Wrong> {
        Ok(Gap {
            file: file_name(there(self.domain, "domain")?, there(self.key, "key")?)?,
            since: Version(there(self.since, "since")?),
            attempts: there(self.attempts, "attempts")?
                .try_into()
                .unwrap_or(u32::MAX),
            last_error: there(self.last_error, "last_error")?.to_owned(),
            next_try: Version(there(self.next_try, "next_try")?),
            observed: Version(there(self.observed, "observed")?),
            expected: Expected {
                head_by: None,
                head: self.expected_head.map(Version),
                class: self.expected_class.map(Version),
            },
        })
    }
}

/// `node_record`
#[derive(SerializeValue, DeserializeValue)]
pub(super) struct NodeValue<'a> {
    heartbeat: Option<i64>,
    last_number: Option<i64>,
    clock_mark: Option<i64>,
    oldest_undelivered: Option<i64>,
    oldest_open: Option<i64>,
    datacenter: Option<&'a str>,
    node: Option<&'a str>,
    incarnation: Option<&'a str>,
    delivered: Option<i64>,
    generation: Option<i64>,
}

impl<'a> From<&'a NodeRecord> for NodeValue<'a> {
    fn from(node: &'a NodeRecord) -> Self {
        NodeValue {
            heartbeat: Some(node.heartbeat.0),
            last_number: Some(node.last_number as i64),
            clock_mark: Some(node.clock_mark.0),
            oldest_undelivered: node.oldest_undelivered.map(|version| version.0),
            oldest_open: node.oldest_open.map(|version| version.0),
            datacenter: Some(node.stream.datacenter.as_str()),
            node: Some(node.stream.node.as_str()),
            incarnation: Some(&node.stream.incarnation),
            delivered: Some(node.delivered as i64),
            generation: Some(node.generation as i64),
        }
    }
}

impl NodeValue<'_> {
    pub(super) fn record(&self) -> Result<NodeRecord, Wrong> {
        Ok(NodeRecord {
            stream: stream(
                there(self.datacenter, "datacenter")?,
                there(self.node, "node")?,
                there(self.incarnation, "incarnation")?,
            )?,
            last_number: there(self.last_number, "last_number")? as u64,
            delivered: there(self.delivered, "delivered")? as u64,
            oldest_undelivered: self.oldest_undelivered.map(Version),
            oldest_open: self.oldest_open.map(Version),
            clock_mark: Version(there(self.clock_mark, "clock_mark")?),
            heartbeat: Version(there(self.heartbeat, "heartbeat")?),
            generation: self.generation.unwrap_or_default() as u64,
        })
    }
}

/// `datacenter_record`
#[derive(SerializeValue, DeserializeValue)]
pub(super) struct DatacenterValue<'a> {
    updated: Option<i64>,
    name: Option<&'a str>,
    active: Option<bool>,
    trackers: Option<Vec<&'a str>>,
    storage_hosts: Option<Vec<&'a str>>,
    api: Option<&'a str>,
}

impl<'a> From<&'a DatacenterRecord> for DatacenterValue<'a> {
    fn from(record: &'a DatacenterRecord) -> Self {
        DatacenterValue {
            updated: Some(record.updated.0),
            name: Some(record.name.as_str()),
            active: Some(true),
            trackers: Some(record.trackers.iter().map(String::as_str).collect()),
            storage_hosts: Some(record.storage_hosts.iter().map(String::as_str).collect()),
            api: record.api.as_deref(),
        }
    }
}

impl DatacenterValue<'_> {
    pub(super) fn record(&self) -> Result<DatacenterRecord, Wrong> {
        let texts = |list: &Option<Vec<&str>>| -> Vec<String> {
            let list = list.iter().flatten();
            list.map(|text| (*text).to_owned()).collect()
        };
        Ok(DatacenterRecord {
            name: parsed(there(self.name, "name")?)?,
            trackers: texts(&self.trackers),
            storage_hosts: texts(&self.storage_hosts).into_iter().collect(),
            api: self.api.map(str::to_owned),
            updated: Version(there(self.updated, "updated")?),
        })
    }
}

/// `membership`
#[derive(SerializeValue, DeserializeValue)]
pub(super) struct MembershipValue<'a> {
    updated: Option<i64>,
    name: Option<&'a str>,
    state: Option<&'a str>,
    seeded: Option<i64>,
    rejoined: Option<i64>,
}

impl<'a> From<&'a Membership> for MembershipValue<'a> {
    fn from(membership: &'a Membership) -> Self {
        MembershipValue {
            updated: Some(membership.updated.0),
            name: Some(membership.name.as_str()),
            state: Some(membership.state.word()),
            seeded: membership.seeded.map(|version| version.0),
            rejoined: membership.rejoined.map(|version| version.0),
        }
    }
}

impl MembershipValue<'_> {
    pub(super) fn record(&self) -> Result<Membership, Wrong> {
        let word = there(self.state, "state")?;
        let mut states = MemberState::ALL.into_iter();
        let state = states.find(|state| state.word() == word);
        Ok(Membership {
            name: parsed(there(self.name, "name")?)?,
            state: state.ok_or_else(|| Wrong::from(format!("state is {:?}", shortened(word))))?,
            seeded: self.seeded.map(Version),
            rejoined: self.rejoined.map(Version),
            updated: Version(there(self.updated, "updated")?),
        })
    }
}

/// `placement`
#[derive(SerializeValue, DeserializeValue)]
pub(super) struct PlacementValue<'a> {
    updated: Option<i64>,
    datacenters: Option<Vec<&'a str>>,
    domain: Option<&'a str>,
    class_name: Option<&'a str>,
    lag_goal_seconds: Option<i64>,
    remove_extra: Option<bool>,
}

impl<'a> From<&'a Placement> for PlacementValue<'a> {
    fn from(placement: &'a Placement) -> Self {
        PlacementValue {
            updated: Some(placement.updated.0),
            datacenters: Some(
                placement
                    .datacenters
                    .iter()
                    .map(Datacenter::as_str)
                    .collect(),
            ),
            domain: Some(placement.domain.escaped()),
            class_name: placement.class.as_ref().map(Class::escaped),
            lag_goal_seconds: placement.lag_goal_seconds.map(i64::from),
            remove_extra: placement.remove_extra.then_some(true),
        }
    }
}

impl PlacementValue<'_> {
    pub(super) fn record(&self) -> Result<Placement, Wrong> {
        let datacenters = self.datacenters.iter().flatten();
        Ok(Placement {
            domain: canonical!(there(self.domain, "domain")?, Domain)?,
            class: self
                .class_name
                .map(|text| canonical!(text, Class))
                .transpose()?,
            datacenters: datacenters
                .map(|name| datacenter(name))
                .collect::<Result<_, _>>()?,
            lag_goal_seconds: self
                .lag_goal_seconds
                .map(|goal| {
                    u32::try_from(goal)
                        .map_err(|_| Wrong::from("its lag_goal_seconds is no such number"))
                })
                .transpose()?,
            remove_extra: self.remove_extra.unwrap_or_default(),
            updated: Version(there(self.updated, "updated")?),
        })
    }
}

/// `cursor`
#[derive(SerializeValue, DeserializeValue)]
pub(super) struct CursorValue<'a> {
    updated: Option<i64>,
    number: Option<i64>,
    note: Option<&'a str>,
    name: Option<&'a str>,
}

impl<'a> From<&'a Cursor> for CursorValue<'a> {
    fn from(cursor: &'a Cursor) -> Self {
        CursorValue {
            updated: Some(cursor.updated.0),
            number: Some(cursor.number as i64),
            note: Some(&cursor.note),
            name: Some(&cursor.name),
        }
    }
}

impl CursorValue<'_> {
    pub(super) fn record(&self) -> Result<Cursor, Wrong> {
        Ok(Cursor {
            name: there(self.name, "name")?.to_owned(),
            number: there(self.number, "number")? as u64,
            note: there(self.note, "note")?.to_owned(),
            updated: Version(there(self.updated, "updated")?),
        })
    }
}
