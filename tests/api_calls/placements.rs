//! `/v1/placements`, and `phylactery placement`, which asks it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use phylactery::file::{Class, Domain};
use phylactery::ledger::embedded::EmbeddedLedger;
use phylactery::ledger::{Ledger, Placement, Strength};
use phylactery::version::{MAX_AHEAD, Version, wall_clock};
use serde_json::{Value, json};

use crate::asked_by_cli::{ask, told};
use crate::repair_sites::Flaky;
use crate::support::{Site, client, dc, register, site, site_with};
use crate::unavailable::Unavailable;

impl Site {
    /// Status and JSON of a PUT.
    async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        let request = client().put(self.url(path)).json(&body);
        crate::support::answer(request.send().await.unwrap()).await
    }

    /// Status and JSON of a DELETE.
    async fn delete(&self, path: &str) -> (u16, Value) {
        crate::support::answer(client().delete(self.url(path)).send().await.unwrap()).await
    }

    async fn row(&self, domain: &[u8], class: Option<&[u8]>) -> Option<Placement> {
        let class = class.map(Class::from_bytes);
        let domain = Domain::from_bytes(domain);
        let mut rows = self.ledger.placements().await.unwrap().into_iter();
        rows.find(|row| row.domain == domain && row.class == class)
    }
}

#[tokio::test]
async fn a_placement_is_set_shown_and_taken_back() {
    let site = site().await;
    let (status, answer) = site.get("/v1/placements").await;
    assert_eq!(status, 200);
    assert_eq!(
        answer,
        json!({
            "placements": [],
            "default": ["ma01", "tx01"],
            "default_lag_goal_seconds": 900,
            "datacenters": { "ma01": "active", "tx01": "active" },
        })
    );

    let (status, answer) = site
        .put("/v1/placements/photos", json!({ "datacenters": ["ma01"] }))
        .await;
    assert_eq!(status, 200, "{answer}");
    let row = site.row(b"photos", None).await.unwrap();
    let since = phylactery_time(row.updated);
    let placement = json!({ "domain": "photos", "class": null, "datacenters": ["ma01"], "lag_goal_seconds": 900, "since": since });
    assert_eq!(
        answer,
        json!({
            "domain": "photos",
            "class": null,
            "due": ["ma01"],
            "before": ["ma01", "tx01"],
            "added": [],
            "dropped": ["tx01"],
            "lag_goal_seconds": 900,
            "lag_goal_seconds_before": 900,
            "placement": placement,
            "changed": true,
            "heard_by_all": true,
            "means": [
                "Nothing is deleted in tx01: files that are there stay as they are, though no newer bytes come to \
                 them, until they are deleted everywhere."
            ],
            "warnings": [],
        })
    );
    let (_, answer) = site.get("/v1/placements").await;
    assert_eq!(answer["placements"], json!([placement]));

    // A class goes by its own, and its domain's answer says so.
    let raw = json!({ "datacenters": ["tx01", "ma01", "tx01"] });
    let (_, answer) = site.put("/v1/placements/photos/raw", raw).await;
    assert_eq!(
        (&answer["due"], &answer["class"]),
        (&json!(["ma01", "tx01"]), &json!("raw"))
    );
    assert_eq!(
        (&answer["before"], &answer["added"]),
        (&json!(["ma01"]), &json!(["tx01"]))
    );
    let (_, answer) = site
        .put("/v1/placements/photos", json!({ "datacenters": ["tx01"] }))
        .await;
    assert_eq!(
        (&answer["added"], &answer["dropped"]),
        (&json!(["tx01"]), &json!(["ma01"]))
    );
    let means = answer["means"].to_string();
    for words in [
        "What is missing in tx01 comes by a scan",
        "Nothing is deleted in ma01",
        "photos:raw has a placement of its own, which goes on to count: ma01, tx01.",
    ] {
        assert!(means.contains(words), "{words:?} is not in {means}");
    }
    let (_, answer) = site.get("/v1/placements/photos/raw").await;
    assert_eq!(answer["placements"].as_array().unwrap().len(), 1);
    assert_eq!(answer["due"], json!(["ma01", "tx01"]));
    let (_, answer) = site.get("/v1/placements/photos").await;
    assert_eq!(answer["placements"].as_array().unwrap().len(), 2);
    assert_eq!(answer["due"], json!(["tx01"]));

    // Taken back, and the row remembers when.
    let (status, answer) = site.delete("/v1/placements/photos/raw").await;
    assert_eq!((status, &answer["due"]), (200, &json!(["tx01"])));
    assert_eq!(answer["placement"], Value::Null);
    let (_, answer) = site.delete("/v1/placements/photos").await;
    assert_eq!(answer["due"], json!(["ma01", "tx01"]));
    assert_eq!(answer["added"], json!(["ma01"]));
    let later = site.row(b"photos", None).await.unwrap();
    assert!(
        later.updated > row.updated && later.is_taken_back(),
        "{later:?}"
    );
    let (_, answer) = site.get("/v1/placements").await;
    assert_eq!(answer["placements"], json!([]));
    // Again, for those who have not heard it; but not what never was.
    let (status, answer) = site.delete("/v1/placements/photos").await;
    assert_eq!((status, &answer["changed"]), (200, &json!(false)));
    assert_eq!(site.row(b"photos", None).await.unwrap(), later);
    let (status, answer) = site.delete("/v1/placements/cats").await;
    assert_eq!(status, 404);
    assert_eq!(
        answer["message"],
        "cats has no placement of its own; those that have one: none"
    );
}

fn phylactery_time(version: Version) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_micros(version.0 as u64);
    humantime::format_rfc3339_micros(at).to_string()
}

#[tokio::test]
async fn a_lag_goal_stays_until_another_is_set_or_the_placement_is_taken_back() {
    let site = site().await;
    let set = async |body: Value| {
        let (status, answer) = site.put("/v1/placements/photos", body).await;
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let answer = set(json!({ "datacenters": ["ma01"], "lag_goal_seconds": 300 })).await;
    assert_eq!(answer["placement"]["lag_goal_seconds"], 300);
    assert_eq!(answer["lag_goal_seconds_before"], 900);
    let means = answer["means"].to_string();
    assert!(
        means.contains("within 300 s, before it was 900 s"),
        "{means}"
    );
    let answer = set(json!({ "datacenters": ["ma01", "tx01"] })).await;
    assert_eq!(answer["lag_goal_seconds"], 300, "it was not said otherwise");
    let row = site.row(b"photos", None).await.unwrap();
    assert_eq!(row.lag_goal_seconds, Some(300));
    let answer = set(json!({ "datacenters": ["ma01", "tx01"], "lag_goal_seconds": 300 })).await;
    assert_eq!(answer["changed"], false);
    let answer = set(json!({ "datacenters": ["ma01", "tx01"], "lag_goal_seconds": 60 })).await;
    assert_eq!(answer["changed"], true);
    let (_, answer) = site.delete("/v1/placements/photos").await;
    assert_eq!(answer["lag_goal_seconds"], 900);
    let answer = set(json!({ "datacenters": ["ma01"] })).await;
    assert_eq!(answer["lag_goal_seconds"], 900, "taken back with its goal");
}

#[tokio::test]
async fn what_was_so_already_is_no_other_row() {
    let site = site().await;
    let body = json!({ "datacenters": ["ma01"] });
    site.put("/v1/placements/photos", body.clone()).await;
    let row = site.row(b"photos", None).await;
    let (status, answer) = site.put("/v1/placements/photos", body).await;
    assert_eq!((status, &answer["changed"]), (200, &json!(false)));
    assert_eq!(answer["means"][0], "It was so already.");
    assert_eq!(site.row(b"photos", None).await, row);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_nothing_is_written() {
    let site = site().await;
    register(&*site.ledger, "or01", false, &site.clock).await;
    for (body, said) in [
        (
            json!({ "datacenters": ["ma01", "tx02"] }),
            "no datacenter \"tx02\" is registered; there are ma01, or01, tx01",
        ),
        (
            json!({ "datacenters": [] }),
            "name at least one datacenter where photos is due",
        ),
        (
            json!({ "datacenters": "ma01" }),
            "the body is not the JSON that belongs here",
        ),
        (json!({}), "missing field `datacenters`"),
        (
            json!({ "datacenters": ["ma01"], "lag_goal_seconds": 0 }),
            "lag_goal_seconds: write a whole number of seconds, at least 1",
        ),
        (
            json!({ "datacenters": ["ma01"], "class": "raw" }),
            "unknown field `class`",
        ),
        (
            json!({ "datacenters": ["x".repeat(70_000)] }),
            "the body has more than",
        ),
    ] {
        let (status, answer) = site.put("/v1/placements/photos", body).await;
        assert_eq!(status, 400, "{answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(said), "{message}");
    }
    for path in [
        "/v1/placements/",
        "/v1/placements/photos/",
        "/v1/placements//raw",
    ] {
        let (status, answer) = site.put(path, json!({ "datacenters": ["ma01"] })).await;
        assert!(status == 400 || status == 404, "{path}: {status}");
        assert!(answer["message"].is_string(), "{answer}");
    }
    let (status, answer) = site.post("/v1/placements/photos", "").await;
    assert_eq!(status, 405, "{answer}");
    assert_eq!(site.ledger.placements().await.unwrap(), []);

    // Files may well be due where an operator has switched the default off.
    let (status, answer) = site
        .put("/v1/placements/photos", json!({ "datacenters": ["or01"] }))
        .await;
    assert_eq!(status, 200);
    assert_eq!(
        answer["warnings"],
        json!(["or01 is not active; these files are due there all the same"])
    );
}

#[tokio::test]
async fn names_are_any_bytes() {
    let site = site().await;
    let body = json!({ "datacenters": ["ma01"] });
    let (status, answer) = site.put("/v1/placements/a%2Fb%20c/%FF%2F", body).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["domain"], "a/b c");
    let row = site.row(b"a/b c", Some(b"\xff/")).await;
    assert_eq!(row.unwrap().datacenters, [dc("ma01")].into());
}

#[tokio::test]
async fn a_row_of_a_clock_ahead_is_passed_and_the_clock_is_not() {
    let site = site().await;
    let far = Version(wall_clock().0 + 2 * MAX_AHEAD.as_micros() as i64);
    let row = Placement {
        domain: Domain::from_bytes(b"photos"),
        class: None,
        datacenters: [dc("tx01")].into(),
        lag_goal_seconds: None,
        updated: far,
    };
    let setting = site.ledger.set_placement(&row, Strength::Local);
    setting.await.unwrap();
    let (status, _) = site
        .put("/v1/placements/photos", json!({ "datacenters": ["ma01"] }))
        .await;
    assert_eq!(status, 200);
    let row = site.row(b"photos", None).await.unwrap();
    assert!(
        row.updated > far && row.datacenters == [dc("ma01")].into(),
        "{row:?}"
    );
    assert!(
        site.clock.stamp().unwrap() < far,
        "the shared clock went along"
    );
}

#[tokio::test]
async fn an_operator_learns_that_not_everybody_has_heard() {
    let folder = tempfile::tempdir().unwrap();
    let inner = EmbeddedLedger::open(folder.path().join("ledger.db")).unwrap();
    let ledger = Flaky::over(Arc::new(inner));
    let site = site_with(false, Some(Arc::clone(&ledger) as Arc<dyn Ledger>)).await;
    for name in ["ma01", "tx01"] {
        register(&*ledger, name, true, &site.clock).await;
    }
    ledger.others_away.store(true, Ordering::SeqCst);
    let body = json!({ "datacenters": ["ma01"] });
    let (status, answer) = site.put("/v1/placements/photos", body.clone()).await;
    assert_eq!((status, &answer["due"]), (200, &json!(["ma01"])));
    assert_eq!(answer["heard_by_all"], json!(false));
    let warning = answer["warnings"][0].as_str().unwrap();
    assert!(
        warning.contains("ask everybody") && warning.contains("say it again"),
        "{warning}"
    );
    // Said again it is the same row, told to everybody.
    let row = site.row(b"photos", None).await;
    ledger.others_away.store(false, Ordering::SeqCst);
    let (_, answer) = site.put("/v1/placements/photos", body).await;
    assert_eq!(
        (&answer["heard_by_all"], &answer["warnings"]),
        (&json!(true), &json!([]))
    );
    assert_eq!(answer["changed"], json!(false));
    assert_eq!(site.row(b"photos", None).await, row);
}

#[tokio::test]
async fn without_a_ledger_nothing_is_said() {
    let site = site_with(false, Some(Arc::new(Unavailable))).await;
    let body = json!({ "datacenters": ["ma01"] });
    for (status, answer) in [
        site.get("/v1/placements").await,
        site.put("/v1/placements/photos", body).await,
        site.delete("/v1/placements/photos").await,
    ] {
        assert_eq!(status, 503);
        assert!(
            answer["message"].as_str().unwrap().contains("unplugged"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn an_operator_sets_shows_and_removes_them() {
    let site = site().await;
    register(&*site.ledger, "or01", false, &site.clock).await;
    let text = told(&site, &[b"placement", b"show"]).await;
    assert_eq!(
        text,
        "  (default)   ma01, tx01  all active datacenters, lag goal 15m\n"
    );
    let text = told(&site, &[b"placement", b"set", b"photos", b"ma01,or01"]).await;
    assert_eq!(
        text,
        "photos is due in ma01, or01, and was in ma01, tx01.\n\
         What is missing in or01 comes by a scan of all files, which begins there within seconds, or after the one \
         under way; see `phylactery status` there.\n\
         Nothing is deleted in tx01: files that are there stay as they are, though no newer bytes come to them, until \
         they are deleted everywhere.\n\
         warning: or01 is not active; these files are due there all the same\n"
    );
    told(
        &site,
        &[b"placement", b"set", b"my photos:raw \xff", b"tx01"],
    )
    .await;
    let class: &[u8] = b"raw \xff";
    assert!(site.row(b"my photos", Some(class)).await.is_some());
    let text = told(&site, &[b"placement", b"show"]).await;
    assert!(
        text.contains("photos      ma01, or01 (inactive)  since 20"),
        "{text}"
    );
    let text = told(&site, &[b"placement", b"show", b"cats"]).await;
    assert_eq!(
        text,
        "  cats        ma01, tx01  all active datacenters, lag goal 15m\n"
    );
    let set: &[&[u8]] = &[
        b"placement",
        b"set",
        b"photos",
        b"ma01,or01",
        b"--lag-goal",
        b"5m",
    ];
    let text = told(&site, set).await;
    assert!(text.contains("within 300 s, before it was 900 s"), "{text}");
    let text = told(&site, &[b"placement", b"show", b"photos"]).await;
    assert!(text.ends_with(", lag goal 5m\n"), "{text}");
    let text = told(&site, &[b"placement", b"show", b"photos"]).await;
    assert!(
        text.starts_with("  photos      ma01, or01 (inactive)  since 20"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
    let text = told(&site, &[b"placement", b"remove", b"photos", b"--json"]).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["due"], json!(["ma01", "tx01"]));

    let api = format!("http://{}", site.address);
    let wrong: &[&[&[u8]]] = &[
        &[b"set", b"photos", b"tx02"],
        &[b"remove", b"cats"],
        &[b"remove", b"photos:raw"],
    ];
    for arguments in wrong {
        let mut all: Vec<&[u8]> = vec![b"placement"];
        all.extend(*arguments);
        all.extend([b"--api", api.as_bytes()]);
        let output = ask(&all).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            errors.contains("there are ma01, or01, tx01")
                || errors.contains("no placement of its own"),
            "{errors}"
        );
    }
}
