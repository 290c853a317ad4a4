//! Trackers in trouble, and what the journal is told about mutations.

mod proxy_harness;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use phylactery::file::{Checksum, Class, Fid, FileName};
use phylactery::journal::{Details, Mutation, Outcome};
use proxy_harness::{Act, FakeTracker, PATIENCE, answer, friendly, rig, rig_at, until};

const CLOSE: &str = "create_close domain=d&fid=7&devid=1&path=http://h/7.fid&key=k";

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_tracker_ends_its_requests_and_recovers_by_itself() {
    let tracker = FakeTracker::start(|line| {
        if line.contains("hang") {
            vec![Act::Hang]
        } else {
            friendly(line)
        }
    })
    .await;
    let rig = rig(&[&tracker], |_| {});
    let mut pending = rig.client().await;
    pending.send("sleep callid=hang\r\n").await;
    let mut deleting = rig.client().await;
    deleting.send("delete domain=d&key=hang\r\n").await;
    let mut idle = rig.client().await;
    assert_eq!(idle.ask("noop").await, "OK \r\n");
    until("both are under way", || tracker.saw("hang") == 2).await;
    let addr = tracker.kill().await;
    assert_eq!(pending.rest().await, "");
    assert_eq!(deleting.rest().await, "");
    assert_eq!(rig.settled(1).await[0].outcome, Some(Outcome::Lost));

    let mut refused = rig.client().await;
    refused.send("delete domain=d&key=down\r\n").await;
    assert_eq!(refused.rest().await, "", "as without the proxy");
    assert_eq!(rig.proxy.stats().mutations, 2);
    rig.settled(1).await;
    until("it is known to be down", || {
        !rig.proxy.stats().trackers[0].up
    })
    .await;
    assert!(rig.proxy.stats().trackers[0].last_error.is_some());

    let _again = FakeTracker::start_at(addr, friendly).await;
    assert_eq!(
        idle.ask("noop").await,
        "OK \r\n",
        "the idle client noticed nothing"
    );
    until("it is known to be up", || rig.proxy.stats().trackers[0].up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_trackers_a_dead_one_is_left_out() {
    let (one, two) = (
        FakeTracker::start(friendly).await,
        FakeTracker::start(friendly).await,
    );
    let rig = rig(&[&one, &two], |_| {});
    let mut clients = Vec::new();
    for n in 0..20 {
        let mut client = rig.client().await;
        assert_eq!(
            client.ask(&format!("noop callid={n}")).await,
            format!("OK callid={n}\r\n")
        );
        clients.push(client);
    }
    assert!(one.saw("noop") > 0 && two.saw("noop") > 0, "both are used");
    let addr = one.kill().await;
    for client in &mut clients {
        assert_eq!(client.ask("create_open domain=d&key=a").await, "OK \r\n");
        assert_eq!(client.ask("delete domain=d&key=a").await, "OK \r\n");
    }
    assert_eq!(two.saw("delete"), 20);
    let one = FakeTracker::start_at(addr, friendly).await;
    until("it is taken back", || rig.proxy.stats().trackers[0].up).await;
    for _ in 0..20 {
        assert_eq!(rig.client().await.ask("noop").await, "OK \r\n");
    }
    assert!(one.saw("noop") > 0, "new clients go to both again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_tracker_holds_only_what_it_has() {
    let (hangs, works) = (
        FakeTracker::start(friendly).await,
        FakeTracker::start(friendly).await,
    );
    let rig = rig(&[&hangs, &works], |config| config.upstream_connections = 8);
    until("both answered a probe", || {
        hangs.open() > 0 && works.open() > 0
    })
    .await;
    // Answers to what is asked on connections that are there, or not: like a stopped process, none.
    hangs.change(|_| vec![Act::Hang]);
    let mut held = Vec::new();
    for _ in 0..40 {
        let mut client = rig.client().await;
        client.send("noop callid=held\r\n").await;
        held.push(client);
    }
    until("it is left out", || !rig.proxy.stats().trackers[0].up).await;
    let began = Instant::now();
    for _ in 0..40 {
        assert_eq!(
            rig.client().await.ask("noop callid=new").await,
            "OK callid=new\r\n"
        );
    }
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "new requests are not disturbed"
    );
    let stuck = hangs.saw("held");
    assert!(
        stuck > 0 && stuck <= 8,
        "{stuck} requests hang at the hung tracker"
    );
    until("those that had only waited went to the other", || {
        works.saw("held") == 40 - stuck
    })
    .await;
    hangs.change(friendly);
    until("it is taken back", || rig.proxy.stats().trackers[0].up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_hung_tracker_is_waited_for() {
    let tracker = FakeTracker::start(|line| {
        let mut acts = friendly(line);
        if line.contains("slow") {
            acts.insert(0, Act::Wait(Duration::from_millis(3500)));
        }
        acts
    })
    .await;
    let rig = rig(&[&tracker], |_| {});
    let mut client = rig.client().await;
    assert_eq!(client.ask("noop callid=slow").await, "OK callid=slow\r\n");
    assert!(rig.proxy.stats().trackers[0].up);
    assert_eq!(tracker.saw("slow"), 1, "not asked twice for being slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_cut_lines_and_slow_bytes_are_passed_on_as_they_come() {
    let tracker = FakeTracker::start(|line| match line {
        line if line.contains("garbage") => answer(b"\0\xff no answer\r at all\n"),
        line if line.contains("cut") => vec![Act::Send(b"OK fid=1".to_vec()), Act::Close],
        line if line.contains("more") => answer("OK one\r\nOK two too many\r\n"),
        line if line.contains("trickle") => b"OK a=b\r\n"
            .iter()
            .flat_map(|&byte| [Act::Send(vec![byte]), Act::Wait(Duration::from_millis(40))])
            .collect(),
        line => friendly(line),
    })
    .await;
    let rig = rig(&[&tracker], |config| config.threads = 1);
    let mut client = rig.client().await;
    let mut other = rig.client().await;
    assert_eq!(
        client.ask("noop garbage").await,
        "\0\u{ff} no answer\r at all\n"
    );
    assert_eq!(
        client.ask("delete domain=d&key=garbage").await,
        "\0\u{ff} no answer\r at all\n"
    );
    assert_eq!(rig.settled(1).await[0].outcome, Some(Outcome::Lost));

    client.send("noop trickle\r\n").await;
    let mut first = None;
    for byte in b"OK a=b\r\n" {
        assert_eq!(client.exactly(1).await, [*byte]);
        first.get_or_insert_with(Instant::now);
        assert_eq!(other.ask("noop").await, "OK \r\n");
    }
    let spread = first.map(|first| first.elapsed()).unwrap_or_default();
    assert!(
        spread > Duration::from_millis(200),
        "byte by byte, not at once: {spread:?}"
    );
    assert_eq!(
        client.ask("delete domain=d&key=trickle").await,
        "OK a=b\r\n"
    );
    assert_eq!(rig.settled(2).await[1].outcome, Some(Outcome::Happened));

    assert_eq!(client.ask("noop more").await, "OK one\r\n");
    for n in 0..20 {
        let expected = format!("OK callid={n}\r\n");
        assert_eq!(
            client.ask(&format!("noop callid={n}")).await,
            expected,
            "nobody gets what was left over"
        );
    }
    for (ask, lines) in [("noop cut", 1), ("delete domain=d&key=cut", 1)] {
        let mut client = rig.client().await;
        client
            .send(format!("{ask}\r\nnoop callid=behind\r\n"))
            .await;
        assert_eq!(client.rest().await, "OK fid=1", "{ask}");
        assert_eq!(
            tracker.saw(ask),
            lines,
            "a byte of the answer was passed on: not sent again"
        );
    }
    assert_eq!(rig.settled(3).await[2].outcome, Some(Outcome::Lost));
    assert_eq!(tracker.saw("behind"), 0);
}

/// Closes without an answer whenever `ask` comes, the first `times` times.
fn closing(ask: &'static str, times: usize) -> impl Fn(&str) -> Vec<Act> + Send + Sync {
    let left = AtomicUsize::new(times);
    move |line| {
        let closes = line.starts_with(ask)
            && left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                    left.checked_sub(1)
                })
                .is_ok();
        if closes {
            vec![Act::Close]
        } else {
            friendly(line)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_meets_the_end_of_a_connection_is_sent_again_once() {
    let tracker = FakeTracker::start(closing("Get_Paths", 1)).await;
    let rig = rig(&[&tracker], |_| {});
    let mut client = rig.client().await;
    for warm in ["noop", "noop"] {
        assert_eq!(client.ask(warm).await, "OK \r\n");
    }
    assert_eq!(client.ask("Get_Paths domain=d&key=k").await, "OK \r\n");
    assert_eq!(tracker.saw("Get_Paths"), 2);
    tracker.change(closing("get_paths", 9));
    client.send("get_paths domain=d&key=k\r\n").await;
    assert_eq!(client.rest().await, "");
    assert_eq!(tracker.saw("get_paths"), 2, "once more, not for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_change_something_is_never_sent_twice() {
    for ask in [
        "delete domain=d&key=k",
        "rename domain=d&from_key=a&to_key=b",
        "updateclass domain=d&key=k&class=c",
        CLOSE,
        "create_open domain=d",
        "create_domain domain=d",
        "sleep duration=1",
        "plugin_unknown",
    ] {
        let tracker = FakeTracker::start(closing(ask, 1)).await;
        let rig = rig(&[&tracker], |_| {});
        let mut client = rig.client().await;
        assert_eq!(client.ask("noop").await, "OK \r\n");
        client.send(format!("{ask}\r\nnoop\r\n")).await;
        assert_eq!(client.rest().await, "", "{ask}");
        assert_eq!(tracker.saw(ask), 1, "{ask}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_tracker_closed_while_idle_are_not_used() {
    let tracker = FakeTracker::start(friendly).await;
    let rig = rig(&[&tracker], |_| {});
    let mut clients = Vec::new();
    for _ in 0..16 {
        let mut client = rig.client().await;
        assert_eq!(client.ask("noop").await, "OK \r\n");
        clients.push(client);
    }
    let addr = tracker.kill().await;
    let tracker = FakeTracker::start_at(addr, friendly).await;
    for client in &mut clients {
        assert_eq!(client.ask("create_open domain=d").await, "OK \r\n");
        assert_eq!(client.ask("delete domain=d&key=k").await, "OK \r\n");
    }
    assert_eq!(tracker.saw("delete"), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_leaves_its_outcome_behind() {
    let tracker = FakeTracker::start(|line| {
        let mut acts = friendly(line);
        if line.starts_with("delete") {
            acts.insert(0, Act::Wait(Duration::from_millis(300)));
        }
        acts
    })
    .await;
    let rig = rig(&[&tracker], |_| {});
    for (n, reset) in [(1, false), (2, true)] {
        let mut client = rig.client().await;
        client.send(format!("delete domain=d&key={n}\r\n")).await;
        until("it is under way", || tracker.saw("delete") == n).await;
        if reset {
            client.reset()
        } else {
            drop(client)
        }
        let entries = rig.settled(n).await;
        assert_eq!(entries[n - 1].outcome, Some(Outcome::Happened));
    }
    until("nobody is left", || rig.proxy.stats().connections == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_learns_what_each_answer_says() {
    let tracker = FakeTracker::start(|line| match line {
        line if line.starts_with("create_open") => {
            answer("OK path=http://h/7.fid&fid=7&devid=1\r\n")
        }
        line if line.contains("gone") => answer("ERR unknown_key unknown_key\r\n"),
        line if line.contains("refused") => answer("ERR key_exists x\r\n"),
        line => friendly(line),
    })
    .await;
    let rig = rig(&[&tracker], |_| {});
    let mut client = rig.client().await;
    let file = |key: &str| FileName::from_bytes(b"d", key.as_bytes());
    client.ask("create_open domain=d&key=k&class=thumb").await;
    let digest = "00112233445566778899AABBCCDDEEFF";
    client
        .ask(&format!(
            "{CLOSE}&size=9&checksumverify=1&checksum=MD5:{digest}"
        ))
        .await;
    client.ask("create_open domain=other&class=thumb").await;
    client.ask(&format!("{CLOSE}&size=-1")).await;
    client.ask("DELETE domain=d&key=gone").await;
    client
        .ask("rename domain=d&from_key=a&to_key=refused")
        .await;
    client.ask("updateclass domain=d&key=k&class=c").await;
    client.ask("rename domain=d&from_key=a&to_key=a").await;
    client
        .ask("create_close domain=d&fid=7&devid=1&path=http://h/7.fid&key=")
        .await;
    let entries = rig.settled(4).await;
    assert_eq!(
        rig.proxy.stats().mutations,
        5,
        "the refused rename left no entry"
    );
    let put = |details| Mutation::Put {
        file: file("k"),
        fid: Some(Fid(7)),
        details,
    };
    let known = Details {
        class: Some(Class::from_bytes(b"thumb")),
        size: Some(9),
        checksum: Some(Checksum(
            format!("MD5:{}", digest.to_ascii_lowercase()).into(),
        )),
    };
    let expected = [
        (put(known), Outcome::Happened),
        (put(Details::default()), Outcome::Happened),
        (Mutation::Delete { file: file("gone") }, Outcome::Doubtful),
        (
            Mutation::SetClass {
                file: file("k"),
                class: Class::from_bytes(b"c"),
            },
            Outcome::Happened,
        ),
    ];
    for (entry, (mutation, outcome)) in entries.iter().zip(expected) {
        assert_eq!((&entry.mutation, entry.outcome), (&mutation, Some(outcome)));
    }
    assert_eq!(rig.locks.in_use(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn mutations_of_one_key_go_one_after_the_other_but_not_for_ever() {
    let tracker = FakeTracker::start(|line| {
        if line.contains("first") {
            vec![Act::Hang]
        } else {
            friendly(line)
        }
    })
    .await;
    let rig = rig(&[&tracker], |config| {
        config.lock_wait = Duration::from_secs(1)
    });
    let mut first = rig.client().await;
    first.send("delete domain=d&key=k&callid=first\r\n").await;
    until("the first is under way", || tracker.saw("first") == 1).await;
    let began = Instant::now();
    let mut other_key = rig.client().await;
    assert_eq!(other_key.ask("delete domain=d&key=other").await, "OK \r\n");
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "another key does not wait"
    );
    let mut second = rig.client().await;
    assert_eq!(
        second.ask("delete domain=d&key=k&callid=second").await,
        "OK callid=second\r\n"
    );
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "the same key waits"
    );
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(
        rig.entries().await[0].outcome,
        None,
        "the first is still under way"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_after_the_next_one_went_out_says_nothing_about_the_order() {
    let tracker = FakeTracker::start(|line| {
        let mut acts = friendly(line);
        if line.contains("first") {
            acts.insert(0, Act::Wait(Duration::from_secs(2)));
        }
        acts
    })
    .await;
    let rig = rig(&[&tracker], |config| {
        config.lock_wait = Duration::from_millis(200)
    });
    let mut first = rig.client().await;
    first.send("delete domain=d&key=k&callid=first\r\n").await;
    until("the first is under way", || tracker.saw("first") == 1).await;
    let mut second = rig.client().await;
    let answer = second.ask("delete domain=d&key=k&callid=second").await;
    assert_eq!(answer, "OK callid=second\r\n");
    assert_eq!(first.line().await, "OK callid=first\r\n");
    let outcomes: Vec<_> = rig.settled(2).await.iter().map(|e| e.outcome).collect();
    assert_eq!(outcomes, [Some(Outcome::Lost), Some(Outcome::Happened)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_share_few_tracker_connections() {
    let tracker = FakeTracker::start(|line| {
        let mut acts = friendly(line);
        acts.insert(0, Act::Wait(Duration::from_millis(2)));
        acts
    })
    .await;
    let rig = rig(&[&tracker], |config| config.upstream_connections = 6);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..60 {
        let mut client = rig.client().await;
        tasks.spawn(async move {
            for round in 0..20 {
                let asked = format!("noop callid={n}.{round}");
                assert_eq!(
                    client.ask(&asked).await,
                    format!("OK callid={n}.{round}\r\n")
                );
            }
        });
    }
    tasks.join_all().await;
    assert!(
        tracker.most_open() <= 6,
        "{} connections",
        tracker.most_open()
    );
    assert_eq!(tracker.lines().len(), 1200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_that_was_never_there_closes_clients_at_their_request() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody: SocketAddr = free.local_addr().expect("an address");
    drop(free);
    let rig = rig_at(&[nobody], 1 << 30, |_| {});
    for ask in ["noop\r\n", "!version\r\n", "delete domain=d&key=k\r\n"] {
        let mut client = rig.client().await;
        client.send(ask).await;
        assert_eq!(client.rest().await, "", "{ask}");
    }
    assert_eq!(rig.proxy.stats().mutations, 1, "its intent was written");
    assert!(rig.settled(0).await.is_empty(), "and it did not happen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_may_be_configured_by_its_host_name() {
    let tracker = FakeTracker::start(friendly).await;
    let rig = rig(&[&tracker], |config| {
        config.trackers = vec![format!("localhost:{}", tracker.addr.port())];
    });
    assert_eq!(
        rig.client().await.ask("noop callid=7").await,
        "OK callid=7\r\n"
    );
}
