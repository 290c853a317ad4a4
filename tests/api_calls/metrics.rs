//! `/metrics`, read as strictly as Prometheus and its linter do, and stricter where our own names have rules.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use phylactery::api::Proof;
use phylactery::file::FileName;
use phylactery::journal::debt::Paying;
use phylactery::journal::{Debts, Depth, Refused};
use phylactery::ledger::{Expected, Gap};
use phylactery::proxy::{Stats, TrackerStats};
use phylactery::repair::status::{
    LagFrom, LagStatus, Progress, ScanProgress, State, Status, StreamProgress, VerifyProgress,
    WorkerStatus,
};
use phylactery::trust::{Doubt, Why};
use phylactery::version::{Version, wall_clock};

use crate::support::{Site, client, dc, site, site_with};
use crate::unavailable::Unavailable;

/// A scrape: the values by name and labels, as in `name{label="value"}`, without the `phylactery_` of all names.
type Scrape = BTreeMap<String, f64>;

async fn scrape(site: &Site) -> Scrape {
    let answer = client().get(site.url("/metrics")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    read(&answer.text().await.unwrap())
}

/// Reads a whole answer, and panics where anything is not as it should be.
fn read(text: &str) -> Scrape {
    assert!(text.ends_with('\n'), "the last line does not end");
    let mut scrape = Scrape::new();
    let mut families = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let help = line.strip_prefix("# HELP ");
        let help = help.unwrap_or_else(|| panic!("no HELP where one is due: {line}"));
        let (name, help) = help.split_once(' ').unwrap();
        check_name(name);
        assert!(!families.contains(&name), "{name} is told twice");
        families.push(name);
        assert!(
            help.contains("Healthy: "),
            "what is healthy? {name}: {help}"
        );
        let kind = lines.next().unwrap();
        match kind.strip_prefix(&format!("# TYPE {name} ")) {
            Some("counter") => assert!(name.ends_with("_total"), "{name}"),
            Some("gauge" | "histogram") => assert!(!name.ends_with("_total"), "{name}"),
            _ => panic!("no TYPE of {name}: {kind}"),
        }
        let before = scrape.len();
        while let Some(sample) = lines.next_if(|line| !line.starts_with('#')) {
            let (series, value) = sample.rsplit_once(' ').unwrap();
            let of = check_labels(series);
            let of = match kind.ends_with("histogram") {
                true => ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|part| of.strip_suffix(part))
                    .unwrap_or_else(|| panic!("{sample}")),
                false => of,
            };
            assert_eq!(of, name, "{sample}");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{sample}"));
            assert!(value.is_finite(), "{sample}");
            let series = series.strip_prefix("phylactery_").unwrap().to_owned();
            assert_eq!(scrape.insert(series, value), None, "twice: {sample}");
        }
        assert!(scrape.len() > before, "no sample of {name}");
    }
    scrape
}

/// Words in lower case, in base units only.
fn check_name(name: &str) {
    let words: Vec<&str> = name.split('_').collect();
    assert_eq!(words[0], "phylactery", "{name}");
    assert!(words.len() >= 3, "no part or nothing of it: {name}");
    for word in words {
        let plain = !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
        assert!(plain, "{name}");
        let other_units = [
            "ms",
            "us",
            "milliseconds",
            "microseconds",
            "minutes",
            "hours",
            "days",
            "kb",
            "mb",
            "gb",
            "kilobytes",
            "megabytes",
            "percent",
        ];
        assert!(!other_units.contains(&word), "{name}");
    }
}

/// The name of a series whose labels, if any, are well written.
fn check_labels(series: &str) -> &str {
    let Some((name, rest)) = series.split_once('{') else {
        return series;
    };
    let mut rest = rest;
    loop {
        let (label, after) = rest.split_once("=\"").unwrap();
        let plain = !label.is_empty() && label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(plain, "{series}");
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("no end: {series}")) {
                (at, '"') => break at,
                (_, '\\') => {
                    let escaped = chars.next().map(|(_, escaped)| escaped);
                    assert!(matches!(escaped, Some('\\' | '"' | 'n')), "{series}");
                }
                _ => {}
            }
        };
        match &after[end + 1..] {
            "}" => return name,
            more => rest = more.strip_prefix(',').unwrap_or_else(|| panic!("{series}")),
        }
    }
}

const SECOND: i64 = 1_000_000;

fn worker(name: &'static str, state: State, progress: Progress) -> WorkerStatus {
    WorkerStatus {
        name,
        state,
        paused: false,
        files_per_second: None,
        rest: 0.0,
        done: 70,
        failed: 7,
        last_error: None,
        progress,
    }
}

/// A node with something to tell of every part.
async fn busy() -> Site {
    let site = site().await;
    let ago = |seconds: i64| Some(Version(wall_clock().0 - seconds * SECOND));
    let at = |seconds: i64| Some(Version(seconds * SECOND));
    *site.said.0.lock() = (
        Depth {
            entries: 3,
            open: 1,
            bytes: 300,
            oldest: ago(500),
            oldest_open: ago(100),
        },
        Some(Refused::Full { bytes: 300 }),
        Proof {
            in_sync: true,
            proved_at: at(1_800_000_000),
        },
    );
    *site.said.1.lock() = (
        Debts {
            count: 40,
            oldest: ago(900),
            collapsed_since: Some(Version(1_800_000_001_500_000)),
            walk: None,
        },
        Paying {
            paid: 41,
            failing_since: at(1_800_000_002),
            last_error: None,
            walk_percent: Some(25.0),
            set_aside: 2,
            named: Vec::new(),
        },
    );
    let stream = StreamProgress {
        cursor: 5,
        last_number: 17,
        behind: 12,
        in_flight: 1,
        hole: Some(6),
        oldest_pending: None,
        heartbeat: Version(1_800_000_003 * SECOND),
        complete_until: Version(0),
    };
    let scan = ScanProgress {
        percent: 12.5,
        began: at(1),
        ended: at(1_800_000_004),
        ended_scan_began: at(2),
        thorough_scan_began: at(2),
        files_per_second: Some(3400.5),
        seconds_left: Some(120.0),
        purged: 9,
    };
    let verify = VerifyProgress {
        percent: 50.0,
        began: at(3),
        ended: at(1_800_000_005),
        files_per_second: Some(49.5),
        seconds_left: Some(60.0),
        looked_at: 900,
        missing: 70,
        damaged: 8,
        brought_again: 77,
        unsure: 6,
        stopped: at(1_800_000_006),
        asks: Some("whether it is so".to_owned()),
    };
    let mut lag = LagFrom {
        changes: 9,
        sum: Duration::from_secs(100_000),
        ..LagFrom::default()
    };
    // In a tenth of a second, in fifteen minutes, in more than a day.
    for (step, changes) in [(0, 6), (11, 2), (16, 1)] {
        lag.steps[step] = changes;
    }
    let unheard_of = StreamProgress::default();
    let streams = [("tx01/node1/5f0c", stream), ("or01/node1/77aa", unheard_of)];
    let streams = streams.map(|(name, progress)| (name.to_owned(), progress));
    *site.said.4.lock() = (
        Status {
            workers: vec![
                worker("tail", State::Running, Progress::Tail(streams.into())),
                worker("retry", State::Idle, Progress::None),
                worker("scan", State::WaitingForLedger, Progress::Scan(scan)),
                worker("verify", State::Asking, Progress::Verify(verify)),
            ],
            copies_in_flight: 4,
            files_copied: 50,
            bytes_copied: 5_000_000_000_000_001,
            caught_up: None,
            clocks: Default::default(),
            lag: LagStatus {
                from: [("tx01".to_owned(), lag)].into(),
                missed: 31,
                came_late: 30,
                oldest_pending: ago(70),
            },
        },
        Stats {
            connections: 10,
            accepted: 110,
            turned_away: 12,
            requests: 1300,
            mutations: 140,
            refused_mutations: 15,
            upstream_in_use: 6,
            upstream_idle: 17,
            dedicated: 8,
            trackers: [("10.1.0.5:7001", true), ("10.1.0.6:7001", false)]
                .map(|(name, up)| TrackerStats {
                    name: name.to_owned(),
                    up,
                    last_error: None,
                })
                .to_vec(),
        },
    );
    site
}

#[tokio::test]
async fn a_scrape_tells_all_that_the_parts_say_and_nothing_else() {
    let site = busy().await;
    let mut scrape = scrape(&site).await;
    for (age, seconds) in [
        ("journal_oldest_undelivered_age_seconds", 500.0),
        ("journal_oldest_open_intent_age_seconds", 100.0),
        ("debts_oldest_age_seconds", 900.0),
        ("oldest_not_applied_age_seconds", 70.0),
    ] {
        let told = scrape.remove(age).unwrap();
        assert!((seconds..seconds + 60.0).contains(&told), "{age} {told}");
    }
    let version = format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(scrape.remove(&version), Some(1.0));
    for worker in ["tail", "retry", "scan", "verify"] {
        for (figure, value) in [("done_files", 70.0), ("failed_attempts", 7.0)] {
            let series = format!("repair_{figure}_total{{worker=\"{worker}\"}}");
            assert_eq!(scrape.remove(&series), Some(value), "{series}");
        }
        for state in [
            "running",
            "idle",
            "paused",
            "waiting_for_ledger",
            "stopped",
            "asking",
        ] {
            let is = [
                ("tail", "running"),
                ("retry", "idle"),
                ("scan", "waiting_for_ledger"),
                ("verify", "asking"),
            ]
            .contains(&(worker, state));
            let series = format!("repair_worker_state{{worker=\"{worker}\",state=\"{state}\"}}");
            assert_eq!(
                scrape.remove(&series),
                Some(f64::from(u8::from(is))),
                "{series}"
            );
        }
    }
    let mut lag = |part: &str, le: Option<&str>| {
        let le = le.map_or(String::new(), |le| format!(",le=\"{le}\""));
        let series = format!("repair_lag_seconds_{part}{{from=\"tx01\",to=\"ma01\"{le}}}");
        scrape
            .remove(&series)
            .unwrap_or_else(|| panic!("no {series} in {scrape:#?}"))
    };
    assert_eq!((lag("count", None), lag("sum", None)), (9.0, 100_000.0));
    let ends = [
        "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "30", "60", "120", "300",
    ];
    for end in ends {
        assert_eq!(lag("bucket", Some(end)), 6.0, "{end}");
    }
    for end in ["900", "1800", "3600", "14400", "86400"] {
        assert_eq!(lag("bucket", Some(end)), 8.0, "{end}");
    }
    assert_eq!(lag("bucket", Some("+Inf")), 9.0);
    let expected = [
        ("repair_missed_goal_files_total", 31.0),
        ("repair_came_late_files_total", 30.0),
        ("node_info{datacenter=\"ma01\",node=\"node1\"}", 1.0),
        ("proof_in_sync", 1.0),
        ("proof_as_of_timestamp_seconds", 1_800_000_000.0),
        ("gaps_files", 0.0),
        ("trust_in_doubt", 0.0),
        ("journal_undelivered_entries", 3.0),
        ("journal_open_intents", 1.0),
        ("journal_undelivered_bytes", 300.0),
        ("journal_refusing_mutations", 1.0),
        ("debts_owed_files", 40.0),
        ("debts_collapsed_since_timestamp_seconds", 1_800_000_001.5),
        ("debts_walk_progress_ratio", 0.25),
        ("debts_paid_files_total", 41.0),
        ("debts_failing_since_timestamp_seconds", 1_800_000_002.0),
        ("debts_set_aside_files", 2.0),
        ("ledger_up", 1.0),
        ("repair_copies_in_flight", 4.0),
        ("repair_copied_files_total", 50.0),
        ("repair_copied_bytes_total", 5_000_000_000_000_001.0),
        (
            "repair_stream_behind_changes{stream=\"tx01/node1/5f0c\"}",
            12.0,
        ),
        (
            "repair_stream_behind_changes{stream=\"or01/node1/77aa\"}",
            0.0,
        ),
        ("repair_stream_hole{stream=\"tx01/node1/5f0c\"}", 1.0),
        ("repair_stream_hole{stream=\"or01/node1/77aa\"}", 0.0),
        (
            "repair_stream_heartbeat_timestamp_seconds{stream=\"tx01/node1/5f0c\"}",
            1_800_000_003.0,
        ),
        ("repair_scan_progress_ratio", 0.125),
        ("repair_scan_files_per_second", 3400.5),
        ("repair_scan_left_seconds", 120.0),
        ("repair_scan_ended_timestamp_seconds", 1_800_000_004.0),
        ("repair_scan_purged_files_total", 9.0),
        ("repair_verify_progress_ratio", 0.5),
        ("repair_verify_files_per_second", 49.5),
        ("repair_verify_left_seconds", 60.0),
        ("repair_verify_ended_timestamp_seconds", 1_800_000_005.0),
        ("repair_verify_stopped_timestamp_seconds", 1_800_000_006.0),
        ("repair_verify_looked_at_files", 900.0),
        ("repair_verify_missing_files", 70.0),
        ("repair_verify_damaged_files", 8.0),
        ("repair_verify_brought_again_files", 77.0),
        ("repair_verify_unsure_files", 6.0),
        ("proxy_connections", 10.0),
        ("proxy_dedicated_connections", 8.0),
        ("proxy_accepted_connections_total", 110.0),
        ("proxy_turned_away_connections_total", 12.0),
        ("proxy_requests_total", 1300.0),
        ("proxy_mutations_total", 140.0),
        ("proxy_refused_mutations_total", 15.0),
        ("proxy_upstream_connections{state=\"in_use\"}", 6.0),
        ("proxy_upstream_connections{state=\"idle\"}", 17.0),
        ("proxy_tracker_up{tracker=\"10.1.0.5:7001\"}", 1.0),
        ("proxy_tracker_up{tracker=\"10.1.0.6:7001\"}", 0.0),
    ];
    let expected: Scrape = expected
        .map(|(series, value)| (series.to_owned(), value))
        .into();
    assert_eq!(scrape, expected);
}

#[tokio::test]
async fn what_is_not_known_yet_is_absent() {
    let site = site().await;
    let scrape = scrape(&site).await;
    for absent in [
        "proof_as_of_timestamp_seconds",
        "debts_collapsed_since_timestamp_seconds",
        "debts_walk_progress_ratio",
        "debts_failing_since_timestamp_seconds",
        "ledger_nodes",
        "ledger_unreachable_nodes",
        "repair_lag",
        "repair_scan",
        "repair_stream",
        "repair_verify",
        "proxy_tracker_up",
    ] {
        let told: Vec<_> = scrape
            .keys()
            .filter(|series| series.starts_with(absent))
            .collect();
        assert!(told.is_empty(), "{told:?}");
    }
    for (none, value) in [
        ("proof_in_sync", 0.0),
        ("journal_undelivered_entries", 0.0),
        ("journal_oldest_undelivered_age_seconds", 0.0),
        ("debts_oldest_age_seconds", 0.0),
        ("gaps_files", 0.0),
        ("oldest_not_applied_age_seconds", 0.0),
    ] {
        assert_eq!(scrape[none], value, "{none}");
    }
}

#[tokio::test]
async fn a_scrape_is_answered_while_the_ledger_is_away() {
    let site = site_with(false, Some(Arc::new(Unavailable))).await;
    site.said.0.lock().0.entries = 5000;
    site.said.0.lock().2 = Proof {
        in_sync: true,
        proved_at: Some(Version(7 * SECOND)),
    };
    *site.said.3.lock() = Some("the test has unplugged it".to_owned());
    let began = Instant::now();
    let scrape = scrape(&site).await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "too late for Prometheus"
    );
    assert_eq!(scrape.get("gaps_files"), None);
    for (series, value) in [
        ("journal_undelivered_entries", 5000.0),
        ("ledger_up", 0.0),
        ("ledger_nodes{datacenter=\"ma01\"}", 1.0),
        ("ledger_nodes{datacenter=\"tx01\"}", 2.0),
        ("ledger_unreachable_nodes{datacenter=\"ma01\"}", 0.0),
        ("ledger_unreachable_nodes{datacenter=\"tx01\"}", 1.0),
        // Without the count of gaps it is not proved any more; until when it was is still known.
        ("proof_in_sync", 0.0),
        ("proof_as_of_timestamp_seconds", 7.0),
    ] {
        assert_eq!(scrape.get(series), Some(&value), "{series}");
    }
}

#[tokio::test]
async fn gaps_and_doubt_are_told_and_a_gap_forbids_in_sync() {
    let site = busy().await;
    let gap = Gap {
        file: FileName::from_bytes(b"photos", b"cat.jpg"),
        since: Version(1),
        attempts: 1,
        last_error: String::new(),
        next_try: Version(1),
        observed: site.clock.stamp().unwrap(),
        expected: Expected::default(),
    };
    site.ledger.set_gap(&dc("ma01"), &gap).await.unwrap();
    *site.said.2.lock() = Some(Arc::new(Doubt {
        found: Version(16),
        why: Why::LedgerSteppedBack {
            confirmed: Version(2),
            shown: None,
        },
    }));
    let scrape = scrape(&site).await;
    assert_eq!(scrape["gaps_files"], 1.0);
    // Older than all that the streams have.
    assert!(scrape["oldest_not_applied_age_seconds"] > 1_000_000.0);
    assert_eq!(scrape["proof_in_sync"], 0.0);
    assert_eq!(scrape["trust_in_doubt"], 1.0);
    assert!(
        scrape.keys().all(|series| !series.contains("cat.jpg")),
        "a key is a label"
    );
}

#[tokio::test]
async fn what_is_proved_no_more_is_not_in_sync_though_gaps_were_counted_just_before() {
    let site = busy().await;
    assert_eq!(scrape(&site).await["proof_in_sync"], 1.0);
    site.said.0.lock().2.in_sync = false;
    assert_eq!(scrape(&site).await["proof_in_sync"], 0.0);
}

#[tokio::test]
async fn labels_from_elsewhere_are_escaped() {
    let site = site().await;
    site.said.4.lock().1.trackers = vec![TrackerStats {
        name: "a \"b\" \\ {c},d=\"\n# TYPE".to_owned(),
        up: true,
        last_error: None,
    }];
    let scrape = scrape(&site).await;
    let series = r#"proxy_tracker_up{tracker="a \"b\" \\ {c},d=\"\n# TYPE"}"#;
    assert_eq!(scrape.get(series), Some(&1.0), "{scrape:#?}");
}
