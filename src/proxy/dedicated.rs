//! A client that has sent a `!` command: from then on it has an upstream connection of its own.
//!
//! Always true: bytes from the tracker are passed on as they come, asked for (`!watch`) or not. What the client sends is
//! still taken line by line, one request at a time, and mutations are recorded. The connection ends
//! with either side.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use mogilefs_protocol::args::Args;
use mogilefs_protocol::line::text_of;
use mogilefs_protocol::reply::{self, AdminLine};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::failpoint;

use super::buffers::{self, Input, Next};
use super::commands::Way;
use super::mutation::{self, Begun};
use super::session::{Client, Closed, line_too_long, note};
use super::thread::Thread;
use super::upstream::NoTracker;

/// Connections of this kind at once, of all threads: they are for people who watch.
pub(super) const MOST: usize = 128;

/// An upstream connection that belongs to one client.
pub(super) struct Dedicated {
    stream: TcpStream,
    place: Place,
}

/// Opens one; `None` if there are too many.
pub(super) async fn open(client: &mut Client) -> Result<Option<Dedicated>, NoTracker> {
    let Some(place) = Place::take(&client.thread) else {
        return Ok(None);
    };
    let stream = place.0.upstreams.connect(&mut client.home).await?;
    Ok(Some(Dedicated { stream, place }))
}

/// One of [`MOST`].
struct Place(Rc<Thread>);

impl Place {
    fn take(thread: &Rc<Thread>) -> Option<Self> {
        let taken = thread.shared.dedicated.fetch_add(1, Ordering::AcqRel);
        let place = Self(Rc::clone(thread));
        (taken < MOST).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.shared.dedicated.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What the client waits for.
enum Awaited<'a> {
    /// The `.` after a `!` command.
    Admin,
    /// A line.
    Line,
    /// The line that answers a mutation.
    Outcome(Begun<'a>),
    /// The line that answers a create_open with these arguments.
    Opened(Vec<u8>),
}

impl Dedicated {
    /// Goes on with the session, whose next line in `input` is the `!` command.
    pub(super) async fn run(mut self, client: &mut Client, input: &mut Input) -> Closed {
        let thread = Rc::clone(&self.place.0);
        let mut awaited: Option<Awaited<'_>> = None;
        let mut line = Vec::new();
        loop {
            while awaited.is_none() {
                let place = match input.next(thread.shared.max_line) {
                    Next::Line(place) => place,
                    Next::Incomplete => break,
                    Next::TooLong => {
                        client.send(&line_too_long(thread.shared.max_line)).await;
                        return Closed::TooLong;
                    }
                };
                match self.ask(&thread, client, input.bytes(place.clone())).await {
                    Ok(asked) => awaited = asked,
                    Err(closed) => return closed,
                }
                thread.counters.request();
                input.consume(&place);
            }
            if awaited.is_none() && client.gone {
                return Closed::ClientGone;
            }
            let event = poll_fn(|cx| {
                let heard = std::pin::pin!(buffers::read(&mut self.stream, &thread.buffers));
                if let Poll::Ready(heard) = heard.poll(cx) {
                    return Poll::Ready(Ok(heard));
                }
                if awaited.is_some() {
                    return Poll::Pending;
                }
                if thread.is_stopping() {
                    return Poll::Ready(Err(Some(Closed::Stopping)));
                }
                client.poll_fill(input, cx).map(|filled| Err(filled.err()))
            })
            .await;
            let (bytes, length) = match event {
                Err(Some(closed)) => return closed,
                Err(None) => continue,
                Ok(Ok((bytes, length))) if length > 0 => (bytes, length),
                Ok(_ended) => {
                    if let Some(Awaited::Outcome(begun)) = awaited.take() {
                        begun.lost();
                    }
                    return Closed::ByTracker;
                }
            };
            let answer = answer_in(&bytes[..length], &mut line, &mut awaited);
            if let Some((Awaited::Outcome(_), _)) = answer {
                failpoint::pass(failpoint::ANSWERED);
            }
            client.send(&bytes[..length]).await;
            match answer {
                Some((Awaited::Outcome(begun), text)) => begun.answered(&text),
                Some((Awaited::Opened(asked), text)) => {
                    thread
                        .shared
                        .recorder
                        .uploads
                        .note(&Args::new(&asked), &text);
                }
                Some((Awaited::Admin | Awaited::Line, _)) | None => {}
            }
        }
    }

    /// Sends one request, or answers it here.
    async fn ask<'a>(
        &mut self,
        thread: &'a Thread,
        client: &mut Client,
        line: &[u8],
    ) -> Result<Option<Awaited<'a>>, Closed> {
        let awaited = match thread.shared.rules.way(text_of(line)) {
            Way::Nothing => return Ok(None),
            Way::Refuse(answer) => {
                client.send(&answer).await;
                return Ok(None);
            }
            Way::Admin => Awaited::Admin,
            Way::Forward { .. } => Awaited::Line,
            Way::Open(asked) => Awaited::Opened(asked.raw().to_vec()),
            Way::Record(recorded) => {
                match mutation::begin(&thread.shared.recorder, &thread.counters, *recorded).await {
                    Ok(begun) => Awaited::Outcome(begun),
                    Err(refusal) => {
                        client.send(&refusal).await;
                        return Ok(None);
                    }
                }
            }
        };
        if self.stream.write_all(line).await.is_err() {
            // Without its end a line is never acted on.
            if let Awaited::Outcome(begun) = awaited {
                begun.not_sent();
            }
            return Err(Closed::ByTracker);
        }
        if let Awaited::Outcome(_) = awaited {
            failpoint::pass(failpoint::FORWARDED);
        }
        Ok(Some(awaited))
    }
}

/// Looks for the end of the awaited answer in what the tracker sent; gives the line that it ended with. `line` is the
/// beginning of a line whose end has not come.
fn answer_in<'a>(
    mut bytes: &[u8],
    line: &mut Vec<u8>,
    awaited: &mut Option<Awaited<'a>>,
) -> Option<(Awaited<'a>, Vec<u8>)> {
    let mut answer = None;
    while let Some(end) = mogilefs_protocol::line::find_line_end(bytes, 0) {
        note(line, &bytes[..end]);
        bytes = &bytes[end..];
        let text = text_of(line);
        let ends = match (reply::admin_line(text), &awaited) {
            (_, None) | (AdminLine::Watch(_), _) => false,
            (AdminLine::End, Some(Awaited::Admin)) => true,
            (AdminLine::Text(_), Some(Awaited::Admin)) => false,
            (_, Some(Awaited::Line | Awaited::Outcome(_) | Awaited::Opened(_))) => true,
        };
        if ends && let Some(awaited) = awaited.take() {
            answer = Some((awaited, text.to_vec()));
        }
        line.clear();
    }
    note(line, bytes);
    answer
}
