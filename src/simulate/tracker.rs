//! A tracker, as far as a node meets it: names, uploads, classes; and how it misbehaves.
//!
//! It answers as `PROTOCOL.md` of the project says of a real one: at least once, `create_close` replaces and `rename` does not, an
//! upload is spent by most refusals, an overwrite is two steps. What was asked is done whether or not who asked is still there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mogilefs_protocol::args::Args;
use mogilefs_protocol::client::Wire;
use mogilefs_protocol::line::text_of;
use mogilefs_protocol::reply::{self, OkBuilder};
use mogilefs_protocol::request::{Command, Kind, parse};
use tokio::sync::oneshot;

use super::storage::url;
use super::world::{Fault, World};
use crate::file::Datacenter;

/// The one domain.
pub const DOMAIN: &[u8] = b"photos";

/// The classes, beside the one that always exists.
pub const CLASSES: [&str; 2] = ["thumb", "raw"];

/// How long a tracker may still carry out what it has given up to answer; half of the quiet time is more.
const LATE: u64 = 900;

/// Devices of a datacenter.
pub const DEVICES: u32 = 2;

/// What its database holds.
pub struct Model {
    name: Datacenter,
    last_fid: u64,
    pub files: BTreeMap<Vec<u8>, Row>,
    uploads: BTreeMap<u64, Upload>,
    classes: BTreeSet<Vec<u8>>,
}

/// A living file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    pub fid: u64,
    pub class: Vec<u8>,
    pub length: u64,
    pub devid: u32,
}

struct Upload {
    class: Vec<u8>,
    key: Vec<u8>,
}

type Answer = Result<OkBuilder, &'static str>;

impl Model {
    pub fn new(name: &Datacenter) -> Model {
        Model {
            name: name.clone(),
            last_fid: 0,
            files: BTreeMap::new(),
            uploads: BTreeMap::new(),
            classes: CLASSES.map(|class| class.as_bytes().to_vec()).into(),
        }
    }

    fn key_of(&self, fid: u64) -> Option<&Vec<u8>> {
        let mut files = self.files.iter();
        files.find(|(_, row)| row.fid == fid).map(|(key, _)| key)
    }

    fn create_open(&mut self, args: &Args<'_>) -> Answer {
        let class = args.get("class").unwrap_or_default().into_owned();
        if !class.is_empty() && !self.classes.contains(&class) {
            return Err("unreg_class");
        }
        self.last_fid += 1;
        let fid = self.last_fid;
        let class = match class.is_empty() {
            true => b"default".to_vec(),
            false => class,
        };
        let key = args.get("key").unwrap_or_default().into_owned();
        self.uploads.insert(fid, Upload { class, key });
        let mut answer = OkBuilder::new()
            .number("fid", fid)
            .number("dev_count", DEVICES.into());
        for devid in 1..=DEVICES {
            answer = answer
                .number(&format!("devid_{devid}"), devid.into())
                .field(&format!("path_{devid}"), url(&self.name, devid, fid));
        }
        Ok(answer)
    }

    /// The upload that a closing names; spent from here on.
    fn spend(
        &mut self,
        args: &Args<'_>,
        length: impl Fn(u32, u64) -> Option<u64>,
    ) -> Result<Option<(Vec<u8>, Row)>, &'static str> {
        let fid = args.get_u64("fid").ok_or("no_fid")?;
        let devid = args.get_u64("devid").ok_or("no_devid")? as u32;
        if args.get_str("path").as_deref() != Some(&url(&self.name, devid, fid)) {
            return Err("bogus_args");
        }
        let upload = self.uploads.remove(&fid).ok_or("no_temp_file")?;
        let key = args.get("key").unwrap_or_default().into_owned();
        if key.is_empty() {
            return Ok(None);
        }
        let length = length(devid, fid).ok_or("size_verify_error")?;
        if args
            .get_u64("size")
            .is_some_and(|size| size > 0 && size != length)
        {
            return Err("size_mismatch");
        }
        let class = upload.class;
        let row = Row {
            fid,
            class,
            length,
            devid,
        };
        Ok(Some((key, row)))
    }

    fn file_debug(&self, args: &Args<'_>) -> Answer {
        let mut answer = OkBuilder::new();
        let fid = match args.get_u64("fid") {
            Some(fid) if fid > 0 => fid,
            _ => {
                let key = args.get("key").ok_or("no_key")?;
                self.files.get(&*key).ok_or("unknown_key")?.fid
            }
        };
        if let Some(key) = self.key_of(fid) {
            let row = &self.files[key];
            answer = answer
                .number("fid_fid", fid)
                .field("fid_dkey", key)
                .field("fid_domain", DOMAIN)
                .field("fid_class", &row.class)
                .number("fid_length", row.length)
                .number("fid_devcount", 1)
                .field("devids", row.devid.to_string())
                .field(
                    &format!("devpath_{}", row.devid),
                    url(&self.name, row.devid, fid),
                );
        }
        if let Some(upload) = self.uploads.get(&fid) {
            answer = answer
                .number("tempfile_dmid", 1)
                .number("tempfile_classid", 1)
                .field("tempfile_dkey", &upload.key)
                .field("tempfile_devids", "1,2");
        }
        Ok(answer.field("checksum", "NONE"))
    }

    fn get_paths(&self, args: &Args<'_>) -> Answer {
        let key = args.get("key").ok_or("no_key")?;
        let row = self.files.get(&*key).ok_or("unknown_key")?;
        let answer = OkBuilder::new().number("paths", 1);
        Ok(answer.field("path1", url(&self.name, row.devid, row.fid)))
    }

    fn list_fids(&self, args: &Args<'_>) -> Answer {
        let from = args.get_u64("from").unwrap_or_default();
        let count = args.get_u64("to").unwrap_or(100) as usize;
        let mut rows: Vec<_> = self
            .files
            .iter()
            .filter(|(_, row)| row.fid > from)
            .collect();
        rows.sort_by_key(|(_, row)| row.fid);
        rows.truncate(count);
        let mut answer = OkBuilder::new().number("fid_count", rows.len() as u64);
        for (n, (key, row)) in (1..).zip(rows) {
            answer = answer
                .number(&format!("fid_{n}_fid"), row.fid)
                .field(&format!("fid_{n}_domain"), DOMAIN)
                .field(&format!("fid_{n}_class"), &row.class)
                .field(&format!("fid_{n}_key"), key)
                .number(&format!("fid_{n}_length"), row.length)
                .number(&format!("fid_{n}_devcount"), 1);
        }
        Ok(answer)
    }

    fn delete(&mut self, args: &Args<'_>) -> Answer {
        let key = args.get("key").ok_or("no_key")?;
        self.files.remove(&*key).ok_or("unknown_key")?;
        Ok(OkBuilder::new())
    }

    fn rename(&mut self, args: &Args<'_>) -> Answer {
        let (from, to) = (args.get("from_key"), args.get("to_key"));
        let (from, to) = (from.ok_or("no_key")?, to.ok_or("no_key")?);
        if !self.files.contains_key(&*from) {
            return Err("unknown_key");
        }
        if from != to && self.files.contains_key(&*to) {
            return Err("key_exists");
        }
        if let Some(row) = self.files.remove(&*from) {
            self.files.insert(to.into_owned(), row);
        }
        Ok(OkBuilder::new())
    }

    fn updateclass(&mut self, args: &Args<'_>) -> Answer {
        let (key, class) = (args.get("key"), args.get("class"));
        let (key, class) = (key.ok_or("no_key")?, class.ok_or("no_class")?.into_owned());
        if class != b"default" && !self.classes.contains(&class) {
            return Err("class_not_found");
        }
        self.files.get_mut(&*key).ok_or("invalid_key")?.class = class;
        Ok(OkBuilder::new())
    }

    fn get_domains(&self) -> OkBuilder {
        let mut answer = OkBuilder::new()
            .number("domains", 1)
            .field("domain1", DOMAIN)
            .number("domain1classes", self.classes.len() as u64);
        for (n, class) in (1..).zip(&self.classes) {
            answer = answer
                .field(&format!("domain1class{n}name"), class)
                .number(&format!("domain1class{n}mindevcount"), 1);
        }
        answer
    }
}

/// A connection from one datacenter to the tracker of another, or its own.
pub struct Line {
    pub world: Arc<World>,
    pub from: usize,
    pub to: usize,
}

impl Wire for Line {
    fn ask(&mut self, line: Bytes) -> Pin<Box<dyn Future<Output = Option<Bytes>> + Send + '_>> {
        let (world, from, to) = (Arc::clone(&self.world), self.from, self.to);
        Box::pin(ask(world, from, to, line, None))
    }
}

/// Reaches the tracker, or not.
pub async fn connect(world: &World, from: usize, to: usize) -> io::Result<()> {
    world.travel(from, to).await;
    if !world.reaches(from, to) {
        // Nobody says no.
        tokio::time::sleep(Duration::from_secs(60)).await;
        return Err(io::ErrorKind::TimedOut.into());
    }
    if world.has(to, Fault::TrackerDown) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(())
}

/// Asks the tracker; `None` if the connection ends first. `client`: which intent of a client it is, if it is one.
pub async fn ask(
    world: Arc<World>,
    from: usize,
    to: usize,
    line: Bytes,
    client: Option<usize>,
) -> Option<Bytes> {
    let (answer, answered) = oneshot::channel();
    // Whatever becomes of who asked.
    tokio::spawn(async move {
        world.travel(from, to).await;
        if !world.reaches(from, to) || world.has(to, Fault::TrackerDown) {
            return;
        }
        let Some(said) = Request {
            world: &world,
            at: to,
            line: &line,
            client,
        }
        .serve()
        .await
        else {
            return;
        };
        world.travel(to, from).await;
        if world.reaches(from, to) {
            let _gone = answer.send(said);
        }
    });
    answered.await.ok()
}

/// A line that has arrived.
struct Request<'a> {
    world: &'a Arc<World>,
    at: usize,
    line: &'a [u8],
    client: Option<usize>,
}

impl Request<'_> {
    /// Carries it out, or misbehaves. `None`: the connection is closed.
    async fn serve(&self) -> Option<Bytes> {
        let Kind::Command(command) = parse(text_of(self.line)) else {
            return Some(reply::err("unknown_command", "unknown_command", None));
        };
        let failure = || Some(reply::err("failure", "Operation failed", None));
        let odd = self.world.has(self.at, Fault::TrackerOdd) && self.world.chance(0.3);
        if !odd {
            return Some(self.once(&command).await);
        }
        match self.world.pick(6) {
            0 => {
                self.once(&command).await;
                None
            }
            1 => {
                let world = self.world;
                world.tell(self.at, || "the tracker gives up to answer".into());
                // The connection ends when this returns; so what comes late is done by somebody else.
                self.late();
                None
            }
            2 => {
                self.once(&command).await;
                Some(self.once(&command).await)
            }
            3 => {
                self.once(&command).await;
                failure()
            }
            4 => None,
            _ => failure(),
        }
    }

    fn late(&self) {
        let (world, at, client) = (Arc::clone(self.world), self.at, self.client);
        let line = Bytes::copy_from_slice(self.line);
        tokio::spawn(async move {
            world.pause(1, LATE).await;
            let request = Request {
                world: &world,
                at,
                line: &line,
                client,
            };
            if let Kind::Command(command) = parse(text_of(&line)) {
                request.once(&command).await;
            }
        });
    }

    async fn once(&self, command: &Command<'_>) -> Bytes {
        let answer = self.carry_out(command).await;
        let name = String::from_utf8_lossy(command.name).into_owned();
        if !matches!(name.as_str(), "file_debug" | "get_paths" | "get_domains") {
            let who = match self.client {
                Some(_) => "client",
                None => "repair",
            };
            self.world.tell(self.at, || {
                let said = answer.as_ref().err().copied().unwrap_or("OK");
                let line = String::from_utf8_lossy(text_of(self.line)).into_owned();
                format!("tracker, by {who}: {line}: {said}")
            });
        }
        match answer {
            Ok(fields) => fields.finish(),
            Err(code) => reply::err(code, code, None),
        }
    }

    async fn carry_out(&self, command: &Command<'_>) -> Answer {
        let args = command.args();
        let place = &self.world.places[self.at];
        if command.is("get_domains") {
            return Ok(place.tracker.lock().get_domains());
        }
        if command.is("list_fids") {
            return place.tracker.lock().list_fids(&args);
        }
        if args.get("domain").as_deref() != Some(DOMAIN) && args.get("fid").is_none() {
            return Err("unreg_domain");
        }
        if command.is("create_close") {
            return self.close(&args).await;
        }
        let key = |name| args.get(name).unwrap_or_default();
        let mut tracker = place.tracker.lock();
        if command.is("create_open") {
            tracker.create_open(&args)
        } else if command.is("file_debug") {
            tracker.file_debug(&args)
        } else if command.is("get_paths") {
            tracker.get_paths(&args)
        } else if command.is("delete") {
            let before = tracker.files.get(&*key("key")).cloned();
            let done = tracker.delete(&args);
            drop(tracker);
            if done.is_ok() {
                self.changed(&key("key"), before, None);
            }
            done
        } else if command.is("rename") {
            let moved = tracker.files.get(&*key("from_key")).cloned();
            let done = tracker.rename(&args);
            drop(tracker);
            if done.is_ok() {
                self.changed(&key("to_key"), None, moved.clone());
                self.changed(&key("from_key"), moved, None);
            }
            done
        } else if command.is("updateclass") {
            tracker.updateclass(&args)
        } else {
            Err("unknown_command")
        }
    }

    async fn close(&self, args: &Args<'_>) -> Answer {
        let place = &self.world.places[self.at];
        let length = |devid, fid| {
            let shelves = place.shelves.lock();
            shelves.get(&(devid, fid)).map(|bytes| bytes.len() as u64)
        };
        let spent = place.tracker.lock().spend(args, length)?;
        let Some((key, row)) = spent else {
            return Ok(OkBuilder::new());
        };
        let before = place.tracker.lock().files.get(&key).cloned();
        if before.is_some() && self.world.chance(0.2) {
            // Two steps: for a moment nothing is there.
            place.tracker.lock().files.remove(&key);
            self.world.pause(1, 50).await;
        }
        place.tracker.lock().files.insert(key.clone(), row.clone());
        self.changed(&key, before, Some(row));
        Ok(OkBuilder::new())
    }

    /// Something else is under a key from now on.
    fn changed(&self, key: &[u8], before: Option<Row>, after: Option<Row>) {
        if let Some(row) = &before
            && !self.is_alive(row.fid)
        {
            self.forget_bytes(row);
        }
        let body = |row: Option<Row>| {
            let row = row?;
            let shelves = self.world.places[self.at].shelves.lock();
            shelves.get(&(row.devid, row.fid)).cloned()
        };
        let (before, after) = (body(before), body(after));
        let mut book = self.world.book.lock();
        match self.client {
            Some(intent) => book.carried(intent, key, after.as_ref()),
            None => {
                if let Err(why) = book.may_change(key, before.as_ref(), after.as_ref()) {
                    let name = &self.world.places[self.at].name;
                    self.world.breaks(|| format!("in {name}, repair: {why}"));
                }
            }
        }
    }

    fn is_alive(&self, fid: u64) -> bool {
        let tracker = self.world.places[self.at].tracker.lock();
        tracker.key_of(fid).is_some()
    }

    /// The copies of what no key names go a while later.
    fn forget_bytes(&self, row: &Row) {
        let (world, at, shelf) = (Arc::clone(self.world), self.at, (row.devid, row.fid));
        tokio::spawn(async move {
            world.pause(100, 5000).await;
            world.places[at].shelves.lock().remove(&shelf);
        });
    }
}
