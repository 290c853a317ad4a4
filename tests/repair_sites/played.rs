//! A datacenter that is played: its tracker and its storage node answer what a test wants.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use phylactery::file::{
    Checksum, Class, ClassCell, Content, Datacenter, Fid, Held, Op, Put, Replica, Revision,
};
use phylactery::ledger::{
    About, Change, DatacenterRecord, FileWrite, Ledger, NodeRecord, StreamId, Strength,
};
use phylactery::version::{Version, wall_clock};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{Flaky, Site, any_port, dc, file, until};

/// How a played storage node answers.
#[derive(Clone)]
pub enum Http {
    /// Just this, raw, and the connection is closed.
    Raw(Vec<u8>),
    /// The bytes, as they should be.
    Good(Vec<u8>),
    /// So many bytes of a pattern, made as they are sent.
    Pattern(u64),
    /// So many bytes, all ones; after the first, nothing until this is cancelled.
    Hang(u64, CancellationToken),
    /// The bytes, from where they are asked for on; after so many of them the connection breaks.
    Breaks(Vec<u8>, usize),
    /// Of so many bytes, all sevens, one after the other, with this pause, from where they are asked for on.
    Drips(u64, Duration),
    /// Without saying how many, more and more, until nobody reads.
    Endless,
}

/// A datacenter that is played.
pub struct Played {
    pub name: Datacenter,
    pub stream: StreamId,
    pub tracker: SocketAddr,
    pub storage: SocketAddr,
    pub ledger: Arc<Flaky>,
    number: AtomicU64,
    /// What it says that the ledger has.
    pub delivered: AtomicU64,
    generation: u64,
    parts: Arc<Parts>,
}

#[derive(Default)]
struct Parts {
    /// What `get_paths` answers, by escaped key.
    paths: Mutex<HashMap<String, Vec<String>>>,
    /// What GET answers, by path.
    bodies: Mutex<HashMap<String, Http>>,
    gets: Mutex<Vec<String>>,
    /// From which byte on each of them was.
    from: Mutex<Vec<u64>>,
    /// Nobody answers.
    away: AtomicBool,
    /// Bytes that went out, or into a buffer at least.
    sent: AtomicU64,
}

impl Played {
    pub async fn new(name: &str, ledger: &Arc<Flaky>) -> Played {
        let (tracker, storage) = (
            TcpListener::bind(any_port()).await.expect("bound"),
            TcpListener::bind(any_port()).await.expect("bound"),
        );
        let parts = Arc::new(Parts::default());
        let played = Played {
            name: dc(name),
            stream: StreamId {
                datacenter: dc(name),
                node: "node1".parse().expect("a name"),
                incarnation: "played".into(),
            },
            tracker: tracker.local_addr().expect("bound"),
            storage: storage.local_addr().expect("bound"),
            ledger: Arc::clone(ledger),
            number: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            generation: 1,
            parts: Arc::clone(&parts),
        };
        let of_tracker = Arc::clone(&parts);
        tokio::spawn(async move {
            while let Ok((stream, _)) = tracker.accept().await {
                tokio::spawn(play_tracker(stream, Arc::clone(&of_tracker)));
            }
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = storage.accept().await {
                tokio::spawn(play_storage(stream, Arc::clone(&parts)));
            }
        });
        let record = DatacenterRecord {
            name: dc(name),
            trackers: vec![played.tracker.to_string()],
            storage_hosts: BTreeSet::from([played.storage.to_string()]),
            api: None,
            updated: wall_clock(),
        };
        ledger.set_datacenter(&record).await.expect("registered");
        played.beat().await;
        played
    }

    /// From now on it has another journal.
    pub fn begin_stream(&mut self, incarnation: &str) {
        self.stream.incarnation = incarnation.to_owned();
        self.generation += 1;
        self.number.store(0, Ordering::SeqCst);
        self.delivered.store(0, Ordering::SeqCst);
    }

    pub async fn beat(&self) {
        self.beat_at(wall_clock()).await;
    }

    /// By a clock that says so.
    pub async fn beat_at(&self, heartbeat: Version) {
        let node = NodeRecord {
            stream: self.stream.clone(),
            last_number: self.number.load(Ordering::SeqCst),
            delivered: self.delivered.load(Ordering::SeqCst),
            oldest_undelivered: None,
            oldest_open: None,
            clock_mark: wall_clock(),
            heartbeat,
            generation: self.generation,
        };
        self.ledger.set_node(&node).await.expect("beaten");
    }

    pub fn url(&self, fid: u64) -> String {
        format!("http://{}{}", self.storage, fid_path(fid))
    }

    pub fn serve(&self, key: &str, fid: u64, body: Http) {
        self.serve_at(key, vec![self.url(fid)]);
        self.body(fid, body);
    }

    pub fn serve_at(&self, key: &str, paths: Vec<String>) {
        self.parts
            .paths
            .lock()
            .insert(file(key).key.escaped().to_owned(), paths);
    }

    pub fn body(&self, fid: u64, body: Http) {
        self.parts.bodies.lock().insert(fid_path(fid), body);
    }

    /// Whether tracker and storage node hang up on everybody.
    pub fn set_away(&self, away: bool) {
        self.parts.away.store(away, Ordering::SeqCst);
    }

    /// Bytes of endless bodies that were taken.
    pub fn sent(&self) -> u64 {
        self.parts.sent.load(Ordering::SeqCst)
    }

    /// From which byte on each GET was.
    pub fn gets_from(&self) -> Vec<u64> {
        self.parts.from.lock().clone()
    }

    pub fn gets(&self) -> Vec<String> {
        self.parts.gets.lock().clone()
    }

    /// A put as this datacenter would have delivered it, with its change if `told`.
    pub async fn put(
        &self,
        key: &str,
        fid: u64,
        size: u64,
        checksum: Option<Checksum>,
    ) -> Revision {
        let revision = self.revision(wall_clock(), fid, size, checksum);
        self.write(key, &revision, fid).await;
        self.change(key, revision.version).await;
        revision
    }

    /// A delete as this datacenter would have delivered it.
    pub async fn delete(&self, key: &str) {
        let version = wall_clock();
        let head = Revision {
            op: Op::Delete { renamed_to: None },
            ..self.revision(version, 0, 0, None)
        };
        let write = FileWrite {
            head: Some(head),
            ..FileWrite::default()
        };
        self.ledger
            .write(&file(key), &write, Strength::Local)
            .await
            .expect("written");
        self.change(key, version).await;
    }

    pub fn revision(
        &self,
        version: Version,
        fid: u64,
        size: u64,
        checksum: Option<Checksum>,
    ) -> Revision {
        Revision {
            version,
            origin: self.name.clone(),
            node: self.stream.node.clone(),
            op: Op::Put(Put {
                content: Content {
                    version,
                    origin: self.name.clone(),
                    node: self.stream.node.clone(),
                },
                size,
                checksum,
                fid: Fid(fid),
                renamed_from: None,
            }),
        }
    }

    pub async fn write(&self, key: &str, revision: &Revision, fid: u64) {
        let content = revision.content().expect("a put").clone();
        let held = Held {
            content: content.clone(),
            fid: Fid(fid),
            class: Class::default_class(),
            claimed: false,
            checked: None,
            leaving: false,
        };
        let write = FileWrite {
            head: Some(revision.clone()),
            class: Some(ClassCell {
                version: revision.version,
                content,
                class: Class::default_class(),
            }),
            replica: Some((
                self.name.clone(),
                Replica {
                    since: revision.version,
                    held: Some(held),
                },
            )),
        };
        self.ledger
            .write(&file(key), &write, Strength::Local)
            .await
            .expect("written");
    }

    pub async fn change(&self, key: &str, version: Version) -> u64 {
        let number = self.number.fetch_add(1, Ordering::SeqCst) + 1;
        self.change_at(number, key, version).await;
        number
    }

    /// Leaves a hole of one number.
    pub fn skip(&self) -> u64 {
        self.number.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub async fn change_at(&self, number: u64, key: &str, version: Version) {
        let change = Change {
            number,
            file: Some(file(key)),
            version,
            about: About::Head,
        };
        self.ledger
            .append_change(&self.stream, &change, Strength::Local)
            .await
            .expect("appended");
        self.beat().await;
    }

    pub fn last_number(&self) -> u64 {
        self.number.load(Ordering::SeqCst)
    }

    /// How far `site` has read this datacenter's stream.
    pub async fn cursor_of(&self, site: &Site) -> u64 {
        let cursor = self
            .ledger
            .cursor(&site.name, &self.stream.to_string())
            .await
            .expect("read");
        cursor.map_or(0, |cursor| cursor.number)
    }

    /// Waits until `site` has passed everything.
    pub async fn passed_by(&self, site: &Site) {
        until("the cursor at the end", async || {
            let (cursor, last) = (self.cursor_of(site).await, self.last_number());
            if cursor == last {
                Ok(())
            } else {
                Err(format!("{cursor} of {last}"))
            }
        })
        .await;
    }
}

pub fn fid_path(fid: u64) -> String {
    format!("/dev1/0/000/000/{fid:010}.fid")
}

async fn play_tracker(stream: TcpStream, parts: Arc<Parts>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 || parts.away.load(Ordering::SeqCst)
        {
            return;
        }
        let key = line
            .trim()
            .split(['&', ' '])
            .find_map(|arg| arg.strip_prefix("key="))
            .unwrap_or_default();
        let paths = parts.paths.lock().get(key).cloned();
        let answer = match paths {
            _ if !line.starts_with("get_paths") => {
                "ERR unknown_command unknown_command\r\n".to_owned()
            }
            None => "ERR unknown_key unknown_key\r\n".to_owned(),
            Some(paths) => {
                let mut answer = format!("OK paths={}", paths.len());
                for (n, path) in paths.iter().enumerate() {
                    answer.push_str(&format!("&path{}={}", n + 1, path.replace('&', "%26")));
                }
                answer + "\r\n"
            }
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn play_storage(mut stream: TcpStream, parts: Arc<Parts>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if parts.away.load(Ordering::SeqCst) {
        return;
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let range = head.to_lowercase();
    let range = range.split("range: bytes=").nth(1);
    let from: u64 = range
        .and_then(|range| range.split('-').next()?.parse().ok())
        .unwrap_or(0);
    parts.from.lock().push(from);
    parts.gets.lock().push(path.clone());
    let body = parts.bodies.lock().get(&path).cloned();
    let told =
        |size: u64| format!("HTTP/1.0 200 OK\r\nContent-Length: {size}\r\n\r\n").into_bytes();
    let part_of = |size: u64| {
        match from {
        0 => told(size),
        from => format!(
            "HTTP/1.0 206 Partial\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{size}\r\n\r\n",
            size - from,
            size - 1
        )
        .into_bytes(),
    }
    };
    let _hung_up = match body {
        Some(Http::Breaks(body, after)) => {
            let rest = &body[from as usize..];
            let rest = &rest[..rest.len().min(after)];
            let head = part_of(body.len() as u64);
            stream.write_all(&[&head, rest].concat()).await
        }
        Some(Http::Drips(size, pause)) => {
            let mut sent = stream.write_all(&part_of(size)).await;
            for _ in from..size {
                if sent.is_err() {
                    break;
                }
                tokio::time::sleep(pause).await;
                sent = stream.write_all(&[7]).await;
            }
            sent
        }
        Some(Http::Endless) => {
            let chunk = [7; 1 << 12];
            let mut sent = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await;
            while sent.is_ok() {
                sent = stream.write_all(&chunk).await;
                parts.sent.fetch_add(chunk.len() as u64, Ordering::SeqCst);
            }
            sent
        }
        None => {
            stream
                .write_all(b"HTTP/1.0 404 Not found\r\nContent-Length: 0\r\n\r\n")
                .await
        }
        Some(Http::Raw(raw)) => stream.write_all(&raw).await,
        Some(Http::Good(body)) => {
            stream
                .write_all(&[told(body.len() as u64), body].concat())
                .await
        }
        Some(Http::Pattern(size)) => {
            let chunk = vec![7; 1 << 16];
            let mut left = size;
            let mut sent = stream.write_all(&told(size)).await;
            while left > 0 && sent.is_ok() {
                let part = left.min(chunk.len() as u64);
                sent = stream.write_all(&chunk[..part as usize]).await;
                left -= part;
            }
            sent
        }
        Some(Http::Hang(size, end)) => {
            let sent = stream.write_all(&[told(size), vec![1]].concat()).await;
            end.cancelled().await;
            match sent {
                Ok(()) => stream.write_all(&vec![1; size as usize - 1]).await,
                gone => gone,
            }
        }
    };
    let _gone = stream.shutdown().await;
}
