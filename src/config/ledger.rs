//! `[ledger]`: two kinds of it, each with keys of its own.
//!
//! Always true: a key of the other kind is a mistake that says so, and never ignored in silence. The password is in none
//! of the keys: whoever writes it into the file is told where it belongs, without its being repeated.
//! Never here: looking whether the files that are named exist. They are read when the cluster is reached for, and a password
//! that is not there yet keeps nobody's proxy from starting.

use std::path::Path;
use std::time::Duration;

use super::reader::{Section, Spot};
use super::values::{duration, is_host, is_port, named, one_or_more, path, text};
use super::{CassandraConfig, LedgerCompression, LedgerConfig, WriteConsistency};

/// The keys of `kind = "embedded"`.
const EMBEDDED: [&str; 1] = ["path"];

/// The keys of `kind = "cassandra"`.
const CASSANDRA: [&str; 12] = [
    "contact_points",
    "local_datacenter",
    "keyspace",
    "write_consistency",
    "username",
    "password_file",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "compression",
    "request_timeout",
    "connect_timeout",
];

/// Below this no healthy cluster answers; above it nobody would wait.
const LEAST_TIMEOUT: Duration = Duration::from_millis(100);
const MOST_TIMEOUT: Duration = Duration::from_secs(600);

/// Where Cassandra listens if nobody says otherwise.
const PORT: &str = "9042";

#[derive(Clone, Copy)]
enum Kind {
    Embedded,
    Cassandra,
}

const KINDS: [(&str, Kind); 2] = [("embedded", Kind::Embedded), ("cassandra", Kind::Cassandra)];

pub(super) fn ledger(section: &Section<'_>, folder: &Path) -> Option<LedgerConfig> {
    section.misplaced(
        &["password"],
        "a password does not belong in this file",
        &format!(
            "write it into a file of its own and name that in password_file, or set {}",
            super::PASSWORD_VARIABLE
        ),
    );
    let kind = section.or("kind", named(&KINDS), Kind::Embedded);
    if !section.is_sound("kind") {
        // Which keys belong here is not known, so none is wrong.
        section.unjudged(&EMBEDDED);
        section.unjudged(&CASSANDRA);
        return None;
    }
    match kind {
        Kind::Embedded => {
            only_of(section, &CASSANDRA, "cassandra");
            embedded(section, folder)
        }
        Kind::Cassandra => {
            only_of(section, &EMBEDDED, "embedded");
            cassandra(section, folder).map(LedgerConfig::Cassandra)
        }
    }
}

fn only_of(section: &Section<'_>, keys: &[&'static str], kind: &str) {
    section.misplaced(
        keys,
        &format!("a key of kind = \"{kind}\" only"),
        &format!("leave it out, or write kind = \"{kind}\""),
    );
}

fn embedded(section: &Section<'_>, folder: &Path) -> Option<LedgerConfig> {
    let place = section.required("path", "\"/var/lib/phylactery/ledger.db\"", path(folder));
    if let Some(place) = &place
        && place.is_dir()
    {
        section.contradiction(
            "path",
            "a folder".to_owned(),
            "the embedded ledger needs a file",
        );
    }
    Some(LedgerConfig::Embedded { path: place? })
}

fn cassandra(section: &Section<'_>, folder: &Path) -> Option<CassandraConfig> {
    let points = section.required(
        "contact_points",
        "[\"10.1.0.31\", \"10.1.0.32\"]",
        one_or_more(point),
    );
    let here = section.required("local_datacenter", "\"ma01\"", datacenter);
    let timeout = || duration(LEAST_TIMEOUT..=MOST_TIMEOUT);
    let defaults = CassandraConfig::new(points.clone().unwrap_or_default(), String::new());
    let config = CassandraConfig {
        keyspace: section.or("keyspace", keyspace, defaults.keyspace),
        write_consistency: section.or(
            "write_consistency",
            named(&WriteConsistency::NAMES),
            defaults.write_consistency,
        ),
        username: section.optional("username", text),
        password_file: section.optional("password_file", path(folder)),
        tls_ca: section.optional("tls_ca", path(folder)),
        tls_cert: section.optional("tls_cert", path(folder)),
        tls_key: section.optional("tls_key", path(folder)),
        compression: section.or(
            "compression",
            named(&LedgerCompression::NAMES),
            defaults.compression,
        ),
        request_timeout: section.or("request_timeout", timeout(), defaults.request_timeout),
        connect_timeout: section.or("connect_timeout", timeout(), defaults.connect_timeout),
        ..defaults
    };
    need_each_other(section);
    points?;
    Some(CassandraConfig {
        local_datacenter: here?,
        ..config
    })
}

/// Keys that say nothing without another one.
fn need_each_other(section: &Section<'_>) {
    let pairs = [
        (
            "password_file",
            "username",
            "write username too, or leave it out",
        ),
        (
            "tls_cert",
            "tls_ca",
            "name in tls_ca who vouches for the cluster's nodes",
        ),
        (
            "tls_cert",
            "tls_key",
            "name the key of this certificate in tls_key",
        ),
        (
            "tls_key",
            "tls_ca",
            "name in tls_ca who vouches for the cluster's nodes",
        ),
        (
            "tls_key",
            "tls_cert",
            "name the certificate of this key in tls_cert",
        ),
    ];
    // Judged before any is told: what is told makes a key unsound, and it may lack two others.
    let lacking = pairs.map(|(key, needed, right)| {
        let lacks = section.has(key) && section.is_sound(key) && !section.has(needed);
        lacks.then_some((key, needed, right))
    });
    for (key, needed, right) in lacking.into_iter().flatten() {
        section.contradiction(key, format!("without {needed}"), right);
    }
}

fn point(spot: &Spot<'_>) -> Option<String> {
    let right = "write host or host:port, such as \"10.1.0.31\" or \"cassandra1.example.net:9042\"";
    let Some(text) = spot.value.as_str() else {
        return spot.refuse("not a host", right);
    };
    contact_point(text).or_else(|| spot.refuse("not a host, nor host:port", right))
}

/// `host:port` of a node of Cassandra, the port 9042 if the text has none; `None` if it is neither a host nor that.
pub fn contact_point(text: &str) -> Option<String> {
    if is_host(text) {
        return Some(format!("{text}:{PORT}"));
    }
    let (host, port) = text.rsplit_once(':')?;
    (is_host(host) && is_port(port)).then(|| text.to_owned())
}

/// Cassandra takes any text for the name of a datacenter; nobody means one that begins with a space.
fn datacenter(spot: &Spot<'_>) -> Option<String> {
    let name = text(spot)?;
    if name.trim() == name && !name.contains(char::is_control) {
        return Some(name);
    }
    spot.refuse(
        "not the name of a datacenter",
        "write it as `nodetool status` shows it, such as \"ma01\"",
    )
}

fn keyspace(spot: &Spot<'_>) -> Option<String> {
    let name = text(spot)?;
    if is_keyspace(&name) {
        return Some(name);
    }
    spot.refuse("not the name of a keyspace", KEYSPACE_RULE)
}

/// What [`is_keyspace`] asks for.
pub const KEYSPACE_RULE: &str =
    "write 1 to 48 of a-z, 0-9 and '_', beginning with a letter, such as \"phylactery\"";

/// Whether a text can be the name of a keyspace without quotes, as the files of `schema/` write it.
pub fn is_keyspace(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= 48 && name.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contact_point_has_a_port_in_the_end() {
        for (text, wanted) in [
            ("10.1.0.31", Some("10.1.0.31:9042")),
            ("10.1.0.31:19042", Some("10.1.0.31:19042")),
            (
                "cassandra1.example.net",
                Some("cassandra1.example.net:9042"),
            ),
            ("[2001:db8::1]", Some("[2001:db8::1]:9042")),
            ("[2001:db8::1]:9043", Some("[2001:db8::1]:9043")),
            // Where its address ends and a port begins nobody can tell.
            ("2001:db8::1", None),
            ("10.1.0.31:", None),
            ("10.1.0.31:0", None),
            ("10.1.0.31:cql", None),
            (":9042", None),
            ("", None),
            ("cql://10.1.0.31", None),
        ] {
            assert_eq!(contact_point(text).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn a_keyspace_needs_no_quotes() {
        for name in ["phylactery", "p", "p_2", &"p".repeat(48)] {
            assert!(is_keyspace(name), "{name}");
        }
        for name in [
            "",
            "2p",
            "_p",
            "P",
            "p-q",
            "p;",
            "p q",
            "\"p\"",
            &"p".repeat(49),
        ] {
            assert!(!is_keyspace(name), "{name}");
        }
    }
}
