//! One client, from its first byte to its last.
//!
//! Always true: one request at a time, in order; the next line is looked at when the answer to the last one was passed
//! on, and nothing is read from the client meanwhile. Lines and answers go on byte for byte. A request that was sent is
//! followed to its answer, whether the client is still there or not: nothing in here is given up half way but at the
//! end of a stop's patience. An idle client holds a socket and this future, no buffer.
//! Killed in the middle: the client sees its connection end; of a mutation the journal holds the intent.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use mogilefs_protocol::args::Args;
use mogilefs_protocol::line::text_of;
use mogilefs_protocol::reply;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::failpoint;

use super::buffers::{Input, Next};
use super::commands::Way;
use super::dedicated;
use super::mutation;
use super::record::Recorded;
use super::thread::Thread;
use super::upstream::{Lease, NoTracker, Piece, send_within};

/// How long a client may leave its answer unread; the tracker's own limit.
const UNREAD: Duration = Duration::from_secs(120);

/// How long a client that was told why it is closed has to read that.
const FAREWELL: Duration = Duration::from_secs(2);

/// How often a request is given to another connection because it could not be sent on the last.
const SENDS: usize = 3;

/// What is kept of an answer that comes in pieces. An OK to a create_open has room for its paths.
const NOTED: usize = 16 * 1024;

/// Why a connection was closed.
#[derive(Debug)]
pub(super) enum Closed {
    /// The client has sent all it wanted.
    ByClient,
    /// The client went away, or does not read.
    ClientGone,
    /// It was silent for too long.
    Idle,
    /// The proxy stops.
    Stopping,
    /// A line was over the limit.
    TooLong,
    /// The tracker closed its connection, or none was to be had.
    ByTracker,
}

/// Whether a request was answered.
#[must_use]
pub(super) enum Served {
    /// By the tracker or by us.
    Answered,
    /// The answer is missing: the client's connection ends too, as it would have without us.
    Lost,
}

/// One client's side of the conversation.
pub(super) struct Client {
    pub(super) thread: Rc<Thread>,
    stream: TcpStream,
    /// It cannot be written to any more.
    pub(super) gone: bool,
    /// The tracker that it talks to, as long as that is up: what it changes there (a new domain, say) other trackers
    /// only hear of after a while.
    pub(super) home: usize,
}

/// Serves a client until its connection ends.
pub(super) async fn serve(thread: Rc<Thread>, stream: TcpStream, peer: SocketAddr, home: usize) {
    let idle = thread.shared.idle_timeout;
    let mut session = Session {
        client: Client {
            thread,
            stream,
            gone: false,
            home,
        },
        input: Input::default(),
        idle: idle.map(|limit| (limit, Box::pin(tokio::time::sleep(limit)))),
    };
    let why = session.run().await;
    tracing::debug!(%peer, ?why, "client closed");
    if matches!(why, Closed::TooLong) {
        Box::pin(farewell(session.client.stream)).await;
    }
}

/// Lets the client read what it was told last: unread bytes of its own would cut that off.
pub(super) async fn farewell(mut stream: TcpStream) {
    let last_words = async {
        stream.shutdown().await?;
        let mut unread = vec![0; 4096];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    let _gone_or_not = tokio::time::timeout(FAREWELL, last_words).await;
}

struct Session {
    client: Client,
    input: Input,
    idle: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl Session {
    async fn run(&mut self) -> Closed {
        loop {
            let Self { client, input, .. } = self;
            let place = match input.next(client.thread.shared.max_line) {
                Next::Line(place) => place,
                Next::Incomplete => match self.more().await {
                    Ok(()) => continue,
                    Err(why) => return why,
                },
                Next::TooLong => {
                    client
                        .send(&line_too_long(client.thread.shared.max_line))
                        .await;
                    return Closed::TooLong;
                }
            };
            let line = input.bytes(place.clone());
            let thread = Rc::clone(&client.thread);
            let served = match thread.shared.rules.way(text_of(line)) {
                Way::Nothing => Served::Answered,
                Way::Forward { again } => client.forward(line, again, None).await,
                Way::Open(asked) => client.forward(line, false, Some(asked)).await,
                Way::Record(recorded) => Box::pin(client.record(line, *recorded)).await,
                Way::Refuse(answer) => {
                    client.send(&answer).await;
                    Served::Answered
                }
                Way::Admin => match Box::pin(dedicated::open(client)).await {
                    Ok(Some(own)) => return Box::pin(own.run(client, input)).await,
                    Ok(None) => {
                        let full = "ERROR: Too many connections with ! commands here";
                        client.send(&reply::admin([full])).await;
                        Served::Answered
                    }
                    Err(NoTracker) => Served::Lost,
                },
            };
            thread.counters.request();
            input.consume(&place);
            match served {
                Served::Lost => return Closed::ByTracker,
                Served::Answered if client.gone => return Closed::ClientGone,
                Served::Answered => {}
            }
        }
    }

    /// Waits for more of what the client has to say.
    async fn more(&mut self) -> Result<(), Closed> {
        let Self {
            client,
            input,
            idle,
        } = self;
        if let Some((limit, sleep)) = idle {
            sleep.as_mut().reset(Instant::now() + *limit);
        }
        poll_fn(|cx| {
            if client.thread.is_stopping() {
                return Poll::Ready(Err(Closed::Stopping));
            }
            if let Some((_, sleep)) = idle
                && sleep.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Err(Closed::Idle));
            }
            client.poll_fill(input, cx)
        })
        .await
    }
}

/// The answer to a line over the limit.
pub(super) fn line_too_long(max: usize) -> Bytes {
    let text = format!("A line may have {max} bytes here (proxy.max_line)");
    reply::err("line_too_long", &text, None)
}

impl Client {
    /// Passes bytes on to the client. If it is gone, nobody misses them.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        if !self.gone {
            self.gone = send_within(&mut self.stream, bytes, UNREAD).await.is_err();
        }
    }

    /// As much as goes without waiting; the number of bytes.
    fn send_now(&mut self, bytes: &[u8]) -> usize {
        match self.stream.try_write(bytes) {
            _ if self.gone => bytes.len(),
            Ok(sent) => sent,
            Err(error) => {
                self.gone = error.kind() != io::ErrorKind::WouldBlock;
                0
            }
        }
    }

    /// Reads more into `input`, or learns that no more comes.
    pub(super) fn poll_fill(
        &mut self,
        input: &mut Input,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Result<(), Closed>> {
        match input.poll_fill(&mut self.stream, cx, &self.thread.buffers) {
            Poll::Pending => Poll::Pending,
            // What has no LF by now is no request.
            Poll::Ready(Ok(0)) => Poll::Ready(Err(Closed::ByClient)),
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(_)) => Poll::Ready(Err(Closed::ClientGone)),
        }
    }

    /// A request that is not recorded. When `again`, a connection that ends without a byte of the answer gets one more
    /// try on another: after a failed rename the tracker does that to whoever comes next. Of a create_open, given
    /// with its arguments, the answer is remembered.
    async fn forward(&mut self, line: &[u8], again: bool, opened: Option<Args<'_>>) -> Served {
        let mut sends = 0;
        let mut fresh = false;
        loop {
            let Ok(mut lease) = Rc::clone(&self.thread)
                .upstreams
                .lease(&mut self.home, fresh)
                .await
            else {
                return Served::Lost;
            };
            sends += 1;
            if lease.send(line).await.is_ok() {
                match self.pass_on(lease, opened).await {
                    Heard::Whole => return Served::Answered,
                    Heard::Nothing if again && !fresh => {}
                    Heard::Nothing | Heard::Part => return Served::Lost,
                }
            } else if sends == SENDS {
                return Served::Lost;
            }
            fresh = true;
        }
    }

    /// Passes an answer on as it comes.
    async fn pass_on(&mut self, mut lease: Lease, opened: Option<Args<'_>>) -> Heard {
        let mut noted = Vec::new();
        loop {
            match lease.piece(&self.thread.buffers).await {
                Piece::Part(bytes, length) => {
                    if noted.is_empty() || opened.is_some() {
                        note(&mut noted, &bytes[..length]);
                    }
                    self.send(&bytes[..length]).await;
                }
                Piece::Last(bytes, length, in_step) => {
                    self.thread.done_with(lease, in_step);
                    if let Some(asked) = opened {
                        let uploads = &self.thread.shared.recorder.uploads;
                        if noted.is_empty() {
                            uploads.note(&asked, text_of(&bytes[..length]));
                        } else if note(&mut noted, &bytes[..length]) {
                            uploads.note(&asked, text_of(&noted));
                        }
                    }
                    self.send(&bytes[..length]).await;
                    return Heard::Whole;
                }
                Piece::Closed if noted.is_empty() => return Heard::Nothing,
                Piece::Closed => return Heard::Part,
            }
        }
    }

    /// A mutation: intent, request, answer, outcome. The lock is held until the outcome is with the journal, and not
    /// for as long as a slow client takes to read.
    async fn record(&mut self, line: &[u8], recorded: Recorded) -> Served {
        let thread = Rc::clone(&self.thread);
        let begun = match mutation::begin(&thread.shared.recorder, &thread.counters, recorded).await
        {
            Ok(begun) => begun,
            Err(refusal) => {
                self.send(&refusal).await;
                return Served::Answered;
            }
        };
        let Some(mut lease) = self.send_once(line).await else {
            begun.not_sent();
            return Served::Lost;
        };
        failpoint::pass(failpoint::FORWARDED);
        let mut noted = Vec::new();
        loop {
            match lease.piece(&self.thread.buffers).await {
                Piece::Part(bytes, length) => {
                    note(&mut noted, &bytes[..length]);
                    self.send(&bytes[..length]).await;
                }
                Piece::Last(bytes, length, in_step) => {
                    self.thread.done_with(lease, in_step);
                    failpoint::pass(failpoint::ANSWERED);
                    let answer = &bytes[..length];
                    let sent = self.send_now(answer);
                    if noted.is_empty() {
                        begun.answered(text_of(answer));
                    } else {
                        note(&mut noted, answer);
                        begun.answered(text_of(&noted));
                    }
                    self.send(&answer[sent..]).await;
                    return Served::Answered;
                }
                Piece::Closed => {
                    begun.lost();
                    return Served::Lost;
                }
            }
        }
    }

    /// Sends a request that must not be sent twice. `None`: no tracker can have seen it.
    async fn send_once(&mut self, line: &[u8]) -> Option<Lease> {
        let thread = Rc::clone(&self.thread);
        for attempt in 0..SENDS {
            let fresh = attempt > 0;
            let mut lease = thread.upstreams.lease(&mut self.home, fresh).await.ok()?;
            if lease.is_alive() && lease.send(line).await.is_ok() {
                return Some(lease);
            }
        }
        None
    }
}

/// How much of an answer has come.
enum Heard {
    Whole,
    Nothing,
    Part,
}

/// Keeps the beginning of an answer that comes in pieces. False if not all of it fits.
pub(super) fn note(noted: &mut Vec<u8>, more: &[u8]) -> bool {
    let room = NOTED - noted.len();
    noted.extend_from_slice(&more[..more.len().min(room)]);
    more.len() <= room
}
