//! What the proxy costs: requests a second and latency, against a direct connection and against HAProxy in TCP mode.
//!
//! All sides run on this machine: clients in one thread, a tracker that answers every line at once in another, the
//! proxy or HAProxy between them with two threads. Each client sends its next request when it has read the last answer.
//! A figure is the median of three rounds, in which the ways are tried in turn. Mutations include the intent on disk
//! (the journal is in the folder for temporary files); HAProxy and the direct connection have none.
//! Without `haproxy` on the PATH that column is left out. `PROXY_BENCH_SECONDS` sets the length of a round.

#![allow(clippy::unwrap_used, reason = "a bench may end with a panic")]

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use phylactery::config::{JournalConfig, ProxyConfig};
use phylactery::journal::Journal;
use phylactery::locks::KeyLocks;
use phylactery::proxy::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CONNECTIONS: [usize; 3] = [1, 16, 64];
const ROUNDS: usize = 3;

fn main() {
    // `cargo test --benches` only asks whether it runs.
    let quick = !std::env::args().any(|arg| arg == "--bench");
    let seconds = std::env::var("PROXY_BENCH_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let round = Duration::from_secs_f64(if quick { 0.05 } else { seconds.unwrap_or(2.0) });

    let tracker = start_tracker();
    let folder = tempfile::tempdir().unwrap();
    let proxy = start_proxy(tracker, folder.path());
    let haproxy = HaProxy::start(tracker, folder.path());
    let mut ways = vec![("direct", tracker)];
    match &haproxy {
        Some(haproxy) => ways.push(("haproxy", haproxy.addr)),
        None => println!("haproxy is not on the PATH: not compared"),
    }
    ways.push(("phylactery", proxy.addrs()[0]));

    for (what, mutation) in [("reads", false), ("mutations", true)] {
        println!(
            "\n{what:<10} {:<11} {:>10} {:>9} {:>9} {:>9}",
            "way", "requests/s", "of direct", "p50 µs", "p99 µs"
        );
        for connections in CONNECTIONS {
            let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); ways.len()];
            for _ in 0..ROUNDS {
                for (way, rounds) in ways.iter().zip(&mut rounds) {
                    rounds.push(load(way.1, connections, mutation, round));
                }
            }
            let mut direct = None;
            for ((name, _), mut rounds) in ways.iter().zip(rounds) {
                rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
                let median = &rounds[ROUNDS / 2];
                let direct = *direct.get_or_insert(median.rate);
                println!(
                    "{connections:>3} conns  {name:<11} {:>10.0} {:>8.0}% {:>9} {:>9}",
                    median.rate,
                    100.0 * median.rate / direct,
                    median.p50.as_micros(),
                    median.p99.as_micros(),
                );
            }
        }
    }
}

#[derive(Clone)]
struct Figures {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

/// So many clients for so long.
fn load(addr: SocketAddr, connections: usize, mutation: bool, length: Duration) -> Figures {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut took: Vec<Duration> = runtime.block_on(async {
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..connections {
            clients.spawn(async move {
                let mut stream = TcpStream::connect(addr).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut took = Vec::with_capacity(100_000);
                let mut answer = [0; 256];
                let until = Instant::now() + length;
                let mut number = 0;
                while Instant::now() < until {
                    number += 1;
                    let line = if mutation {
                        format!("delete domain=photos&key=album/{client}/{number}\r\n")
                    } else {
                        format!(
                            "get_paths domain=photos&key=album/{client}/{number}&noverify=1\r\n"
                        )
                    };
                    let began = Instant::now();
                    stream.write_all(line.as_bytes()).await.unwrap();
                    let mut read = 0;
                    while !answer[..read].ends_with(b"\n") {
                        read += stream.read(&mut answer[read..]).await.unwrap();
                    }
                    took.push(began.elapsed());
                }
                took
            });
        }
        clients.join_all().await.concat()
    });
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
    Figures {
        rate: took.len() as f64 / length.as_secs_f64(),
        p50: at(0.5),
        p99: at(0.99),
    }
}

/// Answers every line at once.
fn start_tracker() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(async move {
                    let mut lines = [0; 16384];
                    while let Ok(read @ 1..) = stream.read(&mut lines).await {
                        let count = memchr::memchr_iter(b'\n', &lines[..read]).count();
                        if stream.write_all(&b"OK \r\n".repeat(count)).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    });
    addr
}

fn start_proxy(tracker: SocketAddr, folder: &std::path::Path) -> Proxy {
    let journal = Journal::open(
        &JournalConfig {
            path: folder.join("journal"),
            max_size: 1 << 40,
            quiet_time: Duration::from_secs(60),
        },
        &"ma01".parse().unwrap(),
        &"node1".parse().unwrap(),
    )
    .unwrap();
    let config = ProxyConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        trackers: vec![tracker.to_string()],
        max_connections: 20_000,
        max_line: 1 << 20,
        max_key: 60_000,
        deny: Vec::new(),
        idle_timeout: None,
        upstream_connections: 256,
        threads: 2,
        lock_wait: Duration::from_secs(10),
        drain: Duration::from_secs(1),
    };
    Proxy::start(&config, journal, KeyLocks::default()).unwrap()
}

struct HaProxy {
    child: Child,
    addr: SocketAddr,
}

impl HaProxy {
    fn start(tracker: SocketAddr, folder: &std::path::Path) -> Option<Self> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = free.local_addr().unwrap();
        drop(free);
        let config = folder.join("haproxy.cfg");
        let text = format!(
            "global\n  nbthread 2\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 3s\n  timeout client 1h\n  \
             timeout server 1h\nlisten tracker\n  bind {addr}\n  server one {tracker}\n"
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let began = Instant::now();
        while std::net::TcpStream::connect(addr).is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "haproxy does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { child, addr })
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _ended = self.child.wait();
    }
}
