//! The tracker's way of writing any bytes in one line of ASCII.
//!
//! Letters, digits and `_ , - . / \ :` stand for themselves, a space is written `+`, every other
//! byte `%XX` with upper-case digits. Reading is laxer: either case, `%20` for a space, any raw
//! byte, and a `%` that no two hexadecimal digits follow is just a `%`.
//!
//! Always true: `unescape(escape(x)) == x`. The reverse does not hold, since one value can be
//! written in many ways; this is why the rest of the crate passes on what came instead of writing
//! it anew.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

/// The bytes that the tracker and the Perl client never escape.
const SAFE: [bool; 256] = {
    let mut safe = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        safe[byte] = matches!(byte as u8,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b',' | b'-' | b'.' | b'/' | b'\\' | b':');
        byte += 1;
    }
    safe
};

/// Writes `raw` as the tracker would. The result is ASCII.
///
/// ```
/// use mogilefs_protocol::escape::escape;
/// assert_eq!(escape(b"photos/a b+c"), "photos/a+b%2Bc");
/// assert_eq!(escape("é~".as_bytes()), "%C3%A9%7E");
/// ```
pub fn escape(raw: &[u8]) -> String {
    let mut out = Vec::with_capacity(raw.len());
    write(&mut out, raw);
    String::from_utf8(out).expect("only ASCII is written")
}

/// As [`escape`], but at the end of a line that is being put together.
pub fn escape_into(out: &mut BytesMut, raw: &[u8]) {
    out.reserve(raw.len());
    write(out, raw);
}

fn write(out: &mut impl BufMut, raw: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut rest = raw;
    while !rest.is_empty() {
        let run = rest
            .iter()
            .position(|&byte| !SAFE[usize::from(byte)])
            .unwrap_or(rest.len());
        out.put_slice(&rest[..run]);
        rest = &rest[run..];
        if let Some((&byte, after)) = rest.split_first() {
            match byte {
                b' ' => out.put_u8(b'+'),
                _ => out.put_slice(&[
                    b'%',
                    DIGITS[usize::from(byte >> 4)],
                    DIGITS[usize::from(byte & 15)],
                ]),
            }
            rest = after;
        }
    }
}

/// Reads what [`escape`] or any client wrote. Borrows when the text stands for itself.
///
/// ```
/// use mogilefs_protocol::escape::unescape;
/// assert_eq!(*unescape(b"a+b%20c%2b%zz%"), *b"a b c+%zz%");
/// ```
pub fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    let mut rest = text;
    let mut out = Vec::new();
    while let Some((literal, byte, after)) = next_escape(rest) {
        if out.is_empty() {
            out.reserve_exact(text.len());
        }
        out.extend_from_slice(literal);
        out.push(byte);
        rest = after;
    }
    if rest.len() == text.len() {
        return Cow::Borrowed(text);
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

/// Appends what `text` stands for to `out`.
pub(crate) fn unescape_into(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some((literal, byte, after)) = next_escape(rest) {
        out.extend_from_slice(literal);
        out.push(byte);
        rest = after;
    }
    out.extend_from_slice(rest);
}

/// Whether `text` stands for `raw`, without writing it out.
pub(crate) fn stands_for(text: &[u8], raw: &[u8]) -> bool {
    let (mut rest, mut raw) = (text, raw);
    while let Some((literal, byte, after)) = next_escape(rest) {
        match raw
            .strip_prefix(literal)
            .and_then(|left| left.strip_prefix(&[byte]))
        {
            Some(left) => raw = left,
            None => return false,
        }
        rest = after;
    }
    rest == raw
}

/// Splits at the first escape: what is before it, the byte it stands for, what is after it.
fn next_escape(text: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let mut from = 0;
    loop {
        let at = from + memchr::memchr2(b'+', b'%', &text[from..])?;
        match text[at..] {
            [b'+', ref after @ ..] => return Some((&text[..at], b' ', after)),
            [b'%', high, low, ref after @ ..] => {
                if let (Some(high), Some(low)) = (digit(high), digit(low)) {
                    return Some((&text[..at], high << 4 | low, after));
                }
            }
            _ => {}
        }
        from = at + 1; // a `%` for itself
    }
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}
