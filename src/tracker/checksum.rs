//! Digests of files as clients give them and the tracker keeps them: `MD5:hex` or `SHA-1:hex`.

use std::fmt;

use md5::Digest as _;

/// The kinds of digest that a class may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 16 bytes.
    Md5,
    /// 20 bytes.
    Sha1,
}

impl Kind {
    /// By its name, which is upper-case.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Kind> {
        match name {
            b"MD5" => Some(Kind::Md5),
            b"SHA-1" => Some(Kind::Sha1),
            _ => None,
        }
    }

    /// By its number in the database.
    #[must_use]
    pub fn from_id(id: i64) -> Option<Kind> {
        match id {
            1 => Some(Kind::Md5),
            2 => Some(Kind::Sha1),
            _ => None,
        }
    }

    /// Its number in the database.
    #[must_use]
    pub fn id(self) -> i64 {
        match self {
            Kind::Md5 => 1,
            Kind::Sha1 => 2,
        }
    }

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Md5 => "MD5",
            Kind::Sha1 => "SHA-1",
        }
    }

    fn len(self) -> usize {
        match self {
            Kind::Md5 => 16,
            Kind::Sha1 => 20,
        }
    }
}

/// A digest, shown as `MD5:` and lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// Which function made it.
    pub kind: Kind,
    /// As many bytes as the kind says.
    pub digest: Vec<u8>,
}

impl Checksum {
    /// Reads what a client wrote: the name in upper case, the digits in either.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Checksum> {
        let colon = text.iter().position(|&byte| byte == b':')?;
        let kind = Kind::from_name(&text[..colon])?;
        let digest = hex::decode(&text[colon + 1..]).ok()?;
        (digest.len() == kind.len()).then_some(Checksum { kind, digest })
    }

    /// From the columns of the database.
    #[must_use]
    pub fn from_row(kind: i64, digest: Vec<u8>) -> Option<Checksum> {
        Some(Checksum {
            kind: Kind::from_id(kind)?,
            digest,
        })
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), hex::encode(&self.digest))
    }
}

/// A digest in the making.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// MD5.
    Md5(md5::Md5),
    /// SHA-1.
    Sha1(sha1::Sha1),
}

impl Hasher {
    /// An empty one.
    #[must_use]
    pub fn new(kind: Kind) -> Hasher {
        match kind {
            Kind::Md5 => Hasher::Md5(md5::Md5::new()),
            Kind::Sha1 => Hasher::Sha1(sha1::Sha1::new()),
        }
    }

    /// Takes in more of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Md5(hasher) => hasher.update(bytes),
            Hasher::Sha1(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all that was taken in.
    #[must_use]
    pub fn finish(self) -> Checksum {
        match self {
            Hasher::Md5(hasher) => Checksum {
                kind: Kind::Md5,
                digest: hasher.finalize().to_vec(),
            },
            Hasher::Sha1(hasher) => Checksum {
                kind: Kind::Sha1,
                digest: hasher.finalize().to_vec(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_tracker_reads() {
        let lower = Checksum::parse(b"MD5:cdf42aa40dd5d52b504e8a068136b905").unwrap();
        assert_eq!(
            Checksum::parse(b"MD5:CDF42AA40DD5D52B504E8A068136B905"),
            Some(lower.clone())
        );
        assert_eq!(lower.to_string(), "MD5:cdf42aa40dd5d52b504e8a068136b905");
        for bad in [
            &b"MD5"[..],
            b"MD5:",
            b"MD5:xyz",
            b"cdf42aa40dd5d52b504e8a068136b905",
            b"MD5:cdf42aa40dd5d52b504e8a068136b9",
            b"md5:cdf42aa40dd5d52b504e8a068136b905",
            b"SHA-256:0000000000000000000000000000000000000000000000000000000000000000",
        ] {
            assert_eq!(Checksum::parse(bad), None, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn hashes() {
        let mut hasher = Hasher::new(Kind::Sha1);
        hasher.update(b"abc");
        assert_eq!(
            hasher.finish().to_string(),
            "SHA-1:a9993e364706816aba3e25717850c26c9cd0d89d"
        );
        assert_eq!(
            Hasher::new(Kind::Md5).finish().to_string(),
            "MD5:d41d8cd98f00b204e9800998ecf8427e"
        );
    }
}
