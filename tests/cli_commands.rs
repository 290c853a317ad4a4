//! The command line as a person meets it: help, exit codes, the log, `tracker`, and a demo that cannot start.

#![allow(clippy::unwrap_used, reason = "what panics in a test has failed it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phylactery"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A child that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Running {
    fn signal(&self, signal: i32) {
        #[expect(unsafe_code, reason = "a signal to our own child")]
        let sent = unsafe { libc::kill(self.0.id() as i32, signal) };
        assert_eq!(sent, 0);
    }

    fn ends_with(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

const COMMANDS: [&[&str]; 8] = [
    &["run"],
    &["check-config"],
    &["demo"],
    &["tracker"],
    &["status"],
    &["file"],
    &["file", "show"],
    &["gaps"],
];

#[test]
fn help_names_every_command_and_each_has_its_own() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for command in COMMANDS {
        assert!(
            help.contains(&format!("\n  {}  ", command[0])),
            "{command:?} in {help}"
        );
        let own = run(&[command, &["--help"]].concat());
        assert_eq!(own.status.code(), Some(0), "{command:?}");
        let own = text(&own.stdout);
        assert!(own.contains("Usage: phylactery"), "{own}");
        // A short line, and a longer paragraph.
        assert!(
            own.split("\n\n")
                .nth(1)
                .is_some_and(|paragraph| paragraph.len() > 60),
            "{own}"
        );
    }
    for word in ["64", "69", "phylactery demo"] {
        assert!(help.contains(word), "{word}");
    }
}

#[test]
fn a_wrong_command_line_ends_with_64() {
    for arguments in [
        &["stats"][..],
        &[],
        &["file"],
        &["run"],
        &["run", "--config"],
        &["file", "show", "demo"],
        &["file", "show", "demo", ""],
        &["file", "show", "demo", ".."],
        &["demo", "--port-offset", "60000"],
        &["demo", "--port-offset", "-1"],
        &["tracker", "--dir", "/nowhere", "--listen", "here"],
        &["tracker", "--dir", "/nowhere", "--devices", "0"],
        &["status", "--api", "ftp://127.0.0.1"],
        &["status", "--log", "loudly=very=1"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {output:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn rust_log_that_makes_no_sense_is_told() {
    let output = program()
        .arg("status")
        .env("RUST_LOG", "a=b=c")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(
        text(&output.stderr).starts_with("error: RUST_LOG is \"a=b=c\""),
        "{output:?}"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_crash() {
    let mut child = program()
        .arg("--help")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!text(&output.stderr).contains("panicked"), "{output:?}");
    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/config/good.toml");
    let mut child = program()
        .arg("check-config")
        .arg(good)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn a_demo_with_taken_ports_names_them_all_and_makes_nothing() {
    // An offset whose ports nobody has, but for the two that we take.
    let (offset, _taken) = (1..200)
        .find_map(|n| {
            let offset = 20_000 + n * 131;
            let bind = |port: u16| TcpListener::bind(("127.0.0.1", port + offset)).ok();
            for port in [7001, 7002, 7011, 7512, 8080, 8081] {
                bind(port)?;
            }
            Some((offset, (bind(7012)?, bind(7511)?)))
        })
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("demo");
    let output = program()
        .args(["demo", "--port-offset", &offset.to_string(), "--dir"])
        .arg(&dir)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    let (tracker, storage) = (7012 + offset, 7511 + offset);
    assert!(
        errors.contains(&format!("127.0.0.1:{tracker}, for the tracker of tx01")),
        "{errors}"
    );
    assert!(
        errors.contains(&format!("127.0.0.1:{storage}, for the storage of ma01")),
        "{errors}"
    );
    assert!(errors.contains("--port-offset"), "{errors}");
    assert!(!dir.exists());
}

/// Starts `phylactery tracker` on free ports, with a domain `photos`.
fn tracker(dir: &Path) -> (Running, SocketAddr) {
    let free = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let (listen, storage) = (free(), free());
    let child = program()
        .args(["tracker", "--domain", "photos", "--devices", "3"])
        .args([
            "--listen",
            &listen.to_string(),
            "--storage-listen",
            &storage.to_string(),
            "--dir",
        ])
        .arg(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let child = Running(child);
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(listen).is_err() {
        assert!(Instant::now() < deadline, "the tracker does not answer");
        std::thread::sleep(Duration::from_millis(10));
    }
    (child, listen)
}

fn request(address: SocketAddr, line: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}

#[test]
fn a_tracker_serves_what_it_was_told_and_stops_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("store");
    let (mut child, address) = tracker(&dir);
    assert!(request(address, "get_domains").contains("domain1=photos"));
    assert!(request(address, "get_devices").contains("devices=3"));
    // A second one on the same folder says so.
    let output = program()
        .args([
            "tracker",
            "--listen",
            "127.0.0.1:0",
            "--storage-listen",
            "127.0.0.1:0",
            "--dir",
        ])
        .arg(&dir)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("in use by another tracker"),
        "{output:?}"
    );

    child.signal(libc::SIGTERM);
    assert_eq!(child.ends_with(), Some(0));
}

#[test]
fn a_tracker_stops_when_a_client_says_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, address) = tracker(folder.path());
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"!shutdown\r\n").unwrap();
    let mut rest = Vec::new();
    let _closed_somehow = stream.read_to_end(&mut rest);
    assert_eq!(child.ends_with(), Some(0));
}

/// What the tracker says of itself.
fn stats(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"!stats\r\n").unwrap();
    let mut told = String::new();
    let mut lines = BufReader::new(stream);
    while !told.ends_with("\r\n.\r\n") {
        assert!(lines.read_line(&mut told).unwrap() > 0, "{told}");
    }
    told
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, address) = tracker(folder.path());
    // A request that keeps the tracker from ending by itself.
    let mut busy = TcpStream::connect(address).unwrap();
    busy.write_all(b"sleep duration=30\r\n").unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !stats(address).contains("processing_queries 1") {
        assert!(Instant::now() < deadline, "{}", stats(address));
        std::thread::sleep(Duration::from_millis(5));
    }
    child.signal(libc::SIGTERM);
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline, "it still accepts");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        child.0.try_wait().unwrap().is_none(),
        "it did not wait for the request"
    );
    child.signal(libc::SIGTERM);
    assert_eq!(child.ends_with(), Some(128 + libc::SIGTERM));
}
