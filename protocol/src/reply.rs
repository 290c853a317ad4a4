//! Replies: `OK <fields>`, `ERR <code> <text>[ <callid>]`, and the many lines that answer a `!`
//! command.
//!
//! The fields of an OK come in no order at all. After `!watch` a connection also receives lines
//! `:: text` at any moment, see [`is_watch`].

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use nom::branch::alt;
use nom::bytes::complete::{tag, take_till, take_till1};
use nom::combinator::{all_consuming, eof, map, opt, rest};
use nom::sequence::preceded;
use nom::{IResult, Parser};

use crate::args::Args;
use crate::escape;
use crate::line::{Line, text_of};

/// A reply of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// It was done; the fields.
    Ok(Args<'a>),
    /// It was not; why.
    Err(ErrReply<'a>),
}

/// `ERR <code> <text>[ <callid>]`
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ErrReply<'a> {
    /// The code, never escaped: `unknown_key`.
    pub code: &'a [u8],
    /// The text, still escaped: `No+domain+provided`. Often the code again.
    pub text: &'a [u8],
    /// The callid, still escaped, if there is one. It may be empty.
    pub callid: Option<&'a [u8]>,
}

impl<'a> ErrReply<'a> {
    /// Whether this is the code.
    pub fn is(&self, code: &str) -> bool {
        self.code == code.as_bytes()
    }

    /// The text that is meant.
    pub fn text_unescaped(&self) -> Cow<'a, [u8]> {
        escape::unescape(self.text)
    }

    /// The callid that is meant.
    pub fn callid_unescaped(&self) -> Option<Cow<'a, [u8]>> {
        self.callid.map(escape::unescape)
    }
}

impl fmt::Debug for ErrReply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ErrReply({} {}",
            self.code.escape_ascii(),
            self.text.escape_ascii()
        )?;
        if let Some(callid) = self.callid {
            write!(f, " {}", callid.escape_ascii())?;
        }
        f.write_str(")")
    }
}

/// A line that is neither an `OK` nor an `ERR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither an OK nor an ERR")]
pub struct NotAReply;

/// Reads a line without its end, see [`Line::text`].
///
/// ```
/// use mogilefs_protocol::reply::{parse, Reply};
/// let Ok(Reply::Ok(fields)) = parse(b"OK fid=12&devid=1") else { panic!() };
/// assert_eq!(fields.get_u64("fid"), Some(12));
/// let Ok(Reply::Err(err)) = parse(b"ERR no_domain No+domain+provided x2") else { panic!() };
/// assert!(err.is("no_domain"));
/// assert_eq!(*err.text_unescaped(), *b"No domain provided");
/// assert_eq!(err.callid, Some(&b"x2"[..]));
/// assert!(parse(b"2.73").is_err());
/// ```
pub fn parse(line_text: &[u8]) -> Result<Reply<'_>, NotAReply> {
    match alt((map(ok_line, Reply::Ok), map(err_line, Reply::Err))).parse(line_text) {
        Ok((_, reply)) => Ok(reply),
        Err(_) => Err(NotAReply),
    }
}

/// `OK fid=12&devid=1`, or `OK ` (trackers always write the blank; here it may be missing)
fn ok_line(text: &[u8]) -> IResult<&[u8], Args<'_>> {
    preceded(tag(&b"OK"[..]), alt((preceded(blank, rest), eof)))
        .map(Args::new)
        .parse(text)
}

/// `ERR unknown_key unknown_key`, or `ERR unknown_key unknown_key x1`
fn err_line(text: &[u8]) -> IResult<&[u8], ErrReply<'_>> {
    let text_and_callid = opt((preceded(blank, word), opt(preceded(blank, rest))));
    all_consuming(preceded(
        (tag(&b"ERR"[..]), blank),
        (word1, text_and_callid),
    ))
    .map(|(code, more)| {
        let (text, callid) = more.unwrap_or_default();
        ErrReply { code, text, callid }
    })
    .parse(text)
}

/// `unknown_key` in `unknown_key x1`; may be empty
fn word(text: &[u8]) -> IResult<&[u8], &[u8]> {
    take_till(|byte| byte == b' ')(text)
}

/// As [`word`], but not empty.
fn word1(text: &[u8]) -> IResult<&[u8], &[u8]> {
    take_till1(|byte| byte == b' ')(text)
}

fn blank(text: &[u8]) -> IResult<&[u8], &[u8]> {
    tag(&b" "[..])(text)
}

/// A reply of one line that owns its bytes and is known to be one.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnedReply {
    line: Line,
}

impl OwnedReply {
    /// Takes a line if it is a reply; gives it back if not.
    pub fn new(line: Line) -> Result<OwnedReply, Line> {
        match parse(line.text()) {
            Ok(_) => Ok(OwnedReply { line }),
            Err(NotAReply) => Err(line),
        }
    }

    /// What the line says.
    pub fn reply(&self) -> Reply<'_> {
        parse(self.line.text()).expect("it was a reply when it was taken")
    }

    /// The fields of an OK; the reply itself if it is an ERR.
    pub fn fields(&self) -> Result<Args<'_>, ErrReply<'_>> {
        match self.reply() {
            Reply::Ok(fields) => Ok(fields),
            Reply::Err(err) => Err(err),
        }
    }

    /// Whether it is an OK.
    pub fn is_ok(&self) -> bool {
        matches!(self.reply(), Reply::Ok(_))
    }

    /// The line.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// The line, given away.
    pub fn into_line(self) -> Line {
        self.line
    }
}

impl fmt::Debug for OwnedReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reply().fmt(f)
    }
}

/// Writes an `OK` line. Without fields it ends in the blank that some clients insist on.
///
/// ```
/// use mogilefs_protocol::reply::ok;
/// assert_eq!(&ok([("fid", &b"12"[..]), ("key", b"a b")])[..], b"OK fid=12&key=a+b\r\n");
/// assert_eq!(&ok([])[..], b"OK \r\n");
/// ```
pub fn ok<'a>(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Bytes {
    fields
        .into_iter()
        .fold(OkBuilder::new(), |line, (name, value)| {
            line.field(name, value)
        })
        .finish()
}

/// Writes an `OK` line field by field.
///
/// ```
/// use mogilefs_protocol::reply::OkBuilder;
/// let line = OkBuilder::new().number("devcount", 2).field("key", "a b").opt("callid", Some("7"));
/// assert_eq!(&line.finish()[..], b"OK devcount=2&key=a+b&callid=7\r\n");
/// ```
#[derive(Debug, Clone)]
pub struct OkBuilder {
    line: BytesMut,
    empty: bool,
}

impl OkBuilder {
    /// Begins an `OK` line.
    pub fn new() -> OkBuilder {
        let mut line = BytesMut::with_capacity(128);
        line.extend_from_slice(b"OK ");
        OkBuilder { line, empty: true }
    }

    /// Adds a field.
    pub fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> OkBuilder {
        if !self.empty {
            self.line.put_u8(b'&');
        }
        self.empty = false;
        escape::escape_into(&mut self.line, name.as_bytes());
        self.line.put_u8(b'=');
        escape::escape_into(&mut self.line, value.as_ref());
        self
    }

    /// Adds a field that is a number.
    pub fn number(self, name: &str, value: u64) -> OkBuilder {
        self.field(name, value.to_string())
    }

    /// Adds a field if there is a value.
    pub fn opt(self, name: &str, value: Option<impl AsRef<[u8]>>) -> OkBuilder {
        match value {
            Some(value) => self.field(name, value),
            None => self,
        }
    }

    /// Ends the line.
    pub fn finish(mut self) -> Bytes {
        self.line.extend_from_slice(b"\r\n");
        self.line.freeze()
    }
}

impl Default for OkBuilder {
    fn default() -> OkBuilder {
        OkBuilder::new()
    }
}

/// Writes an `ERR` line. `text` and `callid` are escaped here. A code is letters, digits and `_`.
///
/// ```
/// use mogilefs_protocol::reply::err;
/// assert_eq!(
///     &err("no_domain", "No domain provided", Some(b"x 2"))[..],
///     b"ERR no_domain No+domain+provided x+2\r\n",
/// );
/// ```
pub fn err(code: &str, text: &str, callid: Option<&[u8]>) -> Bytes {
    let mut line = BytesMut::with_capacity(16 + code.len() + text.len());
    line.extend_from_slice(b"ERR ");
    escape::escape_into(&mut line, code.as_bytes());
    line.put_u8(b' ');
    escape::escape_into(&mut line, text.as_bytes());
    if let Some(callid) = callid {
        line.put_u8(b' ');
        escape::escape_into(&mut line, callid);
    }
    line.extend_from_slice(b"\r\n");
    line.freeze()
}

/// Whether a line (with or without its end) is news for a connection that asked for `!watch`, and
/// not an answer.
pub fn is_watch(line: &[u8]) -> bool {
    line.starts_with(b":: ")
}

/// What one line means to whoever waits for the end of a `!` command's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminLine<'a> {
    /// A line of the answer, without its end.
    Text(&'a [u8]),
    /// News for a watcher, without the `:: `; not part of the answer.
    Watch(&'a [u8]),
    /// The single `.` that ends the answer.
    End,
}

/// Reads one line without its end.
pub fn admin_line(line_text: &[u8]) -> AdminLine<'_> {
    match line_text {
        b"." => AdminLine::End,
        [b':', b':', b' ', news @ ..] => AdminLine::Watch(news),
        text => AdminLine::Text(text),
    }
}

/// What came of feeding a line to an [`AdminReply`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fed {
    /// The answer goes on.
    More,
    /// The line was news for a watcher; the answer goes on.
    Watch(Line),
    /// That was the end of the answer.
    Done,
    /// The answer is longer than allowed. Nothing more is kept.
    TooLong,
}

/// The answer to a `!` command, put together line by line.
///
/// ```
/// use mogilefs_protocol::{line::Line, reply::{AdminReply, Fed}};
/// let mut reply = AdminReply::new(1 << 20);
/// assert_eq!(reply.feed(Line::new("2.73\r\n".into())?), Fed::More);
/// assert_eq!(reply.feed(Line::new(".\r\n".into())?), Fed::Done);
/// assert_eq!(reply.texts().collect::<Vec<_>>(), [b"2.73"]);
/// # Ok::<(), mogilefs_protocol::line::NotALine>(())
/// ```
#[derive(Debug, Clone)]
pub struct AdminReply {
    lines: Vec<Line>,
    left: usize,
    done: bool,
}

impl AdminReply {
    /// Waits for an answer of at most `max` bytes.
    pub fn new(max: usize) -> AdminReply {
        AdminReply {
            lines: Vec::new(),
            left: max,
            done: false,
        }
    }

    /// Takes the next line that the tracker sent.
    pub fn feed(&mut self, line: Line) -> Fed {
        match admin_line(line.text()) {
            AdminLine::Watch(_) => Fed::Watch(line),
            AdminLine::End => {
                self.done = true;
                Fed::Done
            }
            AdminLine::Text(_) => match self.left.checked_sub(line.raw().len()) {
                Some(left) => {
                    self.left = left;
                    self.lines.push(line);
                    Fed::More
                }
                None => {
                    self.left = 0;
                    Fed::TooLong
                }
            },
        }
    }

    /// Whether the end has come.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The lines so far, as they came.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The lines so far, without their ends.
    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().map(Line::text)
    }
}

/// Writes the answer to a `!` command. Each of `lines` is one line; an end that it has already, a
/// bare LF for instance, is kept.
///
/// ```
/// use mogilefs_protocol::reply::admin;
/// assert_eq!(&admin(["2.73"])[..], b"2.73\r\n.\r\n");
/// assert_eq!(&admin(["Help:\n", "\n"])[..], b"Help:\n\n.\r\n");
/// ```
pub fn admin(lines: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Bytes {
    let mut out = BytesMut::new();
    for line in lines {
        let line = line.as_ref();
        out.extend_from_slice(line);
        if text_of(line).len() == line.len() {
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b".\r\n");
    out.freeze()
}
