//! `/v1/repair/budget`, and `phylactery repair budget`, which asks it.

use phylactery::repair::budget::{Setting, Standing};
use serde_json::{Value, json};

use crate::asked_by_cli::{ask, told};
use crate::support::site;

const PATH: &str = "/v1/repair/budget";

#[tokio::test]
async fn a_budget_is_shown_set_and_taken_back() {
    let site = site().await;
    *site.said.6.lock() = Standing {
        set: Setting {
            files_per_second: Some(None),
            ..Setting::default()
        },
        ..Standing::default()
    };
    let (status, answer) = site.get(PATH).await;
    assert_eq!(status, 200);
    assert_eq!(answer["limits"]["copies_at_once"], 4);
    assert_eq!(answer["configured"]["bytes_per_second"], Value::Null);
    assert_eq!(answer["set"], json!({ "files_per_second": null }));

    let said = json!({ "bytes_per_second": 50_000_000, "bytes_per_source": null });
    let (status, answer) = site.put(PATH, said.clone()).await;
    assert_eq!((status, &answer["set"]), (200, &said), "{answer}");
    assert_eq!(answer["warnings"], json!([]));
    let (status, answer) = site.put(PATH, json!({ "copies_at_once": 13 })).await;
    assert_eq!(status, 200);
    let warning = answer["warnings"][0].as_str().unwrap();
    assert!(warning.contains("lost with the next restart"), "{warning}");
    let (status, answer) = site.delete(PATH).await;
    assert_eq!((status, &answer["set"]), (200, &json!({})));

    for (bad, why) in [
        (json!({}), "no limit is named"),
        (
            json!({ "bytes_per_second": 5 }),
            "bytes_per_second = 5: too little; write 16384 to",
        ),
        (
            json!({ "copies_at_once": 5000 }),
            "copies_at_once = 5000: too much; write 1 to 1024",
        ),
        (json!({ "copies": 5 }), "unknown field `copies`"),
        (
            json!({ "files_per_second": "many" }),
            "is not the JSON that belongs here",
        ),
    ] {
        let (status, answer) = site.put(PATH, bad).await;
        let message = answer["message"].as_str().unwrap();
        assert!(status == 400 && message.contains(why), "{status} {message}");
        assert_eq!(site.said.6.lock().set, Setting::default());
    }
}

#[tokio::test]
async fn an_operator_sets_a_budget_from_a_terminal() {
    let site = site().await;
    let text = told(&site, &[b"repair", b"budget", b"show"]).await;
    assert!(text.contains("copies_at_once    4\n"), "{text}");
    assert!(text.contains("bytes_per_second  unlimited\n"), "{text}");
    let set: &[&[u8]] = &[
        b"repair",
        b"budget",
        b"set",
        b"--bytes-per-second",
        b"50MB",
        b"--copies-per-source",
        b"unlimited",
    ];
    let text = told(&site, set).await;
    assert!(text.contains("(set; unlimited is configured)"), "{text}");
    let setting = Setting {
        bytes_per_second: Some(Some(50_000_000)),
        copies_per_source: Some(None),
        ..Setting::default()
    };
    assert_eq!(site.said.6.lock().set, setting);
    let json = told(&site, &[b"repair", b"budget", b"reset", b"--json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["set"], json!({}));

    for (arguments, code, why) in [
        (&[&b"set"[..]][..], 64, "--bytes-per-second"),
        (
            &[b"set", b"--bytes-per-second", b"fast"],
            64,
            "write a size such as 50MB",
        ),
        (
            &[b"set", b"--copies-at-once", b"some"],
            64,
            "--copies-at-once",
        ),
    ] {
        let output = ask(&[&[&b"repair"[..], b"budget"], arguments].concat()).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(why), "{error}");
    }
}
