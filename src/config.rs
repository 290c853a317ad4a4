//! What an operator sets, typed, with defaults beside the fields.
//!
//! Always true: a [`Config`] that came from [`load`] is whole and free of contradictions; nothing later has to
//! look at it with suspicion. All mistakes of a file are told at once, each with its key, value and line
//! ([`Mistake`]). Never here: binding a port or making a file. Reading a configuration leaves no trace.

mod describe;
mod ledger;
mod load;
mod mistake;
mod reader;
mod values;

pub use ledger::{KEYSPACE_RULE, contact_point, is_keyspace};
pub use load::load;
pub use mistake::{Mistake, Mistakes};

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::file::{Datacenter, Domain, NodeName};
use crate::ledger::cassandra::schema::KEYSPACE;
use crate::repair::budget::Limits;

/// Everything that one process needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[datacenter]`
    pub datacenter: DatacenterConfig,
    /// `[proxy]`
    pub proxy: ProxyConfig,
    /// `[journal]`
    pub journal: JournalConfig,
    /// `[ledger]`
    pub ledger: LedgerConfig,
    /// `[repair]`
    pub repair: RepairConfig,
    /// `[api]`
    pub api: ApiConfig,
}

/// `[datacenter]`: who we are, and what the others may know of us.
#[derive(Clone, Debug)]
pub struct DatacenterConfig {
    /// `name`: of this datacenter; required.
    pub name: Datacenter,
    /// `node`: of this process; `node1` by default.
    pub node: NodeName,
    /// `trackers`: as other datacenters reach them; the proxy's own by default.
    pub trackers: Vec<String>,
    /// `storage_hosts`: the `host:port` that others may fetch from; by default what the tracker's `get_hosts` names.
    pub storage_hosts: Option<BTreeSet<String>>,
}

/// `[proxy]`: what clients meet.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// `listen`: an address or a list; 127.0.0.1:7001 by default.
    pub listen: Vec<SocketAddr>,
    /// `trackers`: `host:port` of the local ones; required.
    pub trackers: Vec<String>,
    /// `max_connections`: clients at once; further ones are told so and closed. 20,000 by default.
    pub max_connections: usize,
    /// `max_line`: bytes of a request's line without its end. 1 MiB by default.
    pub max_line: usize,
    /// `max_key`: bytes of an escaped key that is recorded. 60,000 by default: a Cassandra partition key ends at 65,535.
    pub max_key: usize,
    /// `deny`: commands that are refused here, in lower case; `!shutdown` by default.
    pub deny: Vec<String>,
    /// `idle_timeout`: after which a silent client is closed; none by default, as the tracker has none.
    pub idle_timeout: Option<Duration>,
    /// `upstream_connections`: to each tracker, of all threads together. 256 by default.
    pub upstream_connections: usize,
    /// `threads`: that serve clients; one a core by default.
    pub threads: usize,
    /// `lock_wait`: how long a mutation waits for another one of the same key. 10 s by default: a healthy
    /// tracker answers long before, and clients give up about then.
    pub lock_wait: Duration,
    /// `drain`: how long a stop waits for requests under way. 35 s by default: a tracker kills what takes 30 s.
    pub drain: Duration,
}

/// `[journal]`: what must not be lost.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// `path`: a folder on a local disk; required.
    pub path: PathBuf,
    /// `max_size`: bytes of what the ledger has not confirmed. 1 GiB by default.
    pub max_size: u64,
    /// `quiet_time`: how long after a lost answer the tracker may still carry out the request. 60 s by default:
    /// twice the time after which it kills a worker.
    pub quiet_time: Duration,
}

/// `[ledger]`: where the truth about all datacenters lives.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum LedgerConfig {
    /// `kind = "embedded"`: an SQLite file, for one machine.
    Embedded {
        /// `path`: the file; required.
        path: PathBuf,
    },
    /// `kind = "cassandra"`: a cluster over all datacenters.
    Cassandra(CassandraConfig),
}

/// `[ledger]` with `kind = "cassandra"`.
#[derive(Clone, Debug)]
pub struct CassandraConfig {
    /// `contact_points`: `host:port` of nodes, the nearest first; required. One that answers is enough: it names the others.
    pub contact_points: Vec<String>,
    /// `local_datacenter`: ours, as Cassandra names it; required. No request goes to a node of another one.
    pub local_datacenter: String,
    /// `keyspace`: that `schema/` made; `phylactery` by default.
    pub keyspace: String,
    /// `write_consistency`: what a write has to reach in the end; `ALL` by default.
    pub write_consistency: WriteConsistency,
    /// `username`: for a cluster that asks for one.
    pub username: Option<String>,
    /// `password_file`: whose first line is the password. Without it the variable [`PASSWORD_VARIABLE`] counts.
    pub password_file: Option<PathBuf>,
    /// `tls_ca`: a PEM file of who may vouch for the cluster's nodes; with it, connections are encrypted.
    pub tls_ca: Option<PathBuf>,
    /// `tls_cert`: our own certificate, PEM, for a cluster that asks for one.
    pub tls_cert: Option<PathBuf>,
    /// `tls_key`: its key, PEM.
    pub tls_key: Option<PathBuf>,
    /// `compression`: of the connections; `lz4` by default.
    pub compression: LedgerCompression,
    /// `request_timeout`: how long one request may take. 5 s by default: Cassandra itself gives up after 2 to 5.
    pub request_timeout: Duration,
    /// `connect_timeout`: how long one connection may take to open. 5 s by default.
    pub connect_timeout: Duration,
}

impl CassandraConfig {
    /// With the defaults of everything else.
    pub fn new(contact_points: Vec<String>, local_datacenter: String) -> CassandraConfig {
        CassandraConfig {
            contact_points,
            local_datacenter,
            keyspace: KEYSPACE.to_owned(),
            write_consistency: WriteConsistency::default(),
            username: None,
            password_file: None,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            compression: LedgerCompression::default(),
            request_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// The variable that holds the password where `password_file` is not set.
pub const PASSWORD_VARIABLE: &str = "PHYLACTERY_LEDGER_PASSWORD";

/// What a write to the ledger has to reach before it is no debt any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WriteConsistency {
    /// `ALL`: every copy in every datacenter.
    #[default]
    All,
    /// `EACH_QUORUM`: a quorum in every datacenter.
    EachQuorum,
    /// `LOCAL_QUORUM`: a quorum here; the rest is Cassandra's business (hints, repair).
    LocalQuorum,
}

impl WriteConsistency {
    /// All of them, by the names that they have in Cassandra.
    pub const NAMES: [(&str, WriteConsistency); 3] = [
        ("ALL", WriteConsistency::All),
        ("EACH_QUORUM", WriteConsistency::EachQuorum),
        ("LOCAL_QUORUM", WriteConsistency::LocalQuorum),
    ];

    /// The name that it has in Cassandra.
    pub fn name(self) -> &'static str {
        match self {
            WriteConsistency::All => "ALL",
            WriteConsistency::EachQuorum => "EACH_QUORUM",
            WriteConsistency::LocalQuorum => "LOCAL_QUORUM",
        }
    }
}

/// How connections to the ledger are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LedgerCompression {
    /// `lz4`.
    #[default]
    Lz4,
    /// `snappy`.
    Snappy,
    /// `none`.
    None,
}

impl LedgerCompression {
    /// All of them, by name.
    pub const NAMES: [(&str, LedgerCompression); 3] = [
        ("lz4", LedgerCompression::Lz4),
        ("snappy", LedgerCompression::Snappy),
        ("none", LedgerCompression::None),
    ];

    /// The name that it has in the file.
    pub fn name(self) -> &'static str {
        match self {
            LedgerCompression::Lz4 => "lz4",
            LedgerCompression::Snappy => "snappy",
            LedgerCompression::None => "none",
        }
    }
}

/// `[repair]`: bringing here what is missing here.
#[derive(Clone, Debug)]
pub struct RepairConfig {
    /// `enabled`: true by default.
    pub enabled: bool,
    /// What repair may take at most, until an operator says otherwise.
    pub budget: Limits,
    /// Where bytes come from.
    pub sources: SourcesConfig,
    /// `create_domains`: whether domains and classes are made here as they are at the source. True by default.
    pub create_domains: bool,
    /// `scan_every`: from the end of a scan of all files to the next. A day by default.
    pub scan_every: Duration,
    /// `retry_first`: the pause after a first failure; it doubles, with jitter. 2 s by default.
    pub retry_first: Duration,
    /// `retry_most`: the longest pause. 1 h by default.
    pub retry_most: Duration,
    /// `tombstone_retention`: how long a deleted file is remembered at least. 30 days by default: longer than a datacenter
    /// is away on a bad day, and as long as changes are kept.
    pub tombstone_retention: Duration,
    /// `verify_every`: from the end of a look at all files that are here to the next; `"never"` for none. 30 days by default.
    pub verify_every: Option<Duration>,
    /// `verify_by`: how a file is looked at. `"size"` by default.
    pub verify_by: VerifyBy,
    /// `verify_rate`: files looked at in a second, at most. 50 by default: 130 million in 30 days.
    pub verify_rate: u32,
    /// `verify_most_missing`: per cent of the files looked at lately that may be missing or damaged before that is not believed. 5 by default.
    pub verify_most_missing: f64,
    /// `on_vanished`: what becomes of a file that the tracker does not know any more. `"restore"` by default.
    pub on_vanished: OnVanished,
    /// `backfill_every`: from the end of one look at the tracker's newest files to the next; `"never"` for none. A minute by default.
    pub backfill_every: Option<Duration>,
    /// `backfill_rate`: files looked at in a second, at most. 200 by default.
    pub backfill_rate: u32,
    /// `backfill_sweep_every`: from the end of a look at all files of the tracker to the next. 3 days by default.
    pub backfill_sweep_every: Duration,
    /// `split_from`: datacenters with whose MogileFS database this one's was the same before the two were split: a fid of both
    /// names the same bytes. None by default.
    pub split_from: BTreeSet<Datacenter>,
}

/// What becomes of a file that the tracker does not know any more, though nobody deleted it through the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnVanished {
    /// `restore`: it is brought again from another datacenter.
    #[default]
    Restore,
    /// `delete`: somebody deleted it past the proxy, and so it is deleted everywhere.
    Delete,
}

impl OnVanished {
    /// Both, by name.
    pub const NAMES: [(&str, OnVanished); 2] = [
        ("restore", OnVanished::Restore),
        ("delete", OnVanished::Delete),
    ];

    /// The name that it has in the file.
    pub fn name(self) -> &'static str {
        match self {
            OnVanished::Restore => "restore",
            OnVanished::Delete => "delete",
        }
    }
}

/// The keys of `[repair]` that tell where bytes come from.
#[derive(Clone, Default, Debug)]
pub struct SourcesConfig {
    /// `prefer_sources`: datacenters, those that are to be asked first at the beginning. None by default: the nearest, as measured.
    pub prefer: Vec<Datacenter>,
    /// How long a storage node is waited for.
    pub patience: Patience,
    /// Where files go first that would outlast an upload. Nowhere by default: they are not copied.
    pub spool: Option<SpoolConfig>,
}

/// A folder for files that would take longer than the hour that a tracker gives an upload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpoolConfig {
    /// `spool_dir`: a folder of its own on a local disk.
    pub dir: PathBuf,
    /// `spool_size`: bytes that may lie there. 100 GiB by default.
    pub size: u64,
}

/// How long a storage node is waited for. There is no limit to the whole of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// `connect_timeout`: until it is reached. 5 s by default.
    pub connect: Duration,
    /// `first_byte_timeout`: from the request to its first byte. 20 s by default: a disk may have to be woken.
    pub first_byte: Duration,
    /// `stall_timeout`: in which nothing moves. 20 s by default: with the two before it, less than the minute after which the
    /// other side of a copy gives up.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(20),
            stall: Duration::from_secs(20),
        }
    }
}

/// How verify looks at a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum VerifyBy {
    /// `size`: the tracker knows it, and a storage node says that it has so many bytes.
    #[default]
    Size,
    /// `bytes`: all of them are read, and their digest compared.
    Bytes,
}

impl VerifyBy {
    /// Both, by name.
    pub const NAMES: [(&str, VerifyBy); 2] = [("size", VerifyBy::Size), ("bytes", VerifyBy::Bytes)];

    /// The name that it has in the file.
    pub fn name(self) -> &'static str {
        match self {
            VerifyBy::Size => "size",
            VerifyBy::Bytes => "bytes",
        }
    }
}

/// `[api]`: for people and scripts.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// `listen`: 127.0.0.1:8080 by default.
    pub listen: SocketAddr,
    /// `compatible_status`: answer 200 to everything under `/file/`, as the first version did. False by default.
    pub compatible_status: bool,
    /// `fid_domain`: the domain of files known by a bare fid only. `phylactery` by default.
    pub fid_domain: Domain,
}
