//! The codec over a buffer that fills bit by bit.

use bytes::{Bytes, BytesMut};
use mogilefs_protocol::codec::{CodecError, LineCodec};
use mogilefs_protocol::line::Line;
use tokio_util::codec::{Decoder, Encoder};

#[test]
fn lines_come_out_as_they_went_in() {
    let mut codec = LineCodec::new(100);
    let mut wire = BytesMut::new();
    for raw in ["noop\r\n", "NOOP \n", "\r\n"] {
        codec
            .encode(Line::new(Bytes::from(raw)).expect("a line"), &mut wire)
            .expect("it fits");
    }
    codec
        .encode(Bytes::from("noop"), &mut wire)
        .expect("it fits");
    for raw in ["noop\r\n", "NOOP \n", "\r\n"] {
        let line = codec
            .decode(&mut wire)
            .expect("readable")
            .expect("complete");
        assert_eq!(line.raw(), raw.as_bytes());
    }
    assert_eq!(codec.decode(&mut wire).expect("readable"), None);
    assert_eq!(
        codec.decode_eof(&mut wire).expect("readable"),
        None,
        "an unended line is none"
    );
    assert!(wire.is_empty());
}

#[test]
fn a_line_over_the_limit_ends_the_reading() {
    let mut codec = LineCodec::new(3);
    let mut wire = BytesMut::from("noop");
    assert!(matches!(
        codec.decode(&mut wire),
        Err(CodecError::TooLong { max: 3 })
    ));
}
