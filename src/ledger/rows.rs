//! The ledger's rows as cells: which of two words about the same thing is kept.
//!
//! Always true: a row is one value at one timestamp, laid out as the Cassandra type of the same name in `schema/`,
//! so that two words of the same microsecond are never mixed.

use super::{Change, Cursor, DatacenterRecord, Gap, NodeRecord, Placement};
use crate::file::{Cell, Datacenter, Frozen};
use crate::version::Version;

fn version(version: Option<Version>) -> Option<[u8; 8]> {
    version.map(|version| version.0.to_be_bytes())
}

impl Cell for Change {
    fn written_at(&self) -> Version {
        self.version
    }

    fn tie_bytes(&self) -> Vec<u8> {
        let file = self.file.as_ref();
        Frozen::default()
            .number(self.number as i64)
            .field(file.map(|f| f.domain.escaped().as_bytes()))
            .field(file.map(|f| f.key.escaped().as_bytes()))
            .number(self.version.0)
            .text(self.about.word())
            .0
    }
}

impl Cell for Gap {
    fn written_at(&self) -> Version {
        self.observed
    }

    fn tie_bytes(&self) -> Vec<u8> {
        Frozen::default()
            .number(self.observed.0)
            .number(self.since.0)
            .number(i64::from(self.attempts))
            .number(self.next_try.0)
            .text(&self.last_error)
            .text(self.file.domain.escaped())
            .text(self.file.key.escaped())
            .field(version(self.expected.head).as_ref().map(|b| &b[..]))
            .field(version(self.expected.class).as_ref().map(|b| &b[..]))
            .0
    }
}

impl Cell for NodeRecord {
    fn written_at(&self) -> Version {
        self.heartbeat
    }

    fn tie_bytes(&self) -> Vec<u8> {
        Frozen::default()
            .number(self.heartbeat.0)
            .number(self.last_number as i64)
            .number(self.clock_mark.0)
            .field(version(self.oldest_undelivered).as_ref().map(|b| &b[..]))
            .field(version(self.oldest_open).as_ref().map(|b| &b[..]))
            .text(self.stream.datacenter.as_str())
            .text(self.stream.node.as_str())
            .text(&self.stream.incarnation)
            .number(self.delivered as i64)
            .number(self.generation as i64)
            .0
    }
}

impl Cell for DatacenterRecord {
    fn written_at(&self) -> Version {
        self.updated
    }

    fn tie_bytes(&self) -> Vec<u8> {
        Frozen::default()
            .number(self.updated.0)
            .text(self.name.as_str())
            .flag(self.active)
            .texts(self.trackers.iter().map(String::as_str))
            .texts(self.storage_hosts.iter().map(String::as_str))
            .field(self.api.as_ref().map(|api| api.as_bytes()))
            .0
    }
}

impl Cell for Placement {
    fn written_at(&self) -> Version {
        self.updated
    }

    fn tie_bytes(&self) -> Vec<u8> {
        Frozen::default()
            .number(self.updated.0)
            .texts(self.datacenters.iter().map(Datacenter::as_str))
            .text(self.domain.escaped())
            .field(self.class.as_ref().map(|class| class.escaped().as_bytes()))
            .field(
                self.lag_goal_seconds
                    .map(|goal| i64::from(goal).to_be_bytes())
                    .as_ref()
                    .map(|b| &b[..]),
            )
            .0
    }
}

impl Cell for Cursor {
    fn written_at(&self) -> Version {
        self.updated
    }

    /// Of two equally old ones the one that stands further.
    fn tie_bytes(&self) -> Vec<u8> {
        Frozen::default()
            .number(self.updated.0)
            .number(self.number as i64)
            .text(&self.note)
            .text(&self.name)
            .0
    }
}
