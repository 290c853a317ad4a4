//! A configuration in words, for people, and as JSON, for scripts.

use std::fmt;

use serde_json::{Value, json};

use super::values::in_bytes;
use super::{Config, LedgerConfig};

impl Config {
    /// Every setting by the name that it has in the file, defaults included.
    pub fn to_json(&self) -> Value {
        let time = |span| humantime::format_duration(span).to_string();
        let ledger = match &self.ledger {
            LedgerConfig::Embedded { path } => json!({ "kind": "embedded", "path": path }),
            LedgerConfig::Cassandra(_) => json!({ "kind": "cassandra" }),
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
                "copies_at_once": self.repair.copies_at_once,
                "create_domains": self.repair.create_domains,
                "scan_every": time(self.repair.scan_every),
                "retry_first": time(self.repair.retry_first),
                "retry_most": time(self.repair.retry_most),
                "tombstone_retention": time(self.repair.tombstone_retention),
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
            LedgerConfig::Embedded { path } => format!("embedded, {}", path.display()),
            LedgerConfig::Cassandra(cassandra) => {
                format!("Cassandra, keyspace {}", cassandra.keyspace)
            }
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
        line("ledger", ledger)?;
        line(
            "repair",
            match repair.enabled {
                true => format!(
                    "{} copies at once, a scan of all files every {}",
                    repair.copies_at_once,
                    time(repair.scan_every)
                ),
                false => "off: nothing is brought here".to_owned(),
            },
        )?;
        line("api", format!("http://{}", self.api.listen))
    }
}
