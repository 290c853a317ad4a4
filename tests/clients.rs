//! Unchanged clients, as the programs that people have: pymogilefs and curl store, read, list, rename and delete.

mod harness;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use harness::{Cluster, until};

const DOMAIN: &str = "photos";

/// The Python that has pymogilefs; `tests/run` installs it.
fn python() -> String {
    std::env::var("PHYLACTERY_TEST_PYTHON").unwrap_or_else(|_| {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
        assert!(
            built.exists(),
            "pymogilefs is not installed: run tests/run once, it installs what the tests need"
        );
        built.display().to_string()
    })
}

fn run(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|why| panic!("start {program}: {why}"));
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(input.as_bytes())
        .expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn pymogilefs(tracker: &str, script: &str) -> String {
    let head = format!(
        "import io, sys\nfrom pymogilefs.client import Client\n\
         client = Client(trackers=['{tracker}'], domain='{DOMAIN}')\n"
    );
    run(&python(), &["-"], &format!("{head}{script}"))
}

/// One request on a connection of its own, by curl's telnet, which stays connected until it is ended.
fn curl_line(tracker: &str, line: &str) -> String {
    let mut curl = Command::new("curl")
        .args([
            "-sS",
            "-N",
            "--max-time",
            "30",
            &format!("telnet://{tracker}"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl is installed");
    let mut input = curl.stdin.take().expect("a pipe");
    input
        .write_all(format!("{line}\r\n").as_bytes())
        .expect("curl reads");
    let mut answer = String::new();
    BufReader::new(curl.stdout.take().expect("a pipe"))
        .read_line(&mut answer)
        .expect("curl writes text");
    curl.kill().expect("it runs");
    curl.wait().expect("it ends");
    answer
}

fn field<'a>(answer: &'a str, name: &str) -> &'a str {
    answer
        .trim_end()
        .trim_start_matches("OK ")
        .split('&')
        .find_map(|pair| pair.strip_prefix(&format!("{name}=")))
        .unwrap_or_else(|| panic!("no {name} in {answer}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pymogilefs_stores_here_and_reads_there() {
    let cluster = Cluster::start("").await;
    let (here, there) = (
        cluster.ma01.proxy.to_string(),
        cluster.tx01.proxy.to_string(),
    );
    pymogilefs(
        &here,
        "for name in ['cat.jpg', 'a b', 'ümläut/%', 'gone']:\n\
         \x20   client.store_file(io.BytesIO(('bytes of ' + name).encode()), name)\n\
         client.store_file(io.BytesIO(b''), 'empty')\n\
         client.store_file(io.BytesIO(b'old'), 'overwritten')\n\
         client.store_file(io.BytesIO(b'new'), 'overwritten', _class='thumb')\n\
         client.delete_file('gone')\n",
    );
    cluster.settled().await;
    let read = pymogilefs(
        &there,
        "for name in ['cat.jpg', 'a b', 'ümläut/%', 'empty', 'overwritten']:\n\
         \x20   print(name, client.get_file(name).read())\n\
         try:\n    client.get_paths('gone')\n\
         except Exception as error:\n    print('gone', error)\n\
         print(client.list_keys().data['key_count'], client.list_keys(prefix='nothing').data['key_count'])\n",
    );
    for expected in [
        "cat.jpg b'bytes of cat.jpg'",
        "a b b'bytes of a b'",
        "overwritten b'new'",
        "empty b''",
        "gone unknown_key",
        "5 0",
    ] {
        assert!(read.contains(expected), "{expected} is missing:\n{read}");
    }
    let files = cluster.same_files(DOMAIN).await;
    assert_eq!(files["ümläut/%".as_bytes()], "bytes of ümläut/%".as_bytes());

    // And back: what tx01 deletes goes from ma01.
    pymogilefs(&there, "client.delete_file('cat.jpg')\n");
    cluster.settled().await;
    assert!(
        !cluster
            .same_files(DOMAIN)
            .await
            .contains_key(b"cat.jpg".as_slice())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_stores_renames_and_deletes_and_sees_its_files_in_the_api() {
    let cluster = Cluster::start("").await;
    let here = cluster.ma01.proxy.to_string();
    let there = cluster.tx01.proxy.to_string();
    let opened = curl_line(
        &here,
        &format!("create_open domain={DOMAIN}&key=by+curl&class=thumb"),
    );
    let (path, fid, devid) = (
        field(&opened, "path"),
        field(&opened, "fid"),
        field(&opened, "devid"),
    );
    run(
        "curl",
        &["-sSf", "-X", "PUT", "--data-binary", "@-", path],
        "curl was here",
    );
    let closed = curl_line(
        &here,
        &format!(
            "create_close domain={DOMAIN}&key=by+curl&fid={fid}&devid={devid}&path={path}&size=13"
        ),
    );
    assert_eq!(closed, "OK \r\n");
    assert_eq!(
        curl_line(
            &here,
            &format!("rename domain={DOMAIN}&from_key=by+curl&to_key=renamed")
        ),
        "OK \r\n"
    );
    cluster.settled().await;

    let paths = curl_line(
        &there,
        &format!("get_paths domain={DOMAIN}&key=renamed&noverify=1"),
    );
    assert_eq!(
        run("curl", &["-sSf", field(&paths, "path1")], ""),
        "curl was here"
    );
    let listed = curl_line(&there, &format!("list_keys domain={DOMAIN}&prefix=ren"));
    assert_eq!(field(&listed, "key_1"), "renamed");

    let url = format!("http://{}/v1/files/{DOMAIN}/renamed", cluster.tx01.api);
    let file: serde_json::Value =
        serde_json::from_str(&run("curl", &["-sSf", &url], "")).expect("JSON");
    assert_eq!(file["head"]["op"], "put");
    assert_eq!(file["head"]["origin"], "ma01");
    assert_eq!(file["head"]["class"], "thumb");
    assert_eq!(file["head"]["size"], 13);
    assert_eq!(file["due"], serde_json::json!(["ma01", "tx01"]));
    assert_eq!(file["missing"], serde_json::json!([]));
    assert_eq!(
        file["replicas"]["ma01"]["content"],
        file["replicas"]["tx01"]["content"]
    );

    assert_eq!(
        curl_line(&there, &format!("delete domain={DOMAIN}&key=renamed")),
        "OK \r\n"
    );
    cluster.settled().await;
    until("the deletion arrives at home", async || {
        let answer = curl_line(&here, &format!("file_info domain={DOMAIN}&key=renamed"));
        if answer.starts_with("ERR unknown_key") {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
    assert!(cluster.same_files(DOMAIN).await.is_empty());
}
