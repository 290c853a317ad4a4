//! The tracker's rules one by one, each with the example that showed it.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use mogilefs_protocol::args::Args;
use mogilefs_protocol::escape::{escape, unescape};
use mogilefs_protocol::line::{Line, Next, NotALine, Scanner, find_line_end, next_line};
use mogilefs_protocol::reply::{self, AdminLine, AdminReply, Fed, OwnedReply, Reply, admin_line};
use mogilefs_protocol::request::{Kind, RequestBuilder, admin_parts, parse};

fn command_of(text: &[u8]) -> (String, String) {
    match parse(text) {
        Kind::Command(command) => (
            command.name.escape_ascii().to_string(),
            command.args().raw().escape_ascii().to_string(),
        ),
        other => panic!("{}: {other:?}", text.escape_ascii()),
    }
}

fn get(args: &str, name: &str) -> Option<String> {
    Args::new(args.as_bytes())
        .get(name)
        .map(|value| value.escape_ascii().to_string())
}

// Lines

#[test]
fn a_line_ends_with_lf_and_one_cr_before_it_is_dropped() {
    for (raw, text) in [
        ("noop\n", "noop"),
        ("noop\r\n", "noop"),
        ("noop\r\r\n", "noop\r"),
        ("a\rb\0c\r\n", "a\rb\0c"),
        ("\r\n", ""),
        ("\n", ""),
        ("   \r\n", "   "),
    ] {
        let mut buf = BytesMut::from(raw);
        buf.extend_from_slice(b"next");
        let Next::Line(line) = next_line(&mut buf, 100) else {
            panic!("{raw:?}")
        };
        assert_eq!(line.raw(), raw.as_bytes());
        assert_eq!(line.text(), text.as_bytes());
        assert_eq!(line.is_empty(), text.is_empty());
        assert_eq!(&buf[..], b"next");
    }
}

#[test]
fn a_line_without_an_end_is_not_there_yet() {
    for unended in ["", "noop", "noop\r"] {
        let mut buf = BytesMut::from(unended);
        assert_eq!(next_line(&mut buf, 100), Next::Incomplete);
        assert_eq!(&buf[..], unended.as_bytes());
    }
}

#[test]
fn the_limit_counts_the_line_without_its_end() {
    let is_too_long = |raw: &str| next_line(&mut BytesMut::from(raw), 4) == Next::TooLong;
    assert!(!is_too_long("noop\n") && !is_too_long("noop\r\n"));
    assert!(!is_too_long("noop") && !is_too_long("noop\r"));
    assert!(is_too_long("noop1\n") && is_too_long("noop\r\r\n"));
    assert!(is_too_long("noop1") && is_too_long("noop\r\r") && is_too_long("noop\r1"));
}

#[test]
fn a_line_is_cut_out_without_copying() {
    let mut buf = BytesMut::from("noop\r\nnoop\r\n");
    let at = buf.as_ptr();
    let Next::Line(line) = next_line(&mut buf, 100) else {
        panic!()
    };
    assert_eq!(line.raw().as_ptr(), at);
}

#[test]
fn bytes_searched_once_are_not_searched_again() {
    assert_eq!(find_line_end(b"noop\r\nnoop", 0), Some(6));
    assert_eq!(find_line_end(b"noop\r\nnoop", 6), None);
    assert_eq!(find_line_end(b"noop", 100), None);
    let mut scanner = Scanner::new(100);
    let mut buf = BytesMut::new();
    for byte in *b"noop\r" {
        buf.extend_from_slice(&[byte]);
        assert_eq!(scanner.next(&mut buf), Next::Incomplete);
    }
    buf.extend_from_slice(b"\nx\n");
    for expected in [&b"noop"[..], b"x"] {
        let Next::Line(line) = scanner.next(&mut buf) else {
            panic!()
        };
        assert_eq!(line.text(), expected);
    }
    assert_eq!(scanner.next(&mut buf), Next::Incomplete);
}

#[test]
fn only_one_whole_line_is_a_line() {
    assert_eq!(Line::new(Bytes::from("noop")), Err(NotALine::Unended));
    assert_eq!(
        Line::new(Bytes::from("noop\r\nnoop\r\n")),
        Err(NotALine::More)
    );
    assert_eq!(
        Line::new(Bytes::from("noop\r\n")).map(|line| line.into_raw()),
        Ok("noop\r\n".into())
    );
}

// Escaping

#[test]
fn what_the_tracker_escapes_and_what_not() {
    let safe = "ABCXYZabcxyz0189_,-./\\:";
    assert_eq!(escape(safe.as_bytes()), safe);
    assert_eq!(escape(b"~!*'()"), "%7E%21%2A%27%28%29");
    assert_eq!(escape(b";@%+&=#?"), "%3B%40%25%2B%26%3D%23%3F");
    assert_eq!(escape(b"\x00\x1f\x7f\x80\xff\r\n"), "%00%1F%7F%80%FF%0D%0A");
    assert_eq!(escape(b"a b"), "a+b");
}

#[test]
fn unescaping_accepts_more_than_escaping_writes() {
    for (text, meant) in [
        ("a+b%20c", &b"a b c"[..]),
        ("%e9%E9", b"\xe9\xe9"),
        ("%", b"%"),
        ("%z", b"%z"),
        ("%zz", b"%zz"),
        ("%4", b"%4"),
        ("%%41", b"%A"),
        ("%2541", b"%41"), // once, not twice
        ("~!*'();@", b"~!*'();@"),
    ] {
        assert_eq!(*unescape(text.as_bytes()), *meant, "{text}");
    }
}

#[test]
fn unescaping_borrows_if_there_is_nothing_to_do() {
    for text in [&b""[..], b"photos/cat.jpg", b"100%", b"%zz", b"\xff\x00"] {
        assert!(matches!(unescape(text), Cow::Borrowed(same) if same == text));
    }
}

// Arguments

#[test]
fn arguments_keep_order_repeats_and_escaping() {
    let args = Args::new(b"b=1&a=%2B&b=2&flag&=x&%61=+");
    let all: Vec<(&[u8], &[u8])> = args.iter().map(|arg| (arg.name, arg.value)).collect();
    let expected: [(&[u8], &[u8]); 6] = [
        (b"b", b"1"),
        (b"a", b"%2B"),
        (b"b", b"2"),
        (b"flag", b""),
        (b"", b"x"),
        (b"%61", b"+"),
    ];
    assert_eq!(all, expected);
}

#[test]
fn empty_pieces_and_a_bare_zero_are_skipped() {
    let names = |text| {
        Args::new(text)
            .iter()
            .map(|arg| arg.name.to_vec())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(b"&&domain=photos&&key=a&"), [&b"domain"[..], b"key"]);
    assert_eq!(names(b"key=a&0&b"), [&b"key"[..], b"b"]);
    assert_eq!(names(b"0=x&00&0="), [&b"0"[..], b"00", b"0"]);
    assert!(names(b"").is_empty() && names(b"0").is_empty() && names(b"&").is_empty());
}

#[test]
fn a_third_part_is_dropped() {
    assert_eq!(get("key=a=b", "key").as_deref(), Some("a"));
    assert_eq!(get("key==b", "key").as_deref(), Some(""));
    assert_eq!(get("key=a%3Db", "key").as_deref(), Some("a=b"));
    assert_eq!(get("key", "key").as_deref(), Some(""));
    assert_eq!(get("=&==", "").as_deref(), Some(""));
}

#[test]
fn names_are_unescaped_but_keep_their_case() {
    assert_eq!(get("k%65y=1", "key").as_deref(), Some("1"));
    assert_eq!(get("KEY=1", "key"), None);
    assert_eq!(get("a+b=1", "a b").as_deref(), Some("1"));
    assert_eq!(get("ke=1&keyy=2&k%65=3&k%65yy=4", "key"), None);
}

#[test]
fn repeated_names_are_joined_as_perl_joins_them() {
    assert_eq!(get("key=a&key=a", "key").as_deref(), Some("a\\x00a"));
    assert_eq!(get("key=&key=a", "key").as_deref(), Some("a"));
    assert_eq!(get("key=0&key=a", "key").as_deref(), Some("0a"));
    assert_eq!(get("key=0&key=0&key=1", "key").as_deref(), Some("00\\x001"));
    assert_eq!(
        get("key=a&k%65y=%62+&key", "key").as_deref(),
        Some("a\\x00b \\x00")
    );
    assert_eq!(
        get("callid=1&callid=2", "callid").as_deref(),
        Some("1\\x002")
    );
}

#[test]
fn a_trailing_blank_belongs_to_the_last_value() {
    let Kind::Command(command) = parse(b"file_info domain=photos&key=rep/a ") else {
        panic!()
    };
    assert_eq!(command.args().get("key").as_deref(), Some(&b"rep/a "[..]));
}

#[test]
fn typed_values_are_strict() {
    let args = Args::new(b"fid=12&abc=abc&neg=-1&none=&big=99999999999999999999&bytes=%FF&zero=0");
    assert_eq!(args.get_u64("fid"), Some(12));
    for name in ["abc", "neg", "none", "big", "missing"] {
        assert_eq!(args.get_u64(name), None, "{name}");
    }
    assert_eq!(args.get_str("abc").as_deref(), Some("abc"));
    assert_eq!(args.get_str("bytes"), None);
    assert!(args.is_set("fid") && args.is_set("neg"));
    assert!(!args.is_set("zero") && !args.is_set("none") && !args.is_set("missing"));
}

// Requests

#[test]
fn the_command_is_the_first_word_in_any_case() {
    for (text, name, args) in [
        (&b"noop"[..], "noop", ""),
        (b"noop ", "noop", ""),
        (b"nOoP x=1", "nOoP", "x=1"),
        (b"   noop", "noop", ""),
        (b"\t\x0b\x0cnoop\ta=1", "noop", "a=1"),
        (b"\rnoop", "noop", ""),
        (b"noop\r", "noop", ""),
        (b"noop?a=1", "noop", "?a=1"),
        (b"noop=1", "noop", "=1"),
        (b"noop&a=1", "noop", "&a=1"),
        (b"noop,x", "noop", ",x"),
        (b"no-op", "no", "-op"),
        (
            b"file_info  domain=photos&key=a",
            "file_info",
            "domain=photos&key=a",
        ),
        (b"123", "123", ""),
        (b"_", "_", ""),
        (b"GET / HTTP/1.0", "GET", "/ HTTP/1.0"),
        (b"noop\xe9", "noop", "\\xe9"),
    ] {
        assert_eq!(command_of(text), (name.into(), args.into()));
    }
    let Kind::Command(command) = parse(b"NOOP") else {
        panic!()
    };
    assert!(command.is("noop") && !command.is("noo"));
}

#[test]
fn a_line_without_a_word_is_an_unknown_request() {
    for text in [
        &b"   "[..],
        b"=",
        b"&",
        b"%6e%6f%6f%70",
        b"\x00\x00",
        b"\xe9t\xe9",
        b"\x16\x03\x01",
    ] {
        assert_eq!(parse(text), Kind::Unknown, "{}", text.escape_ascii());
    }
    assert_eq!(parse(b""), Kind::Empty);
}

#[test]
fn admin_commands_begin_with_a_mark_and_a_non_blank() {
    for (text, name, args) in [
        (&b"!version"[..], &b"version"[..], &b""[..]),
        (b"!version extra words", b"version", b"extra words"),
        (b"!want 4 queryworker", b"want", b"4 queryworker"),
        (
            b"!to\t\tqueryworker :shutdown",
            b"to",
            b"queryworker :shutdown",
        ),
        (b"!!", b"!", b""),
        (b"!version  ", b"version", b" "),
        (b"!version a ", b"version", b"a "),
        (b"!\xa0", b"\xa0", b""),
    ] {
        assert_eq!(parse(text), Kind::Admin(text));
        assert_eq!(
            admin_parts(text),
            Some((name, args)),
            "{}",
            text.escape_ascii()
        );
    }
    // Tried on a real tracker: one blank must be followed by something, if only another blank.
    for text in [
        &b"!"[..],
        b"!\t",
        b"! version",
        b" !version",
        b"!version ",
        b"!version\r",
    ] {
        assert!(
            matches!(parse(text), Kind::Unknown),
            "{}",
            text.escape_ascii()
        );
        assert_eq!(admin_parts(text), None);
    }
}

#[test]
fn a_built_request_is_one_line_whatever_is_put_in() {
    let line = RequestBuilder::new("evil\r\ncommand")
        .arg("na&me=\n", b"a&b=c\r\nd")
        .arg_escaped("key", b"a%20b\r\nnoop&x=y")
        .finish();
    assert_eq!(
        &line[..],
        b"evil%0D%0Acommand na%26me%3D%0A=a%26b%3Dc%0D%0Ad&key=a%20b%0D%0Anoop%26x%3Dy\r\n",
    );
    assert_eq!(&RequestBuilder::new("noop").finish()[..], b"noop\r\n");
}

// Replies

#[test]
fn an_ok_has_fields_or_just_a_blank() {
    let fields = |text| match reply::parse(text) {
        Ok(Reply::Ok(fields)) => fields.raw().to_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!(fields(b"OK "), b"");
    assert_eq!(fields(b"OK"), b"");
    assert_eq!(fields(b"OK callid="), b"callid=");
    assert_eq!(fields(b"OK devid=2&fid=16"), b"devid=2&fid=16");
    assert_eq!(&reply::ok([])[..], b"OK \r\n");
}

#[test]
fn an_err_has_a_code_a_text_and_maybe_a_callid() {
    for (line, code, text, callid) in [
        (
            "ERR unknown_key unknown_key",
            "unknown_key",
            "unknown_key",
            None,
        ),
        ("ERR no_key no_key x1", "no_key", "no_key", Some("x1")),
        (
            "ERR unknown_key unknown_key a+b",
            "unknown_key",
            "unknown_key",
            Some("a b"),
        ),
        ("ERR no_key no_key ", "no_key", "no_key", Some("")),
        (
            "ERR no_domain No+domain+provided",
            "no_domain",
            "No domain provided",
            None,
        ),
        ("ERR x", "x", "", None),
    ] {
        let Ok(Reply::Err(err)) = reply::parse(line.as_bytes()) else {
            panic!("{line}")
        };
        assert!(err.is(code), "{line}");
        assert_eq!(*err.text_unescaped(), *text.as_bytes());
        assert_eq!(err.callid_unescaped().as_deref(), callid.map(str::as_bytes));
    }
    assert_eq!(
        &reply::err("no_key", "no_key", Some(b""))[..],
        b"ERR no_key no_key \r\n"
    );
}

#[test]
fn anything_else_is_not_a_reply() {
    for text in [
        &b""[..],
        b"ok ",
        b"OKfid=1",
        b"ERR",
        b"ERR ",
        b"ERRx y",
        b"2.73",
        b".",
        b":: OK",
        b" OK ",
    ] {
        assert!(reply::parse(text).is_err(), "{}", text.escape_ascii());
        let mut line = text.to_vec();
        line.push(b'\n');
        assert!(OwnedReply::new(Line::new(line.into()).expect("a line")).is_err());
    }
}

#[test]
fn an_admin_reply_ends_with_a_single_dot() {
    let mut buf = BytesMut::from(
        ":: [monitor(1)] before\r\nMogilefsd admin commands:\n\n    !version    Server version\n\
         :: [monitor(1)] within\r\n..\r\n. \r\n.\r\nOK \r\n",
    );
    let mut admin = AdminReply::new(100);
    let mut news = 0;
    loop {
        let Next::Line(line) = next_line(&mut buf, 100) else {
            panic!("no end")
        };
        match admin.feed(line) {
            Fed::More => assert!(!admin.is_done()),
            Fed::Watch(line) => {
                assert!(reply::is_watch(line.text()));
                news += 1;
            }
            Fed::Done => break,
            Fed::TooLong => panic!("not that long"),
        }
    }
    assert!(admin.is_done());
    assert_eq!(news, 2);
    let texts: Vec<&[u8]> = admin.texts().collect();
    let expected: [&[u8]; 5] = [
        b"Mogilefsd admin commands:",
        b"",
        b"    !version    Server version",
        b"..",
        b". ",
    ];
    assert_eq!(texts, expected);
    assert_eq!(&buf[..], b"OK \r\n");
    assert_eq!(admin_line(b":: text"), AdminLine::Watch(b"text"));
}

#[test]
fn an_admin_reply_has_a_limit() {
    let mut admin = AdminReply::new(10);
    let line = || Line::new(Bytes::from("1234\r\n")).expect("a line");
    assert_eq!(admin.feed(line()), Fed::More);
    assert_eq!(admin.feed(line()), Fed::TooLong);
    assert_eq!(admin.lines().len(), 1);
}
