//! What stands between sites: a line to a tracker that a test can cut, and a storage node that lies.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Files whose bytes begin so were stored with a verified digest: only of these a wrong one can be told from the right one.
pub const WITH_DIGEST: &[u8] = b"with digest ";

/// A line to a tracker, as other datacenters reach it.
pub struct Line {
    pub address: SocketAddr,
    cut: watch::Sender<bool>,
}

impl Line {
    /// To `tracker`. Where it names its storage node at `storage`, `instead` is named.
    pub async fn new(tracker: SocketAddr, storage: SocketAddr, instead: SocketAddr) -> Line {
        let listener = listen().await;
        let address = listener.local_addr().expect("bound");
        let (cut, state) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((there, _)) = listener.accept().await {
                let mut state = state.clone();
                if *state.borrow() {
                    continue;
                }
                tokio::spawn(async move {
                    tokio::select! {
                        _gone = pass(there, tracker, storage.port(), instead.port()) => {}
                        _cut = state.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Line { address, cut }
    }

    /// Cut, nobody comes through, and who is through is thrown out.
    pub fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

async fn listen() -> TcpListener {
    let any = (Ipv4Addr::LOCALHOST, 0);
    TcpListener::bind(any).await.expect("a free port")
}

async fn pass(
    there: TcpStream,
    tracker: SocketAddr,
    storage: u16,
    instead: u16,
) -> std::io::Result<()> {
    let here = TcpStream::connect(tracker).await?;
    let (mut from_there, mut to_there) = there.into_split();
    let (from_here, mut to_here) = here.into_split();
    let asking = tokio::io::copy(&mut from_there, &mut to_here);
    let answering = async {
        let mut from_here = BufReader::new(from_here);
        let mut line = Vec::new();
        while from_here.read_until(b'\n', &mut line).await? > 0 {
            let text = String::from_utf8_lossy(&line);
            let text = match text.contains("path") {
                true => text.replace(&storage.to_string(), &instead.to_string()),
                false => text.into_owned(),
            };
            to_there.write_all(text.as_bytes()).await?;
            line.clear();
        }
        Ok(())
    };
    tokio::select! {
        asked = asking => asked.map(|_| ()),
        answered = answering => answered,
    }
}

/// A storage node in front of a real one, which gives less than it promises, promises more than there is, gives other bytes of the
/// same length, or stops in the middle; and often enough what was asked for.
pub struct Liar {
    pub address: SocketAddr,
    told: Arc<Told>,
}

struct Told {
    storage: SocketAddr,
    random: Mutex<StdRng>,
    http: reqwest::Client,
    lies: [AtomicU64; 4],
}

impl Liar {
    pub async fn new(storage: SocketAddr, seed: u64) -> Liar {
        let listener = listen().await;
        let address = listener.local_addr().expect("bound");
        let told = Arc::new(Told {
            storage,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            http: reqwest::Client::new(),
            lies: Default::default(),
        });
        let ours = Arc::clone(&told);
        tokio::spawn(async move {
            while let Ok((there, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&ours).answer(there));
            }
        });
        Liar { address, told }
    }

    /// How often it gave too little, promised too much, gave other bytes, and hung.
    pub fn lies(&self) -> [u64; 4] {
        [0, 1, 2, 3].map(|lie: usize| self.told.lies[lie].load(Ordering::Relaxed))
    }
}

impl Told {
    async fn answer(self: Arc<Told>, mut there: TcpStream) {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match there.read(&mut byte).await {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let url = format!("http://{}{path}", self.storage);
        let mut asking = match method {
            "HEAD" => self.http.head(url),
            _ => self.http.get(url),
        };
        for line in head.lines() {
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("range")
            {
                asking = asking.header("range", value.trim());
            }
        }
        let Ok(answer) = asking.send().await else {
            return;
        };
        let mut answered = format!("HTTP/1.1 {}\r\nConnection: close\r\n", answer.status());
        if let Some(range) = answer.headers().get("content-range") {
            answered += &format!("Content-Range: {}\r\n", range.to_str().unwrap_or(""));
        }
        let length = answer.headers().get("content-length");
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let is_good = answer.status().is_success();
        let Ok(body) = answer.bytes().await else {
            return;
        };
        let mut body = body.to_vec();
        let mut promised = length.unwrap_or(body.len());
        let lie = self.random.lock().random_range(0..14);
        let may_lie = is_good && method == "GET" && !body.is_empty();
        let told = match lie {
            0 if may_lie => {
                promised -= 1;
                body.truncate(promised);
                Some(0)
            }
            1 if may_lie => {
                promised += 10;
                Some(1)
            }
            2 if may_lie && body.starts_with(WITH_DIGEST) => {
                let last = body.len() - 1;
                body[last] ^= 1;
                Some(2)
            }
            3 if may_lie => Some(3),
            _ => None,
        };
        if let Some(lie) = told {
            self.lies[lie].fetch_add(1, Ordering::Relaxed);
        }
        answered += &format!("Content-Length: {promised}\r\n\r\n");
        let (first, rest) = body.split_at(match told {
            Some(3) => body.len() / 2,
            _ => body.len(),
        });
        let _hung_up = there.write_all(answered.as_bytes()).await;
        let _hung_up = there.write_all(first).await;
        if told == Some(3) {
            tokio::time::sleep(Duration::from_secs(2)).await;
        } else {
            let _hung_up = there.write_all(rest).await;
        }
        let _gone = there.shutdown().await;
    }
}
