//! The command line as a person meets it: help, exit codes, the log, `tracker`, and a demo that cannot start.

#![allow(clippy::unwrap_used, reason = "what panics in a test has failed it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use phylactery::ledger::embedded::EmbeddedLedger;
use phylactery::ledger::{DatacenterRecord, Ledger};
use phylactery::split::storage_urls;
use phylactery::trackers::Trackers;
use phylactery::version::wall_clock;
use serde_json::{Value, json};

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

const COMMANDS: [&[&str]; 23] = [
    &["run"],
    &["check-config"],
    &["schema"],
    &["schema", "print"],
    &["schema", "check"],
    &["demo"],
    &["tracker"],
    &["status"],
    &["file"],
    &["file", "show"],
    &["explain"],
    &["gaps"],
    &["placement"],
    &["placement", "show"],
    &["placement", "set"],
    &["placement", "remove"],
    &["dc"],
    &["dc", "show"],
    &["dc", "add"],
    &["dc", "pause"],
    &["dc", "resume"],
    &["dc", "remove"],
    &["dc", "rejoin"],
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
        &["explain", "demo"],
        &["explain", "demo", ""],
        &["explain", "demo", "."],
        &["placement"],
        &["placement", "set", "photos"],
        &["placement", "set", "photos", ""],
        &["placement", "set", "photos", "ma01,"],
        &["placement", "set", "photos", "MA01"],
        &["placement", "set", ":raw", "ma01"],
        &["placement", "set", "..", "ma01"],
        &["placement", "remove", ""],
        &["dc"],
        &["dc", "pause"],
        &["dc", "add", "MA01"],
        &["dc", "remove", "ma01", "--lost", "7"],
        &["demo", "--port-offset", "60000"],
        &["demo", "--port-offset", "-1"],
        &["tracker", "--dir", "/nowhere", "--listen", "here"],
        &["tracker", "--dir", "/nowhere", "--devices", "0"],
        &["status", "--api", "ftp://127.0.0.1"],
        &["schema"],
        &["schema", "print", "--keyspace", "a; DROP TABLE files"],
        &["schema", "print", "--keyspace", "Phylactery"],
        &["schema", "print", "--after", "77"],
        &["schema", "check"],
        &["schema", "check", "--config", "/nowhere/p.toml"],
        &["demo", "--ledger", "cassandra"],
        &["demo", "--ledger", "cassandra", "--contact-point", "::1"],
        &["demo", "--contact-point", "127.0.0.1"],
        &["demo", "--local-datacenter", "ma01"],
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

/// An offset whose ports nobody has, but for those of the tracker of tx01 and the storage of ma01, which are ours.
fn offset_of_a_demo() -> (u16, [TcpListener; 2]) {
    (1..200)
        .find_map(|n| {
            let offset = 20_000 + n * 131;
            let bind = |port: u16| TcpListener::bind(("127.0.0.1", port + offset)).ok();
            for port in [7001, 7002, 7011, 7512, 8080, 8081] {
                bind(port)?;
            }
            Some((offset, [bind(7012)?, bind(7511)?]))
        })
        .unwrap()
}

#[test]
fn a_demo_with_taken_ports_names_them_all_and_makes_nothing() {
    let (offset, _taken) = offset_of_a_demo();
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

#[test]
fn schema_print_prints_what_is_pasted_and_nothing_else() {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema");
    let mut files: Vec<_> = std::fs::read_dir(schema)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cql"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let all: String = files
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    let output = run(&["schema", "print"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), all);
    assert_eq!(text(&output.stderr), "");

    let output = run(&["schema", "print", "--keyspace", "ledger_2"]);
    assert_eq!(output.status.code(), Some(0));
    let other = text(&output.stdout);
    assert!(
        other.contains("CREATE KEYSPACE IF NOT EXISTS ledger_2\n"),
        "{other}"
    );
    assert!(other.contains("\nUSE ledger_2;\n"), "{other}");
    assert!(!other.contains("USE phylactery"), "{other}");

    // After the newest there is nothing, and that is said elsewhere.
    let newest = files.len().to_string();
    let output = run(&["schema", "print", "--after", &newest]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), "");
    assert!(
        text(&output.stderr).contains("nothing to paste"),
        "{output:?}"
    );
    let output = run(&["schema", "print", "--after", "0"]);
    assert_eq!(text(&output.stdout), all);
}

#[test]
fn half_a_schema_is_not_taken_for_a_whole_one() {
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = program()
        .args(["schema", "print"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        text(&output.stderr).contains("write to stdout"),
        "{output:?}"
    );
}

/// A configuration file with these trackers and this `[ledger]`, in a folder of its own.
fn configured(folder: &Path, trackers: &[SocketAddr], ledger: &str) -> PathBuf {
    let quoted = trackers.iter().map(|addr| format!("\"{addr}\""));
    let trackers: Vec<String> = quoted.collect();
    let file = folder.join("p.toml");
    let written = format!(
        "[datacenter]\nname = \"ma01\"\n[proxy]\ntrackers = [{}]\n[journal]\npath = \"journal\"\n[ledger]\n{ledger}\n",
        trackers.join(", ")
    );
    std::fs::write(&file, written).unwrap();
    file
}

/// An address where nobody listens, as long as this is held.
fn nobody() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// What is in a folder.
fn names(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
}

#[test]
fn check_config_connects_where_it_is_told_to_and_leaves_no_trace() {
    let store = tempfile::tempdir().unwrap();
    let (_tracker, address) = tracker(store.path());
    let folder = tempfile::tempdir().unwrap();
    let file = configured(folder.path(), &[address], "path = \"ledger.db\"");
    let check = |more: &[&str]| {
        let mut command = program();
        command.arg("check-config").args(more).arg(&file);
        command.output().unwrap()
    };
    let before = names(folder.path());
    let output = check(&["--connect"]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(told.contains("is good"), "{told}");
    assert!(
        told.contains("ledger.db reached: not there yet; the first process makes it"),
        "{told}"
    );
    assert!(
        told.contains(&format!("tracker     {address} reached: answers")),
        "{told}"
    );
    assert_eq!(text(&output.stderr), "");
    assert_eq!(names(folder.path()), before);

    drop(EmbeddedLedger::open(folder.path().join("ledger.db")).unwrap());
    let output = check(&["--connect", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["good"], true);
    assert_eq!(answer["config"]["datacenter"]["name"], "ma01");
    let reached = answer["reached"].as_array().unwrap();
    assert_eq!(reached[0]["part"], "ledger");
    assert_eq!(reached[0]["found"], "there, with tables of version 2");
    let tracker = json!({
        "part": "tracker", "at": address.to_string(), "good": true, "found": "answers", "wrong": null
    });
    let storage = json!({
        "part": "storage", "at": "1 nodes", "good": true, "found": "no other datacenter names one of them", "wrong": null
    });
    assert_eq!(reached[1..], [tracker, storage]);

    // Two datacenters that name one storage node destroy each other's files.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let trackers = Trackers::new(vec![address.to_string()], 1);
        let other = DatacenterRecord {
            name: "tx01".parse().unwrap(),
            trackers: Vec::new(),
            storage_hosts: storage_urls(&trackers.get_hosts().await.unwrap()),
            api: None,
            updated: wall_clock(),
        };
        let ledger = EmbeddedLedger::open(folder.path().join("ledger.db")).unwrap();
        ledger.set_datacenter(&other).await.unwrap();
    });
    let output = check(&["--connect"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = text(&output.stdout);
    assert!(
        told.contains("is a storage node of ma01 and of tx01 too"),
        "{told}"
    );
    let before = names(folder.path());
    check(&["--connect"]);
    assert_eq!(names(folder.path()), before);

    // Nothing is contacted by who was not asked to.
    let output = check(&["--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(answer.get("reached").is_none(), "{answer}");
}

#[test]
fn check_config_names_what_it_does_not_reach() {
    let (_held, dead) = nobody();
    // A listener that is no tracker: it hangs up on everybody.
    let rude = TcpListener::bind("127.0.0.1:0").unwrap();
    let stranger = rude.local_addr().unwrap();
    std::thread::spawn(move || rude.incoming().for_each(drop));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ledger.db"), "meow ".repeat(1000)).unwrap();
    let file = configured(folder.path(), &[dead, stranger], "path = \"ledger.db\"");
    let check = |more: &[&str]| {
        let mut command = program();
        command
            .args(["check-config", "--connect"])
            .args(more)
            .arg(&file);
        command.output().unwrap()
    };
    let output = check(&[]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    for words in [
        "is good".to_owned(),
        "ledger.db not reached: open the ledger".to_owned(),
        "(ledger.path)".to_owned(),
        format!("tracker     {dead} not reached: connect to tracker {dead}: Connection refused"),
        "is a tracker running there".to_owned(),
        format!("tracker     {stranger} not reached: "),
        "is that a tracker, and is it well?".to_owned(),
    ] {
        assert!(told.contains(&words), "no {words:?} in {told}");
    }

    let output = check(&["--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["good"], true);
    for reached in answer["reached"].as_array().unwrap() {
        assert_eq!(reached["good"], false, "{reached}");
        assert!(reached["found"].is_null(), "{reached}");
        assert!(
            reached["wrong"].as_str().unwrap().contains("; "),
            "{reached}"
        );
    }
    assert_eq!(answer["reached"].as_array().unwrap().len(), 3);
}

#[test]
fn a_cluster_that_is_not_there_is_told_with_what_to_look_at() {
    let (_held, dead) = nobody();
    let (_held_too, no_tracker) = nobody();
    let folder = tempfile::tempdir().unwrap();
    let ledger = format!(
        "kind = \"cassandra\"\ncontact_points = [\"{dead}\"]\nlocal_datacenter = \"ma01\"\nusername = \"phylactery\""
    );
    let file = configured(folder.path(), &[no_tracker], &ledger);
    let file = file.to_str().unwrap();
    let with_password = |arguments: &[&str]| {
        let mut command = program();
        command
            .args(arguments)
            .env("PHYLACTERY_LEDGER_PASSWORD", "correct horse");
        command.output().unwrap()
    };
    let output = with_password(&["check-config", "--connect", file]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        told.contains(&format!("ledger      {dead} not reached: ")),
        "{told}"
    );
    assert!(told.contains("does it listen there"), "{told}");

    let output = with_password(&["schema", "check", "--config", file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(text(&output.stdout), "");
    assert!(
        text(&output.stderr).contains("does it listen there"),
        "{output:?}"
    );

    let output = with_password(&["schema", "check", "--json", "--config", file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["good"], false);
    assert_eq!(answer["keyspace"], "phylactery");
    assert!(
        answer["wrong"]
            .as_str()
            .unwrap()
            .contains("does it listen there"),
        "{answer}"
    );
    let said = format!("{output:?}");
    assert!(!said.contains("correct horse"), "{said}");

    // Without a password nothing is tried.
    let output = run(&["schema", "check", "--config", file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        text(&output.stderr).contains("there is no password for \"phylactery\""),
        "{output:?}"
    );
}

#[test]
fn schema_check_is_for_cassandra() {
    let folder = tempfile::tempdir().unwrap();
    let (_held, dead) = nobody();
    let file = configured(folder.path(), &[dead], "path = \"ledger.db\"");
    let output = run(&["schema", "check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(
        text(&output.stderr).contains("the ledger is embedded"),
        "{output:?}"
    );
}

#[test]
fn a_demo_without_its_cluster_says_so_and_makes_nothing() {
    let (_held, dead) = nobody();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("demo");
    let (offset, ours) = offset_of_a_demo();
    drop(ours);
    for more in [&[][..], &["--local-datacenter", "ma01"]] {
        let output = program()
            .args(["demo", "--ledger", "cassandra", "--contact-point"])
            .arg(dead.to_string())
            .args(["--port-offset", &offset.to_string(), "--dir"])
            .arg(&dir)
            .args(more)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(
            text(&output.stderr).contains("does it listen there"),
            "{output:?}"
        );
        assert!(!dir.exists());
    }
}
