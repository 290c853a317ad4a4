//! `/v1/explain/{domain}/{key}`, and `phylactery explain`, which asks it.

use std::collections::BTreeSet;

use phylactery::file::FileName;
use phylactery::journal::Standing;
use phylactery::ledger::{Expected, Gap, Placement, StreamId};
use phylactery::repair::explain::{Ahead, Explanation, Reason, Wanting};
use phylactery::repair::status::ScanProgress;
use phylactery::version::Version;
use serde_json::{Value, json};

use crate::asked_by_cli::told;
use crate::support::{Site, dc, site};

/// What repair of ma01 would find of a file that is parked there, and not there in the ledger.
fn parked(file: &FileName) -> Explanation {
    Explanation {
        file: file.clone(),
        datacenter: dc("ma01"),
        reason: Reason::Parked,
        wanting: Some(Wanting::Missing),
        record: None,
        due: [dc("ma01"), dc("tx01")].into(),
        placement: Some(Placement {
            domain: file.domain.clone(),
            class: None,
            datacenters: [dc("ma01"), dc("tx01")].into(),
            lag_goal_seconds: None,
            updated: Version(3_000_000),
        }),
        standing: Standing::default(),
        tracker: Ok(None),
        gap: Some(Gap {
            file: file.clone(),
            since: Version(1_000_000),
            attempts: 3,
            last_error: "no \x1b[2Jluck".to_owned(),
            next_try: Version(2_000_000),
            observed: Version(1_500_000),
            expected: Expected::default(),
        }),
        scan: Some(ScanProgress::default()),
        next_scan: Some(Version(4_000_000)),
        hindered: None,
    }
}

async fn explained(site: &Site, explanation: Explanation, path: &str) -> Value {
    *site.said.5.lock() = Some(explanation);
    let (status, answer) = site.get(path).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

#[tokio::test]
async fn an_explanation_has_exactly_these_members() {
    let site = site().await;
    let file = FileName::from_bytes(b"photos", b"a/b c");
    let mut answer = explained(&site, parked(&file), "/v1/explain/photos/a/b%20c").await;
    assert!(answer["scan"].is_object());
    answer["scan"] = Value::Null;
    assert_eq!(
        answer,
        json!({
            "domain": "photos",
            "key": "a/b c",
            "datacenter": "ma01",
            "reason": "parked",
            "says": "It is due here and is not here: tried 3 times since 1970-01-01T00:00:01.000000Z, again at \
                     1970-01-01T00:00:02.000000Z; the last time: no \u{1b}[2Jluck.",
            "head": null,
            "replicas": null,
            "due": ["ma01", "tx01"],
            "missing": null,
            "due_here": true,
            "placement": {
                "domain": "photos",
                "class": null,
                "datacenters": ["ma01", "tx01"],
                "lag_goal_seconds": 900,
                "since": "1970-01-01T00:00:03.000000Z",
            },
            "tracker": { "fid": null, "problem": null },
            "journal": { "open": false, "newest": null },
            "gap": {
                "domain": "photos",
                "key": "a/b c",
                "since": "1970-01-01T00:00:01.000000Z",
                "attempts": 3,
                "last_error": "no \u{1b}[2Jluck",
                "next_try": "1970-01-01T00:00:02.000000Z",
            },
            "pending": null,
            "scan": null,
            "next_scan": "1970-01-01T00:00:04.000000Z",
            "hindered": null,
        })
    );

    // What lies ahead, exactly or not.
    let stream = StreamId {
        datacenter: dc("tx01"),
        node: "node1".parse().unwrap(),
        incarnation: "5f".to_owned(),
    };
    for (number, before, says) in [
        (
            Some(8),
            0,
            "number 8 of the stream tx01/node1/5f, is the next.",
        ),
        (
            Some(8),
            1,
            "is number 8 of the stream tx01/node1/5f, and 1 change comes before it.",
        ),
        (
            Some(8),
            7,
            "is number 8 of the stream tx01/node1/5f, and 7 changes come before it.",
        ),
        (
            None,
            10_000,
            "lies more than 10000 changes ahead in the stream tx01/node1/5f.",
        ),
    ] {
        let ahead = Ahead {
            stream: stream.clone(),
            number,
            before,
        };
        let pending = Explanation {
            reason: Reason::Pending(ahead),
            gap: None,
            ..parked(&file)
        };
        let answer = explained(&site, pending, "/v1/explain/photos/x").await;
        assert_eq!(answer["reason"], "pending");
        assert_eq!(
            answer["pending"],
            json!({ "stream": "tx01/node1/5f", "number": number, "before": before })
        );
        let said = answer["says"].as_str().unwrap();
        assert!(said.ends_with(says), "{said}");
    }

    // A scan that is under way, one that is about to begin, and what keeps repair from it.
    let scanning = ScanProgress {
        percent: 12.9,
        began: Some(Version(1)),
        ..ScanProgress::default()
    };
    for (scan, says) in [
        (
            Some(scanning),
            "finds it; the one under way is at 12 %. But repair is paused here (scan).",
        ),
        (
            None,
            "finds it; one is about to begin. But repair is paused here (scan).",
        ),
    ] {
        let waiting = Explanation {
            reason: Reason::AwaitsScan,
            scan,
            next_scan: None,
            hindered: Some("repair is paused here (scan)".to_owned()),
            ..parked(&file)
        };
        let answer = explained(&site, waiting, "/v1/explain/photos/x").await;
        let said = answer["says"].as_str().unwrap();
        assert!(said.ends_with(says), "{said}");
    }
    let (status, answer) = site.get("/v1/explain/photos/").await;
    assert!(status == 400 || status == 404, "{answer}");
}

#[tokio::test]
async fn a_person_is_told_why_within_80_columns() {
    let site = site().await;
    let file = FileName::from_bytes(b"photos", b"cat\xff");
    *site.said.5.lock() = Some(parked(&file));
    let text = told(&site, &[b"explain", b"photos", b"cat\xff"]).await;
    assert_eq!(
        text,
        "photos cat%FF in ma01\n\
         \x20 It is due here and is not here: tried 3 times since\n\
         \x20 1970-01-01T00:00:01.000000Z, again at\n\
         \x20 1970-01-01T00:00:02.000000Z; the last time: no \u{fffd}[2Jluck.\n\
         \x20 due         ma01, tx01  placement of photos\n\
         \x20 tracker     does not have it\n"
    );
    // With what the ledger knows.
    site.stored(&file).await;
    let there = Explanation {
        reason: Reason::Here,
        record: Some(site.record_of(&file).await),
        placement: None,
        gap: None,
        tracker: Err("connect to tracker: refused".to_owned()),
        due: BTreeSet::from([dc("ma01")]),
        ..parked(&file)
    };
    *site.said.5.lock() = Some(there);
    let text = told(&site, &[b"explain", b"photos", b"cat\xff"]).await;
    for words in [
        "  It is here as it should be: fid 12, class archive,",
        "  stored      in ma01, 20",
        "  ma01        has it  fid 12",
        "  due         ma01  all active datacenters\n",
        "  tracker     connect to tracker: refused\n",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    let text = told(&site, &[b"explain", b"photos", b"cat\xff", b"--json"]).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["missing"], json!([]));
    assert_eq!(answer["tracker"]["problem"], "connect to tracker: refused");
}
