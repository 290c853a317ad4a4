//! A client: what it asks of its proxy, what it has seen before, and what it was told.

use std::sync::Arc;

use bytes::Bytes;
use mogilefs_protocol::args::Args;
use mogilefs_protocol::client::Timeouts;
use mogilefs_protocol::line::text_of;
use mogilefs_protocol::reply::{self, Reply};
use mogilefs_protocol::request::RequestBuilder;

use md5::{Digest as _, Md5};

use super::book::Intent;
use super::site::Running;
use super::story::{Digest, Op};
use super::tracker::{self, DOMAIN};
use super::world::{Fault, World};
use crate::file::{Checksum, Content};
use crate::proxy::unsocketed::{NotSent, Upstream};
use crate::version::Version;

/// One client's wish, and the way to the tracker that its proxy takes.
struct Wish {
    world: Arc<World>,
    at: usize,
    op: Op,
    intent: Option<usize>,
}

impl Upstream for Wish {
    async fn ask(&mut self, line: &[u8]) -> Result<Option<Bytes>, NotSent> {
        let limit = Timeouts::default().connect;
        let connected = tracker::connect(&self.world, self.at, self.at);
        match tokio::time::timeout(limit, connected).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(NotSent),
        }
        let line = Bytes::copy_from_slice(line);
        let world = Arc::clone(&self.world);
        let answer = tracker::ask(world, self.at, self.at, line, self.intent).await;
        if let (Some(intent), Some(answer)) = (self.intent, &answer)
            && matches!(reply::parse(text_of(answer)), Ok(Reply::Ok(_)))
        {
            // The proxy passes it on before it does anything else.
            self.world.book.lock().intents[intent].acknowledged = true;
        }
        Ok(answer)
    }

    fn intended(&mut self, version: Version) {
        self.has_seen(version);
        let place = &self.world.places[self.at];
        let (body, content) = match &self.op {
            Op::Put { body, .. } => {
                let content = Content {
                    version,
                    origin: place.name.clone(),
                    node: "node1".parse().expect("a name"),
                };
                (Some(Bytes::from(body.clone())), Some(content))
            }
            Op::Delete { .. } | Op::Rename { .. } | Op::SetClass { .. } => (None, None),
        };
        let intent = Intent {
            at: self.at,
            version,
            op: self.op.clone(),
            body,
            acknowledged: false,
        };
        self.world
            .tell(self.at, || format!("intent {version}: {}", self.op));
        self.intent = Some(self.world.book.lock().intended(intent, content));
    }
}

impl Wish {
    /// Whoever changes what is visible here is newer than that.
    fn has_seen(&self, version: Version) {
        let place = &self.world.places[self.at];
        let keys = match &self.op {
            Op::Put { key, .. } | Op::Delete { key } => vec![key],
            Op::Rename { from, .. } => vec![from],
            Op::SetClass { .. } => vec![],
        };
        for key in keys {
            let row = place.tracker.lock().files.get(key.as_bytes()).cloned();
            let Some(row) = row else { continue };
            let body = place.shelves.lock().get(&(row.devid, row.fid)).cloned();
            let Some(body) = body else { continue };
            let put = self.world.book.lock().versions_of(key, &body);
            if put.first().is_some_and(|put| *put >= version) {
                let name = &place.name;
                self.world.breaks(|| {
                    format!("in {name}, a client changes {key} where it sees {body:?} of {put:?}, and the change is {version}")
                });
            }
        }
    }
}

/// Does what a client does. Nobody is told what came of it: the book knows.
pub async fn wants(world: Arc<World>, at: usize, running: Arc<Running>, op: Op) {
    let proxy = Arc::clone(&running.proxy);
    drop(running);
    let mut wish = Wish {
        world: Arc::clone(&world),
        at,
        op: op.clone(),
        intent: None,
    };
    let line = match &op {
        Op::Put {
            key,
            class,
            body,
            digest,
        } => {
            let open = RequestBuilder::new("create_open")
                .arg("domain", DOMAIN)
                .arg("key", key)
                .opt("class", class.as_ref())
                .finish();
            let Some(answer) = proxy.serve(&open, &mut wish).await else {
                return;
            };
            let Ok(Reply::Ok(fields)) = reply::parse(text_of(&answer)) else {
                return;
            };
            let Some((fid, path)) = stored(&world, at, &fields, body).await else {
                return;
            };
            let checksum = match digest {
                Digest::Unsaid => None,
                Digest::Verified => Some(body.clone()),
                Digest::Claimed => Some(format!("not {body}")),
            };
            let checksum = checksum.map(|body| Checksum::md5(&Md5::digest(body)).to_string());
            let verified = *digest == Digest::Verified;
            RequestBuilder::new("create_close")
                .arg("domain", DOMAIN)
                .arg("key", key)
                .number("fid", fid)
                .number("devid", 1)
                .arg("path", path)
                .opt("checksum", checksum.as_ref())
                .opt("checksumverify", verified.then_some("1"))
                .finish()
        }
        Op::Delete { key } => RequestBuilder::new("delete")
            .arg("domain", DOMAIN)
            .arg("key", key)
            .finish(),
        Op::Rename { from, to } => RequestBuilder::new("rename")
            .arg("domain", DOMAIN)
            .arg("from_key", from)
            .arg("to_key", to)
            .finish(),
        Op::SetClass { key, class } => RequestBuilder::new("updateclass")
            .arg("domain", DOMAIN)
            .arg("key", key)
            .arg("class", class)
            .finish(),
    };
    let answer = proxy.serve(&line, &mut wish).await;
    world.tell(at, || match answer {
        Some(answer) => format!("{op}: {}", String::from_utf8_lossy(text_of(&answer))),
        None => format!("{op}: no answer"),
    });
}

/// Puts the bytes where the tracker says.
async fn stored(world: &World, at: usize, fields: &Args<'_>, body: &str) -> Option<(u64, String)> {
    let fid = fields.get_u64("fid")?;
    let path = fields.get_str("path_1")?.into_owned();
    world.pause(0, 30).await;
    if world.has(at, Fault::StorageDown) {
        return None;
    }
    let mut shelves = world.places[at].shelves.lock();
    shelves.insert((1, fid), Bytes::from(body.to_owned()));
    Some((fid, path))
}
