use std::io;
use std::time::Duration;

use crate::reply::ErrReply;

/// Why a call gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no connection, and no request was sent.
    #[error("connect to tracker {addr}")]
    Connect {
        /// The tracker as it was given.
        addr: String,
        /// What went wrong; a timeout is `TimedOut`.
        source: io::Error,
    },
    /// The connection broke.
    #[error("exchange lines with the tracker")]
    Io {
        /// What went wrong.
        source: io::Error,
        /// Whether the whole request had been sent.
        maybe_seen: bool,
    },
    /// The answer did not come in time.
    #[error("no answer from the tracker within {after:?}")]
    Timeout {
        /// How long was waited.
        after: Duration,
        /// Whether the whole request had been sent.
        maybe_seen: bool,
    },
    /// The tracker closed the connection instead of answering.
    #[error("the tracker closed the connection without an answer")]
    Closed {
        /// Whether the whole request had been sent.
        maybe_seen: bool,
    },
    /// The tracker answered ERR. The connection can be used further.
    #[error("the tracker answered {code}: {text}")]
    Tracker {
        /// The code, such as `unknown_key`.
        code: String,
        /// The text, unescaped.
        text: String,
    },
    /// What came is not what a tracker answers.
    #[error("not an answer of a tracker: {what}")]
    Garbage {
        /// The beginning of it, or the field that is missing or wrong.
        what: String,
        /// Whether the whole request had been sent.
        maybe_seen: bool,
    },
    /// The answer is over the limit.
    #[error("the tracker's answer is longer than {max} bytes")]
    TooLong {
        /// The limit.
        max: usize,
        /// Whether the whole request had been sent.
        maybe_seen: bool,
    },
    /// An earlier request on this connection was dropped or failed, and its answer may still come.
    /// Nothing was sent; connect anew.
    #[error("an earlier request on this connection was not finished")]
    Unfinished,
    /// The line given is not one line, or is empty, or wants another method. Nothing was sent.
    #[error("not a single request line")]
    NotARequest,
}

impl ClientError {
    /// Whether the tracker answered with this error code.
    pub fn is_code(&self, wanted: &str) -> bool {
        self.code() == Some(wanted)
    }

    /// The error code, if the tracker answered with one.
    pub fn code(&self) -> Option<&str> {
        match self {
            ClientError::Tracker { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether the tracker may have seen, and thus executed, the request. `false` is certain: a
    /// line without its end is never executed. After a `Tracker` error it has seen it, and the code
    /// says what it made of it.
    pub fn maybe_seen(&self) -> bool {
        match *self {
            ClientError::Connect { .. } | ClientError::Unfinished | ClientError::NotARequest => {
                false
            }
            ClientError::Tracker { .. } => true,
            ClientError::Io { maybe_seen, .. }
            | ClientError::Timeout { maybe_seen, .. }
            | ClientError::Closed { maybe_seen }
            | ClientError::Garbage { maybe_seen, .. }
            | ClientError::TooLong { maybe_seen, .. } => maybe_seen,
        }
    }

    pub(super) fn tracker(err: ErrReply<'_>) -> ClientError {
        ClientError::Tracker {
            code: String::from_utf8_lossy(err.code).into_owned(),
            text: String::from_utf8_lossy(&err.text_unescaped()).into_owned(),
        }
    }

    pub(super) fn garbage(received: &[u8], maybe_seen: bool) -> ClientError {
        /// Enough to recognise it in a log.
        const SHOWN: usize = 80;
        let shown = &received[..received.len().min(SHOWN)];
        ClientError::Garbage {
            what: format!("{:?}", shown.escape_ascii().to_string()),
            maybe_seen,
        }
    }

    /// A field of an OK that is missing or cannot be read.
    pub(super) fn field(name: &str) -> ClientError {
        ClientError::Garbage {
            what: format!("no usable field {name}"),
            maybe_seen: true,
        }
    }
}
