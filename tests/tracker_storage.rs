//! The HTTP of the storage node.

#![allow(
    clippy::unwrap_used,
    reason = "a test panics when something is not as it should be"
)]

mod tracker_support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use tracker_support::{config, http, start};

const PATH: &str = "/dev1/0/000/000/0000000042.fid";

/// Sends bytes as they are and reads until the server closes.
fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn put_get_head_delete() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path())).await;
    let url = format!("http://{}{PATH}", running.tracker.storage_addr());
    let http = http();
    assert_eq!(http.get(&url).send().await.unwrap().status(), 404);
    assert_eq!(http.delete(&url).send().await.unwrap().status(), 404);
    for body in ["first", "", "0123456789"] {
        assert_eq!(
            http.put(&url).body(body).send().await.unwrap().status(),
            201
        );
        let head = http.head(&url).send().await.unwrap();
        assert_eq!(head.status(), 200);
        assert_eq!(head.headers()["content-length"], body.len().to_string());
        assert_eq!(
            http.get(&url).send().await.unwrap().text().await.unwrap(),
            body
        );
    }
    let range = |range: &'static str| http.get(&url).header("range", range).send();
    for (asked, expected, of) in [
        ("bytes=2-4", "234", "2-4"),
        ("bytes=7-", "789", "7-9"),
        ("bytes=-2", "89", "8-9"),
        ("bytes=5-99", "56789", "5-9"),
    ] {
        let answer = range(asked).await.unwrap();
        assert_eq!(answer.status(), 206, "{asked}");
        assert_eq!(
            answer.headers()["content-range"],
            format!("bytes {of}/10"),
            "{asked}"
        );
        assert_eq!(answer.text().await.unwrap(), expected, "{asked}");
    }
    assert_eq!(range("bytes=10-").await.unwrap().status(), 416);
    assert_eq!(http.delete(&url).send().await.unwrap().status(), 204);
    assert_eq!(http.get(&url).send().await.unwrap().status(), 404);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_clients_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path())).await;
    let address = running.tracker.storage_addr();
    let answer = raw(
        address,
        format!("PUT {PATH} HTTP/1.0\r\nContent-length: 5\r\n\r\nhello").as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.0 201 "), "{answer}");
    let answer = raw(address, format!("GET {PATH} HTTP/1.0\r\n\r\n").as_bytes());
    assert!(
        answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("\r\n\r\nhello"),
        "{answer}"
    );
    // Two requests on one connection, and the end when the second says so.
    let two = format!(
        "HEAD {PATH} HTTP/1.1\r\nHost: x\r\n\r\nGET {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    );
    let answer = raw(address, two.as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
    // What programs that watch storage nodes ask for.
    let answer = raw(address, b"GET //dev1/usage HTTP/1.0\r\n\r\n");
    for field in [
        "available: ",
        "device: ",
        "disk: ",
        "time: ",
        "total: ",
        "use: ",
        "used: ",
    ] {
        assert!(answer.contains(field), "{field} in {answer}");
    }
    assert!(raw(address, b"GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200 "));
    assert!(raw(address, b"MKCOL /dev1/0/ HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 400 "));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_stored_that_did_not_come_whole_and_right() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path())).await;
    let address = running.tracker.storage_addr();
    let url = format!("http://{address}{PATH}");
    let put = |md5: &'static str| {
        http()
            .put(&url)
            .header("content-md5", md5)
            .body("hello")
            .send()
    };
    assert_eq!(put("AAAAAAAAAAAAAAAAAAAAAA==").await.unwrap().status(), 400);
    assert_eq!(http().get(&url).send().await.unwrap().status(), 404);
    assert_eq!(put("XUFAKrxLKna5cZ2REBfFkg==").await.unwrap().status(), 201);
    assert_eq!(put("XUFAKrxLKna5cZ2REBfFkg").await.unwrap().status(), 201);
    // A client that goes in the middle leaves the old content.
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "PUT {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nhalf"
    )
    .unwrap();
    stream.flush().unwrap();
    drop(stream);
    // A part of a file is not a file.
    let part = http()
        .put(&url)
        .header("content-range", "bytes 5-9/*")
        .body("later")
        .send()
        .await
        .unwrap();
    assert_eq!(part.status(), 501);
    let incoming = dir.path().join("dev1/.incoming");
    tracker_support::eventually("nothing is left of the half", || async {
        std::fs::read_dir(&incoming).unwrap().count() == 0
    })
    .await;
    assert_eq!(
        http().get(&url).send().await.unwrap().text().await.unwrap(),
        "hello"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_do_not_leave_their_device() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path())).await;
    let address = running.tracker.storage_addr();
    std::fs::write(dir.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink(dir.path(), dir.path().join("dev1/out")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("secret"), dir.path().join("dev1/link")).unwrap();
    for path in [
        "/secret",
        "/tracker.db",
        "/dev1/../secret",
        "/dev1/%2e%2e/secret",
        "/dev1/..%2fsecret",
        "/dev1/out/secret",
        "/dev1/link",
        "/dev1/.incoming/x",
        "/dev9/0/000/000/0000000001.fid",
        "/dev1",
        "/dev1/0/000//x",
        "*",
        "http://elsewhere/dev1/../secret",
    ] {
        for method in ["GET", "PUT", "DELETE", "HEAD"] {
            let request = format!("{method} {path} HTTP/1.0\r\nContent-Length: 1\r\n\r\nx");
            let answer = raw(address, request.as_bytes());
            let refused = ["404", "400", "501"]
                .iter()
                .any(|code| answer.starts_with(&format!("HTTP/1.0 {code}")));
            assert!(refused, "{method} {path}: {answer}");
            assert!(!answer.contains("secret"), "{method} {path}: {answer}");
        }
    }
    assert_eq!(
        std::fs::read_to_string(dir.path().join("secret")).unwrap(),
        "secret"
    );
    running.stop().await;
}
