//! A tracker on a folder, and a client of it.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use mogilefs_protocol::client::{Client, CreateClose, CreateOpen, GetPaths, Timeouts};
use phylactery::tracker::{Tracker, TrackerConfig};
use tokio_util::sync::CancellationToken;

/// A tracker that stops when the test is done with it.
pub struct Running {
    pub tracker: Tracker,
    stop: CancellationToken,
}

/// Any port; rubbish goes at once; domains `photos` and `docs`.
pub fn config(dir: &Path) -> TrackerConfig {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = TrackerConfig::new(dir.to_owned(), any, any)
        .domain("photos")
        .domain("docs");
    config.delete_delay = Duration::ZERO;
    config.background_interval = Duration::from_millis(200);
    config
}

pub async fn start(config: TrackerConfig) -> Running {
    let stop = CancellationToken::new();
    Running {
        tracker: Tracker::start(config, stop.clone()).await.unwrap(),
        stop,
    }
}

impl Running {
    pub async fn stop(self) {
        self.stop.cancel();
        self.tracker.stopped().await;
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.tracker.addr(), Timeouts::default())
            .await
            .unwrap()
    }
}

pub fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Stores a file as clients do; says its fid.
pub async fn store(client: &mut Client, key: &str, body: &[u8]) -> u64 {
    let opened = client
        .create_open(&CreateOpen {
            domain: b"photos",
            key: key.as_bytes(),
            multi_dest: true,
            ..Default::default()
        })
        .await
        .unwrap();
    let to = &opened.destinations[0];
    let answer = http()
        .put(&to.path)
        .body(body.to_vec())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    client
        .create_close(&CreateClose {
            domain: b"photos",
            key: key.as_bytes(),
            fid: opened.fid,
            devid: to.devid,
            path: &to.path,
            size: Some(body.len() as u64),
            ..Default::default()
        })
        .await
        .unwrap();
    opened.fid
}

/// Reads a file as clients do.
pub async fn fetch(client: &mut Client, key: &str) -> Vec<u8> {
    let paths = client
        .get_paths(&GetPaths {
            domain: b"photos",
            key: key.as_bytes(),
            ..Default::default()
        })
        .await
        .unwrap();
    let answer = http().get(&paths[0]).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.bytes().await.unwrap().to_vec()
}

/// Waits for what the background does.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
