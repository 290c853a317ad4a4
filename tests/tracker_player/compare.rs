//! What two answers have in common: whole fields, but for what no two trackers share.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use mogilefs_protocol::args::Args;
use mogilefs_protocol::escape::unescape;
use mogilefs_protocol::line::text_of;
use mogilefs_protocol::request::{Kind, parse};

/// The fields of an answer, or of a part of it.
type Fields = BTreeMap<String, String>;

/// Which of our numbers stand for the recorded ones.
pub struct Numbers {
    storage: Vec<SocketAddr>,
    fids: BTreeMap<i64, i64>,
    /// Uploads that we were sent to the other device with.
    swapped: BTreeMap<i64, bool>,
}

/// A URL taken apart.
struct Url {
    ip: String,
    port: String,
    devid: i64,
    fid: i64,
}

impl Url {
    fn parse(text: &[u8]) -> Option<Url> {
        let text = std::str::from_utf8(text).ok()?;
        let (authority, path) = text.strip_prefix("http://")?.split_once('/')?;
        let (ip, port) = authority.split_once(':')?;
        let mut names = path.split('/');
        let devid = names.next()?.strip_prefix("dev")?.parse().ok()?;
        let fid = names.next_back()?.strip_suffix(".fid")?.parse().ok()?;
        Some(Url {
            ip: ip.to_owned(),
            port: port.to_owned(),
            devid,
            fid,
        })
    }
}

impl Numbers {
    pub fn new(storage: Vec<SocketAddr>) -> Numbers {
        Numbers {
            storage,
            fids: BTreeMap::new(),
            swapped: BTreeMap::new(),
        }
    }

    /// Notes which upload of ours is which of the recorded ones.
    pub fn learn(&mut self, request: &[u8], recorded: &[u8], ours: &[u8]) {
        let Kind::Command(command) = parse(request) else {
            return;
        };
        let (Some(recorded), Some(ours)) = (fields_of(recorded), fields_of(ours)) else {
            return;
        };
        let number = |fields: &Fields, name: &str| {
            fields.get(name).and_then(|value| value.parse::<i64>().ok())
        };
        if command.is("create_open")
            && let (Some(recorded_fid), Some(our_fid)) =
                (number(&recorded, "fid"), number(&ours, "fid"))
        {
            self.fids.insert(recorded_fid, our_fid);
            let swapped = number(&recorded, "devid") != number(&ours, "devid");
            self.swapped.insert(recorded_fid, swapped);
        }
    }

    pub fn same_file(&mut self, known: i64, alias: i64) {
        let ours = self.fids[&known];
        self.fids.insert(alias, ours);
    }

    pub fn our_fid(&self, recorded: i64) -> Option<i64> {
        self.fids.get(&recorded).copied()
    }

    /// The greatest of ours up to a recorded number, for asking what comes after it.
    pub fn our_bound(&self, recorded: i64) -> i64 {
        let at_most = self
            .fids
            .range(..=recorded)
            .next_back()
            .map_or(0, |(_, &ours)| ours);
        if recorded > 100_000_000 {
            recorded
        } else {
            at_most
        }
    }

    pub fn our_devid(&self, recorded_fid: i64, devid: i64) -> Option<i64> {
        let swapped = *self.swapped.get(&recorded_fid)?;
        match devid {
            1 | 2 => Some(if swapped { 3 - devid } else { devid }),
            _ => None,
        }
    }

    pub fn our_url(&self, recorded: &[u8]) -> Option<Vec<u8>> {
        let url = Url::parse(recorded)?;
        if !matches!(url.port.as_str(), "17110" | "17210") {
            return None;
        }
        let fid = self.our_fid(url.fid)?;
        let devid = self.our_devid(url.fid, url.devid)?;
        let storage = self.storage.get(usize::try_from(devid - 1).ok()?)?;
        // Another address than that of its node is the one that node has for other zones.
        let is_alt = !matches!(url.ip.as_str(), "127.0.0.2" | "127.0.0.3");
        let ip = if is_alt {
            url.ip
        } else {
            storage.ip().to_string()
        };
        let path = phylactery::tracker::fid_path(u32::try_from(devid).ok()?, fid);
        Some(format!("http://{ip}:{}{path}", storage.port()).into_bytes())
    }

    /// A recorded URL without what differs: which node's address it has, and the fid as ours.
    fn recorded_place(&self, url: &str) -> String {
        match Url::parse(url.as_bytes()) {
            Some(url) if self.our_fid(url.fid).is_some() => {
                format!(
                    "{} dev{} fid {}",
                    url.ip,
                    url.devid,
                    self.our_fid(url.fid).unwrap()
                )
            }
            _ => url.to_owned(),
        }
    }

    /// One of our URLs in the same form, if it is right in itself.
    fn our_place(&self, url: &str) -> String {
        let Some(parsed) = Url::parse(url.as_bytes()) else {
            return url.to_owned();
        };
        let storage = usize::try_from(parsed.devid - 1)
            .ok()
            .and_then(|n| self.storage.get(n));
        let right = storage.is_some_and(|storage| storage.port().to_string() == parsed.port)
            && url.ends_with(&phylactery::tracker::fid_path(
                u32::try_from(parsed.devid).unwrap_or(0),
                parsed.fid,
            ));
        if right {
            format!("{} dev{} fid {}", parsed.ip, parsed.devid, parsed.fid)
        } else {
            url.to_owned()
        }
    }
}

fn fields_of(answer: &[u8]) -> Option<Fields> {
    let fields = text_of(answer).strip_prefix(b"OK ")?;
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let mut names = Fields::new();
    for arg in Args::new(fields) {
        names.insert(text(&arg.name_unescaped()), text(&arg.value_unescaped()));
    }
    Some(names)
}

pub struct Answer;

impl Answer {
    /// Says what differs between the recorded answer and ours.
    pub fn compare(
        request: &[u8],
        recorded: &[u8],
        ours: &[u8],
        numbers: &Numbers,
    ) -> Result<(), String> {
        if let Kind::Admin(_) = parse(request) {
            return compare_admin(recorded, ours);
        }
        if !ours.ends_with(b"\r\n") {
            return Err("our answer has no end".to_owned());
        }
        let (recorded, ours) = match (fields_of(recorded), fields_of(ours)) {
            (Some(recorded), Some(ours)) => (recorded, ours),
            (None, None) => return compare_refusals(text_of(recorded), text_of(ours), numbers),
            _ => return Err("one is OK, the other ERR".to_owned()),
        };
        let command = match parse(request) {
            Kind::Command(command) => {
                String::from_utf8_lossy(&command.name.to_ascii_lowercase()).into_owned()
            }
            _ => String::new(),
        };
        if command == "get_paths" {
            return compare_paths(&recorded, &ours, numbers);
        }
        let recorded = normal(&command, &recorded, Some(numbers), numbers);
        let ours = normal(&command, &ours, None, numbers);
        if recorded == ours {
            return Ok(());
        }
        let only = |a: &Fields, b: &Fields| -> Vec<String> {
            a.iter()
                .filter(|(name, value)| b.get(*name) != Some(value))
                .map(|(n, v)| format!("{n}={v}"))
                .collect()
        };
        Err(format!(
            "recorded {:?}, ours {:?}",
            only(&recorded, &ours),
            only(&ours, &recorded)
        ))
    }
}

/// The fields of one side without what must differ. `recorded` is given for the recorded side.
fn normal(command: &str, fields: &Fields, recorded: Option<&Numbers>, numbers: &Numbers) -> Fields {
    let fid = |value: &str| match (recorded, value.parse()) {
        (Some(numbers), Ok(fid)) => numbers
            .our_fid(fid)
            .map_or(value.to_owned(), |fid| fid.to_string()),
        _ => value.to_owned(),
    };
    let place = |url: &str| match recorded {
        Some(numbers) => numbers.recorded_place(url),
        None => numbers.our_place(url),
    };
    match command {
        "create_open" => {
            let mut out = Fields::new();
            let multi = fields.contains_key("dev_count");
            for (name, value) in fields {
                if name == "fid" {
                    out.insert(name.clone(), fid(value));
                } else if let Some(n) = name.strip_prefix("path_") {
                    // The order of destinations means nothing.
                    let devid = fields
                        .get(&format!("devid_{n}"))
                        .cloned()
                        .unwrap_or_default();
                    out.insert(format!("destination {devid}"), place(value));
                } else if name == "path" {
                    // Which device it is does not matter, that it is the one named by devid does.
                    let devid = fields.get("devid").cloned().unwrap_or_default();
                    out.insert(
                        "path".to_owned(),
                        place(value).contains(&format!(" dev{devid} ")).to_string(),
                    );
                } else if !name.starts_with("devid") {
                    out.insert(name.clone(), value.clone());
                }
            }
            out.insert("multi".to_owned(), multi.to_string());
            out
        }
        "file_info" => changed(fields, |name, value| match name {
            "fid" => Some(fid(value)),
            "devcount" => Some(small_number(value)),
            "devids" => Some("some".to_owned()),
            // Replication keeps the digest of what it copied, if nobody said one before.
            "checksum"
                if value == "MISSING"
                    || value.starts_with("MD5:") && !value.ends_with("00000000") =>
            {
                Some("none said, or the right one".to_owned())
            }
            _ => Some(value.to_owned()),
        }),
        "file_debug" => changed(fields, |name, value| match name {
            "fid_fid" | "delqueue_fid" => Some(fid(value)),
            "fid_devcount" => Some(small_number(value)),
            "devids" => Some("some".to_owned()),
            "delqueue_nexttry" => Some("some time".to_owned()),
            "checksum" => Some(if value == "NONE" {
                "NONE".to_owned()
            } else {
                "one".to_owned()
            }),
            // How far replication has come.
            _ if name.starts_with("replqueue_") || name.starts_with("devpath_") => None,
            "tempfile_devids" => Some("some".to_owned()),
            _ => Some(value.to_owned()),
        }),
        "list_fids" => changed(fields, |name, value| {
            Some(match name.rsplit('_').next() {
                Some("fid") => fid(value),
                Some("devcount") => small_number(value),
                _ => value.to_owned(),
            })
        }),
        "get_hosts" => grouped(fields, "host", "hostname", |name, value| {
            let own = matches!(value, "17110" | "17210")
                || numbers
                    .storage
                    .iter()
                    .any(|s| s.port().to_string() == value);
            Some(if name == "http_port" && own {
                "own port".to_owned()
            } else {
                value.to_owned()
            })
        }),
        "get_devices" => grouped(fields, "dev", "devid", |name, value| {
            let measured = name.starts_with("mb_") || name == "utilization";
            Some(if measured && !value.is_empty() {
                "some".to_owned()
            } else {
                value.to_owned()
            })
        }),
        "get_domains" => domains(fields),
        "server_settings" => {
            let mut out = Fields::new();
            for (name, value) in fields {
                if let Some(n) = name.strip_prefix("key_")
                    && n != "count"
                    && !value.starts_with("rebal_")
                {
                    out.insert(
                        value.clone(),
                        fields
                            .get(&format!("value_{n}"))
                            .cloned()
                            .unwrap_or_default(),
                    );
                }
            }
            out
        }
        _ => fields.clone(),
    }
}

fn changed(fields: &Fields, change: impl Fn(&str, &str) -> Option<String>) -> Fields {
    fields
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), change(name, value)?)))
        .collect()
}

fn small_number(value: &str) -> String {
    if matches!(value, "1" | "2") {
        "1 or 2".to_owned()
    } else {
        value.to_owned()
    }
}

/// `host3_status` and the like, with the number replaced by what the third one is called.
fn grouped(
    fields: &Fields,
    prefix: &str,
    called: &str,
    change: impl Fn(&str, &str) -> Option<String>,
) -> Fields {
    let mut out = Fields::new();
    for (name, value) in fields {
        let split = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.split_once('_'));
        match split {
            Some((n, field)) => {
                let group = fields
                    .get(&format!("{prefix}{n}_{called}"))
                    .cloned()
                    .unwrap_or_default();
                out.insert(
                    format!("{group} {field}"),
                    change(field, value).unwrap_or_default(),
                );
            }
            None => {
                out.insert(name.clone(), value.clone());
            }
        }
    }
    out
}

/// `domain2class1name` and the like, with the numbers replaced by names.
fn domains(fields: &Fields) -> Fields {
    let mut out = Fields::new();
    for (name, value) in fields {
        let Some(rest) = name
            .strip_prefix("domain")
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        else {
            out.insert(name.clone(), value.clone());
            continue;
        };
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let domain = fields
            .get(&format!("domain{}", &rest[..digits]))
            .cloned()
            .unwrap_or_default();
        let of_class = rest[digits..]
            .strip_prefix("class")
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        match of_class {
            None => out.insert(format!("{domain} {}", &rest[digits..]), value.clone()),
            Some(rest) => {
                let n = rest
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(rest.len());
                let class_name = name
                    .strip_suffix(&rest[n..])
                    .map(|start| format!("{start}name"))
                    .unwrap_or_default();
                let class = fields.get(&class_name).cloned().unwrap_or_default();
                out.insert(format!("{domain} {class} {}", &rest[n..]), value.clone())
            }
        };
    }
    out
}

/// Where a file can be read. How many copies there are depends on how far replication had come, and
/// on what the recording client did to storage meanwhile; as many of them, they must be the same.
fn compare_paths(recorded: &Fields, ours: &Fields, numbers: &Numbers) -> Result<(), String> {
    let places = |fields: &Fields, place: &dyn Fn(&str) -> String| -> Vec<String> {
        let mut places: Vec<String> = (1..)
            .map_while(|n| Some(place(fields.get(&format!("path{n}"))?)))
            .collect();
        places.sort();
        places
    };
    let theirs = places(recorded, &|url| numbers.recorded_place(url));
    let mine = places(ours, &|url| numbers.our_place(url));
    if ours.get("paths").map(String::as_str) != Some(&mine.len().to_string())
        || recorded.get("callid") != ours.get("callid")
    {
        return Err(
            "the count of paths is not that of the paths, or the callid is another".to_owned(),
        );
    }
    let fid = |place: &String| place.rsplit(' ').next().unwrap_or_default().to_owned();
    let same_fid = theirs.first().map(fid) == mine.first().map(fid);
    let same_places = theirs.len() != mine.len() || theirs == mine || theirs.len() == 1;
    if theirs.is_empty() == mine.is_empty() && same_fid && same_places {
        Ok(())
    } else {
        Err(format!("recorded {theirs:?}, ours {mine:?}"))
    }
}

fn compare_refusals(recorded: &[u8], ours: &[u8], numbers: &Numbers) -> Result<(), String> {
    let words = |line: &[u8]| -> Vec<String> {
        let line = line.strip_prefix(b"ERR ").unwrap_or(line);
        line.split(|&byte| byte == b' ')
            .map(|word| String::from_utf8_lossy(&unescape(word)).into_owned())
            .collect()
    };
    let (recorded, ours) = (words(recorded), words(ours));
    let code = recorded.first().cloned().unwrap_or_default();
    if recorded.first() != ours.first()
        || recorded.get(2) != ours.get(2)
        || recorded.len() != ours.len()
    {
        return Err("another code, or another callid".to_owned());
    }
    let text = |words: &[String], place: &dyn Fn(&str) -> String| {
        let text = words.get(1).cloned().unwrap_or_default();
        let text = match code.as_str() {
            // Ends in whatever went wrong before, on the recorded side.
            "size_verify_error" => text.split("; error:").next().unwrap_or_default().to_owned(),
            // Names devices, which differ.
            "invalid_destdev" => text.replace(['1', '2'], "N"),
            _ => text,
        };
        let text: Vec<String> = text
            .split("; ")
            .map(|part| match part.strip_prefix("path: ") {
                Some(url) => {
                    // The device may be another one.
                    let place = place(url);
                    place.rsplit(' ').next().unwrap_or_default().to_owned()
                }
                None if part.contains("Checksum[f=") => {
                    let (before, after) = part.split_once("f=").unwrap_or_default();
                    let (_, after) = after.split_once(';').unwrap_or_default();
                    format!("{before}{after}")
                }
                None => part.to_owned(),
            })
            .collect();
        text.join("; ")
    };
    let theirs = text(&recorded, &|url| numbers.recorded_place(url));
    let mine = text(&ours, &|url| numbers.our_place(url));
    if theirs == mine {
        Ok(())
    } else {
        Err(format!("recorded text {theirs:?}, ours {mine:?}"))
    }
}

/// Replies of `!` commands are equal, but for the help, which each tracker has its own.
fn compare_admin(recorded: &[u8], ours: &[u8]) -> Result<(), String> {
    let is_help = |reply: &[u8]| reply.ends_with(b"\n\n.\r\n");
    if recorded == ours || (is_help(recorded) && is_help(ours)) {
        Ok(())
    } else {
        Err("another reply".to_owned())
    }
}
