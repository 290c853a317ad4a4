//! The calls of the first version.

use std::process::Command;

use phylactery::file::{Datacenter, Fid, FileName};
use serde_json::{Value, json};

use crate::support::{Site, dc, register, site, site_with};

const NEW: &str = r#"{"Fid":"1234.fid","Origin":"ma01","Ma01":true,"Tx01":false}"#;

fn claimed(record: &phylactery::ledger::FileRecord, name: &str) -> Option<(Fid, bool)> {
    let name: Datacenter = name.parse().unwrap();
    let held = record.replicas.get(&name)?.held.as_ref()?;
    Some((held.fid, held.claimed))
}

async fn nothing_is_stored(site: &Site) {
    use phylactery::ledger::TokenRange;
    let page = site
        .ledger
        .scan(
            TokenRange::ALL,
            None,
            100,
            phylactery::ledger::Strength::Local,
        )
        .await
        .unwrap();
    assert!(page.files.is_empty(), "{:?}", page.files);
}

#[tokio::test]
async fn a_file_goes_through_its_whole_life() {
    let site = site().await;
    assert_eq!(
        site.get("/file/bad/tx01").await,
        (200, json!({ "all": "good" }))
    );
    assert_eq!(
        site.post("/file/new", NEW).await,
        (200, json!({ "insert": "success" }))
    );

    let record = site.record("phylactery", "1234.fid").await;
    let head = record.head.as_ref().unwrap();
    let put = head.put().unwrap();
    assert_eq!(
        (&head.origin, put.size, put.fid),
        (&dc("ma01"), 0, Fid(1234))
    );
    assert_eq!(put.content.version, head.version);
    assert_eq!(claimed(&record, "ma01"), Some((Fid(1234), true)));
    assert_eq!(claimed(&record, "tx01"), None);

    let (status, answer) = site.get("/file/bad/tx01").await;
    assert_eq!(status, 200);
    let created = answer["Created"].as_str().unwrap().to_owned();
    assert!(humantime::parse_rfc3339(&created).is_ok(), "{created}");
    assert_eq!(
        answer,
        json!({ "Fid": "1234.fid", "Created": created, "Origin": "ma01", "Ma01": true, "Tx01": false })
    );
    assert_eq!(
        site.get("/file/bad/ma01").await,
        (200, json!({ "all": "good" }))
    );

    // It is a file like any other to see.
    let (_, seen) = site.get("/v1/files/phylactery/1234.fid").await;
    assert_eq!(seen["missing"], json!(["tx01"]));
    assert_eq!(seen["replicas"]["ma01"]["claimed"], true);

    assert_eq!(
        site.post("/file/add/tx01", r#"{"Fid":"1234.fid"}"#).await,
        (200, json!({ "update": "success" }))
    );
    assert_eq!(
        site.get("/file/bad/tx01").await,
        (200, json!({ "all": "good" }))
    );
    let record = site.record("phylactery", "1234.fid").await;
    assert_eq!(claimed(&record, "tx01"), Some((Fid(1234), true)));
}

#[tokio::test]
async fn the_members_come_in_the_order_of_the_first_version() {
    let site = site().await;
    site.post("/file/new", NEW).await;
    let body = reqwest::get(site.url("/file/bad/tx01"))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let order = [
        "\"Fid\"",
        "\"Created\"",
        "\"Origin\"",
        "\"Ma01\"",
        "\"Tx01\"",
    ];
    let places: Vec<usize> = order.iter().map(|name| body.find(name).unwrap()).collect();
    assert!(places.is_sorted(), "{body}");
}

#[tokio::test]
async fn curl_with_the_double_slash_of_their_readme() {
    let site = site().await;
    let curl = |arguments: Vec<String>| async move {
        let output = tokio::task::spawn_blocking(move || {
            Command::new("curl")
                .args(["-sS", "--noproxy", "*"])
                .args(arguments)
                .output()
        });
        let output = output.await.unwrap().expect("curl is installed");
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let post = |path: &str, body: &str| vec!["-d".to_owned(), body.to_owned(), site.url(path)];
    assert_eq!(
        curl(post("/file/new", NEW)).await,
        json!({ "insert": "success" })
    );
    let add = curl(post("//file/add/tx01", r#"{"Fid":"1234.fid"}"#)).await;
    assert_eq!(add, json!({ "update": "success" }));
    assert_eq!(
        curl(vec![site.url("/file/bad/tx01")]).await,
        json!({ "all": "good" })
    );

    // A large body is refused with an answer that a client gets to see, also when it sends before it reads.
    let folder = tempfile::tempdir().unwrap();
    for size in [70 << 10, 3 << 20] {
        let file = folder.path().join("body");
        std::fs::write(&file, vec![b'x'; size]).unwrap();
        let body = format!("@{}", file.display());
        let chunked = ["-H", "Transfer-Encoding: chunked", "-H", "Expect:"];
        for more in [&[][..], &chunked[..], &["-H", "Expect:"][..]] {
            let mut arguments: Vec<String> = more.iter().map(|&text| text.to_owned()).collect();
            arguments.extend([
                "--data-binary".to_owned(),
                body.clone(),
                site.url("/file/new"),
            ]);
            let answer = curl(arguments).await;
            assert_eq!(answer["insert"], "fail");
            assert_eq!(answer["message"], "the body has more than 65536 bytes");
        }
    }
}

#[tokio::test]
async fn bad_input_is_400_with_a_message_and_stores_nothing() {
    let site = site().await;
    let long = format!(r#"{{"Fid":"1.fid","Origin":"{}"}}"#, "x".repeat(65 << 10));
    let news: [&[u8]; 21] = [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\"1234.fid\"",
        b"{}",
        b"\xff\xfe",
        br#"{"Fid":"1234.fid","Origin":"ma01"} more"#,
        br#"{"Fid":1234,"Origin":"ma01"}"#,
        br#"{"Fid":null,"Origin":"ma01"}"#,
        br#"{"Fid":"","Origin":"ma01"}"#,
        br#"{"Fid":".fid","Origin":"ma01"}"#,
        br#"{"Fid":"12a4.fid","Origin":"ma01"}"#,
        br#"{"Fid":"99999999999999999999.fid","Origin":"ma01"}"#,
        br#"{"Origin":"ma01","Ma01":true}"#,
        br#"{"Fid":"1234.fid","Ma01":true}"#,
        br#"{"Fid":"1234.fid","Origin":"zz99","Ma01":true}"#,
        br#"{"Fid":"1234.fid","Origin":"ma01","Ma01":"true"}"#,
        br#"{"Fid":"1234.fid","Origin":"ma01","Ma01":1}"#,
        br#"{"Fid":"1234.fid","Origin":"ma01","Ma01":true,"Or01":false}"#,
        br#"{"Fid":"1234.fid","Fid":"1235.fid","Origin":"ma01"}"#,
    ];
    for body in news.into_iter().chain([long.as_bytes()]) {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]);
        let (status, answer) = site.post("/file/new", body).await;
        assert_eq!(status, 400, "{shown}: {answer}");
        assert_eq!(answer["insert"], "fail", "{shown}");
        assert!(!answer["message"].as_str().unwrap().is_empty(), "{shown}");
    }
    nothing_is_stored(&site).await;

    site.post("/file/new", NEW).await;
    let adds: [&[u8]; 8] = [
        b"",
        b"{",
        b"[]",
        b"{}",
        br#"{"Fid":1234}"#,
        br#"{"Fid":["1234.fid"]}"#,
        br#"{"Fid":"1234.fid","Tx01":true}"#,
        br#"{"Fid":"1234"}"#,
    ];
    for body in adds.into_iter().chain([long.as_bytes()]) {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]);
        let (status, answer) = site.post("/file/add/tx01", body).await;
        assert_eq!(status, 400, "{shown}: {answer}");
        assert_eq!(answer["update"], "fail", "{shown}");
    }
    let record = site.record("phylactery", "1234.fid").await;
    assert_eq!(claimed(&record, "tx01"), None);
}

#[tokio::test]
async fn a_known_fid_is_left_as_it_is() {
    let site = site().await;
    site.post("/file/new", NEW).await;
    let before = site.record("phylactery", "1234.fid").await;
    let other = r#"{"Fid":"1234.fid","Origin":"tx01","Ma01":false,"Tx01":true}"#;
    assert_eq!(
        site.post("/file/new", other).await,
        (409, json!({ "insert": "fail" }))
    );
    assert_eq!(site.record("phylactery", "1234.fid").await, before);

    // Many at once: one is the first.
    let all = (0..20).map(|_| site.post("/file/new", r#"{"Fid":"7.fid","Origin":"ma01"}"#));
    let answers = futures::future::join_all(all).await;
    let first = answers.iter().filter(|(status, _)| *status == 200).count();
    assert_eq!(first, 1, "{answers:?}");
}

#[tokio::test]
async fn unknown_datacenters_and_fids_are_404() {
    let site = site().await;
    let (status, answer) = site.get("/file/bad/zz99").await;
    assert_eq!(status, 404);
    assert_eq!(
        answer["message"],
        "no datacenter \"zz99\" is registered; there are ma01, tx01"
    );
    let (status, answer) = site.post("/file/add/zz99", r#"{"Fid":"1234.fid"}"#).await;
    assert_eq!((status, &answer["update"]), (404, &json!("fail")));
    assert_eq!(
        site.post("/file/add/tx01", r#"{"Fid":"1234.fid"}"#).await,
        (404, json!({ "update": "fail" }))
    );
    nothing_is_stored(&site).await;
}

#[tokio::test]
async fn what_we_saw_ourselves_is_not_replaced_by_a_claim() {
    let site = site().await;
    let file = FileName::from_bytes(b"phylactery", b"12.fid");
    site.stored(&file).await;
    let before = site.record("phylactery", "12.fid").await;
    let (status, _) = site.post("/file/add/ma01", r#"{"Fid":"12.fid"}"#).await;
    assert_eq!(status, 200);
    assert_eq!(site.record("phylactery", "12.fid").await, before);
    // A deleted file is not brought back by a claim.
    site.deleted(&file).await;
    let (status, answer) = site.post("/file/add/tx01", r#"{"Fid":"12.fid"}"#).await;
    assert_eq!((status, answer), (404, json!({ "update": "fail" })));
}

#[tokio::test]
async fn compatible_status_is_always_200() {
    let site = site_with(true, None).await;
    site.post("/file/new", NEW).await;
    for (path, body) in [
        ("/file/new", NEW),
        ("/file/new", "{"),
        ("/file/add/zz99", NEW),
        ("/file/add/tx01", "[]"),
    ] {
        let (status, answer) = site.post(path, body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        let failed = answer["insert"] == "fail" || answer["update"] == "fail";
        assert!(failed, "{path}: {answer}");
    }
    let (status, answer) = site.get("/file/bad/zz99").await;
    assert_eq!(status, 200);
    assert!(answer["message"].is_string());
    // The rest of the API is of today.
    assert_eq!(site.get("/v1/files/photos/none").await.0, 404);
}

#[tokio::test]
async fn files_of_other_domains_are_not_given_out() {
    let site = site().await;
    site.stored(&FileName::from_bytes(b"photos", b"1.fid"))
        .await;
    assert_eq!(
        site.get("/file/bad/tx01").await,
        (200, json!({ "all": "good" }))
    );
}

#[tokio::test]
async fn all_the_datacenters_there_are_have_a_boolean() {
    let site = site().await;
    register(&*site.ledger, "or01", &site.clock).await;
    site.post(
        "/file/new",
        r#"{"Fid":"9.fid","Origin":"ma01","Or01":true}"#,
    )
    .await;
    let (_, answer) = site.get("/file/bad/tx01").await;
    assert_eq!(
        (&answer["Ma01"], &answer["Or01"], &answer["Tx01"]),
        (&json!(false), &json!(true), &json!(false))
    );
}

#[tokio::test]
async fn two_workers_are_never_given_the_same_file() {
    let site = site().await;
    let count = 40;
    for number in 0..count {
        let body = format!(r#"{{"Fid":"{number}.fid","Origin":"ma01","Ma01":true}}"#);
        assert_eq!(site.post("/file/new", body).await.0, 200);
        // Files of others lie between them on the ring.
        site.stored(&FileName::from_bytes(
            b"photos",
            format!("{number}").as_bytes(),
        ))
        .await;
    }
    let workers = (0..8).map(|_| async {
        let mut given = Vec::new();
        loop {
            let (status, answer) = site.get("/file/bad/tx01").await;
            assert_eq!(status, 200, "{answer}");
            if answer == json!({ "all": "good" }) {
                return given;
            }
            given.push(answer["Fid"].as_str().unwrap().to_owned());
        }
    });
    let mut given = futures::future::join_all(workers).await.concat();
    given.sort();
    let before = given.len();
    given.dedup();
    assert_eq!(
        (before, given.len()),
        (count, count),
        "a file was given twice, or never"
    );
    // Another datacenter is another search.
    assert_eq!(site.get("/file/bad/ma01").await.1, json!({ "all": "good" }));
}
