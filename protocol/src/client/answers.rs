//! What the typed methods give back, and how it is read from the fields of an OK.

use std::borrow::Cow;
use std::collections::HashMap;

use super::ClientError;
use crate::args::Args;

/// A fid with the places where its bytes may be put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The fid reserved.
    pub fid: u64,
    /// At least one, the best first.
    pub destinations: Vec<Destination>,
}

/// A device and the URL of a file on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The device.
    pub devid: u32,
    /// The URL.
    pub path: String,
}

/// What the tracker's database says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// The fid that the key names now.
    pub fid: u64,
    /// The domain.
    pub domain: Vec<u8>,
    /// The class.
    pub class: Vec<u8>,
    /// The key as it was asked for. A database that folds case may store another spelling.
    pub key: Vec<u8>,
    /// The length in bytes.
    pub length: u64,
    /// On how many devices it is.
    pub devcount: u32,
    /// `MD5:<hex>`; `None` in a class without checksums, and while there is none yet.
    pub checksum: Option<String>,
    /// The devices.
    pub devids: Vec<u32>,
}

/// All that the tracker's database holds on a fid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDebug {
    /// The living file, if a key names this fid.
    pub file: Option<FileRow>,
    /// The open upload, if it is one.
    pub tempfile: Option<TempFile>,
    /// Whether its copies wait for deletion: it was deleted, overwritten, or given up.
    pub delqueue: bool,
    /// Whether it waits for replication.
    pub replqueue: bool,
    /// The devices that have a copy.
    pub devids: Vec<u32>,
    /// The copies with their URLs; devices that are gone have none.
    pub paths: Vec<Destination>,
    /// `MD5:<hex>`, if one is stored.
    pub checksum: Option<String>,
}

/// A living file in a [`FileDebug`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRow {
    /// The fid.
    pub fid: u64,
    /// The domain.
    pub domain: Vec<u8>,
    /// The key as it is stored.
    pub key: Vec<u8>,
    /// The length in bytes.
    pub length: u64,
    /// The class.
    pub class: Vec<u8>,
    /// On how many devices it is.
    pub devcount: u32,
    /// The number of the domain in the tracker's database, if it is told.
    pub dmid: Option<u64>,
    /// The number of the class within the domain, if it is told.
    pub classid: Option<u64>,
}

/// An open upload in a [`FileDebug`]. Domain and class are numbers of the tracker's database; names
/// are not told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TempFile {
    /// The number of the domain.
    pub dmid: u64,
    /// The number of the class.
    pub classid: u64,
    /// The key given at `create_open`; the one given at `create_close` will count.
    pub key: Vec<u8>,
    /// The devices offered.
    pub devids: Vec<u32>,
}

/// A page of keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyPage {
    /// The keys, in the order of the tracker's database.
    pub keys: Vec<Vec<u8>>,
    /// What to ask for as `after` to get the next page. `None` if there were no keys.
    pub next_after: Option<Vec<u8>>,
}

/// A living file as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// The fid.
    pub fid: u64,
    /// The domain.
    pub domain: Vec<u8>,
    /// The class.
    pub class: Vec<u8>,
    /// The key.
    pub key: Vec<u8>,
    /// The length in bytes.
    pub length: u64,
    /// On how many devices it is.
    pub devcount: u32,
}

/// A domain and its classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: Vec<u8>,
    /// Its classes, `default` among them.
    pub classes: Vec<Class>,
}

/// A class of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Its name.
    pub name: Vec<u8>,
    /// On how many devices its files should be.
    pub mindevcount: u32,
    /// Where, such as `MultipleHosts()`.
    pub replpolicy: String,
    /// `MD5` or `SHA-1`, if checksums are kept.
    pub hashtype: Option<String>,
}

/// A host of storage devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its number.
    pub hostid: u32,
    /// Its name.
    pub hostname: String,
    /// Its address.
    pub hostip: String,
    /// Its port.
    pub http_port: u16,
    /// The port to read from, if it is another.
    pub http_get_port: Option<u16>,
    /// `alive`, `down`, ...
    pub status: String,
    /// Its address for clients inside `altmask`.
    pub altip: Option<String>,
    /// See `altip`.
    pub altmask: Option<String>,
}

/// A storage device.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Its number.
    pub devid: u32,
    /// Its host.
    pub hostid: u32,
    /// `alive`, `readonly`, `drain`, `down`, `dead`
    pub status: String,
    /// Its weight.
    pub weight: u32,
    /// Its size.
    pub mb_total: Option<u64>,
    /// How much of it is used.
    pub mb_used: Option<u64>,
    /// How much of it is free.
    pub mb_free: Option<u64>,
    /// How busy it is, in percent.
    pub utilization: Option<f64>,
    /// `writeable`, `readable`, `unreachable`: what the tracker's monitor last saw.
    pub observed_state: Option<String>,
}

impl Opened {
    pub(super) fn read(args: Args<'_>) -> Result<Opened, ClientError> {
        let fields = Fields::new(args);
        let fid = fields.number("fid")?;
        let destinations: Vec<_> = if fields.has("dev_count") {
            (1..=fields.number::<usize>("dev_count")?)
                .map(|n| fields.destination(&format!("devid_{n}"), &format!("path_{n}")))
                .collect::<Result<_, _>>()?
        } else {
            vec![fields.destination("devid", "path")?]
        };
        if destinations.is_empty() {
            return Err(ClientError::field("devid_1"));
        }
        Ok(Opened { fid, destinations })
    }
}

pub(super) fn paths(args: Args<'_>) -> Result<Vec<String>, ClientError> {
    let fields = Fields::new(args);
    (1..=fields.number::<usize>("paths")?)
        .map(|n| fields.text(&format!("path{n}")))
        .collect()
}

impl FileInfo {
    pub(super) fn read(args: Args<'_>) -> Result<FileInfo, ClientError> {
        let fields = Fields::new(args);
        Ok(FileInfo {
            fid: fields.number("fid")?,
            domain: fields.bytes("domain")?,
            class: fields.bytes("class")?,
            key: fields.bytes("key")?,
            length: fields.number("length")?,
            devcount: fields.number("devcount")?,
            checksum: fields.checksum("checksum")?,
            devids: fields.devids("devids")?,
        })
    }
}

impl FileDebug {
    pub(super) fn read(args: Args<'_>) -> Result<FileDebug, ClientError> {
        let fields = Fields::new(args);
        let devids = fields.devids("devids")?;
        let mut paths = Vec::new();
        for &devid in &devids {
            if let Some(path) = fields.optional_text(&format!("devpath_{devid}"))? {
                paths.push(Destination { devid, path });
            }
        }
        Ok(FileDebug {
            file: fields
                .has("fid_fid")
                .then(|| FileRow::read(&fields))
                .transpose()?,
            tempfile: fields
                .has("tempfile_dmid")
                .then(|| TempFile::read(&fields))
                .transpose()?,
            delqueue: fields.has("delqueue_fid"),
            replqueue: fields.has("replqueue_fid"),
            devids,
            paths,
            checksum: fields.checksum("checksum")?,
        })
    }
}

impl FileRow {
    fn read(fields: &Fields<'_>) -> Result<FileRow, ClientError> {
        Ok(FileRow {
            fid: fields.number("fid_fid")?,
            domain: fields.bytes("fid_domain")?,
            key: fields.bytes("fid_dkey")?,
            length: fields.number("fid_length")?,
            class: fields.bytes("fid_class")?,
            devcount: fields.number("fid_devcount")?,
            dmid: fields.optional_number("fid_dmid")?,
            classid: fields.optional_number("fid_classid")?,
        })
    }
}

impl TempFile {
    fn read(fields: &Fields<'_>) -> Result<TempFile, ClientError> {
        Ok(TempFile {
            dmid: fields.number("tempfile_dmid")?,
            classid: fields.number("tempfile_classid")?,
            key: fields.bytes("tempfile_dkey")?,
            devids: fields.devids("tempfile_devids")?,
        })
    }
}

impl KeyPage {
    pub(super) fn read(args: Args<'_>) -> Result<KeyPage, ClientError> {
        let fields = Fields::new(args);
        let keys = (1..=fields.number::<usize>("key_count")?)
            .map(|n| fields.bytes(&format!("key_{n}")))
            .collect::<Result<_, _>>()?;
        Ok(KeyPage {
            keys,
            next_after: fields.get("next_after").map(<[u8]>::to_vec),
        })
    }
}

impl ListedFile {
    pub(super) fn read_all(args: Args<'_>) -> Result<Vec<ListedFile>, ClientError> {
        let fields = Fields::new(args);
        (1..=fields.number::<usize>("fid_count")?)
            .map(|n| {
                Ok(ListedFile {
                    fid: fields.number(&format!("fid_{n}_fid"))?,
                    domain: fields.bytes(&format!("fid_{n}_domain"))?,
                    class: fields.bytes(&format!("fid_{n}_class"))?,
                    key: fields.bytes(&format!("fid_{n}_key"))?,
                    length: fields.number(&format!("fid_{n}_length"))?,
                    devcount: fields.number(&format!("fid_{n}_devcount"))?,
                })
            })
            .collect()
    }
}

impl Domain {
    pub(super) fn read_all(args: Args<'_>) -> Result<Vec<Domain>, ClientError> {
        let fields = Fields::new(args);
        (1..=fields.number::<usize>("domains")?)
            .map(|n| {
                let classes = (1..=fields.number::<usize>(&format!("domain{n}classes"))?)
                    .map(|m| Class::read(&fields, &format!("domain{n}class{m}")))
                    .collect::<Result<_, _>>()?;
                Ok(Domain {
                    name: fields.bytes(&format!("domain{n}"))?,
                    classes,
                })
            })
            .collect()
    }
}

impl Class {
    fn read(fields: &Fields<'_>, prefix: &str) -> Result<Class, ClientError> {
        Ok(Class {
            name: fields.bytes(&format!("{prefix}name"))?,
            mindevcount: fields.number(&format!("{prefix}mindevcount"))?,
            replpolicy: fields
                .optional_text(&format!("{prefix}replpolicy"))?
                .unwrap_or_default(),
            hashtype: fields
                .optional_text(&format!("{prefix}hashtype"))?
                .filter(|hashtype| hashtype != "NONE"),
        })
    }
}

impl Host {
    pub(super) fn read_all(args: Args<'_>) -> Result<Vec<Host>, ClientError> {
        let fields = Fields::new(args);
        (1..=fields.number::<usize>("hosts")?)
            .map(|n| {
                Ok(Host {
                    hostid: fields.number(&format!("host{n}_hostid"))?,
                    hostname: fields.text(&format!("host{n}_hostname"))?,
                    hostip: fields.text(&format!("host{n}_hostip"))?,
                    http_port: fields.number(&format!("host{n}_http_port"))?,
                    http_get_port: fields.optional_number(&format!("host{n}_http_get_port"))?,
                    status: fields.text(&format!("host{n}_status"))?,
                    altip: fields.optional_text(&format!("host{n}_altip"))?,
                    altmask: fields.optional_text(&format!("host{n}_altmask"))?,
                })
            })
            .collect()
    }
}

impl Device {
    pub(super) fn read_all(args: Args<'_>) -> Result<Vec<Device>, ClientError> {
        let fields = Fields::new(args);
        (1..=fields.number::<usize>("devices")?)
            .map(|n| {
                Ok(Device {
                    devid: fields.number(&format!("dev{n}_devid"))?,
                    hostid: fields.number(&format!("dev{n}_hostid"))?,
                    status: fields.text(&format!("dev{n}_status"))?,
                    weight: fields.number(&format!("dev{n}_weight"))?,
                    mb_total: fields.optional_number(&format!("dev{n}_mb_total"))?,
                    mb_used: fields.optional_number(&format!("dev{n}_mb_used"))?,
                    mb_free: fields.optional_number(&format!("dev{n}_mb_free"))?,
                    utilization: fields.optional_number(&format!("dev{n}_utilization"))?,
                    observed_state: fields.optional_text(&format!("dev{n}_observed_state"))?,
                })
            })
            .collect()
    }
}

/// `None` if it is empty, which is also what a tracker says of a setting that does not exist.
pub(super) fn setting(args: Args<'_>) -> Result<Option<Vec<u8>>, ClientError> {
    Ok(Some(Fields::new(args).bytes("value")?).filter(|value| !value.is_empty()))
}

/// The fields of an OK by name: an answer of many rows is read once, not once for each field.
struct Fields<'a>(HashMap<Cow<'a, [u8]>, Cow<'a, [u8]>>);

impl<'a> Fields<'a> {
    fn new(args: Args<'a>) -> Fields<'a> {
        // A tracker writes no name twice.
        Fields(
            args.iter()
                .map(|arg| (arg.name_unescaped(), arg.value_unescaped()))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name.as_bytes()).map(|value| &**value)
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, ClientError> {
        self.get(name)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| ClientError::field(name))
    }

    fn text(&self, name: &str) -> Result<String, ClientError> {
        String::from_utf8(self.bytes(name)?).map_err(|_| ClientError::field(name))
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Result<N, ClientError> {
        self.text(name)?
            .parse()
            .map_err(|_| ClientError::field(name))
    }

    /// `None` if it is missing or empty: Perl writes an undefined value so.
    fn optional_text(&self, name: &str) -> Result<Option<String>, ClientError> {
        match self.get(name) {
            None | Some(b"") => Ok(None),
            Some(_) => self.text(name).map(Some),
        }
    }

    fn optional_number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, ClientError> {
        match self.get(name) {
            None | Some(b"") => Ok(None),
            Some(_) => self.number(name).map(Some),
        }
    }

    fn checksum(&self, name: &str) -> Result<Option<String>, ClientError> {
        Ok(self
            .optional_text(name)?
            .filter(|sum| sum != "NONE" && sum != "MISSING"))
    }

    /// `1,2`
    fn devids(&self, name: &str) -> Result<Vec<u32>, ClientError> {
        match self.optional_text(name)? {
            None => Ok(Vec::new()),
            Some(list) => list
                .split(',')
                .map(|devid| devid.parse().map_err(|_| ClientError::field(name)))
                .collect(),
        }
    }

    fn destination(&self, devid: &str, path: &str) -> Result<Destination, ClientError> {
        Ok(Destination {
            devid: self.number(devid)?,
            path: self.text(path)?,
        })
    }
}
