//! `/v1/…` and `/healthz`.

use std::sync::Arc;
use std::time::Duration;

use phylactery::api::Proof;
use phylactery::file::{Class, Domain, FileName};
use phylactery::journal::debt::{LastError, Paying, SetAside};
use phylactery::journal::{Debts, Depth, Refused};
use phylactery::ledger::{Expected, Gap, Placement, Strength};
use phylactery::trust::{Doubt, Why};
use phylactery::version::{Version, wall_clock};
use serde_json::{Value, json};

use crate::support::{Site, client, dc, register, site, site_with};
use crate::unavailable::Unavailable;

fn file(key: &[u8]) -> FileName {
    FileName::from_bytes(b"photos", key)
}

fn members(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_file_has_exactly_these_members() {
    let site = site().await;
    let content = site.stored(&file(b"cat.jpg")).await;
    let (status, answer) = site.get("/v1/files/photos/cat.jpg").await;
    assert_eq!(status, 200);
    let since = &answer["replicas"]["ma01"]["since"];
    assert!(since.as_i64().unwrap() > content.version.0);
    assert_eq!(
        answer,
        json!({
            "domain": "photos",
            "key": "cat.jpg",
            "head": {
                "version": content.version.0,
                "op": "put",
                "origin": "ma01",
                "class": "archive",
                "size": 5,
                "checksum": "MD5:abababababababababababababababab",
                "fid": 12,
            },
            "replicas": {
                "ma01": { "content": format!("{content}"), "fid": 12, "since": since },
            },
            "due": ["ma01", "tx01"],
            "missing": ["tx01"],
        })
    );

    site.held(&file(b"cat.jpg"), "tx01", Some(&content)).await;
    let (_, answer) = site.get("/v1/files/photos/cat.jpg").await;
    assert_eq!(answer["missing"], json!([]));
}

#[tokio::test]
async fn a_deleted_file_is_due_nowhere() {
    let site = site().await;
    site.stored(&file(b"cat.jpg")).await;
    site.deleted(&file(b"cat.jpg")).await;
    let (status, answer) = site.get("/v1/files/photos/cat.jpg").await;
    assert_eq!(status, 200);
    assert_eq!(answer["head"]["op"], "delete");
    assert_eq!(answer["head"]["size"], Value::Null);
    assert_eq!(
        members(&answer["head"]),
        [
            "checksum", "class", "fid", "op", "origin", "size", "version"
        ]
    );
    assert_eq!(answer["replicas"]["ma01"]["content"], Value::Null);
    assert_eq!(
        (&answer["due"], &answer["missing"]),
        (&json!([]), &json!([]))
    );
}

#[tokio::test]
async fn a_file_is_due_where_its_placement_says() {
    let site = site().await;
    site.stored(&file(b"cat.jpg")).await;
    let placement = Placement {
        domain: Domain::from_bytes(b"photos"),
        class: Some(Class::from_bytes(b"archive")),
        datacenters: [dc("ma01")].into(),
        lag_goal_seconds: None,
        updated: site.clock.stamp().unwrap(),
    };
    let setting = site.ledger.set_placement(&placement, Strength::Local);
    setting.await.unwrap();
    register(&*site.ledger, "or01", false, &site.clock).await;
    let (_, answer) = site.get("/v1/files/photos/cat.jpg").await;
    assert_eq!(
        (&answer["due"], &answer["missing"]),
        (&json!(["ma01"]), &json!([]))
    );
}

#[tokio::test]
async fn keys_are_any_bytes() {
    let site = site().await;
    let keys: [(&[u8], &str); 7] = [
        (b"a/b//c", "a/b//c"),
        (b"/at the beginning", "%2Fat%20the%20beginning"),
        (b"/at the beginning", "/at%20the%20beginning"),
        ("été ✓".as_bytes(), "%C3%A9t%C3%A9%20%E2%9C%93"),
        (b"50%2F+?#&", "50%252F%2B%3F%23%26"),
        (b"../..", "%2E%2E%2F%2E%2E"),
        (b"\n\0", "%0A%00"),
    ];
    for (key, encoded) in keys {
        site.stored(&file(key)).await;
        let (status, answer) = site.get(&format!("/v1/files/photos/{encoded}")).await;
        assert_eq!(status, 200, "{encoded}: {answer}");
        assert_eq!(
            answer["key"],
            std::str::from_utf8(key).unwrap(),
            "{encoded}"
        );
        assert_eq!(answer["escaped"], Value::Null, "{encoded}");
    }
    // A client that does not clean up paths may ask for these too.
    for dots in [".", ".."] {
        site.stored(&file(dots.as_bytes())).await;
        let curl = tokio::process::Command::new("curl")
            .args(["-sS", "--noproxy", "*", "--path-as-is"])
            .arg(site.url(&format!("/v1/files/photos/{dots}")))
            .output()
            .await
            .unwrap();
        let answer: Value = serde_json::from_slice(&curl.stdout).unwrap();
        assert_eq!(answer["key"], dots);
    }
    // What is no text is told in the tracker's escaping, and that it is.
    site.stored(&file(b"\xff\xfe x")).await;
    let (status, answer) = site.get("/v1/files/photos/%FF%FE%20x").await;
    assert_eq!(status, 200);
    assert_eq!(answer["key"], file(b"\xff\xfe x").key.escaped());
    assert_eq!(answer["escaped"], true);
}

#[tokio::test]
async fn what_is_not_there_is_404_with_a_message() {
    let site = site().await;
    let (status, answer) = site.get("/v1/files/photos/none").await;
    assert_eq!(status, 404);
    assert_eq!(answer["message"], "the ledger knows no file photos none");
    for path in [
        "/v1/files/photos",
        "/v1/nothing",
        "/",
        "/file/bad",
        "/v1/files/photos/",
    ] {
        let (status, answer) = site.get(path).await;
        assert!(status == 404 || status == 400, "{path}: {status}");
        assert!(answer["message"].is_string(), "{path}: {answer}");
    }
    let (status, answer) = site.post("/v1/status", "").await;
    assert_eq!(status, 405);
    assert_eq!(answer["message"], "/v1/status does not take POST");
}

#[tokio::test]
async fn gaps_are_told_most_urgent_first_and_only_ours() {
    let site = site().await;
    let (status, answer) = site.get("/v1/gaps").await;
    assert_eq!(
        (status, answer),
        (200, json!({ "datacenter": "ma01", "count": 0, "gaps": [] }))
    );
    for (name, key, next_try) in [
        ("ma01", "late", 2_000_000),
        ("ma01", "soon", 1_000_000),
        ("tx01", "other", 1),
    ] {
        let gap = Gap {
            file: file(key.as_bytes()),
            since: Version(1_000_001),
            attempts: 3,
            last_error: "no source".to_owned(),
            next_try: Version(next_try),
            observed: site.clock.stamp().unwrap(),
            expected: Expected::default(),
        };
        site.ledger.set_gap(&dc(name), &gap).await.unwrap();
    }
    let (status, answer) = site.get("/v1/gaps").await;
    assert_eq!(status, 200);
    assert_eq!(answer["count"], 2);
    assert_eq!(
        answer["gaps"][0],
        json!({
            "domain": "photos",
            "key": "soon",
            "since": "1970-01-01T00:00:01.000001Z",
            "attempts": 3,
            "last_error": "no source",
            "next_try": "1970-01-01T00:00:01.000000Z",
        })
    );
    assert_eq!(answer["gaps"][1]["key"], "late");
    let (_, answer) = site.get("/v1/gaps?limit=1").await;
    assert_eq!(
        (answer["gaps"].as_array().unwrap().len(), &answer["count"]),
        (1, &json!(2))
    );
    let (status, answer) = site.get("/v1/gaps?limit=some").await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer["message"].is_string());
}

#[tokio::test]
async fn status_has_what_is_asked_of_it() {
    let site = site().await;
    let (status, answer) = site.get("/v1/status").await;
    assert_eq!(status, 200);
    assert_eq!(answer["datacenter"], "ma01");
    let journal = &answer["journal"];
    assert_eq!(
        (&journal["depth"], &journal["open_intents"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(journal["oldest_seconds"], 0.0);
    assert!(answer["repair"].is_object());
    assert_eq!(answer["gaps"], 0);
    // Nothing is proved, so nothing is said.
    assert_eq!(
        (&answer["in_sync"], &answer["proved_at"]),
        (&json!(false), &Value::Null)
    );

    *site.said.0.lock() = (
        Depth {
            entries: 3,
            open: 1,
            bytes: 300,
            oldest: Some(Version(wall_clock().0 - 5_000_000)),
            oldest_open: None,
        },
        Some(Refused::Full { bytes: 300 }),
        Proof {
            in_sync: true,
            proved_at: Some(Version(1_000_000)),
        },
    );
    let (_, answer) = site.get("/v1/status").await;
    let journal = &answer["journal"];
    assert_eq!(
        (&journal["depth"], &journal["open_intents"]),
        (&json!(3), &json!(1))
    );
    let oldest = journal["oldest_seconds"].as_f64().unwrap();
    assert!((5.0..60.0).contains(&oldest), "{oldest}");
    assert!(journal["refusing"].as_str().unwrap().contains("full"));
    assert_eq!(answer["in_sync"], true);
    assert_eq!(answer["proved_at"], "1970-01-01T00:00:01.000000Z");
}

#[tokio::test]
async fn a_gap_forbids_in_sync() {
    let site = site().await;
    site.said.0.lock().2 = Proof {
        in_sync: true,
        proved_at: Some(Version(1)),
    };
    let gap = Gap {
        file: file(b"cat.jpg"),
        since: Version(1),
        attempts: 1,
        last_error: String::new(),
        next_try: Version(1),
        observed: site.clock.stamp().unwrap(),
        expected: Expected::default(),
    };
    site.ledger.set_gap(&dc("ma01"), &gap).await.unwrap();
    let (_, answer) = site.get("/v1/status").await;
    assert_eq!(
        (&answer["in_sync"], &answer["gaps"]),
        (&json!(false), &json!(1))
    );
}

#[tokio::test]
async fn without_the_ledger_files_are_503_and_status_still_answers() {
    let site = site_with(false, Some(Arc::new(Unavailable))).await;
    for path in ["/v1/files/photos/cat.jpg", "/v1/gaps", "/file/bad/ma01"] {
        let (status, answer) = site.get(path).await;
        assert_eq!(status, 503, "{path}: {answer}");
        assert!(
            answer["message"].as_str().unwrap().contains("unplugged"),
            "{answer}"
        );
    }
    for path in ["/file/new", "/file/add/ma01"] {
        let (status, answer) = site.post(path, r#"{"Fid":"1.fid","Origin":"ma01"}"#).await;
        assert_eq!(status, 503, "{path}: {answer}");
    }
    site.said.0.lock().2.in_sync = true;
    let (status, answer) = site.get("/v1/status").await;
    assert_eq!(status, 200);
    assert_eq!(
        (&answer["gaps"], &answer["in_sync"]),
        (&Value::Null, &json!(false))
    );
    assert!(answer["ledger"]["problem"].is_string());
    let healthy = client().get(site.url("/healthz")).send().await.unwrap();
    assert_eq!(healthy.status(), 200);
    assert_eq!(healthy.text().await.unwrap(), "ok\n");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_half_a_request() {
    use tokio::io::AsyncWriteExt as _;
    let site = site().await;
    let mut half = tokio::net::TcpStream::connect(site.address).await.unwrap();
    half.write_all(b"GET /v1/sta").await.unwrap();
    let address = site.address;
    drop(site);
    let refused = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), refused)
        .await
        .unwrap();
}

#[tokio::test]
async fn status_says_what_is_not_yet_on_every_copy() {
    let site = site().await;
    let (_, answer) = site.get("/v1/status").await;
    assert_eq!(
        answer["ledger"]["not_yet_whole"],
        json!({
            "count": 0, "since": null, "asserting_since": null, "walk_percent": null,
            "failing_since": null, "last_error": null, "paid": 0, "set_aside": 0, "named": [],
        })
    );
    assert_eq!(answer["ledger"]["unreachable"], json!([]));

    *site.said.1.lock() = (
        Debts {
            count: 3,
            oldest: Some(Version(2_000_000)),
            collapsed_since: Some(Version(1_000_000)),
            walk: None,
        },
        Paying {
            paid: 9,
            failing_since: Some(Version(3_000_000)),
            last_error: Some(LastError {
                at: Version(4_000_000),
                error: "received 3, required 4".to_owned(),
            }),
            walk_percent: Some(12.5),
            set_aside: 1,
            named: vec![SetAside {
                domain: "photos".to_owned(),
                key: "odd".to_owned(),
                why: "unreadable".to_owned(),
            }],
        },
    );
    let (_, answer) = site.get("/v1/status").await;
    assert_eq!(
        answer["ledger"]["not_yet_whole"],
        json!({
            "count": 3,
            "since": "1970-01-01T00:00:02.000000Z",
            "asserting_since": "1970-01-01T00:00:01.000000Z",
            "walk_percent": 12.5,
            "failing_since": "1970-01-01T00:00:03.000000Z",
            "last_error": { "at": "1970-01-01T00:00:04.000000Z", "error": "received 3, required 4" },
            "paid": 9,
            "set_aside": 1,
            "named": [{ "domain": "photos", "key": "odd", "why": "unreadable" }],
        })
    );
}

fn other_journal(found: i64) -> Arc<Doubt> {
    Arc::new(Doubt {
        found: Version(found),
        why: Why::OtherJournal {
            others: [("5f0c".to_owned(), Version(1_000_000))].into(),
        },
    })
}

#[tokio::test]
async fn a_doubt_is_shown_and_only_that_one_is_accepted() {
    let site = site().await;
    let (_, status) = site.get("/v1/status").await;
    assert_eq!(status["doubt"], Value::Null);
    let (code, refused) = site.post("/v1/doubt/accept", r#"{"id":"x"}"#).await;
    assert_eq!(code, 404, "{refused}");
    let (code, refused) = site.post("/v1/doubt/accept", "yes").await;
    assert_eq!(code, 400, "{refused}");

    *site.said.2.lock() = Some(other_journal(16));
    let (_, status) = site.get("/v1/status").await;
    let doubt = &status["doubt"];
    assert_eq!(doubt["id"], "other-journal-10");
    assert_eq!(doubt["kind"], "other_journal");
    let is = doubt["is"].as_str().unwrap();
    assert!(
        is.contains("incarnation 5f0c, heard at 1970-01-01T00:00:01.000000Z"),
        "{is}"
    );
    assert!(
        doubt["accepting"]
            .as_str()
            .unwrap()
            .contains("gone for good")
    );

    *site.said.2.lock() = Some(other_journal(17));
    let (code, refused) = site
        .post("/v1/doubt/accept", r#"{"id":"other-journal-10"}"#)
        .await;
    assert_eq!(code, 409, "{refused}");
    let why = refused["message"].as_str().unwrap();
    assert!(why.contains("other-journal-11"), "{why}");
    let (code, accepted) = site
        .post("/v1/doubt/accept", r#"{"id":"other-journal-11"}"#)
        .await;
    assert_eq!(code, 200, "{accepted}");
    assert_eq!(accepted["doubt"], Value::Null);
    let (_, status) = site.get("/v1/status").await;
    assert_eq!(status["doubt"], Value::Null);
}

#[tokio::test]
async fn readiness_is_a_line_of_plain_text() {
    let ready = async |site: &Site| {
        let answer = client().get(site.url("/readyz")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let here = site().await;
    assert_eq!(ready(&here).await, (200, "ready\n".to_owned()));
    // Named, and no reason to send clients away.
    *here.said.2.lock() = Some(other_journal(16));
    let (code, line) = ready(&here).await;
    assert_eq!(code, 200);
    assert!(
        line.starts_with("ready, but repair has stopped: "),
        "{line}"
    );
    here.said.0.lock().1 = Some(Refused::Full { bytes: 7 });
    let (code, line) = ready(&here).await;
    assert_eq!(code, 503);
    assert_eq!(
        line,
        "not ready: changes are refused: the journal is full (7 bytes): the ledger has not confirmed anything for too long\n"
    );
    here.said.0.lock().1 = None;
    *here.said.3.lock() = Some("read the nodes: the ledger is not available:\nno route".to_owned());
    let (code, line) = ready(&here).await;
    assert_eq!(code, 503);
    assert_eq!(
        line,
        "not ready: read the nodes: the ledger is not available: no route\n"
    );
    let alive = client().get(here.url("/healthz")).send().await.unwrap();
    assert_eq!(alive.status(), 200);
}
