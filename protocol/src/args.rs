//! The `name=value&name=value` list of requests and OK replies.
//!
//! [`Args`] is the text itself: order, repeats and the way of escaping stay as they came, and
//! nothing is parsed until someone asks. The rules are the tracker's, odd ones included:
//!
//! * empty pieces are skipped, and so is a piece that is just `0`;
//! * a second `=` ends the value, what follows it is dropped;
//! * a repeated name does not replace: [`Args::get`] joins the values.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;
use nom::bytes::complete::tag;
use nom::combinator::opt;
use nom::sequence::{preceded, terminated};
use nom::{IResult, Parser};

use crate::escape;

/// An argument list, borrowed and not yet parsed.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Args<'a> {
    raw: &'a [u8],
}

impl<'a> Args<'a> {
    /// Takes the text of a list: what follows the command name, or the `OK `.
    pub fn new(raw: &'a [u8]) -> Args<'a> {
        Args { raw }
    }

    /// The text as it came.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// All arguments in their order, repeats included, still escaped.
    pub fn iter(&self) -> Iter<'a> {
        Iter { rest: self.raw }
    }

    /// The value that the tracker would take for `name`, unescaped.
    ///
    /// If the name is repeated, each further value is joined to those before with a NUL, or without
    /// one if those before are empty or `0`. Borrows unless something had to be unescaped or joined.
    ///
    /// ```
    /// use mogilefs_protocol::args::Args;
    /// let args = Args::new(b"domain=photos&k%65y=a+b&size=0&size=7&callid=1&callid=2");
    /// assert_eq!(args.get("key").as_deref(), Some(&b"a b"[..]));
    /// assert_eq!(args.get("size").as_deref(), Some(&b"07"[..]));
    /// assert_eq!(args.get("callid").as_deref(), Some(&b"1\x002"[..]));
    /// assert_eq!(args.get("Domain"), None);
    /// ```
    pub fn get(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        let [value] = self.pick([name]);
        value
    }

    /// As [`get`](Args::get) for several names in one pass.
    ///
    /// ```
    /// use mogilefs_protocol::args::Args;
    /// let [domain, key, fid] = Args::new(b"key=a&domain=photos").pick(["domain", "key", "fid"]);
    /// assert_eq!((domain.as_deref(), key.as_deref(), fid), (Some(&b"photos"[..]), Some(&b"a"[..]), None));
    /// ```
    pub fn pick<const N: usize>(&self, names: [&str; N]) -> [Option<Cow<'a, [u8]>>; N] {
        let mut values = [const { None }; N];
        for arg in self.iter() {
            for (name, value) in names.iter().zip(&mut values) {
                if arg.is(name) {
                    match value {
                        None => *value = Some(arg.value_unescaped()),
                        Some(before) => join(before, arg.value),
                    }
                }
            }
        }
        values
    }

    /// As [`get`](Args::get), for values that are text. `None` also if it is not UTF-8.
    pub fn get_str(&self, name: &str) -> Option<Cow<'a, str>> {
        match self.get(name)? {
            Cow::Borrowed(value) => str::from_utf8(value).ok().map(Cow::Borrowed),
            Cow::Owned(value) => String::from_utf8(value).ok().map(Cow::Owned),
        }
    }

    /// As [`get`](Args::get), for plain decimal numbers. `None` also for anything else (Perl would
    /// read a number at its beginning).
    pub fn get_u64(&self, name: &str) -> Option<u64> {
        let value = self.get(name)?;
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return None;
        }
        str::from_utf8(&value).ok()?.parse().ok()
    }

    /// Whether the value is true in Perl's sense: there, neither empty nor `0`. This is how the
    /// tracker reads its switches.
    pub fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| is_true(&value))
    }
}

/// Joins one more value of a repeated name to those before.
fn join(before: &mut Cow<'_, [u8]>, value: &[u8]) {
    let joined = before.to_mut();
    if is_true(joined) {
        joined.push(0);
    }
    escape::unescape_into(joined, value);
}

/// What Perl takes for true.
pub(crate) fn is_true(value: &[u8]) -> bool {
    !matches!(value, b"" | b"0")
}

impl fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Args({})", self.raw.escape_ascii())
    }
}

impl<'a> IntoIterator for Args<'a> {
    type Item = Arg<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// One argument, both parts still escaped. Without a `=` the value is empty.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Arg<'a> {
    /// What is before the `=`.
    pub name: &'a [u8],
    /// What is between the first `=` and a second one, if any.
    pub value: &'a [u8],
}

impl<'a> Arg<'a> {
    /// The name that is meant.
    pub fn name_unescaped(&self) -> Cow<'a, [u8]> {
        escape::unescape(self.name)
    }

    /// The value that is meant.
    pub fn value_unescaped(&self) -> Cow<'a, [u8]> {
        escape::unescape(self.value)
    }

    /// Whether this is the name that is meant. Upper and lower case differ.
    pub fn is(&self, name: &str) -> bool {
        self.name == name.as_bytes() || escape::stands_for(self.name, name.as_bytes())
    }
}

impl fmt::Debug for Arg<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Arg({}={})",
            self.name.escape_ascii(),
            self.value.escape_ascii()
        )
    }
}

/// The arguments of an [`Args`].
#[derive(Clone)]
pub struct Iter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Iter<'a> {
    type Item = Arg<'a>;

    fn next(&mut self) -> Option<Arg<'a>> {
        while !self.rest.is_empty() {
            let (rest, piece) = piece(self.rest).ok()?;
            self.rest = rest;
            if is_true(piece) {
                return argument(piece).ok().map(|(_dropped, arg)| arg);
            }
        }
        None
    }
}

/// The text up to the next `&`, and that `&`: `domain=photos&` in `domain=photos&key=a`.
fn piece(text: &[u8]) -> IResult<&[u8], &[u8]> {
    terminated(take_to(b'&'), opt(tag(&b"&"[..]))).parse(text)
}

/// One piece: `key=a`, or `key`; of `key=a=b` the `=b` is left over.
fn argument(piece: &[u8]) -> IResult<&[u8], Arg<'_>> {
    (take_to(b'='), opt(preceded(tag(&b"="[..]), take_to(b'='))))
        .map(|(name, value)| Arg {
            name,
            value: value.unwrap_or_default(),
        })
        .parse(piece)
}

/// All bytes before the next `end`, or all there are: `key` in `key=a`.
fn take_to(end: u8) -> impl Fn(&[u8]) -> IResult<&[u8], &[u8]> {
    move |text| {
        let at = memchr(end, text).unwrap_or(text.len());
        Ok((&text[at..], &text[..at]))
    }
}
