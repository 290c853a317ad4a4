//! Many clients: what an idle one costs, and 64 busy ones among 10,000.
//!
//! The proxy and its tracker run in a process of their own, so that its memory can be read from outside, and so
//! that the two sides of a connection do not count against one limit of open files.

mod proxy_harness;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use proxy_harness::{Client, FakeTracker, friendly, rig};

const CHILD: &str = "PHYLACTERY_PROXY_CROWD_CHILD";

/// Not a test by itself: the process that the tests below start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_with_the_proxy() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    open_many_files();
    let tracker = FakeTracker::start(friendly).await;
    let rig = rig(&[&tracker], |config| config.upstream_connections = 32);
    println!("\nlistens {}", rig.addr());
    // Until the test is done with us: a line asks for figures, the end of the input ends us.
    tokio::task::block_in_place(|| {
        for _asked in std::io::stdin().lines() {
            let stats = rig.proxy.stats();
            println!("\nfigures {} {}", stats.connections, tracker.most_open());
        }
    });
}

struct Crowded {
    child: Child,
    asks: Option<ChildStdin>,
    says: BufReader<ChildStdout>,
    addr: SocketAddr,
}

impl Crowded {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "the_process_with_the_proxy", "--nocapture"])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let asks = child.stdin.take();
        let mut says = BufReader::new(child.stdout.take().expect("its output"));
        let addr = said(&mut says, "listens ").parse().expect("an address");
        Self {
            child,
            asks,
            says,
            addr,
        }
    }

    /// Clients now, and tracker connections at most.
    fn figures(&mut self) -> (usize, usize) {
        let asks = self.asks.as_mut().expect("it runs");
        asks.write_all(b"\n").expect("it runs");
        let figures = said(&mut self.says, "figures ");
        let (clients, upstream) = figures.split_once(' ').expect("two figures");
        (
            clients.parse().expect("a number"),
            upstream.parse().expect("a number"),
        )
    }

    /// Resident memory in KiB.
    fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("a figure");
        let digits: String = line.chars().filter(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    }
}

impl Drop for Crowded {
    fn drop(&mut self) {
        drop(self.asks.take());
        let _ended = self.child.wait();
    }
}

fn said(says: &mut BufReader<ChildStdout>, what: &str) -> String {
    loop {
        let mut line = String::new();
        assert!(
            says.read_line(&mut line).expect("it speaks") > 0,
            "it ended without {what:?}"
        );
        if let Some(rest) = line.trim().strip_prefix(what) {
            return rest.to_owned();
        }
    }
}

/// As many open files as the system allows.
#[expect(unsafe_code, reason = "two calls of libc with a struct of our own")]
fn open_many_files() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a struct that lives through the call.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
}

async fn crowd(addr: SocketAddr, count: usize) -> Vec<Client> {
    let mut clients = Vec::with_capacity(count);
    for n in 0..count {
        let mut client = Client::connect(addr).await;
        let asked = format!("get_paths domain=photos&key=some/key/of/usual/length&callid={n}");
        assert_eq!(client.ask(&asked).await, format!("OK callid={n}\r\n"));
        clients.push(client);
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_clients_cost_four_mebibytes_at_most() {
    let mut proxy = Crowded::start();
    // Warm: what the process needs once is not what a client costs.
    drop(crowd(proxy.addr, 20).await);
    while proxy.figures().0 > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = proxy.resident();
    let clients = crowd(proxy.addr, 1000).await;
    assert_eq!(proxy.figures().0, 1000);
    let cost = proxy.resident().saturating_sub(before);
    println!("1,000 idle clients cost {cost} KiB");
    assert!(cost <= 4096, "{cost} KiB");
    drop(clients);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_and_sixty_four_busy_clients_at_once() {
    open_many_files();
    let mut proxy = Crowded::start();
    let mut idle = crowd(proxy.addr, 10_000).await;
    let mut busy = tokio::task::JoinSet::new();
    for mut client in crowd(proxy.addr, 64).await {
        busy.spawn(async move {
            for n in 0..200 {
                assert_eq!(
                    client.ask(&format!("noop callid={n}")).await,
                    format!("OK callid={n}\r\n")
                );
            }
            for n in 0..5 {
                let key = rand::random::<u64>();
                let asked = format!("delete domain=photos&key={key}&callid={n}");
                assert_eq!(client.ask(&asked).await, format!("OK callid={n}\r\n"));
            }
            client
        });
    }
    let busy = busy.join_all().await;
    let (clients, upstream) = proxy.figures();
    assert_eq!(clients, 10_064);
    assert!(upstream <= 32, "{upstream} tracker connections");
    println!(
        "10,064 clients: {} KiB in all, {upstream} tracker connections",
        proxy.resident()
    );
    for n in (0..10_000).step_by(97) {
        assert_eq!(
            idle[n].ask("noop callid=still").await,
            "OK callid=still\r\n"
        );
    }
    drop(busy);
}
