//! Which line needs what: forwarded, recorded, refused here, or given a connection of its own.
//!
//! Always true: a command that nobody here has heard of is forwarded; only [`READS`] may be sent twice. What the
//! tracker would answer to a bad line is the tracker's business: the line reaches it as it came.
//! Never here: sockets, and what becomes of a request ([`super::session`], [`super::record`]).

use std::collections::HashSet;

use bytes::Bytes;
use mogilefs_protocol::args::Args;
use mogilefs_protocol::reply;
use mogilefs_protocol::request::{self, Kind};

use super::record::{self, Recorded};

/// Commands that only read: asking twice is the same as asking once.
const READS: &[&str] = &[
    "get_paths",
    "file_info",
    "noop",
    "file_debug",
    "list_keys",
    "list_fids",
    "get_domains",
    "get_hosts",
    "get_devices",
    "server_setting",
    "server_settings",
    "fsck_status",
    "fsck_getlog",
    "rebalance_status",
];

/// The names that a tracker compares a `!` command with, by prefix but for `stats`.
const ADMIN_PREFIXES: &[&str] = &[
    "version", "jobs", "recent", "queue", "pend", "want", "to", "watch", "shutdown",
];

/// What the proxy does with a line.
#[derive(Debug)]
pub(super) enum Way<'a> {
    /// Nothing: nobody answers an empty line.
    Nothing,
    /// Forwarded; when `again`, it may be sent a second time if nobody answered.
    Forward {
        /// Whether the command only reads.
        again: bool,
    },
    /// A create_open: forwarded, and its answer is remembered.
    Open(Args<'a>),
    /// A mutation: recorded.
    Record(Box<Recorded>),
    /// A `!` command: from here on the client has an upstream connection of its own.
    Admin,
    /// Answered here; the tracker does not see it.
    Refuse(Bytes),
}

/// What an operator has set about commands.
#[derive(Debug)]
pub(super) struct Rules {
    denied: HashSet<String>,
    /// Of [`ADMIN_PREFIXES`] and whatever else was named, without the `!`.
    denied_admin: Vec<String>,
    max_key: usize,
}

impl Rules {
    /// `deny` as configured: names in any case, those of `!` commands with the `!`.
    pub(super) fn new(deny: &[String], max_key: usize) -> Self {
        let mut denied = HashSet::new();
        let mut denied_admin = Vec::new();
        for name in deny {
            match name.strip_prefix('!') {
                // A tracker takes `!pend` for what is documented as `!pending`: denying either denies both.
                Some(admin) => denied_admin.push(
                    ADMIN_PREFIXES
                        .iter()
                        .find(|prefix| admin.starts_with(**prefix))
                        .map_or_else(|| admin.to_owned(), |prefix| (*prefix).to_owned()),
                ),
                None => {
                    denied.insert(name.to_ascii_lowercase());
                }
            }
        }
        Self {
            denied,
            denied_admin,
            max_key,
        }
    }

    /// What to do with a line, given without its end.
    pub(super) fn way<'a>(&self, text: &'a [u8]) -> Way<'a> {
        let command = match request::parse(text) {
            Kind::Empty => return Way::Nothing,
            Kind::Unknown => return Way::Forward { again: false },
            Kind::Admin(line) => {
                return match request::admin_parts(line) {
                    Some((name, _)) if self.denies_admin(name) => Way::Refuse(reply::admin([
                        "ERROR: This command is denied here (proxy.deny)",
                    ])),
                    _ => Way::Admin,
                };
            }
            Kind::Command(command) => command,
        };
        let args = command.args();
        if self.denies(command.name) {
            let text = "This command is denied here (proxy.deny)";
            return Way::Refuse(reply::err("denied", text, args.get("callid").as_deref()));
        }
        if READS.iter().any(|name| command.is(name)) {
            return Way::Forward { again: true };
        }
        if command.is("create_open") {
            return Way::Open(args);
        }
        match record::read(&command) {
            None => Way::Forward { again: false },
            Some(recorded) => match recorded.longest_name() {
                length if length > self.max_key => {
                    let text = format!(
                        "The key takes {length} bytes when escaped; {} are allowed here",
                        self.max_key
                    );
                    let callid = recorded.callid.as_deref();
                    Way::Refuse(reply::err("key_too_long", &text, callid))
                }
                _ => Way::Record(Box::new(recorded)),
            },
        }
    }

    fn denies(&self, name: &[u8]) -> bool {
        !self.denied.is_empty()
            && str::from_utf8(name)
                .is_ok_and(|name| self.denied.contains(&name.to_ascii_lowercase()))
    }

    /// As the tracker matches: by prefix, upper and lower case differing.
    fn denies_admin(&self, name: &[u8]) -> bool {
        self.denied_admin
            .iter()
            .any(|denied| name.starts_with(denied.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(deny: &[&str]) -> Rules {
        let deny: Vec<String> = deny.iter().map(|name| (*name).to_owned()).collect();
        Rules::new(&deny, 100)
    }

    #[test]
    fn the_command_word_decides() {
        let rules = rules(&[]);
        let way = |line: &'static str| rules.way(line.as_bytes());
        assert!(matches!(way(""), Way::Nothing));
        assert!(matches!(way("  NoOp?x"), Way::Forward { again: true }));
        assert!(matches!(way("plugin_x a=1"), Way::Forward { again: false }));
        assert!(matches!(way("sleep"), Way::Forward { again: false }));
        assert!(matches!(way("!"), Way::Forward { again: false }));
        assert!(matches!(way("!watch"), Way::Admin));
        assert!(matches!(way("CREATE_OPEN domain=d"), Way::Open(_)));
        assert!(matches!(way("Delete domain=d&key=0"), Way::Record(_)));
    }

    #[test]
    fn denied_is_what_the_tracker_would_take_for_it() {
        let rules = rules(&["!shutdown", "!pending", "delete"]);
        for denied in [
            "!shutdown",
            "!shutdownx now",
            "!pend",
            "!pending",
            "DELETE key=a",
        ] {
            assert!(
                matches!(rules.way(denied.as_bytes()), Way::Refuse(_)),
                "{denied}"
            );
        }
        for passes in ["!SHUTDOWN", "!shut", "! shutdown", "!pen", "delete_class"] {
            assert!(
                !matches!(rules.way(passes.as_bytes()), Way::Refuse(_)),
                "{passes}"
            );
        }
    }

    #[test]
    fn a_key_is_measured_as_it_is_escaped() {
        let rules = rules(&[]);
        let fits = format!("delete domain=d&key={}", "%01".repeat(33));
        assert!(matches!(rules.way(fits.as_bytes()), Way::Record(_)));
        let raw = format!("delete domain=d&callid=7&key={}", "\x01".repeat(34));
        match rules.way(raw.as_bytes()) {
            Way::Refuse(line) => {
                assert!(line.starts_with(b"ERR key_too_long The+key+takes+102"));
                assert!(line.ends_with(b" 7\r\n"));
            }
            other => panic!("{other:?}"),
        }
    }
}
