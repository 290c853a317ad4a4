//! From a file to a [`Config`]: the one list of keys, with limits and defaults, and what contradicts what. Those of
//! `[ledger]` depend on its kind and have a file of their own (`ledger`).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use super::ledger::ledger;
use super::mistake::{Mistake, Mistakes};
use super::reader::{Reader, Section};
use super::values::{
    address, boolean, command, count, duration, host_and_port, list, name, named, one_or_more,
    or_never, or_unlimited, path, percent, size, text,
};
use super::{
    ApiConfig, Config, DatacenterConfig, JournalConfig, LedgerConfig, OnVanished, Patience,
    ProxyConfig, RepairConfig, SourcesConfig, SpoolConfig, VerifyBy,
};
use crate::file::{Datacenter, Domain, NodeName};
use crate::repair::budget::{LEAST_BYTES, Limits, MOST_BYTES, MOST_COPIES, MOST_FILES};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// As texts of times count it.
const YEAR: Duration = Duration::from_secs(31_557_600);

/// Twice the 30 s after which a tracker kills a worker: a request whose answer was lost is over by then.
const QUIET_TIME: Duration = MINUTE;
/// What a tracker accepts as a line, and more than any client sends.
const MAX_LINE: usize = MIB as usize;
/// A Cassandra partition key ends at 65,535 bytes; domain and lengths have to fit beside the key.
const MOST_MAX_KEY: usize = 65_000;

/// Reads and checks a configuration file.
///
/// # Errors
/// Everything that is wrong with it. Nothing has been bound, made or changed then, nor otherwise.
pub fn load(file: &Path) -> Result<Config, Mistakes> {
    let alone = |mistake| Mistakes {
        file: file.to_owned(),
        found: vec![mistake],
    };
    let text = std::fs::read_to_string(file).map_err(|error| {
        alone(Mistake {
            line: None,
            key: String::new(),
            value: None,
            wrong: format!("cannot be read: {error}"),
            right: "name a readable TOML file".to_owned(),
        })
    })?;
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    let reader = Reader::new(text).map_err(alone)?;
    let config = read(&reader, folder);
    reader.finish(file)?;
    // A part is absent only if a required key was, which `finish` has told.
    config.ok_or_else(|| Mistakes {
        file: file.to_owned(),
        found: Vec::new(),
    })
}

fn read(reader: &Reader, folder: &Path) -> Option<Config> {
    let sections = Sections {
        datacenter: reader.section("datacenter"),
        proxy: reader.section("proxy"),
        journal: reader.section("journal"),
        ledger: reader.section("ledger"),
        repair: reader.section("repair"),
        api: reader.section("api"),
    };
    // Every part is read before the first `?`: all mistakes are told.
    let datacenter = datacenter(&sections.datacenter);
    let proxy = proxy(&sections.proxy);
    let journal = journal(&sections.journal, folder);
    let ledger = ledger(&sections.ledger, folder);
    let repair = repair(&sections.repair, folder);
    let api = api(&sections.api);

    if let Some(proxy) = &proxy
        && sections.proxy.is_sound("listen")
    {
        if sections.api.is_sound("listen") {
            same_address_twice(&sections, proxy, &api);
        }
        own_tracker(&sections, proxy);
    }
    same_path_twice(&sections, journal.as_ref(), ledger.as_ref());
    sections.finish();
    let (mut datacenter, proxy) = (datacenter?, proxy?);
    if datacenter.trackers.is_empty() {
        datacenter.trackers.clone_from(&proxy.trackers);
    }
    Some(Config {
        datacenter,
        proxy,
        journal: journal?,
        ledger: ledger?,
        repair,
        api,
    })
}

struct Sections<'a> {
    datacenter: Section<'a>,
    proxy: Section<'a>,
    journal: Section<'a>,
    ledger: Section<'a>,
    repair: Section<'a>,
    api: Section<'a>,
}

impl Sections<'_> {
    fn finish(self) {
        self.datacenter.finish();
        self.proxy.finish();
        self.journal.finish();
        self.ledger.finish();
        self.repair.finish();
        self.api.finish();
    }
}

fn datacenter(section: &Section<'_>) -> Option<DatacenterConfig> {
    let datacenter = section.required("name", "\"ma01\"", name);
    let node = section.optional("node", name::<NodeName>);
    // None here means those of the proxy.
    let trackers = section.or("trackers", one_or_more(host_and_port), Vec::new());
    let storage_hosts = section.optional("storage_hosts", one_or_more(host_and_port));
    Some(DatacenterConfig {
        name: datacenter?,
        node: match node {
            Some(node) => node,
            None => "node1".parse().ok()?,
        },
        trackers,
        storage_hosts: storage_hosts.map(BTreeSet::from_iter),
    })
}

fn proxy(section: &Section<'_>) -> Option<ProxyConfig> {
    let local = SocketAddr::from(([127, 0, 0, 1], 7001));
    let cores = available_parallelism().map_or(1, usize::from);
    let listen = section.or("listen", one_or_more(address), vec![local]);
    let trackers = section.required(
        "trackers",
        "[\"127.0.0.1:7011\"]",
        one_or_more(host_and_port),
    );
    let shutdown = || vec!["!shutdown".to_owned()];
    let config = ProxyConfig {
        listen,
        trackers: Vec::new(),
        max_connections: section.or("max_connections", count(1..=1_000_000), 20_000),
        max_line: section.or("max_line", bytes(KIB..=GIB), MAX_LINE),
        max_key: section.or("max_key", bytes(1..=MOST_MAX_KEY as u64), 60_000),
        deny: section.or("deny", list(command), shutdown()),
        idle_timeout: section.optional("idle_timeout", duration(SECOND..=30 * DAY)),
        upstream_connections: section.or("upstream_connections", count(1..=65_535), 256),
        threads: section.or("threads", count(1..=1024), cores),
        lock_wait: section.or(
            "lock_wait",
            duration(MILLISECOND..=10 * MINUTE),
            10 * SECOND,
        ),
        drain: section.or("drain", duration(MILLISECOND..=HOUR), 35 * SECOND),
    };
    Some(ProxyConfig {
        trackers: trackers?,
        ..config
    })
}

/// A size that has to fit into memory.
fn bytes(
    range: std::ops::RangeInclusive<u64>,
) -> impl Fn(&super::reader::Spot<'_>) -> Option<usize> {
    let parse = size(range);
    move |spot| usize::try_from(parse(spot)?).ok()
}

fn journal(section: &Section<'_>, folder: &Path) -> Option<JournalConfig> {
    let place = section.required("path", "\"/var/lib/phylactery/journal\"", path(folder));
    let max_size = section.or("max_size", size(MIB..=TIB), GIB);
    let quiet_time = section.or("quiet_time", duration(MILLISECOND..=HOUR), QUIET_TIME);
    if let Some(place) = &place
        && place.exists()
        && !place.is_dir()
    {
        section.contradiction("path", "a file".to_owned(), "the journal needs a folder");
    }
    Some(JournalConfig {
        path: place?,
        max_size,
        quiet_time,
    })
}

fn repair(section: &Section<'_>, folder: &Path) -> RepairConfig {
    let config = RepairConfig {
        enabled: section.or("enabled", boolean, true),
        budget: budget(section),
        sources: sources(section, folder),
        create_domains: section.or("create_domains", boolean, true),
        scan_every: section.or("scan_every", duration(SECOND..=30 * DAY), DAY),
        retry_first: section.or("retry_first", duration(MILLISECOND..=DAY), 2 * SECOND),
        retry_most: section.or("retry_most", duration(MILLISECOND..=30 * DAY), HOUR),
        tombstone_retention: section.or(
            "tombstone_retention",
            duration(SECOND..=360 * DAY),
            30 * DAY,
        ),
        verify_every: section.or(
            "verify_every",
            or_never(duration(SECOND..=YEAR)),
            Some(30 * DAY),
        ),
        verify_by: section.or("verify_by", named(&VerifyBy::NAMES), VerifyBy::default()),
        verify_rate: section.or("verify_rate", rate(1..=100_000), 50),
        verify_most_missing: section.or("verify_most_missing", percent, 5.0),
        on_vanished: section.or(
            "on_vanished",
            named(&OnVanished::NAMES),
            OnVanished::default(),
        ),
        backfill_every: section.or(
            "backfill_every",
            or_never(duration(SECOND..=DAY)),
            Some(MINUTE),
        ),
        backfill_rate: section.or("backfill_rate", rate(1..=100_000), 200),
        backfill_sweep_every: section.or("backfill_sweep_every", duration(MINUTE..=YEAR), 3 * DAY),
        split_from: section
            .or("split_from", list(name::<Datacenter>), Vec::new())
            .into_iter()
            .collect(),
    };
    let sound = section.is_sound("retry_first") && section.is_sound("retry_most");
    if sound && config.retry_first > config.retry_most {
        section.contradiction(
            "retry_first",
            format!(
                "longer than retry_most, which is {}",
                humantime::format_duration(config.retry_most)
            ),
            "the pause begins with retry_first and grows to retry_most",
        );
    }
    config
}

fn budget(section: &Section<'_>) -> Limits {
    let copies = || whole(1..=MOST_COPIES as usize);
    let bytes = || or_unlimited(size(LEAST_BYTES..=MOST_BYTES));
    let defaults = Limits::default();
    Limits {
        copies_at_once: section.or("copies_at_once", copies(), defaults.copies_at_once),
        copies_per_source: section.or("copies_per_source", or_unlimited(copies()), None),
        bytes_per_second: section.or("bytes_per_second", bytes(), None),
        bytes_per_source: section.or("bytes_per_source", bytes(), None),
        files_per_second: section.or(
            "files_per_second",
            or_unlimited(whole(1..=MOST_FILES as usize)),
            None,
        ),
    }
}

fn sources(section: &Section<'_>, folder: &Path) -> SourcesConfig {
    let dir = section.optional("spool_dir", path(folder));
    let spool_size = section.or("spool_size", size(MIB..=1024 * TIB), 100 * GIB);
    if let Some(dir) = &dir
        && dir.exists()
        && !dir.is_dir()
    {
        section.contradiction("spool_dir", "a file".to_owned(), "the spool needs a folder");
    }
    let time = || duration(MILLISECOND..=10 * MINUTE);
    let patience = Patience::default();
    SourcesConfig {
        prefer: section.or("prefer_sources", list(name::<Datacenter>), Vec::new()),
        patience: Patience {
            connect: section.or("connect_timeout", time(), patience.connect),
            first_byte: section.or("first_byte_timeout", time(), patience.first_byte),
            stall: section.or("stall_timeout", time(), patience.stall),
        },
        spool: dir.map(|dir| SpoolConfig {
            dir,
            size: spool_size,
        }),
    }
}

fn whole(
    range: std::ops::RangeInclusive<usize>,
) -> impl Fn(&super::reader::Spot<'_>) -> Option<u64> {
    let parse = count(range);
    move |spot| parse(spot).map(|count| count as u64)
}

/// So many in a second.
fn rate(
    range: std::ops::RangeInclusive<usize>,
) -> impl Fn(&super::reader::Spot<'_>) -> Option<u32> {
    let parse = count(range);
    move |spot| u32::try_from(parse(spot)?).ok()
}

fn api(section: &Section<'_>) -> ApiConfig {
    let local = SocketAddr::from(([127, 0, 0, 1], 8080));
    ApiConfig {
        listen: section.or("listen", address, local),
        compatible_status: section.or("compatible_status", boolean, false),
        fid_domain: section.or(
            "fid_domain",
            |spot| text(spot).map(|domain| Domain::from_bytes(domain.as_bytes())),
            Domain::from_bytes(b"phylactery"),
        ),
    }
}

fn same_address_twice(sections: &Sections<'_>, proxy: &ProxyConfig, api: &ApiConfig) {
    for (nth, address) in proxy.listen.iter().enumerate() {
        let earlier = &proxy.listen[..nth];
        if let Some(other) = earlier.iter().find(|other| collide(address, other)) {
            sections.proxy.contradiction(
                "listen",
                format!("{address} takes the port of {other}"),
                "listen on each port once",
            );
        }
        if collide(address, &api.listen) {
            sections.api.contradiction(
                "listen",
                format!("{} takes the port of proxy.listen, {address}", api.listen),
                "give the API a port of its own, such as \"127.0.0.1:8080\"",
            );
        }
    }
}

/// Whether only one of two sockets can have its port. Port 0 is whatever is free.
fn collide(one: &SocketAddr, other: &SocketAddr) -> bool {
    let any = |ip: IpAddr| ip.is_unspecified();
    one.port() != 0
        && one.port() == other.port()
        && (one.ip() == other.ip() || any(one.ip()) || any(other.ip()))
}

/// A proxy whose tracker is itself would answer nobody.
fn own_tracker(sections: &Sections<'_>, proxy: &ProxyConfig) {
    for tracker in &proxy.trackers {
        let Ok(address) = tracker
            .replace("localhost", "127.0.0.1")
            .parse::<SocketAddr>()
        else {
            continue;
        };
        let ours = |listen: &&SocketAddr| {
            listen.port() == address.port()
                && (listen.ip() == address.ip()
                    || listen.ip().is_unspecified() && address.ip().is_loopback())
        };
        if let Some(listen) = proxy.listen.iter().find(ours) {
            sections.proxy.contradiction(
                "trackers",
                format!("{tracker} is this proxy itself, which listens on {listen}"),
                "name the tracker behind it; give one of them another port",
            );
        }
    }
}

fn same_path_twice(
    sections: &Sections<'_>,
    journal: Option<&JournalConfig>,
    ledger: Option<&LedgerConfig>,
) {
    let (Some(journal), Some(LedgerConfig::Embedded { path })) = (journal, ledger) else {
        return;
    };
    let journal: &PathBuf = &journal.path;
    let wrong = if path == journal {
        "the same as journal.path"
    } else if path.starts_with(journal) {
        "inside journal.path"
    } else if journal.starts_with(path) {
        "above journal.path"
    } else {
        return;
    };
    sections.ledger.contradiction(
        "path",
        wrong.to_owned(),
        "the journal's folder is the journal's alone: name a file elsewhere",
    );
}
