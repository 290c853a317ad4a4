//! Datacenters for the tests of repair, in this process: a real tracker and storage node, a real journal with its delivery,
//! a real ledger, a real repair, over real sockets. And one that is played: a tracker and a storage node that
//! answer what a test wants.

#![allow(dead_code, reason = "each test uses a part of it")]
mod copies;
mod flaky;
mod played;
mod site;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use phylactery::config::{RepairConfig, VerifyBy};
use phylactery::file::{Datacenter, FileName};
use tempfile::TempDir;

#[allow(unused_imports, reason = "each test uses a part of it")]
pub use copies::{Copies, Part, Word};
#[allow(unused_imports, reason = "each test uses a part of it")]
pub use flaky::Flaky;
#[allow(unused_imports, reason = "each test uses a part of it")]
pub use played::{Http, Played, fid_path};
#[allow(unused_imports, reason = "each test uses a part of it")]
pub use site::Site;

/// How long a condition may take to come true. Generous: it is only used up by a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

const QUIET_TIME: Duration = Duration::from_millis(300);

pub fn file(key: &str) -> FileName {
    FileName::from_bytes(b"photos", key.as_bytes())
}

pub fn dc(name: &str) -> Datacenter {
    name.parse().expect("a name")
}

pub fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Bytes that are not all alike, from a seed.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Waits until `condition` gives something; else fails with `last`.
pub async fn until<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    condition: impl Fn() -> F,
) -> T {
    let began = Instant::now();
    loop {
        match condition().await {
            Ok(met) => return met,
            Err(state) if began.elapsed() > PATIENCE => {
                panic!("{what}: not after {PATIENCE:?}; last: {state}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

pub fn repair_config() -> RepairConfig {
    RepairConfig {
        enabled: true,
        copies_at_once: 4,
        create_domains: true,
        scan_every: Duration::from_secs(86_400),
        retry_first: Duration::from_millis(200),
        retry_most: Duration::from_secs(2),
        tombstone_retention: Duration::from_secs(3600),
        // Tests of other workers are not to be helped.
        verify_every: None,
        verify_by: VerifyBy::Size,
        verify_rate: 10_000,
        verify_most_missing: 5.0,
    }
}

/// A datacenter that is played, ma01, and a real one, tx01, which repairs as `config` says.
pub async fn played_and_real_as(config: RepairConfig) -> (TempDir, Arc<Flaky>, Played, Site) {
    let home = tempfile::tempdir().expect("a folder");
    let ledger = Flaky::open(home.path());
    let ma = Played::new("ma01", &ledger).await;
    let mut tx = Site::new("tx01", home.path(), &ledger).await;
    tx.start(Some(config));
    (home, ledger, ma, tx)
}

/// The same, as [`repair_config`] says.
pub async fn played_and_real() -> (TempDir, Arc<Flaky>, Played, Site) {
    played_and_real_as(repair_config()).await
}
