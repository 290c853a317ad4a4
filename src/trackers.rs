//! The trackers of one datacenter, for those who ask them on this program's own behalf: settling, repair.
//!
//! Owns a bounded pool of connections. A connection is lent to one caller at a time and comes back only when
//! every answer on it has been read; else it is dropped. A tracker that failed is left out for a while, unless
//! all have.
//!
//! Always true: [`TrackerError`] keeps apart what a journal must keep apart: refused by the tracker, never
//! seen by it, and perhaps carried out. A request is sent a second time only if it only reads, or
//! if no tracker can have seen it.
//! Never here: clients' requests (`proxy` has connections of its own, so that repair cannot starve them).

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mogilefs_protocol::client::{
    ClassSettings, Client, ClientError, CreateClose, CreateOpen, Device, Domain as TrackerDomain,
    FileDebug, FileInfo, GetPaths, Host, ListedFile, Opened, Timeouts,
};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::file::{Class, Domain, Fid, FileName, Key};
use crate::journal::Outcome;
use crate::machine;

/// How long a tracker that failed is left out, as MogileFS's own clients do it.
const LEFT_OUT: Duration = Duration::from_secs(5);

/// An unused connection is closed after this time: a firewall may have forgotten it.
const IDLE: Duration = Duration::from_secs(60);

/// Why a tracker did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// It answered `ERR`.
    #[error("the tracker answered {code}: {text}")]
    Refused {
        /// The code, such as `unknown_key`.
        code: String,
        /// The text, unescaped.
        text: String,
    },
    /// No tracker can have seen the request.
    #[error("no tracker was reached: {why}")]
    NotReached {
        /// What went wrong with the last one that was tried.
        why: String,
    },
    /// The request was sent and the answer did not come, or was none: it may have been carried out, and may
    /// still be.
    #[error("the tracker's answer was lost: {why}")]
    Lost {
        /// What came instead.
        why: String,
    },
}

impl TrackerError {
    /// The code, if the tracker answered with one.
    pub fn code(&self) -> Option<&str> {
        match self {
            TrackerError::Refused { code, .. } => Some(code),
            TrackerError::NotReached { .. } | TrackerError::Lost { .. } => None,
        }
    }

    /// Whether the tracker answered with this code.
    pub fn is_code(&self, wanted: &str) -> bool {
        self.code() == Some(wanted)
    }

    /// What this error says of a mutation that was asked for.
    pub fn outcome(&self) -> Outcome {
        match self {
            // What a request gets that was carried out already, when a tracker carries it out again.
            TrackerError::Refused { code, .. } => match code.as_str() {
                "unknown_key" | "no_temp_file" | "failure" => Outcome::Doubtful,
                _ => Outcome::DidNotHappen,
            },
            TrackerError::NotReached { .. } => Outcome::DidNotHappen,
            TrackerError::Lost { .. } => Outcome::Lost,
        }
    }
}

impl From<ClientError> for TrackerError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Tracker { code, text } => TrackerError::Refused { code, text },
            error if error.maybe_seen() => TrackerError::Lost { why: chain(&error) },
            error => TrackerError::NotReached { why: chain(&error) },
        }
    }
}

/// An error with what caused it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A bounded pool of connections to the trackers of one datacenter.
pub struct Trackers {
    sites: Vec<Site>,
    timeouts: Timeouts,
    permits: Arc<Semaphore>,
    max_connections: usize,
    /// Where the next look for a tracker begins, so that all get their share.
    turn: AtomicUsize,
}

struct Site {
    addr: String,
    idle: Mutex<Vec<Idle>>,
    left_out_until: Mutex<Option<Instant>>,
}

struct Idle {
    client: Client,
    since: Instant,
}

/// A connection that is lent: used like a [`Client`], it goes back to the pool when dropped.
pub struct Lease<'a> {
    /// Taken out only by `drop`.
    client: Option<Client>,
    site: &'a Site,
    /// It lay idle, and the tracker may have closed it meanwhile.
    used_before: bool,
    _permit: OwnedSemaphorePermit,
}

/// When a request is sent again, on another connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// It only reads.
    Always,
    /// It changes something: only while no tracker can have seen it.
    IfUnseen,
}

/// The attempts at one request.
struct Tries<'a> {
    pool: &'a Trackers,
    again: Again,
    made: usize,
    last: Option<TrackerError>,
}

impl<'a> Tries<'a> {
    async fn lease(&mut self) -> Result<Lease<'a>, TrackerError> {
        // The first attempt may meet a connection that was closed while it lay idle; later ones do not.
        let lease = self.pool.lease_new(self.made > 0).await;
        self.made += 1;
        lease.map_err(|error| self.last.take().unwrap_or(error))
    }

    /// What the caller gets; `None` if it is worth another attempt.
    fn judge<T>(
        &mut self,
        lease: &Lease<'_>,
        answer: Result<T, ClientError>,
    ) -> Option<Result<T, TrackerError>> {
        let error = match answer {
            Err(error) if !matches!(error, ClientError::Tracker { .. }) => error,
            answered => return Some(answered.map_err(TrackerError::from)),
        };
        if !lease.used_before {
            lease.site.leave_out();
        }
        let unseen = !error.maybe_seen();
        let error = TrackerError::from(error);
        if self.made <= self.pool.sites.len() && (unseen || self.again == Again::Always) {
            self.last = Some(error);
            None
        } else {
            Some(Err(error))
        }
    }
}

/// Makes attempts at `$call` until there is something to say. (A function would take a closure that borrows
/// for any lifetime, whose future cannot be shown to be `Send`.)
macro_rules! ask {
    ($pool:expr, $again:expr, $client:ident => $call:expr) => {{
        let mut tries = Tries {
            pool: $pool,
            again: $again,
            made: 0,
            last: None,
        };
        loop {
            let mut lease = tries.lease().await?;
            let answer = {
                let $client: &mut Client = &mut lease;
                $call.await
            };
            if let Some(said) = tries.judge(&lease, answer) {
                break said;
            }
        }
    }};
}

impl Trackers {
    /// A pool over the trackers at `addrs` (`host:port`) that lends at most `max_connections` at once, and
    /// keeps no more than that idle at each. Connects when first asked.
    pub fn new(addrs: Vec<String>, max_connections: usize) -> Trackers {
        let max_connections = max_connections.max(1);
        Trackers {
            sites: addrs
                .into_iter()
                .map(|addr| Site {
                    addr,
                    idle: Mutex::default(),
                    left_out_until: Mutex::default(),
                })
                .collect(),
            timeouts: Timeouts::default(),
            permits: Arc::new(Semaphore::new(max_connections)),
            max_connections,
            turn: AtomicUsize::new(0),
        }
    }

    /// The same with other time limits; for tests.
    #[must_use]
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Trackers {
        self.timeouts = timeouts;
        self
    }

    /// The addresses, as given.
    pub fn addrs(&self) -> impl Iterator<Item = &str> {
        self.sites.iter().map(|site| site.addr.as_str())
    }

    /// Borrows a connection to one of the trackers.
    ///
    /// # Errors
    /// [`TrackerError::NotReached`] alone.
    pub async fn lease(&self) -> Result<Lease<'_>, TrackerError> {
        self.lease_new(false).await
    }

    /// As [`Self::lease`]; with `fresh`, a connection that was not used before, by which a tracker proves that it
    /// is there.
    async fn lease_new(&self, fresh: bool) -> Result<Lease<'_>, TrackerError> {
        let permits = Arc::clone(&self.permits).acquire_owned();
        let permit = match tokio::time::timeout(self.timeouts.reply, permits).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => {
                return Err(TrackerError::NotReached {
                    why: format!("all {} connections are in use", self.max_connections),
                });
            }
        };
        let mut why = "no address of a tracker is known".to_owned();
        for site in self.by_hope() {
            if !fresh && let Some(client) = site.take_idle() {
                return Ok(Lease {
                    client: Some(client),
                    site,
                    used_before: true,
                    _permit: permit,
                });
            }
            match machine::connect(&site.addr, self.timeouts).await {
                Ok(client) => {
                    *site.left_out_until.lock() = None;
                    return Ok(Lease {
                        client: Some(client),
                        site,
                        used_before: false,
                        _permit: permit,
                    });
                }
                Err(error) => {
                    site.leave_out();
                    why = chain(&error);
                }
            }
        }
        Err(TrackerError::NotReached { why })
    }

    /// All trackers: first those that have not failed lately, in turn; then the others, longest left out first.
    fn by_hope(&self) -> Vec<&Site> {
        let now = Instant::now();
        let mut sites: Vec<&Site> = self.sites.iter().collect();
        if !sites.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % sites.len();
            sites.rotate_left(turn);
        }
        sites.sort_by_key(|site| site.left_out_until.lock().filter(|until| *until > now));
        sites
    }

    /// All that the master database knows of what a key names. `unknown_key` is an answer: nothing.
    ///
    /// # Errors
    /// The tracker's own, or that of the last attempt, but not `unknown_key`.
    pub async fn file_debug_by_key(
        &self,
        file: &FileName,
    ) -> Result<Option<FileDebug>, TrackerError> {
        let (domain, key) = (file.domain.bytes(), file.key.bytes());
        let asked = ask!(self, Again::Always, client => client.file_debug_by_key(&domain, &key));
        match asked {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_code("unknown_key") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All that the master database knows of a fid; of an unknown one, nothing.
    ///
    /// # Errors
    /// The tracker's own, or that of the last attempt.
    pub async fn file_debug_by_fid(&self, fid: Fid) -> Result<FileDebug, TrackerError> {
        ask!(self, Again::Always, client => client.file_debug_by_fid(fid.0))
    }

    /// What a key names; a slave database that lags may answer.
    ///
    /// # Errors
    /// The tracker's own, or that of the last attempt.
    pub async fn file_info(&self, file: &FileName) -> Result<FileInfo, TrackerError> {
        let (domain, key) = (file.domain.bytes(), file.key.bytes());
        ask!(self, Again::Always, client => client.file_info(&domain, &key))
    }

    /// Up to `count` URLs of a file, none of them tried by the tracker.
    ///
    /// # Errors
    /// The tracker's own, or that of the last attempt.
    pub async fn get_paths(
        &self,
        file: &FileName,
        count: u32,
    ) -> Result<Vec<String>, TrackerError> {
        let (domain, key) = (file.domain.bytes(), file.key.bytes());
        let wanted = GetPaths {
            domain: &domain,
            key: &key,
            noverify: true,
            pathcount: Some(count),
            zone: None,
        };
        ask!(self, Again::Always, client => client.get_paths(&wanted))
    }

    /// Up to `count` living files with the next higher fids after `after`.
    ///
    /// # Errors
    /// The tracker's own, or that of the last attempt.
    pub async fn list_fids(&self, after: Fid, count: u32) -> Result<Vec<ListedFile>, TrackerError> {
        ask!(self, Again::Always, client => client.list_fids(after.0, count))
    }

    /// All domains with their classes.
    ///
    /// # Errors
    /// The tracker's own, or that of the last attempt.
    pub async fn get_domains(&self) -> Result<Vec<TrackerDomain>, TrackerError> {
        ask!(self, Again::Always, client => client.get_domains())
    }

    /// All hosts of storage devices.
    ///
    /// # Errors
    /// The tracker's own, or that of the last attempt.
    pub async fn get_hosts(&self) -> Result<Vec<Host>, TrackerError> {
        ask!(self, Again::Always, client => client.get_hosts())
    }

    /// All storage devices.
    ///
    /// # Errors
    /// The tracker's own, or that of the last attempt.
    pub async fn get_devices(&self) -> Result<Vec<Device>, TrackerError> {
        ask!(self, Again::Always, client => client.get_devices())
    }

    /// What one of the trackers counts (`!stats`), as far as it is numbers.
    ///
    /// # Errors
    /// As above.
    pub async fn stats(&self) -> Result<Vec<(String, u64)>, TrackerError> {
        let lines = ask!(self, Again::Always, client => client.admin("!stats"))?;
        let read = |line: &[u8]| {
            let line = std::str::from_utf8(line).ok()?;
            let (name, value) = line.trim().rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Ok(lines.iter().filter_map(|line| read(line)).collect())
    }

    /// Reserves a fid and learns where to put its bytes. One that is lost is reaped by the tracker.
    ///
    /// # Errors
    /// The tracker's own, or none was reached, or the answer was lost.
    pub async fn create_open(&self, open: &CreateOpen<'_>) -> Result<Opened, TrackerError> {
        ask!(self, Again::IfUnseen, client => client.create_open(open))
    }

    /// Makes a key name what was uploaded; with an empty key, gives the upload up.
    ///
    /// # Errors
    /// [`TrackerError::outcome`] says what they mean.
    pub async fn create_close(&self, close: &CreateClose<'_>) -> Result<(), TrackerError> {
        ask!(self, Again::IfUnseen, client => client.create_close(close))
    }

    /// Removes a key.
    ///
    /// # Errors
    /// [`TrackerError::outcome`] says what they mean.
    pub async fn delete(&self, file: &FileName) -> Result<(), TrackerError> {
        let (domain, key) = (file.domain.bytes(), file.key.bytes());
        ask!(self, Again::IfUnseen, client => client.delete(&domain, &key))
    }

    /// Gives a file another key of its domain.
    ///
    /// # Errors
    /// [`TrackerError::outcome`] says what they mean.
    pub async fn rename(&self, from: &FileName, to: &Key) -> Result<(), TrackerError> {
        let (domain, from, to) = (from.domain.bytes(), from.key.bytes(), to.bytes());
        ask!(self, Again::IfUnseen, client => client.rename(&domain, &from, &to))
    }

    /// Puts a file into another class.
    ///
    /// # Errors
    /// [`TrackerError::outcome`] says what they mean.
    pub async fn updateclass(&self, file: &FileName, class: &Class) -> Result<(), TrackerError> {
        let (domain, key, class) = (file.domain.bytes(), file.key.bytes(), class.bytes());
        ask!(self, Again::IfUnseen, client => client.updateclass(&domain, &key, &class))
    }

    /// Makes a domain.
    ///
    /// # Errors
    /// `domain_exists` among them.
    pub async fn create_domain(&self, domain: &Domain) -> Result<(), TrackerError> {
        let domain = domain.bytes();
        ask!(self, Again::IfUnseen, client => client.create_domain(&domain))
    }

    /// Makes a class.
    ///
    /// # Errors
    /// `class_exists` among them.
    pub async fn create_class(&self, class: &ClassSettings<'_>) -> Result<(), TrackerError> {
        ask!(self, Again::IfUnseen, client => client.create_class(class))
    }
}

impl Site {
    fn take_idle(&self) -> Option<Client> {
        let mut idle = self.idle.lock();
        let newest = idle.pop()?;
        if newest.since.elapsed() < IDLE {
            return Some(newest.client);
        }
        // The ones below it are older still.
        idle.clear();
        None
    }

    fn leave_out(&self) {
        self.idle.lock().clear();
        *self.left_out_until.lock() = Some(Instant::now() + LEFT_OUT);
    }
}

impl Deref for Lease<'_> {
    type Target = Client;
    fn deref(&self) -> &Client {
        self.client.as_ref().expect("only drop takes it out")
    }
}

impl DerefMut for Lease<'_> {
    fn deref_mut(&mut self) -> &mut Client {
        self.client.as_mut().expect("only drop takes it out")
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(client) = self.client.take()
            && client.is_usable()
        {
            self.site.idle.lock().push(Idle {
                client,
                since: Instant::now(),
            });
        }
    }
}

impl std::fmt::Debug for Trackers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.addrs()).finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    /// A tracker that answers each connection's requests with these lines, then closes it.
    async fn tracker(answers: &'static [&'static str]) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    for answer in answers {
                        let mut line = String::new();
                        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                            return;
                        }
                        counted.fetch_add(1, Ordering::SeqCst);
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                    let mut line = String::new();
                    if stream.read_line(&mut line).await.unwrap_or(0) > 0 {
                        counted.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        (addr, requests)
    }

    async fn dead() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    }

    fn file() -> FileName {
        FileName::from_bytes(b"photos", b"a b")
    }

    #[tokio::test]
    async fn a_read_moves_on_from_a_dead_tracker_and_one_that_hangs_up() {
        let (mute, _) = tracker(&[]).await;
        let (good, asked) = tracker(&["OK paths=1&path1=http://x/1\r\n"; 4]).await;
        let pool = Trackers::new(vec![dead().await, mute, good], 4);
        for _ in 0..4 {
            assert_eq!(pool.get_paths(&file(), 2).await.unwrap(), ["http://x/1"]);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn a_change_that_was_sent_is_not_sent_again() {
        let (mute, mute_saw) = tracker(&[]).await;
        let (other, other_saw) = tracker(&[]).await;
        let pool = Trackers::new(vec![mute, other], 4);
        let error = pool.delete(&file()).await.unwrap_err();
        assert!(matches!(error, TrackerError::Lost { .. }), "{error}");
        assert_eq!(error.outcome(), Outcome::Lost);
        let seen = mute_saw.load(Ordering::SeqCst) + other_saw.load(Ordering::SeqCst);
        assert_eq!(seen, 1);
    }

    #[tokio::test]
    async fn a_change_moves_on_from_a_tracker_that_never_saw_it() {
        let (good, _) = tracker(&["OK \r\n"]).await;
        let pool = Trackers::new(vec![dead().await, good], 4);
        pool.delete(&file()).await.unwrap();
    }

    #[tokio::test]
    async fn errors_are_kept_apart() {
        let (refusing, _) = tracker(&["ERR unknown_key unknown_key\r\n"; 2]).await;
        let pool = Trackers::new(vec![refusing], 1);
        let error = pool.file_info(&file()).await.unwrap_err();
        assert_eq!(error.code(), Some("unknown_key"));
        assert_eq!(error.outcome(), Outcome::Doubtful);
        assert!(pool.file_debug_by_key(&file()).await.unwrap().is_none());

        let pool = Trackers::new(vec![dead().await], 1);
        let error = pool.get_domains().await.unwrap_err();
        assert!(matches!(error, TrackerError::NotReached { .. }), "{error}");
        assert_eq!(error.outcome(), Outcome::DidNotHappen);

        let pool = Trackers::new(Vec::new(), 1);
        assert!(pool.get_hosts().await.is_err());
    }

    #[tokio::test]
    async fn calls_can_be_spawned() {
        let (addr, _) = tracker(&["OK \r\n"; 2]).await;
        let pool = Arc::new(Trackers::new(vec![addr], 1));
        let task = tokio::spawn(async move {
            pool.delete(&file()).await?;
            pool.file_debug_by_key(&file()).await.map(drop)
        });
        task.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_bounded() {
        let (addr, _) = tracker(&["OK \r\n"; 8]).await;
        let pool = Trackers::new(vec![addr], 1);
        let first = pool.lease().await.unwrap();
        assert!(pool.lease().await.is_err(), "a second one was made");
        drop(first);
        assert!(pool.lease().await.unwrap().used_before);
    }
}
