//! The buffers of one thread, and reading into them only when there is something to read.
//!
//! Always true: who waits holds no buffer. Reading waits for readiness first and takes a buffer then; a client's
//! [`Input`] that holds no byte holds no memory either.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use mogilefs_protocol::line::{find_line_end, text_of};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

/// Bytes of a buffer: several typical requests or answers, and few enough system calls for a long one.
const SIZE: usize = 16 * 1024;

/// Buffers kept for the next one who reads; more than this are seldom in use at once on one thread.
const KEPT: usize = 64;

/// The unused buffers of one thread.
#[derive(Clone, Default)]
pub(super) struct Buffers(Rc<RefCell<Vec<Box<[u8]>>>>);

/// A buffer of [`SIZE`] bytes; goes back to its thread when dropped.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    home: Buffers,
}

impl Buffers {
    pub(super) fn take(&self) -> Buffer {
        let kept = self.0.borrow_mut().pop();
        Buffer {
            bytes: kept.unwrap_or_else(|| vec![0; SIZE].into()),
            home: self.clone(),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut kept = self.home.0.borrow_mut();
        if kept.len() < KEPT {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// Reads once into a fresh buffer, which is taken when there is something to read. Zero bytes are the end.
pub(super) async fn read(stream: &mut TcpStream, buffers: &Buffers) -> io::Result<(Buffer, usize)> {
    poll_fn(|cx| {
        ready!(stream.poll_read_ready(cx))?;
        let mut buffer = buffers.take();
        let read = ready!(poll_read(stream, cx, &mut buffer))?;
        Poll::Ready(Ok((buffer, read)))
    })
    .await
}

fn poll_read(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    into: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut into = ReadBuf::new(into);
    ready!(Pin::new(stream).poll_read(cx, &mut into))?;
    Poll::Ready(Ok(into.filled().len()))
}

/// What a client has sent and nobody has served yet.
#[derive(Default)]
pub(super) struct Input {
    held: Held,
    filled: Range<usize>,
    /// Up to here, from the start of `filled`, there is no LF.
    searched: usize,
}

#[derive(Default)]
enum Held {
    #[default]
    None,
    Lent(Buffer),
    /// The beginning of a line: a short one in as many bytes as it takes, or one beyond [`SIZE`].
    Own(Vec<u8>),
}

/// What an [`Input`] holds first.
pub(super) enum Next {
    /// A line with its end; [`Input::bytes`] gives it.
    Line(Range<usize>),
    /// The beginning of a line, or nothing.
    Incomplete,
    /// A line over the limit.
    TooLong,
}

impl Input {
    /// The place of the next line. `max` counts it without its end.
    pub(super) fn next(&mut self, max: usize) -> Next {
        let filled = self.bytes(self.filled.clone());
        match find_line_end(filled, self.searched) {
            Some(end) if text_of(&filled[..end]).len() > max => Next::TooLong,
            Some(end) => Next::Line(self.filled.start..self.filled.start + end),
            None => {
                // A CR at the very end may yet turn out to belong to the end of the line.
                let text = filled.len() - usize::from(filled.last() == Some(&b'\r'));
                self.searched = filled.len();
                if text > max {
                    return Next::TooLong;
                }
                self.give_room_back();
                Next::Incomplete
            }
        }
    }

    /// Some of what is held.
    pub(super) fn bytes(&self, place: Range<usize>) -> &[u8] {
        match &self.held {
            Held::None => &[],
            Held::Lent(buffer) => &buffer[place],
            Held::Own(bytes) => &bytes[place],
        }
    }

    /// Forgets a line that was served.
    pub(super) fn consume(&mut self, line: &Range<usize>) {
        self.filled.start = line.end;
        self.searched = 0;
        if self.filled.is_empty() {
            self.held = Held::None;
            self.filled = 0..0;
        }
    }

    /// Reads once, when there is something to read. Zero bytes are the end.
    pub(super) fn poll_fill(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
        buffers: &Buffers,
    ) -> Poll<io::Result<usize>> {
        ready!(stream.poll_read_ready(cx))?;
        self.make_room(buffers);
        let room = match &mut self.held {
            Held::None => return Poll::Ready(Ok(0)),
            Held::Lent(buffer) => &mut buffer[self.filled.end..],
            Held::Own(bytes) => &mut bytes[self.filled.end..],
        };
        let read = poll_read(stream, cx, room);
        if let Poll::Ready(Ok(read)) = read {
            self.filled.end += read;
        }
        if !matches!(read, Poll::Ready(Ok(1..))) {
            self.give_room_back();
        }
        read
    }

    /// Makes room behind what is held: in a buffer, or in twice as many bytes where a line is longer than one.
    fn make_room(&mut self, buffers: &Buffers) {
        let filled = self.filled.clone();
        let length = filled.len();
        if length >= SIZE && filled.end < self.held_len() {
            return;
        }
        match &mut self.held {
            Held::Lent(buffer) if length < SIZE => buffer.copy_within(filled, 0),
            _ if length < SIZE => {
                let mut buffer = buffers.take();
                buffer[..length].copy_from_slice(self.bytes(filled));
                self.held = Held::Lent(buffer);
            }
            _ => {
                let mut longer = Vec::with_capacity(2 * length);
                longer.extend_from_slice(self.bytes(filled));
                longer.resize(2 * length, 0);
                self.held = Held::Own(longer);
            }
        }
        self.filled = 0..length;
    }

    /// Keeps no whole buffer for the beginning of a line, and no room for a long line that was served.
    fn give_room_back(&mut self) {
        let filled = self.bytes(self.filled.clone());
        let length = filled.len();
        if length == 0 {
            self.held = Held::None;
        } else if self.held_len() >= SIZE && length <= self.held_len() / 8 {
            self.held = Held::Own(filled.to_vec());
        } else {
            return;
        }
        self.filled = 0..length;
    }

    fn held_len(&self) -> usize {
        match &self.held {
            Held::None => 0,
            Held::Lent(buffer) => buffer.len(),
            Held::Own(bytes) => bytes.len(),
        }
    }
}
