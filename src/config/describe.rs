//! A configuration in words, for people, and as JSON, for scripts.

use std::fmt;

use serde_json::{Value, json};

use super::values::in_bytes;
use super::{CassandraConfig, Config, LedgerConfig, PASSWORD_VARIABLE};
use crate::repair::budget::Limits;

impl Config {
    /// Every setting by the name that it has in the file, defaults included.
    pub fn to_json(&self) -> Value {
        let time = |span| humantime::format_duration(span).to_string();
        let limit = |limit: Option<u64>| limit.map_or(json!("unlimited"), |limit| json!(limit));
        let (budget, sources) = (&self.repair.budget, &self.repair.sources);
        let ledger = match &self.ledger {
            LedgerConfig::Embedded { path } => json!({ "kind": "embedded", "path": path }),
            LedgerConfig::Cassandra(cassandra) => json!({
                "kind": "cassandra",
                "contact_points": cassandra.contact_points,
                "local_datacenter": cassandra.local_datacenter,
                "keyspace": cassandra.keyspace,
                "write_consistency": cassandra.write_consistency.name(),
                "username": cassandra.username,
                "password_file": cassandra.password_file,
                "tls_ca": cassandra.tls_ca,
                "tls_cert": cassandra.tls_cert,
                "tls_key": cassandra.tls_key,
                "compression": cassandra.compression.name(),
                "request_timeout": time(cassandra.request_timeout),
                "connect_timeout": time(cassandra.connect_timeout),
            }),
        };
        json!({
            "datacenter": {
                "name": self.datacenter.name,
                "node": self.datacenter.node,
                "trackers": self.datacenter.trackers,
                "storage_hosts": self.datacenter.storage_hosts,
            },
            "proxy": {
                "listen": self.proxy.listen,
                "trackers": self.proxy.trackers,
                "max_connections": self.proxy.max_connections,
                "max_line": self.proxy.max_line,
                "max_key": self.proxy.max_key,
                "deny": self.proxy.deny,
                "idle_timeout": self.proxy.idle_timeout.map(time),
                "upstream_connections": self.proxy.upstream_connections,
                "threads": self.proxy.threads,
                "lock_wait": time(self.proxy.lock_wait),
                "drain": time(self.proxy.drain),
            },
            "journal": {
                "path": self.journal.path,
                "max_size": self.journal.max_size,
                "quiet_time": time(self.journal.quiet_time),
            },
            "ledger": ledger,
            "repair": {
                "enabled": self.repair.enabled,
                "copies_at_once": budget.copies_at_once,
                "copies_per_source": limit(budget.copies_per_source),
                "bytes_per_second": limit(budget.bytes_per_second),
                "bytes_per_source": limit(budget.bytes_per_source),
                "files_per_second": limit(budget.files_per_second),
                "prefer_sources": sources.prefer,
                "connect_timeout": time(sources.patience.connect),
                "first_byte_timeout": time(sources.patience.first_byte),
                "stall_timeout": time(sources.patience.stall),
                "spool_dir": sources.spool.as_ref().map(|spool| &spool.dir),
                "spool_size": sources.spool.as_ref().map(|spool| spool.size),
                "create_domains": self.repair.create_domains,
                "scan_every": time(self.repair.scan_every),
                "retry_first": time(self.repair.retry_first),
                "retry_most": time(self.repair.retry_most),
                "tombstone_retention": time(self.repair.tombstone_retention),
                "verify_every": self.repair.verify_every.map_or("never".to_owned(), time),
                "verify_by": self.repair.verify_by.name(),
                "verify_rate": self.repair.verify_rate,
                "verify_most_missing": format!("{}%", self.repair.verify_most_missing),
                "on_vanished": self.repair.on_vanished.name(),
                "backfill_every": self.repair.backfill_every.map_or("never".to_owned(), time),
                "backfill_rate": self.repair.backfill_rate,
                "backfill_sweep_every": time(self.repair.backfill_sweep_every),
                "split_from": self.repair.split_from,
            },
            "api": {
                "listen": self.api.listen,
                "compatible_status": self.api.compatible_status,
                "fid_domain": self.api.fid_domain,
            },
        })
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = humantime::format_duration;
        let (proxy, journal, repair) = (&self.proxy, &self.journal, &self.repair);
        let ledger = match &self.ledger {
            LedgerConfig::Embedded { path } => vec![format!("embedded, {}", path.display())],
            LedgerConfig::Cassandra(cassandra) => in_cassandra(cassandra).to_vec(),
        };
        let mut line = |name: &str, text: String| writeln!(f, "  {name:<11} {text}");
        line(
            "datacenter",
            format!("{}, node {}", self.datacenter.name, self.datacenter.node),
        )?;
        let listen: Vec<String> = proxy.listen.iter().map(ToString::to_string).collect();
        line(
            "proxy",
            format!(
                "listens on {}, forwards to {}",
                listen.join(" and "),
                proxy.trackers.join(" and ")
            ),
        )?;
        line(
            "",
            format!(
                "{} clients at most, lines up to {}, {}",
                proxy.max_connections,
                in_bytes(proxy.max_line as u64),
                match proxy.deny.as_slice() {
                    [] => "denies nothing".to_owned(),
                    deny => format!("denies {}", deny.join(", ")),
                }
            ),
        )?;
        line(
            "journal",
            format!(
                "{}, up to {}",
                journal.path.display(),
                in_bytes(journal.max_size)
            ),
        )?;
        for (nth, text) in ledger.into_iter().enumerate() {
            line(if nth == 0 { "ledger" } else { "" }, text)?;
        }
        line(
            "repair",
            match repair.enabled {
                true => format!(
                    "{}, a scan of all files every {}",
                    budget(&repair.budget),
                    time(repair.scan_every)
                ),
                false => "off: nothing is brought here".to_owned(),
            },
        )?;
        if let (true, Some(every)) = (repair.enabled, repair.verify_every) {
            line(
                "",
                format!(
                    "a look at all files here every {}, by {}, {} a second at most",
                    time(every),
                    repair.verify_by.name(),
                    repair.verify_rate
                ),
            )?;
        }
        line("api", format!("http://{}", self.api.listen))
    }
}

/// What repair may take, where it is limited.
fn budget(limits: &Limits) -> String {
    let Limits {
        bytes_per_second,
        bytes_per_source,
        files_per_second,
        copies_at_once,
        copies_per_source,
    } = limits;
    let mut text = format!("{copies_at_once} copies at once");
    if let Some(copies) = copies_per_source {
        text += &format!(" ({copies} from one datacenter)");
    }
    if let Some(bytes) = bytes_per_second {
        text += &format!(", {} a second", in_bytes(*bytes));
    }
    if let Some(bytes) = bytes_per_source {
        text += &format!(", {} a second from one datacenter", in_bytes(*bytes));
    }
    if let Some(files) = files_per_second {
        text += &format!(", {files} files a second");
    }
    text
}

/// Where the cluster is, and how we come to it. Whether there is a password is not looked at here.
fn in_cassandra(config: &CassandraConfig) -> [String; 2] {
    let where_it_is = format!(
        "Cassandra at {}, through its datacenter {}, keyspace {}",
        config.contact_points.join(" and "),
        config.local_datacenter,
        config.keyspace
    );
    let user = match (&config.username, &config.password_file) {
        (None, _) => "without a name and password".to_owned(),
        (Some(user), Some(file)) => format!("as {user}, password in {}", file.display()),
        (Some(user), None) => format!("as {user}, password in the variable {PASSWORD_VARIABLE}"),
    };
    let tls = match (&config.tls_ca, &config.tls_cert) {
        (None, _) => "not encrypted",
        (Some(_), None) => "encrypted",
        (Some(_), Some(_)) => "encrypted, with a certificate of ours",
    };
    let how = format!(
        "writes reach {} in the end; {user}; {tls}",
        config.write_consistency.name()
    );
    [where_it_is, how]
}
