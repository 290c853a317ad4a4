//! `phylactery status`, `file show` and `gaps`, as programs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Output;
use std::sync::Arc;

use phylactery::file::FileName;
use phylactery::journal::Debts;
use phylactery::journal::debt::{LastError, Paying, SetAside};
use phylactery::ledger::{Expected, Gap};
use phylactery::repair::status::{
    LastError as LastOfWorker, Progress, ScanProgress, State, VerifyProgress, WorkerStatus,
};
use phylactery::trust::{Doubt, Why};
use phylactery::version::Version;
use serde_json::Value;

use crate::support::{Site, dc, site};

pub async fn ask(arguments: &[&[u8]]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_phylactery"));
    command.args(arguments.iter().map(|&bytes| OsStr::from_bytes(bytes)));
    command.output().await.unwrap()
}

pub async fn told(site: &Site, arguments: &[&[u8]]) -> String {
    let api = format!("http://{}/", site.address);
    let output = ask(&[arguments, &[b"--api", api.as_bytes()]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_file_is_shown_to_people_and_to_scripts() {
    let site = site().await;
    let file = FileName::from_bytes(b"photos", b"2026/a b+\xff");
    site.stored(&file).await;
    let text = told(&site, &[b"file", b"show", b"photos", b"2026/a b+\xff"]).await;
    assert!(text.contains("stored      in ma01, 20"), "{text}");
    assert!(text.contains("class archive, 5 bytes"), "{text}");
    assert!(text.contains("ma01        has it  fid 12"), "{text}");
    assert!(text.contains("tx01        is to get it"), "{text}");
    assert!(!text.contains('\x1b'), "colours in a pipe: {text:?}");

    let text = told(
        &site,
        &[b"file", b"show", b"--json", b"photos", b"2026/a b+\xff"],
    )
    .await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["missing"][0], "tx01");
    site.deleted(&file).await;
    let text = told(&site, &[b"file", b"show", b"photos", b"2026/a b+\xff"]).await;
    assert!(text.contains("deleted     in ma01"), "{text}");
}

#[tokio::test]
async fn an_unknown_file_is_a_failure() {
    let site = site().await;
    let api = format!("http://{}", site.address);
    let output = ask(&[
        b"file",
        b"show",
        b"photos",
        b"none",
        b"--api",
        api.as_bytes(),
    ])
    .await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: the ledger knows no file photos none\n"
    );
}

#[tokio::test]
async fn status_and_gaps_are_shown() {
    let site = site().await;
    site.said.4.lock().0.files_copied = 1234;
    let text = told(&site, &[b"status"]).await;
    assert!(text.contains("in sync     not proved yet"), "{text}");
    assert!(text.contains("journal     empty"), "{text}");
    assert!(text.contains("files copied 1,234"), "{text}");
    assert!(told(&site, &[b"gaps"]).await.contains("no gaps in ma01"));

    let gap = Gap {
        file: FileName::from_bytes(b"photos", b"cat.jpg"),
        since: Version(1_000_000),
        attempts: 3,
        last_error: "no source \x1b[2Jhas it".to_owned(),
        next_try: Version(2_000_000),
        observed: site.clock.stamp().unwrap(),
        expected: Expected::default(),
    };
    site.ledger.set_gap(&dc("ma01"), &gap).await.unwrap();
    let text = told(&site, &[b"gaps"]).await;
    assert!(text.contains("photos cat.jpg"), "{text}");
    assert!(text.contains("no source \u{fffd}[2Jhas it"), "{text:?}");
    let text = told(&site, &[b"gaps", b"--json"]).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["gaps"][0]["key"], "cat.jpg");
    let text = told(&site, &[b"status", b"--json"]).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["gaps"], 1);
}

#[tokio::test]
async fn debts_are_shown_when_there_are_some_within_80_columns() {
    let site = site().await;
    let text = told(&site, &[b"status"]).await;
    assert!(!text.contains("debts"), "{text}");

    let at = Version(1_800_000_000_123_456);
    *site.said.1.lock() = (
        Debts {
            count: 100_000,
            oldest: Some(at),
            collapsed_since: Some(at),
            walk: None,
        },
        Paying {
            paid: 0,
            failing_since: Some(at),
            last_error: Some(LastError {
                at,
                error: "write a file: the ledger is not available: not enough nodes are alive to satisfy \
                        consistency ALL, required 4, alive 3"
                    .to_owned(),
            }),
            walk_percent: Some(99.9),
            set_aside: 1,
            named: vec![SetAside {
                domain: "photos".to_owned(),
                key: "odd".to_owned(),
                why: "its head cannot be read".to_owned(),
            }],
        },
    );
    let text = told(&site, &[b"status"]).await;
    for wanted in [
        "  debts       100,000 not yet on every copy, since 2027-01-15T08:00:00.123456Z\n",
        "              all changes since 2027-01-15T08:00:00.123456Z, at 99 %\n",
        "              fails since 2027-01-15T08:00:00.123456Z\n",
        "required 4, alive 3",
        "set aside: photos odd: its head cannot be read",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
    }
    let shown = text.lines().filter(|line| !line.contains("ledger "));
    let long: Vec<_> = shown.filter(|line| line.chars().count() > 80).collect();
    assert!(long.is_empty(), "{long:#?}");

    // Everything may have collapsed, and nothing be owed by name.
    site.said.1.lock().0.count = 0;
    let text = told(&site, &[b"status"]).await;
    assert!(
        text.contains("  debts       all changes since 2027"),
        "{text}"
    );
}

#[tokio::test]
async fn a_scan_tells_how_fast_it_is_and_how_long_it_takes_within_80_columns() {
    let site = site().await;
    let scan = |done| WorkerStatus {
        name: "scan",
        state: State::Running,
        paused: false,
        files_per_second: None,
        rest: 0.0,
        done,
        failed: 0,
        last_error: None,
        progress: Progress::Scan(ScanProgress {
            percent: 12.4,
            began: Some(Version(1)),
            files_per_second: Some(3400.2),
            seconds_left: Some(110.0),
            ..ScanProgress::default()
        }),
    };
    site.said.4.lock().0.workers = vec![scan(9)];
    let text = told(&site, &[b"status"]).await;
    let line = "scan running, 9 done, 0 failed, at 12 %, 3,400 files/s, 2 min left\n";
    assert!(text.contains(line), "{text}");
    site.said.4.lock().0.workers = vec![scan(9_000_000_000)];
    let text = told(&site, &[b"status"]).await;
    let lines = "scan running, 9,000,000,000 done, 0 failed\n                \
                 at 12 %, 3,400 files/s, 2 min left\n";
    assert!(text.contains(lines), "{text}");
}

#[tokio::test]
async fn verify_tells_what_it_has_found_and_what_it_asks_within_80_columns() {
    let site = site().await;
    let asks = "100 of the last 100 files are missing or damaged here, more than repair.verify_most_missing = \"5%\"";
    site.said.4.lock().0.workers = vec![WorkerStatus {
        name: "verify",
        state: State::Asking,
        paused: false,
        files_per_second: None,
        rest: 0.0,
        done: 1000,
        failed: 0,
        last_error: Some(LastOfWorker {
            at: Version(5),
            error: asks.to_owned(),
        }),
        progress: Progress::Verify(VerifyProgress {
            percent: 12.4,
            began: Some(Version(1)),
            looked_at: 1000,
            missing: 20,
            brought_again: 19,
            asks: Some(asks.to_owned()),
            ..VerifyProgress::default()
        }),
    }];
    let text = told(&site, &[b"status"]).await;
    let lines = "verify asking, 1,000 done, 0 failed, at 12 %\n                \
                 of 1,000 looked at: 20 missing, 0 damaged, 19 brought again, 0\n                \
                 unsure\n                \
                 100 of the last 100 files are missing or damaged here, more than\n";
    assert!(text.contains(lines), "{text}");
    assert_eq!(text.matches("of the last 100").count(), 1, "{text}");
    let shown = text.lines().filter(|line| !line.contains("ledger "));
    let long: Vec<_> = shown.filter(|line| line.chars().count() > 80).collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[tokio::test]
async fn a_doubt_is_accepted_by_a_person_who_has_seen_it() {
    let site = site().await;
    let text = told(&site, &[b"accept"]).await;
    assert_eq!(text, "nothing is in doubt in ma01\n");
    *site.said.2.lock() = Some(Arc::new(Doubt {
        found: Version(16),
        why: Why::LedgerSteppedBack {
            confirmed: Version(2_000_000),
            shown: Some(Version(1_000_000)),
        },
    }));
    let text = told(&site, &[b"status"]).await;
    assert!(
        text.contains(
            "doubt       the ledger has stepped back: it shows this node as of 1970-01-01T00:00:01"
        ),
        "{text}"
    );
    assert!(text.contains("see `phylactery accept`"), "{text}");
    let text = told(&site, &[b"accept"]).await;
    assert!(text.contains("In ma01 repair has stopped"), "{text}");
    assert!(text.contains("the ledger has stepped back"), "{text}");
    assert!(
        text.contains("You say that this ledger is the one to go by"),
        "{text}"
    );
    assert!(text.contains("--yes accepts it"), "{text}");
    assert!(site.said.2.lock().is_some(), "accepted without --yes");
    let text = told(&site, &[b"accept", b"--json"]).await;
    let doubt: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(doubt["id"], "ledger-stepped-back-10");
    let text = told(&site, &[b"accept", b"--yes"]).await;
    assert!(
        text.ends_with("Accepted; repair goes on as soon as the ledger answers.\n"),
        "{text}"
    );
    assert!(site.said.2.lock().is_none());
    let text = told(&site, &[b"accept", b"--yes"]).await;
    assert_eq!(text, "nothing is in doubt in ma01\n");
}

#[tokio::test]
async fn an_api_that_is_not_there_or_is_another_service() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let api = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    for command in [
        &[&b"status"[..]][..],
        &[b"gaps"],
        &[b"file", b"show", b"d", b"k"],
        &[b"explain", b"d", b"k"],
        &[b"placement", b"set", b"d", b"ma01"],
    ] {
        let output = ask(&[command, &[b"--api", api.as_bytes()]].concat()).await;
        assert_eq!(output.status.code(), Some(69), "{output:?}");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(
            errors.starts_with(&format!(
                "error: cannot reach the API at {api}: Connection refused"
            )),
            "{errors}"
        );
        assert!(errors.contains("is `phylactery run`"), "{errors}");
    }
    let output = ask(&[b"status", b"--api", b"somewhere"]).await;
    assert_eq!(output.status.code(), Some(64), "{output:?}");

    let other = axum::Router::new().fallback(|| async { "<html>hello</html>" });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, other).await });
    let output = ask(&[b"status", b"--api", api.as_bytes()]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("another service"),
        "{output:?}"
    );
}
