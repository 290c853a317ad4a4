//! Where a scan goes on: behind a token, and behind a file of that token.

use std::cmp::Ordering;
use std::fmt;

use super::values::Wrong;

/// After which row a page begins. As text: token, domain and key with blanks between, which escaped names never contain; it
/// means the same on every node and at any time, as a driver's own paging state does not.
pub(super) struct Position {
    pub(super) token: i64,
    domain: String,
    key: String,
}

impl Position {
    pub(super) fn of(token: i64, domain: &str, key: &str) -> Position {
        Position {
            token,
            domain: domain.to_owned(),
            key: key.to_owned(),
        }
    }

    pub(super) fn parse(text: &str) -> Result<Position, Wrong> {
        let mut parts = text.splitn(3, ' ');
        let parsed = (|| {
            Some(Position {
                token: parts.next()?.parse().ok()?,
                domain: parts.next()?.to_owned(),
                key: parts.next()?.to_owned(),
            })
        })();
        parsed.ok_or_else(|| {
            let start: String = text.chars().take(80).collect();
            format!("{start:?} is no position of a scan in this ledger").into()
        })
    }

    /// Whether a row comes after this position, in the ring's order. Partitions of one token lie in the order of their key's
    /// bytes: the domain's length first, as it stands before it, then the domain, the key's length, the key.
    pub(super) fn is_before(&self, token: i64, domain: &str, key: &str) -> bool {
        let place = |text: &str| (text.len(), text.to_owned());
        let order = token
            .cmp(&self.token)
            .then_with(|| place(domain).cmp(&place(&self.domain)))
            .then_with(|| place(key).cmp(&place(&self.key)));
        order == Ordering::Greater
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.token, self.domain, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_its_text() {
        for (domain, key) in [("photos", "a+b"), ("d", ""), ("x", "a b c")] {
            let text = Position::of(-7, domain, key).to_string();
            let read = Position::parse(&text).unwrap();
            assert_eq!((read.token, &*read.domain, &*read.key), (-7, domain, key));
        }
        for wrong in ["", "7", "7 photos", "x photos key"] {
            assert!(Position::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn files_of_one_token_are_passed_one_by_one() {
        let at = Position::of(5, "photos", "k2");
        assert!(at.is_before(6, "a", "a"));
        assert!(at.is_before(5, "photos", "k3"));
        assert!(
            at.is_before(5, "photos", "k10"),
            "the longer key comes later"
        );
        assert!(!at.is_before(5, "photos", "k2"));
        assert!(!at.is_before(5, "photos", "k1"));
        assert!(
            !at.is_before(5, "video", "a"),
            "the shorter domain comes first"
        );
        assert!(!at.is_before(4, "zzzzzzzzzz", "z"));
    }
}
