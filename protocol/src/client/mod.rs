//! A small client of one tracker, feature `client`.
//!
//! One connection, one request at a time. The typed methods are thin: they name the arguments and
//! read the fields, the answer of the tracker decides. Keys, domains and classes are bytes.
//!
//! Always true: an answer belongs to the request that was just sent. Whatever makes that doubtful,
//! a request dropped half-way, a timeout, a line that nobody asked for, ends the use of the
//! connection: each further call says [`ClientError::Unfinished`].
//!
//! Never here: trying again, choosing among trackers. [`ClientError::maybe_seen`] tells the caller
//! who wants to whether the tracker may have executed the request.
//!
//! ```no_run
//! # async fn example() -> Result<(), mogilefs_protocol::client::ClientError> {
//! use mogilefs_protocol::client::{Client, GetPaths, Timeouts};
//!
//! let mut tracker = Client::connect("127.0.0.1:7001", Timeouts::default()).await?;
//! let file = tracker.file_info(b"photos", b"cat.jpg").await?;
//! let wanted = GetPaths { domain: b"photos", key: b"cat.jpg", ..GetPaths::default() };
//! println!("{} bytes at {:?}", file.length, tracker.get_paths(&wanted).await?);
//! # Ok(())
//! # }
//! ```

mod answers;
mod commands;
mod error;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::time::timeout;

pub use self::answers::{
    Class, Destination, Device, Domain, FileDebug, FileInfo, FileRow, Host, KeyPage, ListedFile,
    Opened, TempFile,
};
pub use self::commands::{ClassSettings, CreateClose, CreateOpen, GetPaths, ListKeys};
pub use self::error::ClientError;

use crate::line::{Line, Next, Scanner};
use crate::reply::{AdminReply, Fed, OwnedReply, is_watch};
use crate::request::{self, Kind};

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the connection, name lookup included.
    pub connect: Duration,
    /// From the first byte of a request to the last one of its answer.
    pub reply: Duration,
}

impl Default for Timeouts {
    /// 2 s for the connection. 35 s for an answer: the tracker itself gives up on a worker, and
    /// begins again, after 30 s.
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(2),
            reply: Duration::from_secs(35),
        }
    }
}

/// The longest answer taken unless [`Client::with_max_reply`] says otherwise. A page of 1,000 keys
/// of the length that MariaDB stores, fully escaped, is below 1 MiB.
pub const MAX_REPLY: usize = 16 << 20;

/// A way to a tracker that is not a TCP connection: a played one.
pub trait Wire: Send + Sync {
    /// Sends a line and gives the line of answer, both with their ends; `None` if there is none any more.
    fn ask(&mut self, line: Bytes) -> Pin<Box<dyn Future<Output = Option<Bytes>> + Send + '_>>;
}

/// What goes to and fro.
enum Stream {
    Tcp(TcpStream),
    Wire(Box<dyn Wire>),
}

/// A connection to a tracker.
pub struct Client {
    stream: Stream,
    received: BytesMut,
    scanner: Scanner,
    timeouts: Timeouts,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Every request sent has had its answer, whole.
    Idle,
    /// A request is under way, or was when its future was dropped or failed. The count of bytes
    /// tells whether its end has left us.
    Busy { sent_all: bool },
}

impl Client {
    /// Connects to a tracker, given as a socket address or as `host:port`.
    pub async fn connect(
        addr: impl ToSocketAddrs + fmt::Display,
        timeouts: Timeouts,
    ) -> Result<Client, ClientError> {
        let name = addr.to_string();
        let stream = match timeout(timeouts.connect, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(ClientError::Connect { addr: name, source }),
            Err(_elapsed) => {
                let source = io::Error::from(io::ErrorKind::TimedOut);
                return Err(ClientError::Connect { addr: name, source });
            }
        };
        Client::over(stream, timeouts).map_err(|source| ClientError::Connect { addr: name, source })
    }

    /// Uses a connection that exists already. Nothing may have been asked on it whose answer is
    /// still to come.
    pub fn over(stream: TcpStream, timeouts: Timeouts) -> io::Result<Client> {
        stream.set_nodelay(true)?;
        Ok(Client::on(Stream::Tcp(stream), timeouts))
    }

    /// Uses a way to a tracker that somebody else plays.
    pub fn over_wire(wire: Box<dyn Wire>, timeouts: Timeouts) -> Client {
        Client::on(Stream::Wire(wire), timeouts)
    }

    fn on(stream: Stream, timeouts: Timeouts) -> Client {
        Client {
            stream,
            received: BytesMut::new(),
            scanner: Scanner::new(MAX_REPLY),
            timeouts,
            state: State::Idle,
        }
    }

    /// Takes longer answers, or only shorter ones. A longer one is [`ClientError::TooLong`].
    pub fn with_max_reply(mut self, max: usize) -> Client {
        self.scanner = Scanner::new(max);
        self
    }

    /// Whether another request can be sent: all answers have come, whole.
    pub fn is_usable(&self) -> bool {
        self.state == State::Idle
    }

    /// The tracker's address.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.stream {
            Stream::Tcp(stream) => stream.peer_addr(),
            Stream::Wire(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Sends one request line, end included, and waits for its one line of answer. An ERR is an
    /// answer here, not an error.
    ///
    /// If the future is dropped before it is done, the connection is of no further use.
    pub async fn request(&mut self, line: Bytes) -> Result<OwnedReply, ClientError> {
        let line = Line::new(line).map_err(|_| ClientError::NotARequest)?;
        match request::parse(line.text()) {
            Kind::Command(_) | Kind::Unknown => {}
            Kind::Empty | Kind::Admin(_) => return Err(ClientError::NotARequest),
        }
        self.exchange(line, Client::one_line).await
    }

    /// Sends a command to the tracker itself (`!version`) and gives the lines of its answer,
    /// without their ends and without the final `.`.
    ///
    /// Lines for a watcher (`!watch`) are dropped wherever they come.
    pub async fn admin(&mut self, command: &str) -> Result<Vec<Bytes>, ClientError> {
        let line = Line::new(Bytes::from(format!("{command}\r\n")))
            .map_err(|_| ClientError::NotARequest)?;
        match request::parse(line.text()) {
            Kind::Admin(_) => {}
            Kind::Empty | Kind::Command(_) | Kind::Unknown => return Err(ClientError::NotARequest),
        }
        self.exchange(line, Client::many_lines).await
    }

    /// Sends a line and waits for what `answer` takes for its answer.
    async fn exchange<T>(
        &mut self,
        line: Line,
        answer: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        if self.state != State::Idle {
            return Err(ClientError::Unfinished);
        }
        self.state = State::Busy { sent_all: false };
        let limit = self.timeouts.reply;
        let work = async {
            self.nothing_unasked()?;
            self.send(line.raw()).await?;
            answer(&mut *self).await
        };
        let outcome = timeout(limit, work).await;
        match outcome {
            Ok(Ok(answer)) => {
                self.state = State::Idle;
                Ok(answer)
            }
            Ok(Err(err)) => Err(err),
            Err(_elapsed) => Err(ClientError::Timeout {
                after: limit,
                maybe_seen: self.sent_all(),
            }),
        }
    }

    /// What has come since the last answer: nothing but news for a watcher, or this connection is
    /// not to be trusted.
    fn nothing_unasked(&mut self) -> Result<(), ClientError> {
        while let Stream::Tcp(stream) = &self.stream {
            match stream.try_read_buf(&mut self.received) {
                Ok(0) => return Err(ClientError::Closed { maybe_seen: false }),
                Ok(_) => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => break,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(ClientError::Io {
                        source,
                        maybe_seen: false,
                    });
                }
            }
            if self.received.len() > self.scanner.max() {
                break;
            }
        }
        loop {
            match self.scanner.next(&mut self.received) {
                Next::Line(line) if is_watch(line.text()) => {}
                Next::Line(line) => return Err(self.garbage(line.text())),
                Next::Incomplete if begins_like_watch(&self.received) => return Ok(()),
                Next::Incomplete => return Err(self.garbage(&self.received)),
                Next::TooLong => return Err(self.too_long()),
            }
        }
    }

    async fn send(&mut self, mut line: &[u8]) -> Result<(), ClientError> {
        let stream = match &mut self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Wire(wire) => {
                self.state = State::Busy { sent_all: true };
                let answer = wire.ask(Bytes::copy_from_slice(line)).await;
                let answer = answer.ok_or(ClientError::Closed { maybe_seen: true })?;
                self.received.extend_from_slice(&answer);
                return Ok(());
            }
        };
        while !line.is_empty() {
            match stream.write(line).await {
                Ok(0) => return Err(ClientError::Closed { maybe_seen: false }),
                Ok(written) => line = &line[written..],
                Err(source) => {
                    return Err(ClientError::Io {
                        source,
                        maybe_seen: false,
                    });
                }
            }
        }
        self.state = State::Busy { sent_all: true };
        Ok(())
    }

    async fn one_line(&mut self) -> Result<OwnedReply, ClientError> {
        loop {
            let line = self.next_line().await?;
            if !is_watch(line.text()) {
                return OwnedReply::new(line).map_err(|line| self.garbage(line.text()));
            }
        }
    }

    async fn many_lines(&mut self) -> Result<Vec<Bytes>, ClientError> {
        let mut reply = AdminReply::new(self.scanner.max());
        loop {
            let line = self.next_line().await?;
            match reply.feed(line) {
                Fed::More | Fed::Watch(_) => {}
                Fed::Done => break,
                Fed::TooLong => return Err(self.too_long()),
            }
        }
        Ok(reply
            .lines()
            .iter()
            .map(|line| line.raw().slice_ref(line.text()))
            .collect())
    }

    async fn next_line(&mut self) -> Result<Line, ClientError> {
        loop {
            match self.scanner.next(&mut self.received) {
                Next::Line(line) => return Ok(line),
                Next::Incomplete => {}
                Next::TooLong => return Err(self.too_long()),
            }
            self.received.reserve(READ_AT_ONCE);
            let read = match &mut self.stream {
                Stream::Tcp(stream) => stream.read_buf(&mut self.received).await,
                // All that it had to say has come with its answer.
                Stream::Wire(_) => Ok(0),
            };
            match read {
                Ok(0) => {
                    return Err(ClientError::Closed {
                        maybe_seen: self.sent_all(),
                    });
                }
                Ok(_) => {}
                Err(source) => {
                    return Err(ClientError::Io {
                        source,
                        maybe_seen: self.sent_all(),
                    });
                }
            }
        }
    }

    /// Whether the end of the request under way has left us. A tracker never executes a line whose
    /// end it has not seen.
    fn sent_all(&self) -> bool {
        matches!(self.state, State::Busy { sent_all: true })
    }

    fn garbage(&self, received: &[u8]) -> ClientError {
        ClientError::garbage(received, self.sent_all())
    }

    fn too_long(&self) -> ClientError {
        ClientError::TooLong {
            max: self.scanner.max(),
            maybe_seen: self.sent_all(),
        }
    }
}

/// Most answers fit; longer ones grow the buffer by doubling.
const READ_AT_ONCE: usize = 4096;

/// Whether this can be the beginning of a line for a watcher.
fn begins_like_watch(received: &[u8]) -> bool {
    let mark = b":: ";
    let common = received.len().min(mark.len());
    received[..common] == mark[..common]
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("peer", &self.peer_addr().ok())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
