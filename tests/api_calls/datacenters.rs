//! `/v1/datacenters`, and `phylactery dc`, which asks it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use phylactery::file::FileName;
use phylactery::ledger::embedded::EmbeddedLedger;
use phylactery::ledger::{Cursor, Ledger, MemberState, Membership, NodeRecord, StreamId};
use phylactery::version::{Version, wall_clock};
use serde_json::{Value, json};

use crate::asked_by_cli::{ask, told};
use crate::repair_sites::Flaky;
use crate::support::{Site, client, dc, register, say, site, site_with};

impl Site {
    async fn tell(&self, path: &str, body: Value) -> (u16, Value) {
        let request = client().post(self.url(path)).json(&body);
        crate::support::answer(request.send().await.unwrap()).await
    }

    async fn add(&self, name: &str, body: Value) -> (u16, Value) {
        let path = format!("/v1/datacenters/{name}");
        let request = client().put(self.url(&path)).json(&body);
        crate::support::answer(request.send().await.unwrap()).await
    }

    async fn member(&self, name: &str) -> Membership {
        let all = self.ledger.memberships().await.unwrap();
        let said = all.into_iter().find(|said| said.name == dc(name));
        said.unwrap_or_else(|| Membership::unsaid(dc(name)))
    }

    /// What a node says of itself.
    async fn speaks(&self, name: &str, last_number: u64, oldest_undelivered: Option<Version>) {
        let word = NodeRecord {
            stream: StreamId {
                datacenter: dc(name),
                node: "node1".parse().unwrap(),
                incarnation: "01".to_owned(),
            },
            last_number,
            delivered: last_number,
            oldest_undelivered,
            oldest_open: None,
            clock_mark: wall_clock(),
            heartbeat: wall_clock(),
            generation: 1,
        };
        self.ledger.set_node(&word).await.unwrap();
    }

    /// Counts to the end; what was listed, and the last answer.
    async fn removed(&self, name: &str, lost: bool) -> (Vec<Value>, Value) {
        let path = format!("/v1/datacenters/{name}/removal");
        let (status, begun) = self.tell(&path, json!({ "lost": lost })).await;
        assert_eq!(status, 200, "{begun}");
        assert_eq!(self.member(name).await.state, MemberState::Leaving);
        self.counted(name, &begun).await
    }

    async fn counted(&self, name: &str, begun: &Value) -> (Vec<Value>, Value) {
        let path = format!("/v1/datacenters/{name}/removal/next");
        let mut listed = Vec::new();
        loop {
            let (status, answer) = self.tell(&path, json!({ "id": begun["id"] })).await;
            assert_eq!(status, 200, "{answer}");
            listed.extend(answer["listed"].as_array().unwrap().iter().cloned());
            if answer["done"] == json!(true) {
                return (listed, answer);
            }
        }
    }
}

fn file(key: &str) -> FileName {
    FileName::from_bytes(b"photos", key.as_bytes())
}

#[tokio::test]
async fn one_is_added_before_it_starts_paused_and_resumed() {
    let site = site().await;
    let (status, answer) = site.add("or01", json!({ "seeded": "2026-01-02" })).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["state"], "joining");
    assert_eq!(answer["trackers"], Value::Null);
    assert_eq!(answer["seeded"], "2026-01-02T00:00:00.000000Z");
    let said = site.member("or01").await;
    assert!(said.may_hold_forgotten(std::time::Duration::from_secs(86_400)));
    let (_, answer) = site.get("/v1/placements").await;
    assert_eq!(answer["default"], json!(["ma01", "or01", "tx01"]));
    // Again, it is so already; and what it says of itself changes nothing of it.
    let (_, answer) = site.add("or01", json!({})).await;
    assert!(
        answer["means"].to_string().contains("said already"),
        "{answer}"
    );
    register(&*site.ledger, "or01", &site.clock).await;
    assert_eq!(site.member("or01").await, said);

    for (call, state) in [
        ("pause", MemberState::Paused),
        ("pause", MemberState::Paused),
        ("resume", MemberState::Active),
    ] {
        let path = format!("/v1/datacenters/or01/{call}");
        let (status, answer) = site.post(&path, "").await;
        assert_eq!(
            (status, &answer["heard_by_all"]),
            (200, &json!(true)),
            "{answer}"
        );
        assert_eq!(site.member("or01").await.state, state);
    }
    let now = site.member("or01").await;
    assert!(
        now.updated > said.updated && now.seeded == said.seeded,
        "{now:?}"
    );
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_nothing_is_said() {
    let site = site().await;
    for (body, why) in [
        (json!({ "seeded": "yesterday" }), "write a time in UTC"),
        (json!({ "seeded": "2999-01-01" }), "it lies ahead"),
        (json!({ "sown": "2026-01-01" }), "unknown field"),
    ] {
        let (status, answer) = site.add("or01", body).await;
        assert_eq!(status, 400, "{answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(why), "{message}");
    }
    let (status, answer) = site.add("OR01", json!({})).await;
    assert_eq!(status, 400, "{answer}");
    for call in ["pause", "resume", "rejoin"] {
        let path = format!("/v1/datacenters/or01/{call}");
        let (status, answer) = site.post(&path, "").await;
        assert_eq!(status, 404);
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains("there are ma01, tx01"), "{message}");
    }
    assert_eq!(site.ledger.memberships().await.unwrap(), vec![]);

    say(&*site.ledger, "tx01", MemberState::Removed, &site.clock).await;
    let before = site.member("tx01").await;
    for call in ["pause", "resume"] {
        let path = format!("/v1/datacenters/tx01/{call}");
        assert_eq!(site.post(&path, "").await.0, 409);
    }
    let (status, answer) = site.add("tx01", json!({})).await;
    assert_eq!(status, 409);
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("dc rejoin tx01")
    );
    assert_eq!(site.member("tx01").await, before);
}

#[tokio::test]
async fn it_is_shown_how_far_each_is() {
    let site = site().await;
    site.speaks("ma01", 120, Some(Version(1_000_000))).await;
    site.speaks("tx01", 7, None).await;
    let cursor = |name: &str, number, note: Value| Cursor {
        name: name.to_owned(),
        number,
        note: note.to_string(),
        updated: wall_clock(),
    };
    let scanned = json!({
        "incarnation": "01", "began": null, "ended": null, "ended_scan_began": null,
        "thorough_began": 5_000_000,
    });
    let shown = json!({
        "scan": { "percent": 12.7, "began": 5, "files_per_second": 340.2, "seconds_left": 119.0 },
        "proved_at": 3_000_000, "hindered": null, "at": 9_000_000,
    });
    for row in [
        cursor("ma01/node1/01", 100, json!("")),
        cursor("scan", 64, scanned),
        cursor("shown", 0, shown),
    ] {
        site.ledger.set_cursor(&dc("tx01"), &row).await.unwrap();
    }
    let (status, answer) = site.get("/v1/datacenters/tx01").await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        (&answer["state"], &answer["behind"], &answer["gaps"]),
        (&json!("active"), &json!(20), &json!(0))
    );
    assert_eq!(answer["in_sync_as_of"], "1970-01-01T00:00:03.000000Z");
    let (_, answer) = site.get("/v1/datacenters/ma01").await;
    assert_eq!(
        (&answer["state"], &answer["behind"]),
        (&json!("joining"), &json!(7))
    );
    assert_eq!(answer["undelivered_since"], "1970-01-01T00:00:01.000000Z");

    let text = told(&site, &[b"dc", b"show"]).await;
    for words in [
        "ma01  joining",
        "tx01  active",
        "trackers    127.0.0.1:7011",
        "behind by   20 changes",
        "changes since 1970-01-01T00:00:01.000000Z to be told",
        "scan        at 12 %, 340 files/s, 2 min left",
        "in sync     as of 1970-01-01T00:00:03",
    ] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
    // Nobody waits for one that was removed.
    say(&*site.ledger, "ma01", MemberState::Removed, &site.clock).await;
    let text = told(&site, &[b"dc", b"show", b"tx01", b"--json"]).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["behind"], json!(0));
}

#[tokio::test]
async fn one_is_removed_only_if_no_file_loses_its_last_replica() {
    let site = site().await;
    for n in 0..1200 {
        let file = file(&format!("{n}"));
        let content = site.stored(&file).await;
        if n != 7 && n != 8 {
            site.held(&file, "tx01", Some(&content)).await;
        }
    }
    // Not there, so not lost with it.
    site.deleted(&file("9")).await;
    site.held(&file("8"), "ma01", None).await;
    let (listed, answer) = site.removed("ma01", false).await;
    assert_eq!(
        listed,
        vec![json!({ "domain": "photos", "key": "7", "size": 5 })]
    );
    assert_eq!(
        (&answer["removed"], &answer["files"], &answer["only_there"]),
        (&json!(false), &json!(1200), &json!(1))
    );
    let why = answer["why_not"].as_str().unwrap();
    assert!(
        why.contains("1 files, 5 bytes, would lose their last replica"),
        "{why}"
    );
    assert_eq!(site.member("ma01").await.state, MemberState::Active);

    // Held by one that is leaving too, or where it is not due, is not kept.
    let content = site.record("photos", "7").await.content().cloned().unwrap();
    site.held(&file("7"), "tx01", Some(&content)).await;
    say(&*site.ledger, "tx01", MemberState::Leaving, &site.clock).await;
    let (listed, _) = site.removed("ma01", false).await;
    assert_eq!(listed.len(), 1198);
    say(&*site.ledger, "tx01", MemberState::Active, &site.clock).await;

    let (listed, answer) = site.removed("ma01", false).await;
    assert_eq!(
        (listed.len(), &answer["removed"]),
        (0, &json!(true)),
        "{answer}"
    );
    assert_eq!(site.member("ma01").await.state, MemberState::Removed);
    let (_, answer) = site.get("/v1/files/photos/1").await;
    assert_eq!(answer["due"], json!(["tx01"]));
    // The last one stays in any case.
    let (status, answer) = site
        .tell("/v1/datacenters/tx01/removal", json!({ "lost": true }))
        .await;
    assert_eq!(status, 400);
    assert_eq!(answer["message"], "tx01 is the only datacenter");

    let (status, answer) = site.post("/v1/datacenters/ma01/rejoin", "").await;
    assert_eq!(
        (status, &answer["state"]),
        (200, &json!("joining")),
        "{answer}"
    );
    let said = site.member("ma01").await;
    assert!(said.rejoined.is_some());
    // Nobody knows since when it may have missed that files were deleted.
    assert_eq!(said.seeded, Some(Version(0)));
}

#[tokio::test]
async fn a_count_is_not_believed_while_clients_write_there_or_it_has_something_to_tell() {
    let site = site().await;
    let content = site.stored(&file("k")).await;
    site.held(&file("k"), "tx01", Some(&content)).await;
    site.speaks("tx01", 5, Some(Version(1_000_000))).await;
    let (_, answer) = site.removed("tx01", false).await;
    let why = answer["why_not"].as_str().unwrap();
    assert!(
        why.contains("a node of tx01 has changes since 1970"),
        "{why}"
    );

    site.speaks("tx01", 5, None).await;
    let path = "/v1/datacenters/tx01/removal";
    let (_, begun) = site.tell(path, json!({})).await;
    site.speaks("tx01", 6, None).await;
    let (_, answer) = site.counted("tx01", &begun).await;
    let why = answer["why_not"].as_str().unwrap();
    assert!(
        why.contains("clients have changed files through tx01"),
        "{why}"
    );
    assert_eq!(site.member("tx01").await.state, MemberState::Active);

    // Somebody takes it back while it is counted; then the count is nobody's.
    let (_, begun) = site.tell(path, json!({ "lost": true })).await;
    site.post("/v1/datacenters/tx01/resume", "").await;
    let (_, answer) = site.counted("tx01", &begun).await;
    assert_eq!(answer["removed"], json!(false), "{answer}");
    assert_eq!(site.member("tx01").await.state, MemberState::Active);
    let (status, _) = site
        .tell(&format!("{path}/next"), json!({ "id": begun["id"] }))
        .await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_placement_that_names_no_other_is_set_first() {
    let site = site().await;
    let request = client().put(site.url("/v1/placements/photos/raw"));
    let request = request.json(&json!({ "datacenters": ["tx01"] }));
    request.send().await.unwrap();
    let (status, answer) = site.tell("/v1/datacenters/tx01/removal", json!({})).await;
    assert_eq!(status, 400);
    assert_eq!(
        answer["message"],
        "photos:raw is due nowhere but in tx01: set its placement first"
    );
    assert_eq!(site.member("tx01").await.state, MemberState::Active);
}

/// All datacenters of the ledger have to hear that it is leaving.
#[tokio::test]
async fn nobody_is_removed_while_a_part_of_the_ledger_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let inner = EmbeddedLedger::open(folder.path().join("ledger.db")).unwrap();
    let ledger = Flaky::over(Arc::new(inner));
    let site = site_with(false, Some(Arc::clone(&ledger) as Arc<dyn Ledger>)).await;
    for name in ["ma01", "tx01"] {
        register(&*ledger, name, &site.clock).await;
    }
    ledger.others_away.store(true, Ordering::SeqCst);
    let (status, answer) = site
        .tell("/v1/datacenters/tx01/removal", json!({ "lost": true }))
        .await;
    assert_eq!(status, 503);
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains("out of the keyspace first"), "{message}");
    // What is not for all to hear at once is said here, and told to be so.
    let (status, answer) = site.post("/v1/datacenters/tx01/pause", "").await;
    assert_eq!((status, &answer["heard_by_all"]), (200, &json!(false)));
    assert_eq!(answer["warnings"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_operator_adds_pauses_removes_and_takes_in_again() {
    let site = site().await;
    let content = site.stored(&file("7")).await;
    site.stored(&file("only there")).await;
    site.held(&file("7"), "tx01", Some(&content)).await;
    let text = told(&site, &[b"dc", b"add", b"or01", b"--seeded", b"2026-01-02"]).await;
    assert!(text.contains("or01 takes part from now on"), "{text}");
    assert!(text.contains("are as of 2026-01-02T00:00:00"), "{text}");
    told(&site, &[b"dc", b"pause", b"tx01"]).await;
    let text = told(&site, &[b"dc", b"show", b"tx01"]).await;
    assert!(text.starts_with("tx01  paused\n"), "{text}");
    told(&site, &[b"dc", b"resume", b"tx01"]).await;

    let api = format!("http://{}", site.address);
    let output = ask(&[b"dc", b"remove", b"ma01", b"--api", api.as_bytes()]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("ma01 was not removed: 1 files, 5 bytes, would lose their last replica"),
        "{errors}"
    );
    let text = told(&site, &[b"dc", b"remove", b"ma01", b"--lost"]).await;
    assert!(text.starts_with("photos only there  5"), "{text}");
    assert!(text.contains("ma01 was removed"), "{text}");
    assert!(text.contains("2 files were counted, and 1 had"), "{text}");
    let text = told(&site, &[b"dc", b"show", b"ma01"]).await;
    assert!(text.starts_with("ma01  removed\n"), "{text}");
    let text = told(&site, &[b"dc", b"rejoin", b"ma01"]).await;
    assert!(text.contains("ma01 takes part again"), "{text}");
}
