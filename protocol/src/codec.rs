//! Lines for `tokio_util::codec`, feature `codec`.
//!
//! Reads [`Line`]s, writes lines that exist already: the encoder adds nothing and changes nothing.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::line::{Line, Next, Scanner};

/// Frames a connection into lines, none longer than the limit.
///
/// ```
/// use bytes::BytesMut;
/// use mogilefs_protocol::codec::LineCodec;
/// use tokio_util::codec::Decoder;
///
/// let mut codec = LineCodec::new(1024);
/// let mut received = BytesMut::from("noop\r\nget_pa");
/// let line = codec.decode(&mut received)?.expect("the first line is complete");
/// assert_eq!(line.text(), b"noop");
/// assert_eq!(codec.decode(&mut received)?, None);
/// # Ok::<(), mogilefs_protocol::codec::CodecError>(())
/// ```
#[derive(Debug, Clone)]
pub struct LineCodec {
    scanner: Scanner,
}

impl LineCodec {
    /// `max` counts a line without its end.
    pub fn new(max: usize) -> LineCodec {
        LineCodec {
            scanner: Scanner::new(max),
        }
    }
}

/// Why no further line can be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The other side sent a line over the limit.
    #[error("a line longer than {max} bytes")]
    TooLong {
        /// The limit.
        max: usize,
    },
    /// The connection failed.
    #[error("exchange lines")]
    Io(#[from] io::Error),
}

impl Decoder for LineCodec {
    type Item = Line;
    type Error = CodecError;

    fn decode(&mut self, received: &mut BytesMut) -> Result<Option<Line>, CodecError> {
        match self.scanner.next(received) {
            Next::Line(line) => Ok(Some(line)),
            Next::Incomplete => Ok(None),
            Next::TooLong => Err(CodecError::TooLong {
                max: self.scanner.max(),
            }),
        }
    }

    /// What is left without an end when the other side stops is no line: a tracker never executes
    /// it.
    fn decode_eof(&mut self, received: &mut BytesMut) -> Result<Option<Line>, CodecError> {
        let line = self.decode(received)?;
        if line.is_none() {
            received.clear();
            self.scanner.reset();
        }
        Ok(line)
    }
}

impl Encoder<Line> for LineCodec {
    type Error = CodecError;

    fn encode(&mut self, line: Line, out: &mut BytesMut) -> Result<(), CodecError> {
        self.encode(line.into_raw(), out)
    }
}

impl Encoder<Bytes> for LineCodec {
    type Error = CodecError;

    fn encode(&mut self, lines: Bytes, out: &mut BytesMut) -> Result<(), CodecError> {
        out.extend_from_slice(&lines);
        Ok(())
    }
}
