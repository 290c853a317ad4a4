//! What holds for any bytes at all.

use std::borrow::Cow;

use bytes::BytesMut;
use mogilefs_protocol::args::Args;
use mogilefs_protocol::escape::{escape, escape_into, unescape};
use mogilefs_protocol::line::{Line, Next, Scanner, text_of};
use mogilefs_protocol::reply::{self, AdminReply, OwnedReply, Reply};
use mogilefs_protocol::request::{self, Kind, RequestBuilder, admin_parts};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

/// Any bytes, but more often those that mean something.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        any::<u8>(),
        proptest::sample::select(&b"&=%+ \r\n\0!.:0aAf"[..]),
    ];
    let word = proptest::sample::select(
        &[
            "OK ", "ERR ", "!", "key=", "domain", "%4", "%zz", "\r\n", "noop", ":: ", ".\r\n",
        ][..],
    );
    vec(
        prop_oneof![4 => byte.prop_map(|byte| vec![byte]), 1 => word.prop_map(|word| word.into())],
        0..60,
    )
    .prop_map(|parts| parts.concat())
}

/// The tracker's own way of reading arguments, as slowly as it is simple.
fn as_perl_would(text: &[u8], wanted: &[u8]) -> Option<Vec<u8>> {
    let mut found: Option<Vec<u8>> = None;
    for piece in text
        .split(|&byte| byte == b'&')
        .filter(|piece| !matches!(*piece, b"" | b"0"))
    {
        let mut parts = piece.split(|&byte| byte == b'=');
        let name = unescape(parts.next().unwrap_or_default());
        let value = unescape(parts.next().unwrap_or_default());
        if *name == *wanted {
            let so_far = found.get_or_insert_default();
            if !matches!(&so_far[..], b"" | b"0") {
                so_far.push(0);
            }
            so_far.extend_from_slice(&value);
        }
    }
    found
}

proptest! {
    #[test]
    fn unescape_undoes_escape(raw in bytes()) {
        let text = escape(&raw);
        prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !b"&= !".contains(&byte)));
        prop_assert_eq!(&*unescape(text.as_bytes()), &raw[..]);
        let mut out = BytesMut::from("x");
        escape_into(&mut out, &raw);
        prop_assert_eq!(&out[1..], text.as_bytes());
    }

    #[test]
    fn unescape_never_grows(text in bytes()) {
        prop_assert!(unescape(&text).len() <= text.len());
    }

    #[test]
    fn lines_lose_no_byte_however_they_arrive(data in bytes(), cuts in vec(1..9_usize, 1..40), max in 0..20_usize) {
        let mut scanner = Scanner::new(max);
        let (mut buf, mut seen) = (BytesMut::new(), Vec::new());
        let (mut rest, mut cuts) = (&data[..], cuts.iter().cycle());
        'arrive: loop {
            loop {
                match scanner.next(&mut buf) {
                    Next::Line(line) => {
                        prop_assert!(line.raw().ends_with(b"\n") && line.text().len() <= max);
                        prop_assert_eq!(line.text(), text_of(line.raw()));
                        prop_assert_eq!(Line::new(line.raw().clone()), Ok(line.clone()));
                        seen.extend_from_slice(line.raw());
                    }
                    Next::Incomplete => break,
                    Next::TooLong => {
                        let text = buf[..].split(|&byte| byte == b'\n').next().unwrap_or_default();
                        prop_assert!(text.len() > max);
                        break 'arrive;
                    }
                }
            }
            prop_assert!(!buf.contains(&b'\n'));
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            buf.extend_from_slice(now);
            rest = later;
        }
        seen.extend_from_slice(&buf);
        seen.extend_from_slice(rest);
        prop_assert_eq!(seen, data);
    }

    #[test]
    fn arguments_are_read_as_perl_reads_them(text in bytes()) {
        let args = Args::new(&text);
        for name in ["key", "domain", "", "0", "a", "f"] {
            prop_assert_eq!(args.get(name).map(|value| value.to_vec()), as_perl_would(&text, name.as_bytes()));
            let _ = (args.get_str(name), args.get_u64(name), args.is_set(name));
        }
        let [key, domain, again] = args.pick(["key", "domain", "key"]);
        prop_assert_eq!(&key, &args.get("key"));
        prop_assert_eq!(&domain, &args.get("domain"));
        prop_assert_eq!(&key, &again);
        for arg in args {
            let name = arg.name_unescaped();
            if let Ok(name) = str::from_utf8(&name) {
                prop_assert!(arg.is(name));
                let longer = [name, "x"].concat();
                prop_assert!(!arg.is(&longer));
            }
        }
    }

    #[test]
    fn no_line_upsets_a_parser(text in bytes()) {
        let kind = request::parse(&text);
        prop_assert_eq!(matches!(kind, Kind::Admin(_)), admin_parts(&text).is_some());
        prop_assert_eq!(kind == Kind::Empty, text.is_empty());
        let _ = format!("{kind:?} {:?}", reply::parse(&text));
        let mut line = text.clone();
        line.retain(|&byte| byte != b'\n');
        line.push(b'\n');
        let line = Line::new(line.into()).unwrap();
        let is_reply = reply::parse(line.text()).is_ok();
        prop_assert_eq!(OwnedReply::new(line.clone()).is_ok(), is_reply);
        let _ = AdminReply::new(16).feed(line);
    }

    #[test]
    fn a_built_request_says_what_was_put_in(command in "[A-Za-z0-9_]{1,20}", key in bytes(), written in bytes()) {
        let line = RequestBuilder::new(&command)
            .arg("key", &key)
            .arg_escaped("written", &written)
            .opt("none", None::<&[u8]>)
            .finish();
        let line = Line::new(line).unwrap();
        let Kind::Command(parsed) = request::parse(line.text()) else { panic!() };
        prop_assert!(parsed.is(&command));
        prop_assert_eq!(parsed.args().get("key"), Some(Cow::Borrowed(&key[..])));
        prop_assert_eq!(parsed.args().iter().count(), 2);
        let [_, written_again] = [0, 1].map(|n| parsed.args().iter().nth(n).unwrap());
        prop_assert_eq!(written_again.name, b"written");
        if !written.iter().any(|byte| b"&=\r\n".contains(byte)) {
            prop_assert_eq!(written_again.value, &written[..]);
        }
    }

    #[test]
    fn built_replies_say_what_was_put_in(code in "[a-z_]{1,20}", text in "\\PC{1,20}", value in bytes(), with in any::<bool>()) {
        let ok = reply::ok([("a", &value[..]), ("b", b"")]);
        let Ok(Reply::Ok(fields)) = reply::parse(text_of(&ok)) else { panic!() };
        prop_assert_eq!(fields.get("a"), Some(Cow::Borrowed(&value[..])));
        prop_assert_eq!(fields.get("b"), Some(Cow::Borrowed(&b""[..])));

        let callid = with.then_some(&value[..]);
        let err = reply::err(&code, &text, callid);
        let Ok(Reply::Err(err)) = reply::parse(text_of(&err)) else { panic!() };
        prop_assert!(err.is(&code));
        prop_assert_eq!(&*err.text_unescaped(), text.as_bytes());
        prop_assert_eq!(err.callid_unescaped(), callid.map(Cow::Borrowed));
    }
}
