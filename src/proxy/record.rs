//! Which requests are mutations, and what an answer says about them.
//!
//! Always true: a request that may change what a key names is recorded. When it is not certain that the tracker
//! refuses a request, it counts as one that may change something. Arguments are read by the tracker's own rules.
//! Never here: sending, waiting, the journal itself.

use mogilefs_protocol::args::Args;
use mogilefs_protocol::reply::{self, Reply};
use mogilefs_protocol::request::Command;

use crate::file::{Checksum, Class, Domain, Fid, FileName};
use crate::journal::{Details, Mutation, Outcome};
use crate::machine::{Rule, keeps};

use super::uploads::Uploads;

/// A domain that is longer than this is refused together with its key: they share one partition key.
const MAX_DOMAIN: usize = 4096;

/// A request that may change what a key names.
#[derive(Debug)]
pub(super) struct Recorded {
    /// What the journal shall hold.
    pub(super) mutation: Mutation,
    /// What is known of the bytes once the tracker has said OK, since it has compared it.
    pub(super) once_ok: Details,
    /// For an answer of our own.
    pub(super) callid: Option<Vec<u8>>,
}

/// Reads a request: `None` if it changes no name, or is certain to be refused for a missing argument.
pub(super) fn read(command: &Command<'_>) -> Option<Recorded> {
    let args = command.args();
    let mut once_ok = Details::default();
    let mutation = if command.is("create_close") {
        let [domain, key, fid, devid, path] = args.pick(["domain", "key", "fid", "devid", "path"]);
        let (fid, domain, key) = (given(&fid)?, given(&domain)?, given(&key)?);
        for required in [fid, given(&devid)?, given(&path)?] {
            if required == b"0" {
                return None;
            }
        }
        once_ok = compared(&args);
        Mutation::Put {
            file: FileName::from_bytes(domain, key),
            fid: number(fid),
            details: Details::default(),
        }
    } else if command.is("delete") {
        let [domain, key] = args.pick(["domain", "key"]);
        Mutation::Delete {
            file: FileName::from_bytes(given(&domain)?, given(&key)?),
        }
    } else if command.is("rename") {
        let [domain, from, to] = args.pick(["domain", "from_key", "to_key"]);
        let (domain, from, to) = (given(&domain)?, given(&from)?, given(&to)?);
        if from == to {
            return None;
        }
        let domain = Domain::from_bytes(domain);
        let file = |key| FileName {
            domain: domain.clone(),
            key: crate::file::Key::from_bytes(key),
        };
        Mutation::Rename {
            from: file(from),
            to: file(to),
        }
    } else if command.is("updateclass") {
        let [domain, key, class] = args.pick(["domain", "key", "class"]);
        Mutation::SetClass {
            file: FileName::from_bytes(given(&domain)?, given(&key)?),
            class: Class::from_bytes(given(&class)?),
        }
    } else {
        return None;
    };
    Some(Recorded {
        mutation,
        once_ok,
        callid: args.get("callid").map(std::borrow::Cow::into_owned),
    })
}

impl Recorded {
    /// The length of the longest key, escaped; a domain beyond all reason counts as its part.
    pub(super) fn longest_name(&self) -> usize {
        let length = |file: &FileName| match file.domain.escaped().len() {
            domain if domain > MAX_DOMAIN => domain + file.key.escaped().len(),
            _ => file.key.escaped().len(),
        };
        self.mutation
            .files()
            .into_iter()
            .map(length)
            .max()
            .unwrap_or_default()
    }

    /// Adds what the create_open said. A class belongs to a domain: opened in another one, it says nothing.
    pub(super) fn learn_from(&mut self, uploads: &Uploads) {
        if let Mutation::Put {
            file,
            fid: Some(fid),
            details,
        } = &mut self.mutation
        {
            details.class = uploads.class_of(*fid, &file.domain);
            self.once_ok.class = details.class.clone();
        }
    }
}

/// What an answer, given without its end, says about the mutation it answers.
pub(super) fn outcome(text: &[u8]) -> Outcome {
    match reply::parse(text) {
        Ok(Reply::Ok(_)) => Outcome::Happened,
        // A request that the tracker carries out a second time, after a worker died, finds its own work done.
        Ok(Reply::Err(err))
            if err.is("unknown_key") || err.is("no_temp_file") || err.is("failure") =>
        {
            Outcome::Doubtful
        }
        Ok(Reply::Err(_)) => Outcome::DidNotHappen,
        Err(reply::NotAReply) => Outcome::Lost,
    }
}

/// What the tracker compares with the stored bytes before it says OK to a create_close.
fn compared(args: &Args<'_>) -> Details {
    let checksum = || {
        let text = args.get_str("checksum")?;
        let digest = text.strip_prefix("MD5:")?;
        let is_md5 = digest.len() == 32 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_md5.then(|| Checksum(format!("MD5:{}", digest.to_ascii_lowercase()).into()))
    };
    Details {
        class: None,
        size: args.get_u64("size").filter(|&size| size > 0),
        checksum: (args.is_set("checksumverify") || !keeps(Rule::ClaimsAreNothing))
            .then(checksum)
            .flatten(),
    }
}

fn given<'a>(value: &'a Option<std::borrow::Cow<'_, [u8]>>) -> Option<&'a [u8]> {
    value.as_deref().filter(|value| !value.is_empty())
}

/// The number that Perl reads at the beginning of a text. `None` where it would go on to read a
/// fraction or an exponent.
pub(super) fn number(text: &[u8]) -> Option<Fid> {
    let text = text.trim_ascii_start();
    let digits = text
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    if matches!(text.get(digits), Some(b'.' | b'e' | b'E')) {
        return None;
    }
    str::from_utf8(&text[..digits]).ok()?.parse().ok().map(Fid)
}

#[cfg(test)]
mod tests {
    use mogilefs_protocol::request::{Kind, parse};

    use super::*;

    fn recorded(line: &str) -> Option<Recorded> {
        match parse(line.as_bytes()) {
            Kind::Command(command) => read(&command),
            other => panic!("{other:?}"),
        }
    }

    const CLOSE: &str = "create_close domain=d&devid=1&path=http://h/1.fid&fid=";

    #[test]
    fn mutations_are_told_from_what_changes_no_name() {
        for mutation in [
            format!("{CLOSE}7&key=0"),
            format!("Create_Close{}", &format!("{CLOSE}7x&key=a")[12..]),
            "delete domain=d&key=a&key=b".into(),
            "DELETE,x&domain=0&key=a".into(),
            "rename domain=d&from_key=a&to_key=A".into(),
            "updateclass domain=d&key=a&class=0".into(),
        ] {
            assert!(recorded(&mutation).is_some(), "{mutation}");
        }
        for other in [
            format!("{CLOSE}7"),
            format!("{CLOSE}7&key="),
            format!("{CLOSE}0&key=a"),
            "create_close domain=d&fid=7&devid=1&key=a".into(),
            "delete key=a".into(),
            "delete domain=d&Key=a".into(),
            "rename domain=d&from_key=a%62&to_key=%61b".into(),
            "updateclass domain=d&key=a".into(),
            "update_class domain=d&class=a".into(),
        ] {
            assert!(recorded(&other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_close_tells_what_the_tracker_will_compare() {
        let digest = "ABCDEF00112233445566778899aabbcc";
        let close = format!("{CLOSE}0012abc&key=a+b&size=9&checksum=MD5:{digest}");
        let claimed = recorded(&close).expect("a mutation");
        assert_eq!(claimed.once_ok.size, Some(9));
        assert_eq!(claimed.once_ok.checksum, None, "a claim is not kept");
        match claimed.mutation {
            Mutation::Put { file, fid, .. } => {
                assert_eq!((file.key.escaped(), fid), ("a+b", Some(Fid(12))));
            }
            other => panic!("{other:?}"),
        }
        let verified = recorded(&format!("{close}&checksumverify=1")).expect("a mutation");
        let kept = verified.once_ok.checksum.expect("verified");
        assert_eq!(*kept.0, format!("MD5:{}", digest.to_ascii_lowercase()));
        for size in ["0", "-1", "abc", "9&size=9", "", "1.5"] {
            let close = recorded(&format!("{CLOSE}7&key=a&size={size}")).expect("a mutation");
            assert_eq!(close.once_ok.size, None, "{size}");
        }
    }

    #[test]
    fn answers_and_what_they_say() {
        for (answer, said) in [
            ("OK ", Outcome::Happened),
            ("OK callid=7", Outcome::Happened),
            ("ERR unknown_key unknown_key 7", Outcome::Doubtful),
            ("ERR no_temp_file No+tempfile", Outcome::Doubtful),
            ("ERR failure Operation+failed", Outcome::Doubtful),
            ("ERR invalid_key invalid_key", Outcome::DidNotHappen),
            ("ERR key_exists x", Outcome::DidNotHappen),
            ("OKAY", Outcome::Lost),
            ("ERR", Outcome::Lost),
            ("", Outcome::Lost),
        ] {
            assert_eq!(outcome(answer.as_bytes()), said, "{answer}");
        }
    }

    #[test]
    fn fids_as_perl_reads_them() {
        assert_eq!(number(b"12"), Some(Fid(12)));
        assert_eq!(number(b" 12abc"), Some(Fid(12)));
        assert_eq!(number(b"1e3"), None);
        assert_eq!(number(b"abc"), None);
        assert_eq!(number(b"99999999999999999999"), None);
    }
}
