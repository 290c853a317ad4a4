//! What real trackers and clients said to each other, read with the crate's own eyes.

mod recorded;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use mogilefs_protocol::args::Args;
use mogilefs_protocol::escape::{escape, unescape};
use mogilefs_protocol::line::{Line, Next, next_line};
use mogilefs_protocol::reply::{self, AdminReply, Fed, OkBuilder, Reply};
use mogilefs_protocol::request::{self, Kind};

use recorded::{Side, conversations};

const MAX: usize = 1 << 20;

fn lines(data: &[u8]) -> (Vec<Line>, Bytes) {
    let mut buf = BytesMut::from(data);
    let mut lines = Vec::new();
    loop {
        match next_line(&mut buf, MAX) {
            Next::Line(line) => lines.push(line),
            Next::Incomplete => return (lines, buf.freeze()),
            Next::TooLong => panic!("a recorded line over the limit"),
        }
    }
}

#[test]
fn lines_put_together_again_are_what_came() {
    for (name, connections) in conversations() {
        for connection in connections {
            for side in [Side::Client, Side::Tracker] {
                let sent = connection.sent_by(side);
                let (lines, rest) = lines(&sent);
                let mut again: Vec<u8> =
                    lines.iter().flat_map(|line| line.raw()).copied().collect();
                again.extend_from_slice(&rest);
                assert!(again == sent, "{name}");
            }
        }
    }
}

/// Walks through each connection and takes every line of the tracker for what the request in turn
/// makes it: a single reply, or a part of the answer to a `!` command.
#[test]
fn each_request_is_answered_by_what_its_kind_says() {
    let (mut replies, mut admin_replies) = (0, 0);
    for (name, connections) in conversations() {
        for connection in connections {
            let (requests, _) = lines(&connection.sent_by(Side::Client));
            let (answers, _) = lines(&connection.sent_by(Side::Tracker));
            let mut requests: VecDeque<Line> = requests
                .into_iter()
                .filter(|line| !line.is_empty())
                .collect();
            let mut admin: Option<AdminReply> = None;
            for answer in answers {
                if reply::is_watch(answer.text()) {
                    continue;
                }
                let request = requests
                    .front()
                    .unwrap_or_else(|| panic!("{name}: unasked {answer:?}"));
                match request::parse(request.text()) {
                    Kind::Empty => unreachable!("filtered out"),
                    Kind::Admin(_) => {
                        let reader = admin.get_or_insert_with(|| AdminReply::new(MAX));
                        match reader.feed(answer) {
                            Fed::More => continue,
                            Fed::Done => {
                                admin = None;
                                admin_replies += 1;
                            }
                            other => panic!("{name}: {other:?}"),
                        }
                    }
                    Kind::Command(_) | Kind::Unknown => {
                        let parsed = reply::parse(answer.text());
                        assert!(
                            parsed.is_ok(),
                            "{name}: {request:?} was answered {answer:?}"
                        );
                        replies += 1;
                    }
                }
                requests.pop_front();
            }
        }
    }
    assert!(
        replies > 1000 && admin_replies > 20,
        "{replies} replies, {admin_replies} admin replies"
    );
}

#[test]
fn what_the_tracker_wrote_is_what_this_crate_would_write() {
    for (name, connections) in conversations() {
        for connection in connections {
            for answer in lines(&connection.sent_by(Side::Tracker)).0 {
                match reply::parse(answer.text()) {
                    Ok(Reply::Ok(fields)) => {
                        let again = fields.iter().fold(OkBuilder::new(), |line, field| {
                            let field_name = field.name_unescaped();
                            line.field(
                                str::from_utf8(&field_name).expect("ASCII"),
                                field.value_unescaped(),
                            )
                        });
                        assert_eq!(again.finish(), answer.raw(), "{name}");
                    }
                    Ok(Reply::Err(err)) => {
                        let (code, text) = (err.code, err.text_unescaped());
                        let callid = err.callid_unescaped();
                        let again = reply::err(
                            str::from_utf8(code).expect("ASCII"),
                            str::from_utf8(&text).expect("ASCII"),
                            callid.as_deref(),
                        );
                        assert_eq!(again, answer.raw(), "{name}");
                    }
                    Err(_) => {} // a line of the answer to a `!` command
                }
            }
        }
    }
}

/// file_info echoes the key that the tracker understood.
#[test]
fn keys_are_understood_as_the_tracker_understood_them() {
    let mut compared = 0;
    for (name, connections) in conversations() {
        for connection in connections {
            let (requests, _) = lines(&connection.sent_by(Side::Client));
            let (answers, _) = lines(&connection.sent_by(Side::Tracker));
            if requests.len() != answers.len() {
                continue;
            }
            for (request, answer) in requests.iter().zip(&answers) {
                let (Kind::Command(command), Ok(Reply::Ok(fields))) =
                    (request::parse(request.text()), reply::parse(answer.text()))
                else {
                    continue;
                };
                if command.is("file_info") {
                    assert_eq!(
                        command.args().get("key"),
                        fields.get("key"),
                        "{name}: {request:?}"
                    );
                    assert_eq!(
                        command.args().get("domain"),
                        fields.get("domain"),
                        "{name}: {request:?}"
                    );
                    compared += 1;
                }
                let asked = command.args().get("callid");
                assert_eq!(asked, fields.get("callid"), "{name}: {request:?}");
            }
        }
    }
    assert!(compared > 50, "only {compared} compared");
}

#[test]
fn every_argument_survives_a_round_trip() {
    for (_, connections) in conversations() {
        for connection in connections {
            for request in lines(&connection.sent_by(Side::Client)).0 {
                if let Kind::Command(command) = request::parse(request.text()) {
                    for arg in command.args().iter() {
                        let meant = arg.value_unescaped();
                        assert_eq!(unescape(escape(&meant).as_bytes()), meant);
                        let line = request::RequestBuilder::new("x")
                            .arg_escaped("key", arg.value)
                            .finish();
                        let args = Args::new(&line[2..line.len() - 2]);
                        assert_eq!(args.get("key"), Some(meant));
                    }
                }
            }
        }
    }
}
