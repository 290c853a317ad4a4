//! `phylactery demo` as a new user meets it: the two lines that it prints to try are run as they are printed.

#![allow(clippy::unwrap_used, reason = "what panics in a test has failed it")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a condition may take to come true. Generous: it is only used up by a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running demo, the lines that it has printed, and those of its log.
struct Demo {
    child: Child,
    lines: Lines,
    told: Lines,
}

type Lines = Arc<Mutex<Vec<String>>>;

/// Keeps the lines of a stream as they come.
fn keep(stream: impl std::io::Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let printed = Arc::clone(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            printed.lock().push(line);
        }
    });
    lines
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Demo {
    fn start(dir: &Path, offset: u16) -> Demo {
        let mut child = Command::new(env!("CARGO_BIN_EXE_phylactery"))
            .args(["demo", "--port-offset", &offset.to_string(), "--dir"])
            .arg(dir)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = keep(child.stdout.take().unwrap());
        let told = keep(child.stderr.take().unwrap());
        let demo = Demo { child, lines, told };
        demo.line_with("What happens");
        demo
    }

    /// Waits for a line that contains all of this.
    fn line_with(&self, words: &str) -> String {
        self.line_in(&self.lines, words)
    }

    fn line_in(&self, lines: &Lines, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = |line: &&String| words.split('…').all(|part| line.contains(part));
            if let Some(line) = lines.lock().iter().find(found) {
                return line.clone();
            }
            assert!(
                Instant::now() < deadline,
                "no {words:?} in {:#?}\n{:#?}",
                self.lines.lock(),
                self.told.lock()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The printed lines from one with `first` to one with `last`, as one would copy them.
    fn lines_from(&self, first: &str, last: &str) -> String {
        self.line_with(last);
        let lines = self.lines.lock();
        let from = lines.iter().position(|line| line.contains(first)).unwrap();
        let to = lines.iter().position(|line| line.contains(last)).unwrap();
        lines[from..=to].join("\n")
    }

    fn interrupt(mut self) -> Option<i32> {
        #[expect(unsafe_code, reason = "a signal to our own child")]
        let sent = unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) };
        assert_eq!(sent, 0);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the demo does not stop");
    }
}

/// An offset with which all ports are free, and that no other test of this process was given.
fn free_offset() -> u16 {
    let ports = [7001, 7002, 7011, 7012, 7511, 7512, 8080, 8081];
    let free = |offset: &u16| {
        let all: Vec<_> = ports
            .iter()
            .map(|port| TcpListener::bind(("127.0.0.1", port + offset)))
            .collect();
        all.iter().all(Result::is_ok)
    };
    // Below the ports that the system hands out by itself.
    static LAST: std::sync::Mutex<u16> = std::sync::Mutex::new(3000);
    let mut last = LAST.lock().unwrap();
    *last = (*last + 97..24_000).step_by(97).find(free).unwrap();
    *last
}

/// Runs a line as a person would who pastes it, with the Python that has pymogilefs.
fn paste(line: &str) -> Output {
    let python = std::env::var("PHYLACTERY_TEST_PYTHON").unwrap_or_else(|_| {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
        assert!(
            built.exists(),
            "pymogilefs is not installed: run tests/run once, it installs what the tests need"
        );
        built.display().to_string()
    });
    let line = line.trim().replacen("python3", &python, 1);
    Command::new("sh").args(["-c", &line]).output().unwrap()
}

#[test]
fn the_printed_lines_work_and_a_restart_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let offset = free_offset();
    let demo = Demo::start(folder.path(), offset);
    demo.line_with(&folder.path().display().to_string());
    for port in [7001, 7002, 7011, 7012, 7511, 7512, 8080, 8081] {
        demo.line_with(&format!("127.0.0.1:{}", port + offset));
    }
    let store = demo.lines_from("python3 -c", "store_file");
    let show = demo.line_with("file show demo hello");
    let output = paste(&store);
    assert!(output.status.success(), "{store}: {output:?}");
    let size = std::fs::metadata("/etc/hostname").unwrap().len();
    demo.line_with(&format!("ma01  stored…demo/hello  {size} byte"));
    demo.line_with("tx01  copied in…demo/hello…from ma01");

    let show_it = || {
        let output = paste(&format!("{show} --json"));
        assert!(output.status.success(), "{show}: {output:?}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let deadline = Instant::now() + PATIENCE;
    let before = loop {
        let file = show_it();
        if file["missing"] == serde_json::json!([]) {
            break file;
        }
        assert!(Instant::now() < deadline, "{file:#}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(before["due"], serde_json::json!(["ma01", "tx01"]));
    assert_eq!(
        before["replicas"]["ma01"]["content"],
        before["replicas"]["tx01"]["content"]
    );

    // Another demo on the same folder is refused, whatever its ports.
    let second = Command::new(env!("CARGO_BIN_EXE_phylactery"))
        .args(["demo", "--port-offset", &free_offset().to_string(), "--dir"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let errors = String::from_utf8(second.stderr).unwrap();
    assert!(errors.contains("another demo runs on"), "{errors}");

    assert_eq!(demo.interrupt(), Some(0));
    let demo = Demo::start(folder.path(), offset);
    assert_eq!(show_it()["head"], before["head"]);
    let delete = store.replace(
        ".store_file(open(\"/etc/hostname\", \"rb\"), \"hello\")",
        ".delete_file(\"hello\")",
    );
    assert_ne!(delete, store);
    let output = paste(&delete);
    assert!(output.status.success(), "{delete}: {output:?}");
    demo.line_with("ma01  deleted  …demo/hello");
    demo.line_with("tx01  deleted here too…demo/hello");
    assert_eq!(demo.interrupt(), Some(0));
}

#[test]
fn a_journal_that_was_removed_is_told_and_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let offset = free_offset();
    let demo = Demo::start(folder.path(), offset);
    let ledger = rusqlite::Connection::open(folder.path().join("ledger.db")).unwrap();
    ledger.busy_timeout(Duration::from_secs(5)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    // Both have spoken.
    while ledger
        .query_row("SELECT count(*) FROM nodes", [], |row| row.get::<_, i64>(0))
        .unwrap()
        < 2
    {
        assert!(Instant::now() < deadline, "{:#?}", demo.told.lock());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(demo.interrupt(), Some(0));
    std::fs::remove_dir_all(folder.path().join("tx01/journal")).unwrap();
    let demo = Demo::start(folder.path(), offset);
    let api = format!("http://127.0.0.1:{}", 8081 + offset);
    let told = demo.line_in(&demo.told, "repair has stopped in tx01…another journal");
    assert!(
        told.contains(&format!("phylactery accept --api {api}")),
        "{told}"
    );
    let output = Command::new(env!("CARGO_BIN_EXE_phylactery"))
        .args(["accept", "--yes", "--api", &api])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("repair goes on"), "{said}");
    let all = demo.told.lock().join("\n");
    assert!(!all.contains("stopped in ma01"), "{all}");
    assert_eq!(demo.interrupt(), Some(0));
}
