//! A tracker that does as it is told, a client that speaks bytes, and a proxy between them.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use phylactery::config::{JournalConfig, ProxyConfig};
use phylactery::journal::{Entry, Journal};
use phylactery::locks::KeyLocks;
use phylactery::proxy::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Long enough for a loaded machine; only a failing test waits so long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a tracker does about a line.
#[derive(Clone, Debug)]
pub enum Act {
    Send(Vec<u8>),
    Wait(Duration),
    Close,
    /// Never answers, and reads no more.
    Hang,
}

pub fn answer(line: impl AsRef<[u8]>) -> Vec<Act> {
    vec![Act::Send(line.as_ref().to_vec())]
}

/// Answers `noop callid=x` and everything else as a tracker that knows no error.
pub fn friendly(line: &str) -> Vec<Act> {
    if line.starts_with("!version") {
        return answer("2.73\r\n.\r\n");
    }
    match line.trim_end().split_once("callid=") {
        Some((_, callid)) => answer(format!("OK callid={callid}\r\n")),
        None => answer("OK \r\n"),
    }
}

type Script = Arc<dyn Fn(&str) -> Vec<Act> + Send + Sync>;

/// A tracker on a port of its own.
pub struct FakeTracker {
    pub addr: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    script: Mutex<Script>,
    lines: Mutex<Vec<String>>,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

impl FakeTracker {
    pub async fn start(script: impl Fn(&str) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), script).await
    }

    pub async fn start_at(
        addr: SocketAddr,
        script: impl Fn(&str) -> Vec<Act> + Send + Sync + 'static,
    ) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("reuse");
        socket.bind(addr).expect("the port is free");
        let listener: TcpListener = socket.listen(1024).expect("listen");
        let addr = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            script: Mutex::new(Arc::new(script)),
            lines: Mutex::default(),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let open = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
                shared.most_open.fetch_max(open, Ordering::SeqCst);
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let _one_less = OneLess(Arc::clone(&shared));
                    let _gone = converse(stream, shared).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            addr,
            state,
            accepting,
        }
    }

    /// From now on it answers like this.
    pub fn change(&self, script: impl Fn(&str) -> Vec<Act> + Send + Sync + 'static) {
        *self.state.script.lock() = Arc::new(script);
    }

    /// All lines that came, with their ends, but for the proxy's own `!version`.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.state.lines.lock().clone();
        lines
            .into_iter()
            .filter(|line| line != "!version\r\n")
            .collect()
    }

    /// How many of the lines contain this.
    pub fn saw(&self, part: &str) -> usize {
        self.lines()
            .iter()
            .filter(|line| line.contains(part))
            .count()
    }

    pub fn most_open(&self) -> usize {
        self.state.most_open.load(Ordering::SeqCst)
    }

    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// As by `kill -9`: all connections end and the port is closed.
    pub async fn kill(self) -> SocketAddr {
        self.accepting.abort();
        let _aborted = self.accepting.await;
        until("its connections are closed", || {
            self.state.open.load(Ordering::SeqCst) == 0
        })
        .await;
        self.addr
    }
}

struct OneLess(Arc<State>);

impl Drop for OneLess {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn converse(mut stream: TcpStream, state: Arc<State>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut pending: Vec<u8> = Vec::new();
    let mut searched = 0;
    let mut buffer = vec![0; 65536];
    loop {
        while let Some(end) = pending[searched..].iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=searched + end).collect();
            searched = 0;
            // One char a byte, as in the recorded conversations.
            let line: String = line.into_iter().map(char::from).collect();
            let script = Arc::clone(&state.script.lock());
            state.lines.lock().push(line.clone());
            for act in script(&line) {
                match act {
                    Act::Send(bytes) => stream.write_all(&bytes).await?,
                    Act::Wait(time) => tokio::time::sleep(time).await,
                    Act::Close => return Ok(()),
                    Act::Hang => std::future::pending().await,
                }
            }
        }
        searched = pending.len();
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        pending.extend_from_slice(&buffer[..read]);
    }
}

/// A proxy with its journal in a folder that goes with it.
pub struct Rig {
    pub proxy: Proxy,
    pub journal: Journal,
    pub locks: KeyLocks,
    folder: tempfile::TempDir,
}

pub fn config(trackers: &[SocketAddr]) -> ProxyConfig {
    ProxyConfig {
        listen: vec!["127.0.0.1:0".parse().expect("an address")],
        trackers: trackers.iter().map(SocketAddr::to_string).collect(),
        max_connections: 20_000,
        max_line: 1 << 20,
        max_key: 60_000,
        deny: vec!["!shutdown".into()],
        idle_timeout: None,
        upstream_connections: 256,
        threads: 2,
        lock_wait: Duration::from_secs(10),
        drain: Duration::from_secs(35),
    }
}

pub fn rig(trackers: &[&FakeTracker], change: impl FnOnce(&mut ProxyConfig)) -> Rig {
    let addrs: Vec<SocketAddr> = trackers.iter().map(|tracker| tracker.addr).collect();
    rig_at(&addrs, 1 << 30, change)
}

pub fn rig_at(
    trackers: &[SocketAddr],
    journal_size: u64,
    change: impl FnOnce(&mut ProxyConfig),
) -> Rig {
    let mut config = config(trackers);
    change(&mut config);
    let folder = tempfile::tempdir().expect("a folder");
    let journal = Journal::open(
        &JournalConfig {
            path: folder.path().to_path_buf(),
            max_size: journal_size,
            quiet_time: Duration::from_secs(60),
        },
        &"ma01".parse().expect("a name"),
        &"node1".parse().expect("a name"),
    )
    .expect("the journal opens");
    let locks = KeyLocks::default();
    let proxy = Proxy::start(&config, journal.clone(), locks.clone()).expect("the proxy starts");
    Rig {
        proxy,
        journal,
        locks,
        folder,
    }
}

impl Rig {
    pub fn addr(&self) -> SocketAddr {
        self.proxy.addrs()[0]
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.addr()).await
    }

    pub async fn entries(&self) -> Vec<Entry> {
        self.journal
            .entries(0, 10_000)
            .await
            .expect("the journal reads")
    }

    /// The journal's entries once each has an outcome. What did not happen leaves no entry.
    pub async fn settled(&self, count: usize) -> Vec<Entry> {
        let mut last = Vec::new();
        for _ in 0..PATIENCE.as_millis() / 10 {
            last = self.entries().await;
            if last.len() == count && last.iter().all(|entry| entry.outcome.is_some()) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{count} settled entries were expected, not {last:#?}");
    }
}

/// Waits until something holds.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..PATIENCE.as_millis() / 5 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain: {what}");
}

/// A client that speaks bytes.
pub struct Client {
    pub stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("the proxy listens");
        stream.set_nodelay(true).expect("nodelay");
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream
            .write_all(bytes.as_ref())
            .await
            .expect("the proxy reads");
    }

    /// The next line with its end; what there is when the connection ends.
    pub async fn line(&mut self) -> String {
        let mut searched = 0;
        loop {
            if let Some(end) = self.unread[searched..]
                .iter()
                .position(|&byte| byte == b'\n')
            {
                return self
                    .unread
                    .drain(..=searched + end)
                    .map(char::from)
                    .collect();
            }
            searched = self.unread.len();
            if !self.more().await {
                return self.unread.drain(..).map(char::from).collect();
            }
        }
    }

    pub async fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        self.line().await
    }

    /// All there is until the proxy closes.
    pub async fn rest(&mut self) -> String {
        while self.more().await {}
        self.unread.drain(..).map(char::from).collect()
    }

    /// Exactly so many bytes.
    pub async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count {
            assert!(
                self.more().await,
                "the connection ended early: {:?}",
                self.unread.escape_ascii().to_string()
            );
        }
        self.unread.drain(..count).collect()
    }

    pub async fn half_close(&mut self) {
        self.stream
            .shutdown()
            .await
            .expect("the connection is there");
    }

    /// Goes away with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("linger");
    }

    async fn more(&mut self) -> bool {
        let mut buffer = vec![0; 65536];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut buffer))
            .await
            .expect("an answer in time");
        match read {
            // A reset is an end like another.
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.unread.extend_from_slice(&buffer[..read]);
                true
            }
        }
    }
}

/// A count of each line.
pub fn tally(lines: &[String]) -> HashMap<&str, usize> {
    let mut tally = HashMap::new();
    for line in lines {
        *tally.entry(line.as_str()).or_default() += 1;
    }
    tally
}
