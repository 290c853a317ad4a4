//! What clients see: order, ends of lines, limits, bad input, refusals.

mod proxy_harness;

use std::time::Duration;

use proxy_harness::{Act, Client, FakeTracker, answer, friendly, rig, rig_at, until};

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_in_the_order_of_the_requests() {
    let tracker = FakeTracker::start(|line| {
        let mut acts = friendly(line);
        if line.contains("slow") {
            acts.insert(0, Act::Wait(Duration::from_millis(100)));
        }
        acts
    })
    .await;
    let rig = rig(&[&tracker], |_| {});
    let mut client = rig.client().await;
    let mut sent = String::new();
    let mut expected = String::new();
    for n in 0..500 {
        let callid = if n == 3 {
            "slow".to_owned()
        } else {
            n.to_string()
        };
        sent += &format!("noop callid={callid}\r\n");
        expected += &format!("OK callid={callid}\r\n");
    }
    client.send(&sent).await;
    client.half_close().await;
    assert_eq!(client.rest().await, expected);
    let lines: String = tracker.lines().concat();
    assert_eq!(lines, sent, "one at a time and in order");
    assert_eq!(tracker.most_open(), 1, "never two at once for one client");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_go_on_as_they_came() {
    let tracker = FakeTracker::start(friendly).await;
    let rig = rig(&[&tracker], |_| {});
    let mut expected = Vec::new();
    for line in [
        "noop\n",
        "noop\r\n",
        "noop\r\r\n",
        "no\rop a\r=b\r\n",
        "noop \0x=\0\r\n",
        "delete domain=d&key=%zz%4&x=%\r\n",
        "  \t\r\n",
        "&=&=%\r\n",
        "delete domain=d&domain=e&key=a&key=b\r\n",
        "plugin_unheard_of a=1\r\n",
    ] {
        let mut client = rig.client().await;
        client.send(line).await;
        assert_eq!(client.line().await, "OK \r\n", "{line:?}");
        expected.push(line);
    }
    assert_eq!(tracker.lines(), expected);
    let mut client = rig.client().await;
    client.send("\r\n\n\r\n\n").await;
    client.send("noop cut").await;
    client.half_close().await;
    assert_eq!(
        client.rest().await,
        "",
        "empty lines and a line without end get nothing"
    );
    assert_eq!(tracker.lines(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_in_single_bytes_and_a_long_one_arrive_whole() {
    let tracker = FakeTracker::start(|line| answer(format!("OK len={}\r\n", line.len()))).await;
    let rig = rig(&[&tracker], |_| {});
    let mut client = rig.client().await;
    for byte in b"noop a=1\r\nno" {
        client.send([*byte]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    client.send("op\r\n").await;
    assert_eq!(client.line().await, "OK len=10\r\n");
    assert_eq!(client.line().await, "OK len=6\r\n");
    for length in [16_384, 16_385, 300_000, (1 << 20) - 7] {
        let long = format!("noop a={}\r\nnoop\r\n", "x".repeat(length));
        client.send(&long).await;
        assert_eq!(client.line().await, format!("OK len={}\r\n", length + 9));
        assert_eq!(client.line().await, "OK len=6\r\n");
    }
    let got: String = tracker.lines().concat();
    assert!(got.ends_with(&format!("noop a={}\r\nnoop\r\n", "x".repeat((1 << 20) - 7))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_over_the_limit_is_told_so_and_closed() {
    let tracker = FakeTracker::start(friendly).await;
    let rig = rig(&[&tracker], |config| config.max_line = 100_000);
    for with_end in [true, false] {
        let mut client = rig.client().await;
        assert_eq!(client.ask("noop").await, "OK \r\n");
        let mut line = "x".repeat(400_000);
        if with_end {
            line += "\r\nnoop\r\n";
        }
        client.send(&line).await;
        let last = client.rest().await;
        assert!(
            last.starts_with("ERR line_too_long A+line+may+have+100000+bytes"),
            "{last:?}"
        );
        assert!(last.ends_with("\r\n"));
    }
    let fits = format!("noop a={}", "x".repeat(100_000 - 7));
    assert_eq!(rig.client().await.ask(&fits).await, "OK \r\n");
    assert_eq!(tracker.saw("xxx"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_megabytes_of_noise_harm_nobody() {
    use rand::{RngExt, SeedableRng};
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut noise = vec![0; 10_000_000];
    rand::rngs::StdRng::seed_from_u64(seed).fill(&mut noise[..]);
    let tracker = FakeTracker::start(|line| {
        if line.starts_with('!') {
            answer(".\r\n")
        } else {
            answer("ERR unknown_command x\r\n")
        }
    })
    .await;
    let rig = rig(&[&tracker], |_| {});
    let mut neighbour = rig.client().await;
    let noisy = rig.client().await;
    let (mut reads, mut writes) = noisy.stream.into_split();
    let writing = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let _told_to_stop = writes.write_all(&noise).await;
    });
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        use tokio::io::AsyncReadExt;
        let _reset = reads.read_to_end(&mut all).await;
        all
    });
    for n in 0..20 {
        let asked = format!("noop callid={n}");
        assert!(!neighbour.ask(&asked).await.is_empty());
    }
    writing.await.expect("no panic");
    let answers = reading.await.expect("no panic");
    assert!(answers.len() > 10_000, "{} bytes", answers.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_only_opens_costs_no_tracker_connection() {
    let tracker = FakeTracker::start(friendly).await;
    let rig = rig(&[&tracker], |config| {
        config.idle_timeout = Some(Duration::from_millis(300))
    });
    let mut silent = rig.client().await;
    let mut busy = rig.client().await;
    for _ in 0..10 {
        busy.ask("noop").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(silent.rest().await, "", "closed for being idle");
    assert_eq!(busy.ask("noop").await, "OK \r\n", "the busy one is not");
    assert_eq!(tracker.most_open(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_clients_are_told_so() {
    let tracker = FakeTracker::start(friendly).await;
    let rig = rig(&[&tracker], |config| config.max_connections = 3);
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = rig.client().await;
        assert_eq!(client.ask("noop").await, "OK \r\n");
        clients.push(client);
    }
    let mut one_more = rig.client().await;
    let _may_be_closed =
        tokio::io::AsyncWriteExt::write_all(&mut one_more.stream, b"noop\r\n").await;
    let told = one_more.rest().await;
    assert!(
        told.starts_with("ERR too_many_connections 3+connections+are"),
        "{told:?}"
    );
    drop(clients.pop());
    until("the place is free", || rig.proxy.stats().connections == 2).await;
    assert_eq!(rig.client().await.ask("noop").await, "OK \r\n");
    assert_eq!(rig.proxy.stats().turned_away, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_commands_never_reach_the_tracker() {
    let tracker = FakeTracker::start(friendly).await;
    let rig = rig(&[&tracker], |config| {
        config.deny = vec!["!shutdown".into(), "delete".into()];
    });
    let mut client = rig.client().await;
    for admin in ["!shutdown", "!shutdownx"] {
        assert!(client.ask(admin).await.starts_with("ERROR: "));
        assert_eq!(client.line().await, ".\r\n");
    }
    let denied = client.ask("DELETE domain=d&key=a&callid=7").await;
    assert!(
        denied.starts_with("ERR denied This+command+is+denied+here"),
        "{denied}"
    );
    assert!(denied.ends_with(" 7\r\n"));
    assert_eq!(client.ask("noop").await, "OK \r\n");
    assert_eq!(tracker.lines(), ["noop\r\n"]);
    assert!(rig.entries().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named() {
    let tracker = FakeTracker::start(friendly).await;
    let first = rig(&[&tracker], |_| {});
    let taken = first.addr();
    let mut config = proxy_harness::config(&[tracker.addr]);
    config.listen = vec![taken];
    let started = phylactery::proxy::Proxy::start(
        &config,
        first.journal.clone(),
        phylactery::locks::KeyLocks::default(),
    );
    match started {
        Err(error) => assert!(error.to_string().contains(&taken.to_string()), "{error}"),
        Ok(_) => panic!("two proxies on one port"),
    }
    assert_eq!(first.client().await.ask("noop").await, "OK \r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_what_is_under_way_and_closes_the_rest() {
    let tracker = FakeTracker::start(|line| match line {
        line if line.starts_with("sleep") => {
            vec![
                Act::Wait(Duration::from_millis(400)),
                Act::Send(b"OK \r\n".to_vec()),
            ]
        }
        line if line.starts_with("hang") => vec![Act::Hang],
        line => friendly(line),
    })
    .await;
    let stopped = rig(&[&tracker], |_| {});
    let mut idle = stopped.client().await;
    idle.ask("noop").await;
    let mut watcher = stopped.client().await;
    assert_eq!(watcher.ask("!version").await, "2.73\r\n");
    assert_eq!(watcher.line().await, ".\r\n");
    let mut busy = stopped.client().await;
    busy.send("sleep\r\n").await;
    let mut deleting = stopped.client().await;
    deleting.send("delete domain=d&key=sleep\r\n").await;
    until("both are under way", || tracker.saw("sleep") == 2).await;
    let addr = stopped.addr();
    let (drained, answered, deleted, idle, watcher) = tokio::join!(
        stopped.proxy.stop(),
        busy.rest(),
        deleting.rest(),
        idle.rest(),
        watcher.rest()
    );
    assert_eq!(drained, phylactery::proxy::Drained::Clean);
    assert_eq!(
        (answered.as_str(), deleted.as_str()),
        ("OK \r\n", "OK \r\n")
    );
    assert_eq!((idle.as_str(), watcher.as_str()), ("", ""));
    assert!(
        tokio::net::TcpStream::connect(addr).await.is_err(),
        "nobody listens any more"
    );

    let cut = rig(&[&tracker], |config| {
        config.drain = Duration::from_millis(200)
    });
    let mut hung = cut.client().await;
    hung.send("hang\r\n").await;
    until("it is under way", || tracker.saw("hang") == 1).await;
    assert_eq!(cut.proxy.stop().await, phylactery::proxy::Drained::Cut(1));
    assert_eq!(hung.rest().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sent_a_bang_has_a_connection_of_its_own() {
    let tracker = FakeTracker::start(|line| match line {
        line if line.starts_with("!watch") => {
            let mut acts = answer("Added you to watcher list.\r\n.\r\n");
            for n in 0..3 {
                acts.push(Act::Wait(Duration::from_millis(20)));
                acts.push(Act::Send(format!(":: news {n}\r\n").into_bytes()));
            }
            acts
        }
        line if line.starts_with("delete") => vec![
            Act::Send(b":: between\r\nOK".to_vec()),
            Act::Wait(Duration::from_millis(20)),
            Act::Send(b" \r\n:: after\r\n".to_vec()),
        ],
        line if line.starts_with("!help") => answer("A list:\n\n  of things\n.\r\n"),
        line => friendly(line),
    })
    .await;
    let rig = rig(&[&tracker], |_| {});
    let mut other = rig.client().await;
    other.ask("noop").await;
    let mut client = rig.client().await;
    client.send("!watch\r\n").await;
    let all = "Added you to watcher list.\r\n.\r\n:: news 0\r\n:: news 1\r\n:: news 2\r\n";
    assert_eq!(client.exactly(all.len()).await, all.as_bytes());
    client
        .send("delete domain=d&key=a\r\nnoop callid=2\r\n!help\r\nnoop callid=3\r\n")
        .await;
    let all = ":: between\r\nOK \r\n:: after\r\nOK callid=2\r\nA list:\n\n  of things\n.\r\nOK callid=3\r\n";
    assert_eq!(client.exactly(all.len()).await, all.as_bytes());
    let entries = rig.settled(1).await;
    assert_eq!(
        entries[0].outcome,
        Some(phylactery::journal::Outcome::Happened)
    );
    assert_eq!(rig.proxy.stats().dedicated, 1);
    client.send("noop callid=4\r\n").await;
    client.half_close().await;
    assert_eq!(client.rest().await, "OK callid=4\r\n");
    until("its connection went with it", || tracker.open() == 1).await;
    assert_eq!(other.ask("noop").await, "OK \r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_up_nobody_else() {
    let long = format!("OK a={}\r\n", "x".repeat(30_000_000));
    let sent = long.clone();
    let tracker = FakeTracker::start(move |line| {
        if line.starts_with("list_keys") {
            answer(&sent)
        } else {
            friendly(line)
        }
    })
    .await;
    let rig = rig(&[&tracker], |config| config.threads = 1);
    let mut deaf = rig.client().await;
    deaf.send("list_keys domain=d\r\nnoop callid=after\r\n")
        .await;
    until("the tracker was asked", || tracker.saw("list_keys") == 1).await;
    let mut other = rig.client().await;
    for n in 0..100 {
        assert_eq!(
            other.ask(&format!("noop callid={n}")).await,
            format!("OK callid={n}\r\n")
        );
    }
    assert_eq!(deaf.line().await.len(), long.len());
    assert_eq!(deaf.line().await, "OK callid=after\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_journal_reads_go_on_and_mutations_are_refused() {
    let tracker = FakeTracker::start(friendly).await;
    let rig = rig_at(&[tracker.addr], 0, |_| {});
    let mut client = rig.client().await;
    let refused = client.ask("delete domain=d&key=a&callid=x+y").await;
    assert!(
        refused.starts_with("ERR journal_unavailable the+journal+is+full"),
        "{refused}"
    );
    assert!(refused.ends_with(" x+y\r\n"), "{refused}");
    assert_eq!(client.ask("get_paths domain=d&key=a").await, "OK \r\n");
    assert_eq!(
        client.ask("delete domain=d").await,
        "OK \r\n",
        "no mutation: the tracker's business"
    );
    assert_eq!(tracker.saw("key=a"), 1);
    assert_eq!(rig.proxy.stats().refused_mutations, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_ends_and_the_others_do_not_notice() {
    let tracker = FakeTracker::start(friendly).await;
    let rig = rig(&[&tracker], |_| {});
    let mut stays = rig.client().await;
    for n in 0..50 {
        let mut goes = Client::connect(rig.addr()).await;
        goes.send("noop\r\nnoop\r\nno").await;
        if n % 2 == 0 {
            goes.reset()
        } else {
            drop(goes)
        }
        assert_eq!(stays.ask("noop").await, "OK \r\n");
    }
    until("all are gone", || rig.proxy.stats().connections == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_their_own_are_bounded_too() {
    let tracker = FakeTracker::start(friendly).await;
    let rig = rig(&[&tracker], |_| {});
    let mut watchers = Vec::new();
    let refused = loop {
        let mut client = rig.client().await;
        let told = client.ask("!version").await;
        assert_eq!(client.line().await, ".\r\n");
        if told != "2.73\r\n" {
            assert!(told.starts_with("ERROR: Too many connections"), "{told}");
            break client;
        }
        watchers.push(client);
        assert!(watchers.len() <= 1000);
    };
    assert_eq!(rig.proxy.stats().dedicated, watchers.len());
    let mut refused = refused;
    assert_eq!(
        refused.ask("noop").await,
        "OK \r\n",
        "it may still ask for files"
    );
    drop(watchers.pop());
    until("one has gone", || {
        rig.proxy.stats().dedicated == watchers.len()
    })
    .await;
    assert_eq!(refused.ask("!version").await, "2.73\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_configured_address_is_served() {
    let tracker = FakeTracker::start(friendly).await;
    let rig = rig(&[&tracker], |config| {
        config.listen = ["127.0.0.1:0", "127.0.0.2:0"]
            .map(|addr| addr.parse().expect("an address"))
            .to_vec();
    });
    for addr in rig.proxy.addrs() {
        assert_ne!(addr.port(), 0);
        assert_eq!(Client::connect(*addr).await.ask("noop").await, "OK \r\n");
    }
}
