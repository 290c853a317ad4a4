//! How the tracker reads what clients write: as Perl reads strings, as truth or as numbers.

use std::borrow::Cow;

use mogilefs_protocol::args::Args;

/// The value, unless it is missing, empty or `0`.
pub fn given(args: Args<'_>, name: &str) -> Option<Vec<u8>> {
    args.get(name)
        .map(Cow::into_owned)
        .filter(|value| is_true(value))
}

/// The value, unless it is missing or empty. `0` is a key like any other.
pub fn non_empty(args: Args<'_>, name: &str) -> Option<Vec<u8>> {
    args.get(name)
        .map(Cow::into_owned)
        .filter(|value| !value.is_empty())
}

/// Neither empty nor `0`.
pub fn is_true(value: &[u8]) -> bool {
    !matches!(value, b"" | b"0")
}

/// The number at the beginning of a value; 0 if there is none.
pub fn number(value: &[u8]) -> f64 {
    let value = value.trim_ascii_start();
    let digits = |from: usize| {
        value[from..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let mut end = usize::from(matches!(value.first(), Some(b'+' | b'-')));
    end += digits(end);
    if value.get(end) == Some(&b'.') {
        end += 1 + digits(end + 1);
    }
    if matches!(value.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(value.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    str::from_utf8(&value[..end])
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0.0)
}

/// The whole number at the beginning of an argument; 0 if there is none.
#[expect(
    clippy::cast_possible_truncation,
    reason = "saturates, which is what a client gets for 1e99"
)]
pub fn integer(args: Args<'_>, name: &str) -> i64 {
    args.get(name).map_or(0, |value| {
        match str::from_utf8(&value)
            .ok()
            .and_then(|text| text.parse().ok())
        {
            Some(exact) => exact,
            None => number(&value) as i64,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "these numbers are exact")]
    fn numbers_are_read_from_the_beginning() {
        for (text, expected) in [
            ("", 0.0),
            ("abc", 0.0),
            ("12abc", 12.0),
            (" 7", 7.0),
            ("-5", -5.0),
            ("2.5x", 2.5),
            (".5", 0.5),
            ("1e3", 1000.0),
            ("1e", 1.0),
            ("-", 0.0),
            (".", 0.0),
            ("1.e2", 100.0),
        ] {
            assert_eq!(number(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(
            integer(Args::new(b"fid=9007199254740993"), "fid"),
            9_007_199_254_740_993
        );
        assert_eq!(
            integer(Args::new(b"fid=99999999999999999999"), "fid"),
            i64::MAX
        );
    }
}
