//! The line protocol where recordings do not go: limits, many clients, stopping.

#![allow(
    clippy::unwrap_used,
    reason = "a test panics when something is not as it should be"
)]

mod tracker_support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use tracker_support::{Running, config, start};

fn connect(running: &Running) -> TcpStream {
    let stream = TcpStream::connect(running.tracker.addr()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// Sends bytes, says that this was all, and reads what comes.
fn talk(running: &Running, sent: &[u8]) -> String {
    let mut stream = connect(running);
    stream.write_all(sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_lines_get_the_trackers_own_answers() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path())).await;
    for (sent, expected) in [
        (
            &b"\0\0\r\n"[..],
            "ERR unknown_command Unknown+server+command\r\n",
        ),
        (
            b"no\rop\n",
            "ERR unknown_command Unknown+server+command\r\n",
        ),
        (b"noop callid=%zz%\r\n", "OK callid=%25zz%25\r\n"),
        (b"noop callid=a&callid=b\n", "OK callid=a%00b\r\n"),
        (
            b"file_info domain=photos&key=%\r\n",
            "ERR unknown_key unknown_key\r\n",
        ),
        (
            b"create_open domain=photos&fid=-1\n",
            "ERR fid_in_use fid_in_use\r\n",
        ),
        (
            b"create_open domain=photos&fid=99999999999999999999\n",
            "ERR db Database+error\r\n",
        ),
        (
            b"create_close domain=photos&fid=1&devid=99999999999&path=x\n",
            "ERR bogus_args bogus_args\r\n",
        ),
        (
            b"set_state host=node1&device=-1&state=down\n",
            "ERR no_device Device+not+found\r\n",
        ),
        (b"noop", ""),
    ] {
        assert_eq!(talk(&running, sent), expected, "{}", sent.escape_ascii());
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_past_the_limit_is_refused_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut short = config(dir.path());
    short.max_line = 1000;
    let running = start(short).await;
    let padded = |length: usize| [b"noop a=", &vec![b'x'; length - 7][..], b"\r\n"].concat();
    assert_eq!(talk(&running, &padded(1000)), "OK \r\n");
    let refusal = "ERR line_too_long A+line+may+have+1000+bytes\r\n";
    assert_eq!(
        talk(
            &running,
            &[&b"noop\n"[..], &padded(1001), b"noop\n"].concat()
        ),
        format!("OK \r\n{refusal}")
    );
    // Without an end, and much more than the limit.
    assert_eq!(talk(&running, &vec![b'x'; 3 << 20]), refusal);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path())).await;
    let mut sent = String::new();
    let mut expected = String::new();
    for n in 0..2000 {
        if n % 100 == 0 {
            sent.push_str("!queue\r\n");
            expected.push_str(".\r\n");
        }
        sent.push_str(&format!("noop callid={n}\n"));
        expected.push_str(&format!("OK callid={n}\r\n"));
    }
    assert_eq!(talk(&running, sent.as_bytes()), expected);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_do_not_disturb() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path())).await;
    let idle: Vec<TcpStream> = (0..300).map(|_| connect(&running)).collect();
    // All workers asleep: admin commands are answered all the same.
    let mut sleepers: Vec<TcpStream> = (0..20).map(|_| connect(&running)).collect();
    for sleeper in &mut sleepers {
        sleeper.write_all(b"sleep duration=1\n").unwrap();
    }
    let begun = Instant::now();
    assert!(talk(&running, b"!version\n").starts_with("2.73 "));
    assert!(begun.elapsed() < Duration::from_millis(900));
    assert_eq!(talk(&running, b"noop\n"), "OK \r\n");
    for mut stream in idle {
        stream.write_all(b"noop\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert_eq!(line, "OK \r\n");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_by_a_client_ends_connections() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path())).await;
    let mut bystander = connect(&running);
    let address = running.tracker.addr();
    assert_eq!(talk(&running, b"!shutdown\n"), "");
    let mut rest = Vec::new();
    bystander.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    running.tracker.stopped().await;
    assert!(TcpStream::connect(address).is_err());
}
