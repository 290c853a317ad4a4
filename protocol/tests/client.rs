//! The client against a tracker that answers from a script, in the words of real ones.

use std::net::SocketAddr;
use std::time::Duration;

use mogilefs_protocol::client::{
    ClassSettings, Client, ClientError, CreateClose, CreateOpen, Destination, GetPaths, KeyPage,
    ListKeys, Timeouts,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// For tests in which an answer is to come: never reached.
const PATIENT: Timeouts = Timeouts {
    connect: Duration::from_secs(20),
    reply: Duration::from_secs(20),
};

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    (listener, addr)
}

/// A client, and a tracker that expects these requests and gives these answers.
async fn scripted(script: &'static [(&'static str, &'static str)]) -> (Client, JoinHandle<()>) {
    let (listener, addr) = listen().await;
    let tracker = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let mut stream = BufReader::new(stream);
        for (expected, answer) in script {
            let mut request = String::new();
            stream.read_line(&mut request).await.expect("a request");
            assert_eq!(request, format!("{expected}\r\n"));
            stream
                .write_all(answer.as_bytes())
                .await
                .expect("the client listens");
        }
    });
    (
        Client::connect(addr, PATIENT).await.expect("it listens"),
        tracker,
    )
}

#[tokio::test]
async fn an_upload_is_opened_and_closed() {
    let (mut client, tracker) = scripted(&[
        (
            "create_open domain=photos&key=co/a&multi_dest=1",
            "OK path_1=http://127.0.0.2:17110/dev1/0/000/000/0000000041.fid&devid_1=1&dev_count=2&fid=41&devid_2=2&path_2=http://127.0.0.3:17110/dev2/0/000/000/0000000041.fid\r\n",
        ),
        (
            "create_open domain=photos&key=esc/a%2Bb&class=thumb&fid=7&size=1",
            "OK path=http://127.0.0.3:17110/dev2/0/000/000/0000000016.fid&devid=2&fid=16\r\n",
        ),
        (
            "create_close domain=photos&key=esc/a%2Bb&fid=16&devid=2&path=http://127.0.0.3:17110/dev2/0/000/000/0000000016.fid&size=1&checksum=MD5:cdf42aa40dd5d52b504e8a068136b905&checksumverify=1",
            "OK \r\n",
        ),
        ("create_close domain=photos&key=&fid=16&devid=2&path=p", "ERR no_temp_file No+tempfile+or+file+already+closed\r\n"),
    ])
    .await;

    let open = CreateOpen {
        domain: b"photos",
        key: b"co/a",
        multi_dest: true,
        ..CreateOpen::default()
    };
    let opened = client.create_open(&open).await.expect("two destinations");
    assert_eq!(opened.fid, 41);
    assert_eq!(
        opened
            .destinations
            .iter()
            .map(|to| to.devid)
            .collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(
        opened.destinations[1].path,
        "http://127.0.0.3:17110/dev2/0/000/000/0000000041.fid"
    );

    let open = CreateOpen {
        domain: b"photos",
        key: b"esc/a+b",
        class: Some(b"thumb"),
        fid: Some(7),
        size: Some(1),
        multi_dest: false,
    };
    let opened = client.create_open(&open).await.expect("one destination");
    let [Destination { devid: 2, path }] = &opened.destinations[..] else {
        panic!("{opened:?}")
    };

    let mut close = CreateClose {
        domain: b"photos",
        key: b"esc/a+b",
        fid: opened.fid,
        devid: 2,
        path,
        size: Some(1),
        checksum: Some("MD5:cdf42aa40dd5d52b504e8a068136b905"),
        checksumverify: true,
    };
    client.create_close(&close).await.expect("it is closed");
    close = CreateClose {
        key: b"",
        path: "p",
        size: None,
        checksum: None,
        checksumverify: false,
        ..close
    };
    let err = client
        .create_close(&close)
        .await
        .expect_err("it was closed before");
    assert!(err.is_code("no_temp_file") && err.maybe_seen());
    assert_eq!(
        err.to_string(),
        "the tracker answered no_temp_file: No tempfile or file already closed"
    );
    assert!(client.is_usable());
    tracker.await.expect("the script was followed");
}

#[tokio::test]
async fn files_are_looked_up() {
    let (mut client, tracker) = scripted(&[
        (
            "get_paths domain=photos&key=gp/a&noverify=1&pathcount=5&zone=alt",
            "OK path1=http://127.0.0.3:17110/dev2/0/000/500/0000500081.fid&paths=2&path2=http://127.0.0.2:17110/dev1/0/000/500/0000500081.fid\r\n",
        ),
        ("get_paths domain=photos&key=gp/a&noverify=0", "OK paths=0\r\n"),
        (
            "file_info domain=photos&key=sum/sums&devices=1",
            "OK devids=1,2&checksum=MD5:cdf42aa40dd5d52b504e8a068136b905&fid=500032&length=5120&key=sum/sums&domain=photos&devcount=2&class=sums\r\n",
        ),
        (
            "file_info domain=photos&key=%FF%00&devices=1",
            "OK checksum=MISSING&fid=1&length=0&key=%FF%00&domain=photos&devcount=1&class=sums\r\n",
        ),
        ("file_info domain=photos&key=none&devices=1", "ERR unknown_key unknown_key\r\n"),
        ("delete domain=photos&key=a", "OK \r\n"),
        ("rename domain=photos&from_key=a&to_key=b", "ERR key_exists Target+key+name+already+exists%3B+can%27t+overwrite.\r\n"),
        ("updateclass domain=photos&key=a&class=thumb", "OK \r\n"),
    ])
    .await;

    let wanted = GetPaths {
        domain: b"photos",
        key: b"gp/a",
        noverify: true,
        pathcount: Some(5),
        zone: Some("alt"),
    };
    let paths = client.get_paths(&wanted).await.expect("two paths");
    assert_eq!(
        paths,
        [
            "http://127.0.0.3:17110/dev2/0/000/500/0000500081.fid",
            "http://127.0.0.2:17110/dev1/0/000/500/0000500081.fid",
        ],
    );
    let wanted = GetPaths {
        noverify: false,
        pathcount: None,
        zone: None,
        ..wanted
    };
    assert!(
        client
            .get_paths(&wanted)
            .await
            .expect("no path is no error")
            .is_empty()
    );

    let file = client
        .file_info(b"photos", b"sum/sums")
        .await
        .expect("it is there");
    assert_eq!((file.fid, file.length, file.devcount), (500032, 5120, 2));
    assert_eq!(
        (&file.class[..], &file.devids[..]),
        (&b"sums"[..], &[1, 2][..])
    );
    assert_eq!(
        file.checksum.as_deref(),
        Some("MD5:cdf42aa40dd5d52b504e8a068136b905")
    );
    let file = client
        .file_info(b"photos", b"\xff\0")
        .await
        .expect("it is there");
    assert_eq!((&file.key[..], file.checksum), (&b"\xff\0"[..], None));
    assert!(
        client
            .file_info(b"photos", b"none")
            .await
            .is_err_and(|err| err.is_code("unknown_key"))
    );

    client.delete(b"photos", b"a").await.expect("deleted");
    let err = client
        .rename(b"photos", b"a", b"b")
        .await
        .expect_err("b exists");
    assert_eq!(err.code(), Some("key_exists"));
    client
        .updateclass(b"photos", b"a", b"thumb")
        .await
        .expect("changed");
    tracker.await.expect("the script was followed");
}

#[tokio::test]
async fn file_debug_tells_the_states_of_a_fid_apart() {
    let (mut client, tracker) = scripted(&[
        (
            "file_debug domain=photos&key=ow/a",
            "OK devids=1&fid_classid=1&replqueue_flags=0&fid_domain=photos&replqueue_failcount=0&replqueue_nexttry=0&fid_dmid=1&checksum=NONE&fid_fid=500054&fid_devcount=1&fid_dkey=ow/a&replqueue_fromdevid=&devpath_1=http://127.0.0.2:17110/dev1/0/000/500/0000500054.fid&fid_class=thumb&fid_length=10&replqueue_fid=500054\r\n",
        ),
        (
            "file_debug fid=500053",
            "OK replqueue_flags=0&replqueue_fromdevid=&delqueue_nexttry=1795364451&replqueue_fid=500053&replqueue_failcount=0&replqueue_nexttry=0&devids=2&delqueue_fid=500053&checksum=NONE&delqueue_failcount=0&devpath_2=http://127.0.0.3:17110/dev2/0/000/500/0000500053.fid\r\n",
        ),
        (
            "file_debug fid=500052",
            "OK tempfile_classid=0&tempfile_dkey=ab/c&checksum=NONE&tempfile_devids=1,2&tempfile_dmid=1\r\n",
        ),
        ("file_debug fid=99999999", "OK checksum=NONE\r\n"),
    ])
    .await;

    let living = client
        .file_debug_by_key(b"photos", b"ow/a")
        .await
        .expect("it lives");
    let row = living.file.expect("a row");
    assert_eq!((row.fid, row.length, row.devcount), (500054, 10, 1));
    assert_eq!(
        (&row.domain[..], &row.key[..], &row.class[..]),
        (&b"photos"[..], &b"ow/a"[..], &b"thumb"[..])
    );
    assert!(living.replqueue && !living.delqueue && living.tempfile.is_none());
    assert_eq!(
        living.paths,
        [Destination {
            devid: 1,
            path: "http://127.0.0.2:17110/dev1/0/000/500/0000500054.fid".into()
        }],
    );

    let overwritten = client.file_debug_by_fid(500053).await.expect("known");
    assert!(overwritten.delqueue && overwritten.file.is_none() && overwritten.devids == [2]);

    let open = client
        .file_debug_by_fid(500052)
        .await
        .expect("known")
        .tempfile
        .expect("an upload");
    assert_eq!(
        (&open.key[..], &open.devids[..], open.dmid, open.classid),
        (&b"ab/c"[..], &[1, 2][..], 1, 0)
    );

    let unknown = client
        .file_debug_by_fid(99999999)
        .await
        .expect("not an error");
    assert!(unknown.file.is_none() && unknown.tempfile.is_none() && !unknown.delqueue);
    assert!(unknown.checksum.is_none() && unknown.devids.is_empty());
    tracker.await.expect("the script was followed");
}

#[tokio::test]
async fn lists_are_read_in_order() {
    let (mut client, tracker) = scripted(&[
        (
            "list_keys domain=photos&prefix=lk/&after=lk/2&limit=3",
            "OK key_1=lk/3&key_count=3&next_after=lk/5&key_3=lk/5&key_2=lk/4\r\n",
        ),
        (
            "list_keys domain=photos&prefix=&after=",
            "ERR none_match No+keys+match+that+pattern+and+after-value+%28if+any%29.\r\n",
        ),
        (
            "list_fids from=500089&to=2",
            "OK fid_2_key=lf/4&fid_2_length=4&fid_2_class=default&fid_count=2&fid_1_fid=500090&fid_2_devcount=1&fid_2_domain=photos&fid_1_domain=photos&fid_2_fid=500093&fid_1_devcount=1&fid_1_length=1&fid_1_class=default&fid_1_key=lf/1\r\n",
        ),
        ("list_fids from=500093&to=2", "OK fid_count=0\r\n"),
    ])
    .await;

    let wanted = ListKeys {
        domain: b"photos",
        prefix: b"lk/",
        after: b"lk/2",
        limit: Some(3),
    };
    let page = client.list_keys(&wanted).await.expect("a page");
    assert_eq!(page.keys, [b"lk/3", b"lk/4", b"lk/5"]);
    assert_eq!(page.next_after.as_deref(), Some(&b"lk/5"[..]));
    let all = ListKeys {
        domain: b"photos",
        ..ListKeys::default()
    };
    assert_eq!(
        client.list_keys(&all).await.expect("none is no error"),
        KeyPage::default()
    );

    let files = client.list_fids(500089, 2).await.expect("two files");
    assert_eq!(
        files
            .iter()
            .map(|file| (file.fid, file.length))
            .collect::<Vec<_>>(),
        [(500090, 1), (500093, 4)]
    );
    assert_eq!((&files[1].key[..], files[1].devcount), (&b"lf/4"[..], 1));
    assert!(
        client
            .list_fids(500093, 2)
            .await
            .expect("no files")
            .is_empty()
    );
    tracker.await.expect("the script was followed");
}

#[tokio::test]
async fn the_site_is_described_and_changed() {
    let (mut client, tracker) = scripted(&[
        ("noop", "OK \r\n"),
        (
            "get_domains",
            "OK domain1class3name=sums&domain2class1mindevcount=2&domain2=docs&domains=2&domain1class2replpolicy=MultipleHosts%28%29&domain1class1replpolicy=MultipleHosts%28%29&domain1class3mindevcount=2&domain1classes=3&domain2class1name=default&domain1class2hashtype=NONE&domain1class1hashtype=NONE&domain2class1hashtype=NONE&domain1class3replpolicy=MultipleHosts%28%29&domain1class2name=thumb&domain1class1name=default&domain2classes=1&domain2class1replpolicy=MultipleHosts%28%29&domain1class3hashtype=MD5&domain1class2mindevcount=2&domain1=photos&domain1class1mindevcount=2\r\n",
        ),
        (
            "get_hosts",
            "OK host1_hostname=spare&host2_hostip=127.0.0.3&host2_http_get_port=&host1_hostid=3&host1_status=down&host2_http_port=17110&host1_altmask=127.0.0.0/24&host2_altip=&host1_altip=127.0.0.8&host2_altmask=&host1_http_port=17998&host2_status=alive&host2_hostid=2&host1_http_get_port=17997&hosts=2&host1_hostip=127.0.0.9&host2_hostname=node2\r\n",
        ),
        (
            "get_devices",
            "OK dev1_hostid=2&dev1_observed_state=writeable&dev2_utilization=&dev2_devid=901&dev1_mb_total=93052&dev2_mb_free=&dev1_utilization=1.20&dev2_hostid=3&dev2_observed_state=&dev2_reject_bad_md5=&dev1_mb_free=78021&dev2_mb_total=&dev1_reject_bad_md5=1&dev1_devid=2&dev2_status=dead&dev2_mb_asof=&dev1_weight=100&dev1_mb_used=15031&dev1_mb_asof=&dev1_status=alive&devices=2&dev2_mb_used=&dev2_weight=20\r\n",
        ),
        ("create_domain domain=r+w", "OK domain=r+w\r\n"),
        (
            "create_class domain=r+w&class=a&mindevcount=2&replpolicy=MultipleHosts%28%29&hashtype=MD5",
            "OK domain=r+w&class=a&mindevcount=2\r\n",
        ),
        ("update_class domain=r+w&class=a&mindevcount=0", "ERR invalid_mindevcount The+mindevcount+must+be+at+least+1\r\n"),
        ("delete_class domain=r+w&class=a", "OK domain=r+w&class=a\r\n"),
        ("delete_domain domain=r+w", "OK domain=r+w\r\n"),
        ("server_setting key=schema_version", "OK value=17&key=schema_version\r\n"),
        ("server_setting key=nope", "OK value=&key=nope\r\n"),
        ("set_server_setting key=nope&value=1", "ERR not_writable not_writable\r\n"),
    ])
    .await;

    client.noop().await.expect("a noop");
    let domains = client.get_domains().await.expect("two domains");
    assert_eq!(
        domains
            .iter()
            .map(|domain| &domain.name[..])
            .collect::<Vec<_>>(),
        [&b"photos"[..], b"docs"]
    );
    let sums = &domains[0].classes[2];
    assert_eq!(
        (&sums.name[..], sums.mindevcount, sums.hashtype.as_deref()),
        (&b"sums"[..], 2, Some("MD5"))
    );
    assert_eq!(
        (
            &sums.replpolicy[..],
            domains[1].classes[0].hashtype.as_deref()
        ),
        ("MultipleHosts()", None)
    );

    let hosts = client.get_hosts().await.expect("two hosts");
    assert_eq!(
        (hosts[0].http_get_port, hosts[0].altip.as_deref()),
        (Some(17997), Some("127.0.0.8"))
    );
    assert_eq!(
        (
            &hosts[1].hostname[..],
            hosts[1].http_get_port,
            hosts[1].altip.as_deref()
        ),
        ("node2", None, None)
    );

    let devices = client.get_devices().await.expect("two devices");
    assert_eq!(
        (devices[0].mb_free, devices[0].utilization),
        (Some(78021), Some(1.2))
    );
    assert_eq!(
        (devices[1].mb_free, devices[1].observed_state.as_deref()),
        (None, None)
    );
    assert_eq!((&devices[1].status[..], devices[1].weight), ("dead", 20));

    client.create_domain(b"r w").await.expect("made");
    let mut class = ClassSettings {
        domain: b"r w",
        class: b"a",
        mindevcount: 2,
        replpolicy: Some("MultipleHosts()"),
        hashtype: Some("MD5"),
    };
    client.create_class(&class).await.expect("made");
    class = ClassSettings {
        mindevcount: 0,
        replpolicy: None,
        hashtype: None,
        ..class
    };
    assert!(
        client
            .update_class(&class)
            .await
            .is_err_and(|err| err.is_code("invalid_mindevcount"))
    );
    client.delete_class(b"r w", b"a").await.expect("removed");
    client.delete_domain(b"r w").await.expect("removed");
    assert_eq!(
        client
            .server_setting("schema_version")
            .await
            .expect("a setting")
            .as_deref(),
        Some(&b"17"[..])
    );
    assert_eq!(
        client.server_setting("nope").await.expect("not an error"),
        None
    );
    assert!(
        client
            .set_server_setting("nope", b"1")
            .await
            .is_err_and(|err| err.is_code("not_writable"))
    );
    tracker.await.expect("the script was followed");
}

#[tokio::test]
async fn admin_answers_are_read_to_their_end() {
    let (mut client, tracker) = scripted(&[
        ("!version", "2.73\r\n.\r\n"),
        (
            "!watch",
            "Added you to watcher list.\r\n.\r\n:: [monitor(1)] news\r\n:: [mon",
        ),
        (
            "noop callid=1",
            "itor(1)] more\r\n:: [monitor(1)] news\r\nOK callid=1\r\n",
        ),
        (
            "!foo",
            "Mogilefsd admin commands:\n\n    !version    Server version\n.\r\n",
        ),
    ])
    .await;
    assert_eq!(client.admin("!version").await.expect("an answer"), ["2.73"]);
    assert_eq!(
        client.admin("!watch").await.expect("an answer"),
        ["Added you to watcher list."]
    );
    let reply = client
        .request("noop callid=1\r\n".into())
        .await
        .expect("news is no answer");
    assert_eq!(reply.line().raw(), "OK callid=1\r\n".as_bytes());
    assert_eq!(
        client.admin("!foo").await.expect("help"),
        [
            "Mogilefsd admin commands:",
            "",
            "    !version    Server version"
        ],
    );
    tracker.await.expect("the script was followed");
}

#[tokio::test]
async fn only_a_single_request_line_is_sent() {
    let (mut client, _tracker) = scripted(&[("noop", "OK \r\n")]).await;
    for line in ["", "noop", "noop\r\nnoop\r\n", "\r\n", "!version\r\n"] {
        let err = client.request(line.into()).await.expect_err(line);
        assert!(
            matches!(err, ClientError::NotARequest) && !err.maybe_seen(),
            "{line:?}: {err:?}"
        );
    }
    for command in ["", "noop", "! version", "!version\r\nnoop", "!"] {
        assert!(
            matches!(client.admin(command).await, Err(ClientError::NotARequest)),
            "{command:?}"
        );
    }
    client
        .noop()
        .await
        .expect("the connection is as good as before");
}

/// What a client makes of a tracker that gives `answer` to its first request and then closes.
async fn failure(answer: &'static str) -> ClientError {
    let (mut client, tracker) = scripted(Box::leak(Box::new([("noop", answer)]))).await;
    let err = client.noop().await.expect_err("it fails");
    assert!(!client.is_usable());
    let next = client
        .noop()
        .await
        .expect_err("the connection is of no use");
    assert!(matches!(next, ClientError::Unfinished) && !next.maybe_seen());
    tracker.await.expect("the script was followed");
    err
}

#[tokio::test]
async fn a_tracker_that_does_not_answer_properly_ends_the_use_of_the_connection() {
    let err = failure("").await;
    assert!(
        matches!(err, ClientError::Closed { maybe_seen: true }),
        "{err:?}"
    );
    let err = failure("OK").await;
    assert!(
        matches!(err, ClientError::Closed { maybe_seen: true }),
        "{err:?}"
    );
    let err = failure("HTTP/1.1 400 Bad Request\r\n").await;
    assert_eq!(
        err.to_string(),
        "not an answer of a tracker: \"HTTP/1.1 400 Bad Request\""
    );
    assert!(err.maybe_seen());
    let err = failure("\r\n").await;
    assert!(matches!(err, ClientError::Garbage { .. }), "{err:?}");
}

#[tokio::test]
async fn an_answer_without_its_fields_is_garbage_but_leaves_the_connection_in_step() {
    let (mut client, tracker) = scripted(&[
        ("list_fids from=0&to=1", "OK fid_count=1&fid_1_fid=abc\r\n"),
        ("get_hosts", "OK \r\n"),
        ("noop", "OK \r\n"),
    ])
    .await;
    let err = client.list_fids(0, 1).await.expect_err("abc is no fid");
    assert_eq!(
        err.to_string(),
        "not an answer of a tracker: no usable field fid_1_fid"
    );
    assert!(err.maybe_seen());
    assert!(client.get_hosts().await.is_err());
    client.noop().await.expect("the next answer is its own");
    tracker.await.expect("the script was followed");
}

#[tokio::test]
async fn an_answer_over_the_limit_is_an_error() {
    for (ask_admin, answer) in [
        (false, "OK aaaaaaaaaaaaaaaaaaaa=1\r\n"),
        (true, "aaaaa\r\nbbbbb\r\n.\r\n"),
    ] {
        let (listener, addr) = listen().await;
        let mut client = Client::connect(addr, PATIENT)
            .await
            .expect("it listens")
            .with_max_reply(10);
        let (mut stream, _) = listener.accept().await.expect("a client");
        let answering = tokio::spawn(async move {
            let mut request = String::new();
            BufReader::new(&mut stream)
                .read_line(&mut request)
                .await
                .expect("a request");
            stream
                .write_all(answer.as_bytes())
                .await
                .expect("the client listens");
            stream
        });
        let err = match ask_admin {
            false => client.noop().await.expect_err("too long"),
            true => client.admin("!version").await.expect_err("too long"),
        };
        assert!(
            matches!(
                err,
                ClientError::TooLong {
                    max: 10,
                    maybe_seen: true
                }
            ),
            "{err:?}"
        );
        assert!(!client.is_usable());
        drop(answering.await);
    }
}

/// A client whose tracker says nothing, and the tracker's side.
async fn silent(timeouts: Timeouts) -> (Client, TcpStream) {
    let (listener, addr) = listen().await;
    let client = Client::connect(addr, timeouts).await.expect("it listens");
    (client, listener.accept().await.expect("a client").0)
}

#[tokio::test]
async fn a_silent_tracker_is_a_timeout() {
    let (mut client, _stream) = silent(Timeouts {
        reply: Duration::from_millis(50),
        ..PATIENT
    })
    .await;
    let err = client.noop().await.expect_err("no answer");
    assert!(
        matches!(
            err,
            ClientError::Timeout {
                maybe_seen: true,
                ..
            }
        ),
        "{err:?}"
    );
    assert_eq!(err.to_string(), "no answer from the tracker within 50ms");
    assert!(matches!(client.noop().await, Err(ClientError::Unfinished)));
}

#[tokio::test]
async fn a_request_dropped_half_way_never_gives_its_answer_to_the_next() {
    let (mut client, mut stream) = silent(PATIENT).await;
    let dropped =
        tokio::time::timeout(Duration::from_millis(50), client.delete(b"photos", b"a")).await;
    assert!(dropped.is_err());
    stream
        .write_all(b"OK \r\n")
        .await
        .expect("the client is there");
    assert!(!client.is_usable());
    assert!(matches!(
        client.delete(b"photos", b"b").await,
        Err(ClientError::Unfinished)
    ));
}

#[tokio::test]
async fn a_line_that_nobody_asked_for_is_no_answer() {
    let (mut client, mut stream) = silent(PATIENT).await;
    stream
        .write_all(b"OK \r\n")
        .await
        .expect("the client is there");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let err = client.noop().await.expect_err("it came before the request");
    assert!(
        matches!(
            err,
            ClientError::Garbage {
                maybe_seen: false,
                ..
            }
        ),
        "{err:?}"
    );
}

#[tokio::test]
async fn a_connection_closed_while_idle_has_seen_nothing() {
    let (mut client, stream) = silent(PATIENT).await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let err = client.noop().await.expect_err("it is closed");
    assert!(
        matches!(err, ClientError::Closed { maybe_seen: false }),
        "{err:?}"
    );
}

#[tokio::test]
async fn nobody_listening_is_a_connect_error_that_names_the_tracker() {
    let (listener, addr) = listen().await;
    drop(listener);
    let err = Client::connect(addr.to_string(), PATIENT)
        .await
        .expect_err("nobody listens");
    assert_eq!(err.to_string(), format!("connect to tracker {addr}"));
    assert!(!err.maybe_seen());
}

/// A line that cannot leave as a whole was never executed.
#[tokio::test]
async fn a_request_that_did_not_leave_whole_was_not_seen() {
    let (mut client, _stream) = silent(Timeouts {
        reply: Duration::from_millis(300),
        ..PATIENT
    })
    .await;
    let key = vec![b'k'; 64 << 20]; // more than the buffers of a connection hold
    let err = client
        .delete(b"photos", &key)
        .await
        .expect_err("nobody reads");
    assert!(
        matches!(
            err,
            ClientError::Timeout {
                maybe_seen: false,
                ..
            }
        ),
        "{err:?}"
    );
}

/// Programs spawn their work, and hold many of these.
#[tokio::test]
async fn calls_can_be_spawned() {
    let (mut client, tracker) =
        scripted(&[("noop", "OK \r\n"), ("!version", "2.73\r\n.\r\n")]).await;
    let work = async move {
        client.noop().await?;
        client.admin("!version").await
    };
    assert!(size_of_val(&work) < 4096, "{} bytes", size_of_val(&work));
    assert_eq!(
        tokio::spawn(work)
            .await
            .expect("no panic")
            .expect("an answer"),
        ["2.73"]
    );
    tracker.await.expect("the script was followed");
}
