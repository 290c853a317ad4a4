//! An explanation as one plain sentence, or two.

use crate::api::rfc3339;
use crate::file::{Datacenter, Found, Held, Op};
use crate::ledger::FileRecord;

use super::{Ahead, Explanation, Reason, Wanting};

impl Explanation {
    /// Why, for people.
    pub fn says(&self) -> String {
        match &self.reason {
            Reason::Here => self.here(),
            Reason::OnlyClaimed => format!(
                "Outsiders say that it is in {}, and nobody has looked: repair leaves such files to the workers that \
                 ask for them.",
                self.names_of(|held| held.claimed)
            ),
            Reason::Deleted => self.deleted(),
            Reason::NotDue => self.not_due(),
            Reason::Unknown => match &self.tracker {
                Ok(_) => "Nobody has reported it to the ledger, and the tracker here does not have it.".to_owned(),
                Err(why) => format!(
                    "Nobody has reported it to the ledger; whether the tracker here has it is not known: {why}."
                ),
            },
            Reason::NoHead => "The ledger knows where it is said to be, and not yet what it should be: the change itself has \
                 not arrived."
                .to_owned(),
            Reason::PastTheProxy(why) => {
                format!("It came here, or was changed here, past the proxy: {why}.")
            }
            Reason::Vanished => format!(
                "The ledger has it here{}, and the tracker here does not: it was deleted past the proxy, or the tracker \
                 has lost it.",
                self.as_fid()
            ),
            Reason::Unreadable(why) => format!("It cannot be judged: {why}."),
            Reason::LedgerAway(why) => {
                let here = match &self.tracker {
                    Ok(Some(fid)) => format!("the tracker here has it as fid {fid}"),
                    Ok(None) => "the tracker here does not have it".to_owned(),
                    Err(why) => format!("nor does the tracker here answer: {why}"),
                };
                format!("The ledger is away, so nobody can say what should be here ({why}); {here}.")
            }
            Reason::LocalChange(why) => {
                format!("It was changed here, and the ledger does not have all of that yet: {why}.")
            }
            Reason::AtWork => format!("{}; repair is at it now.", self.wanting()),
            Reason::Parked => self.not_yet(&self.tries()),
            Reason::NoSource => {
                let names = self.names_of(|held| !held.claimed);
                self.not_yet(&format!(
                    "none of the datacenters that have it ({names}) gives it; {}",
                    self.tries()
                ))
            }
            Reason::Pending(ahead) => self.not_yet(&pending(ahead)),
            Reason::AwaitsScan => self.not_yet(&self.scan()),
        }
    }

    fn held(&self) -> Option<&Held> {
        let replicas = &self.record.as_ref()?.replicas;
        replicas.get(&self.datacenter)?.held.as_ref()
    }

    /// Elsewhere: who has the bytes that the head names, of these holders.
    fn names_of(&self, these: impl Fn(&Held) -> bool) -> String {
        let nothing = FileRecord::default();
        let record = self.record.as_ref().unwrap_or(&nothing);
        let held = |name: &Datacenter| record.replicas[name].held.as_ref();
        let names = record.replicas.keys().filter(|name| {
            held(name).is_some_and(|held| Some(&held.content) == record.content() && these(held))
        });
        let names: Vec<&str> = names
            .filter(|name| **name != self.datacenter)
            .map(Datacenter::as_str)
            .collect();
        match names.is_empty() {
            true => "no datacenter".to_owned(),
            false => names.join(", "),
        }
    }

    fn as_fid(&self) -> String {
        self.held()
            .map_or(String::new(), |held| format!(" as fid {}", held.fid))
    }

    fn here(&self) -> String {
        let Some(held) = self.held() else {
            return "It is here.".to_owned();
        };
        let is = match held.claimed {
            false => "It is here as it should be",
            true => "It is here as somebody claims, and nobody has looked",
        };
        let checked = match held.checked.as_ref() {
            Some(checked) => format!(
                ", {} at {}",
                match checked.found {
                    Found::Copied => "verified as they were copied here",
                    Found::Size => "of the right size when they were looked at",
                    Found::Bytes => "all read and verified",
                    Found::Damaged => "found damaged",
                },
                rfc3339(checked.at)
            ),
            None => String::new(),
        };
        let doubt = match &self.tracker {
            Ok(_) => String::new(),
            Err(why) => {
                format!("; that is what the ledger says, for the tracker does not answer: {why}")
            }
        };
        format!(
            "{is}: fid {}, class {}, the bytes that were stored in {} at {}{checked}{doubt}.",
            held.fid,
            held.class,
            held.content.origin,
            rfc3339(held.content.version)
        )
    }

    /// What the newest revision did, where and when.
    fn deletion(&self) -> String {
        let head = self.record.as_ref().and_then(|record| record.head.as_ref());
        let Some(head) = head else {
            return "was deleted".to_owned();
        };
        let how = match &head.op {
            Op::Delete {
                renamed_to: Some(key),
            } => format!("was renamed to {key}"),
            Op::Delete { renamed_to: None } | Op::Put(_) => "was deleted".to_owned(),
        };
        format!(
            "{how} in {} (by {}) at {}",
            head.origin,
            head.node,
            rfc3339(head.version)
        )
    }

    fn deleted(&self) -> String {
        let claimed = match self.held() {
            Some(_) => "outsiders claim that it is here; nobody has looked",
            None => "it is not here",
        };
        format!("It {}; {claimed}.", self.deletion())
    }

    fn not_due(&self) -> String {
        let due: Vec<&str> = self.due.iter().map(Datacenter::as_str).collect();
        let due = due.join(", ");
        let rule = match &self.placement {
            Some(row) => {
                let class = row.class.as_ref();
                let class = class.map_or(String::new(), |class| format!(":{class}"));
                format!(
                    "the placement of {}{class}, set at {}, says {due}",
                    row.domain,
                    rfc3339(row.updated)
                )
            }
            None => format!(
                "no placement was set for it, and by default files are due in all datacenters, which are {due}"
            ),
        };
        let all_the_same = match self.held() {
            None => String::new(),
            Some(_) => {
                let what = match self.is_current() {
                    true => "It is",
                    false => "Another revision of it is",
                };
                format!(
                    " {what} here all the same{}: no placement says remove_extra.",
                    self.as_fid()
                )
            }
        };
        format!("It is not due here: {rule}.{all_the_same}")
    }

    /// Whether what is here are the bytes that should be where it is due.
    fn is_current(&self) -> bool {
        let content = self.record.as_ref().and_then(FileRecord::content);
        self.held().map(|held| &held.content) == content
    }

    fn wanting(&self) -> String {
        match &self.wanting {
            Some(Wanting::Missing) | None => "It is due here and is not here".to_owned(),
            Some(Wanting::OtherBytes) => {
                format!(
                    "Other bytes of it are here{} than those that are due",
                    self.as_fid()
                )
            }
            Some(Wanting::Damaged) => format!(
                "Its bytes are damaged here{}, and are to come again",
                self.as_fid()
            ),
            Some(Wanting::OtherClass { to }) => match self.held() {
                Some(held) => format!("It is here in class {} and should be in {to}", held.class),
                None => format!("It should be in class {to}"),
            },
            Some(Wanting::StillHere) => format!("It {} and is still here", self.deletion()),
            Some(Wanting::NotWanted) => {
                let what = match self.is_current() {
                    true => "it",
                    false => "an older revision of it",
                };
                format!(
                    "It is not due here, and {what} is here{} and is to go",
                    self.as_fid()
                )
            }
        }
    }

    /// What is to be done, and why it is not done; and that nobody works at it, if so.
    fn not_yet(&self, why: &str) -> String {
        let hindered = match &self.hindered {
            Some(hindered) => format!(" But {hindered}."),
            None => String::new(),
        };
        format!("{}: {why}.{hindered}", self.wanting())
    }

    fn tries(&self) -> String {
        let Some(gap) = &self.gap else {
            return "it did not work at once".to_owned();
        };
        let times = match gap.attempts {
            1 => "once".to_owned(),
            times => format!("{times} times"),
        };
        format!(
            "tried {times} since {}, again at {}; the last time: {}",
            rfc3339(gap.since),
            rfc3339(gap.next_try),
            gap.last_error
        )
    }

    fn scan(&self) -> String {
        let scan = self.scan.as_ref().filter(|scan| scan.began.is_some());
        let when = match (scan, self.next_scan) {
            (Some(scan), _) => format!("the one under way is at {:.0} %", scan.percent.floor()),
            (None, Some(at)) => format!("the next one begins at {} at the latest", rfc3339(at)),
            (None, None) => "one is about to begin".to_owned(),
        };
        format!("no change that lies ahead says so, and only a scan of all files finds it; {when}")
    }
}

fn pending(ahead: &Ahead) -> String {
    let Ahead {
        stream,
        number,
        before,
    } = ahead;
    match (number, before) {
        (Some(number), 0) => {
            format!("the change that says so, number {number} of the stream {stream}, is the next")
        }
        (Some(number), 1) => {
            format!(
                "the change that says so is number {number} of the stream {stream}, and 1 change comes before it"
            )
        }
        (Some(number), before) => format!(
            "the change that says so is number {number} of the stream {stream}, and {before} changes come before it"
        ),
        (None, before) => {
            format!(
                "the change that says so lies more than {before} changes ahead in the stream {stream}"
            )
        }
    }
}
