//! Requests: what a line asks for, and how to write one.
//!
//! A line that begins with `!` and a non-blank is for the tracker itself (`!version`). Of any other
//! line the tracker takes the first word, in any case, as the command, and what follows as its
//! arguments; the blank between them may be missing. A line without such a word is still a
//! request and gets an answer (`unknown_command`). Only an empty line gets none.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use nom::bytes::complete::{tag, take_while, take_while1};
use nom::combinator::{all_consuming, opt, rest, verify};
use nom::sequence::preceded;
use nom::{IResult, Parser};

use crate::args::Args;
use crate::escape;

/// What a line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Nothing. There will be no answer.
    Empty,
    /// `!name args`, the whole line: answered by lines up to a single `.`, see [`admin_parts`].
    Admin(&'a [u8]),
    /// A command word, known or not, and its arguments: answered by one line.
    Command(Command<'a>),
    /// No command word: answered by one line, an `ERR unknown_command`. The callid in it may be
    /// that of another request.
    Unknown,
}

/// A command and its arguments.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Command<'a> {
    /// The command word as it came, in whatever case.
    pub name: &'a [u8],
    args: Args<'a>,
}

impl<'a> Command<'a> {
    /// Whether this is the command called `name`. Upper and lower case do not differ.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The arguments.
    pub fn args(&self) -> Args<'a> {
        self.args
    }
}

impl fmt::Debug for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Command({} {})",
            self.name.escape_ascii(),
            self.args.raw().escape_ascii()
        )
    }
}

/// Reads a line without its end, see [`Line::text`](crate::line::Line::text).
///
/// ```
/// use mogilefs_protocol::request::{parse, Kind};
/// let Kind::Command(command) = parse(b"Delete domain=photos&key=a") else { panic!() };
/// assert!(command.is("delete"));
/// assert_eq!(command.args().get("key").as_deref(), Some(&b"a"[..]));
/// assert_eq!(parse(b"!version"), Kind::Admin(b"!version"));
/// assert_eq!(parse(b"! version"), Kind::Unknown);
/// ```
pub fn parse(line_text: &[u8]) -> Kind<'_> {
    if line_text.is_empty() {
        Kind::Empty
    } else if admin(line_text).is_ok() {
        Kind::Admin(line_text)
    } else {
        match command(line_text) {
            Ok((_, command)) => Kind::Command(command),
            Err(_) => Kind::Unknown,
        }
    }
}

/// Splits the line of a [`Kind::Admin`] into name (without the `!`) and arguments.
///
/// ```
/// use mogilefs_protocol::request::admin_parts;
/// assert_eq!(admin_parts(b"!want 4 queryworker"), Some((&b"want"[..], &b"4 queryworker"[..])));
/// ```
pub fn admin_parts(line_text: &[u8]) -> Option<(&[u8], &[u8])> {
    admin(line_text).ok().map(|(_, parts)| parts)
}

/// `create_open domain=photos&key=a`; also `  NOOP`, `noop?a=1`, `noop=1`.
fn command(text: &[u8]) -> IResult<&[u8], Command<'_>> {
    (preceded(blanks, command_word), preceded(blanks, rest))
        .map(|(name, args)| Command {
            name,
            args: Args::new(args),
        })
        .parse(text)
}

/// `create_open`
fn command_word(text: &[u8]) -> IResult<&[u8], &[u8]> {
    take_while1(is_word)(text)
}

/// `!want 4 queryworker`, or `!version`. After the name comes nothing, or a blank and something:
/// for the tracker `!version` with just one blank behind it is no admin command.
fn admin(text: &[u8]) -> IResult<&[u8], (&[u8], &[u8])> {
    let name = preceded(tag(&b"!"[..]), take_while1(|byte| !is_blank(byte)));
    all_consuming((name, opt(admin_args).map(Option::unwrap_or_default))).parse(text)
}

/// ` 4 queryworker`: blanks, as many as leave something over, then all the rest.
fn admin_args(text: &[u8]) -> IResult<&[u8], &[u8]> {
    let (args, skipped) = verify(blanks, |skipped: &[u8]| !skipped.is_empty()).parse(text)?;
    match skipped {
        [_, .., _] if args.is_empty() => Ok((args, &skipped[skipped.len() - 1..])),
        _ => verify(rest, |args: &[u8]| !args.is_empty()).parse(args),
    }
}

/// Any number of blanks, also none.
fn blanks(text: &[u8]) -> IResult<&[u8], &[u8]> {
    take_while(is_blank)(text)
}

/// Perl's `\s`. A LF cannot occur in a line.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0B | 0x0C)
}

/// Perl's `\w`, for bytes.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Writes a request.
///
/// Whatever the names and values are, the result is one line.
///
/// ```
/// use mogilefs_protocol::request::RequestBuilder;
/// let line = RequestBuilder::new("create_open")
///     .arg("domain", b"photos")
///     .arg("key", "a b")
///     .number("multi_dest", 1)
///     .opt("class", None::<&str>)
///     .finish();
/// assert_eq!(&line[..], b"create_open domain=photos&key=a+b&multi_dest=1\r\n");
/// ```
#[derive(Debug, Clone)]
pub struct RequestBuilder {
    line: BytesMut,
    next: u8,
}

impl RequestBuilder {
    /// Begins a request. A command is letters, digits and `_`; anything else would be escaped, and
    /// no tracker knows such a command.
    pub fn new(command: &str) -> RequestBuilder {
        let mut line = BytesMut::with_capacity(128);
        for byte in command.bytes() {
            if is_word(byte) {
                line.put_u8(byte);
            } else {
                escape::escape_into(&mut line, &[byte]);
            }
        }
        RequestBuilder { line, next: b' ' }
    }

    /// Adds an argument.
    pub fn arg(mut self, name: &str, value: impl AsRef<[u8]>) -> RequestBuilder {
        self.name(name);
        escape::escape_into(&mut self.line, value.as_ref());
        self
    }

    /// Adds an argument whose value was escaped by someone else, as it is. (A byte that would end
    /// the value or the line is escaped all the same.)
    pub fn arg_escaped(mut self, name: &str, value: &[u8]) -> RequestBuilder {
        self.name(name);
        put_escaped(&mut self.line, value);
        self
    }

    /// Adds an argument that is a number.
    pub fn number(self, name: &str, value: u64) -> RequestBuilder {
        self.arg(name, value.to_string())
    }

    /// Adds an argument if there is a value.
    pub fn opt(self, name: &str, value: Option<impl AsRef<[u8]>>) -> RequestBuilder {
        match value {
            Some(value) => self.arg(name, value),
            None => self,
        }
    }

    /// Ends the line.
    pub fn finish(mut self) -> Bytes {
        self.line.extend_from_slice(b"\r\n");
        self.line.freeze()
    }

    fn name(&mut self, name: &str) {
        self.line.put_u8(self.next);
        self.next = b'&';
        escape::escape_into(&mut self.line, name.as_bytes());
        self.line.put_u8(b'=');
    }
}

/// Writes a value that is escaped already, but never a byte that would end it.
pub(crate) fn put_escaped(line: &mut BytesMut, value: &[u8]) {
    line.reserve(value.len());
    for &byte in value {
        match byte {
            b'&' | b'=' | b'\r' | b'\n' => escape::escape_into(line, &[byte]),
            _ => line.put_u8(byte),
        }
    }
}
