//! Bytes to lines.
//!
//! A line ends with LF, and one CR just before the LF belongs to the end. Everything else is
//! content: a second CR, NUL, bytes beyond ASCII. A [`Line`] keeps its bytes as they came, end
//! included, so that passing it on needs no encoding; it shares the buffer it was cut from.
//!
//! Never here: what a line means. An empty line is a line; that nobody answers it is the
//! business of [`request`](crate::request).

use std::fmt;

use bytes::{Bytes, BytesMut};

/// One line as it came, with its end.
///
/// It is cut from the receive buffer without copying, and keeps that buffer alive: whoever stores
/// a line for long copies it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Line {
    raw: Bytes,
    text: usize,
}

impl Line {
    /// Takes bytes that are one whole line: a single LF, at the end.
    pub fn new(raw: Bytes) -> Result<Line, NotALine> {
        match find_line_end(&raw, 0) {
            Some(end) if end == raw.len() => Ok(Line {
                text: text_len(&raw),
                raw,
            }),
            Some(_) => Err(NotALine::More),
            None => Err(NotALine::Unended),
        }
    }

    /// The line as it came, with its end.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The line as it came, given away.
    pub fn into_raw(self) -> Bytes {
        self.raw
    }

    /// The line without its LF, and without one CR before it.
    pub fn text(&self) -> &[u8] {
        &self.raw[..self.text]
    }

    /// Whether nothing but the end is there. Trackers ignore such a line.
    pub fn is_empty(&self) -> bool {
        self.text == 0
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}

impl TryFrom<Bytes> for Line {
    type Error = NotALine;

    fn try_from(raw: Bytes) -> Result<Line, NotALine> {
        Line::new(raw)
    }
}

impl From<Line> for Bytes {
    fn from(line: Line) -> Bytes {
        line.into_raw()
    }
}

/// Why bytes are not one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotALine {
    /// There is no LF.
    #[error("a line without an end")]
    Unended,
    /// Something follows the first LF.
    #[error("more than one line")]
    More,
}

/// What a buffer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A line, now taken out of the buffer.
    Line(Line),
    /// The beginning of a line, or nothing. Read more, then ask again.
    Incomplete,
    /// A line over the limit, ended or not: whoever sends it does not speak this protocol. The
    /// buffer is left as it is.
    TooLong,
}

/// Takes the next line out of `buf`. `max` counts the line without its end.
///
/// A loop that reads long lines in small pieces uses a [`Scanner`] instead, which looks at each
/// byte once.
pub fn next_line(buf: &mut BytesMut, max: usize) -> Next {
    Scanner::new(max).next(buf)
}

/// Takes lines out of a growing buffer and remembers how far it has looked.
#[derive(Debug, Clone)]
pub struct Scanner {
    max: usize,
    searched: usize,
}

impl Scanner {
    /// `max` counts a line without its end.
    pub fn new(max: usize) -> Scanner {
        Scanner { max, searched: 0 }
    }

    /// The longest line allowed.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Takes the next line out of `buf`. Between two calls the buffer may only grow at its end,
    /// unless [`reset`](Scanner::reset) is called.
    pub fn next(&mut self, buf: &mut BytesMut) -> Next {
        match find_line_end(buf, self.searched) {
            Some(end) => {
                let text = text_len(&buf[..end]);
                if text > self.max {
                    return Next::TooLong;
                }
                self.searched = 0;
                Next::Line(Line {
                    raw: buf.split_to(end).freeze(),
                    text,
                })
            }
            None => {
                self.searched = buf.len();
                // A CR at the very end may yet turn out to belong to the end of the line.
                let text = buf.len() - usize::from(buf.last() == Some(&b'\r'));
                if text > self.max {
                    Next::TooLong
                } else {
                    Next::Incomplete
                }
            }
        }
    }

    /// Forgets what has been looked at: the buffer is another one.
    pub fn reset(&mut self) {
        self.searched = 0;
    }
}

/// Where the first line of `buf` ends: the index just after its LF. The first `searched` bytes are
/// known to have none.
pub fn find_line_end(buf: &[u8], searched: usize) -> Option<usize> {
    let searched = searched.min(buf.len());
    memchr::memchr(b'\n', &buf[searched..]).map(|at| searched + at + 1)
}

/// The length of a line without its end.
fn text_len(raw: &[u8]) -> usize {
    text_of(raw).len()
}

/// A line without its LF, if any, and without one CR before it.
///
/// ```
/// use mogilefs_protocol::line::text_of;
/// assert_eq!(text_of(b"noop\r\r\n"), b"noop\r");
/// assert_eq!(text_of(b"noop\r"), b"noop\r"); // no LF, so this is not the end of a line
/// ```
pub fn text_of(raw: &[u8]) -> &[u8] {
    match raw {
        [text @ .., b'\r', b'\n'] | [text @ .., b'\n'] => text,
        text => text,
    }
}
