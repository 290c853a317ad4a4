//! The recorded conversations of a real tracker, played against ours.
//!
//! They are played in the order in which they were recorded, on one fresh store that was prepared as
//! the real one was: domains `photos` (classes `thumb` and `sums`, the latter with MD5) and `docs`,
//! two storage nodes with a device each. So listings show the same files, and settings that one
//! conversation leaves are there in the next.
//!
//! Compared are whole answers, field by field, but for what must differ: fids (each recorded fid
//! stands for the one that we were given for the same upload), addresses and ports, the device that an
//! upload was sent to, times, the order of what has none, and how far replication had come. Clients put
//! bytes on storage nodes between two lines of a recording; the player does that just before
//! `create_close`, with as many bytes as the recording tells.
//!
//! [`NOT_PLAYED`] and [`DIFFERENT`] say what is left out, and why. A conversation that is neither
//! played nor listed fails the test.

#![allow(
    clippy::unwrap_used,
    reason = "a test panics when something is not as it should be"
)]

mod tracker_player;

use std::collections::BTreeSet;

use phylactery::tracker::checksum::Kind;
use phylactery::tracker::{NewClass, NewDomain, StorageHost, Tracker, TrackerConfig};
use tokio_util::sync::CancellationToken;
use tracker_player::{Player, conversation_names};

/// In the order of the recording, as far as one can tell.
const PLAYED: &[&str] = &[
    "mogadm_domain_class",
    "mogadm_host_device",
    "mogadm_settings_slave",
    "mogadm_fsck",
    "mogadm_rebalance",
    "mogadm_check_stats",
    "perl_client_basics",
    "mogile_utils",
    "mogupload_large",
    "mogtool_bigfile",
    "pymogilefs",
    "line_ends",
    "split_request",
    "half_close",
    "garbage_line",
    "idle_connection",
    "two_connections",
    "callid",
    "stale_callid",
    "command_names",
    "pipelined",
    "repeated_arguments",
    "escaping",
    "binary_keys",
    "empty_and_missing",
    "long_lines",
    "create_open",
    "upload_simple",
    "zero_byte_file",
    "create_close_errors",
    "checksums",
    "abandoned_upload",
    "overwrite",
    "updateclass",
    "rename",
    "rename_onto_existing",
    "rename_onto_existing_busy",
    "zones",
    "delete",
    "get_paths",
    "list_keys",
    "list_fids",
    "file_info",
    "edit_file",
    "device_states",
    "noop_test_sleep",
    "hosts_devices_domains",
    "domains_classes",
    "settings",
    "fsck_rebalance",
    "admin_commands",
    "admin_watch",
    "admin_busy",
    "client_gone",
    "rename_onto_existing_pipelined",
    "mysql_rename_onto_existing",
];

/// Conversations that cannot be played, and why.
const NOT_PLAYED: &[(&str, &str)] = &[
    (
        "mysql_key_rules",
        "keys under MySQL's collation: ours are compared as bytes, as under SQLite",
    ),
    (
        "mysql_unstorable_keys",
        "what MySQL refuses (long keys, stray bytes) is stored here, as under SQLite",
    ),
    (
        "query_worker_killed",
        "there are no worker processes that could be killed",
    ),
    (
        "tracker_killed",
        "kills the tracker; what survives that is tested elsewhere",
    ),
];

/// Requests whose answers differ: conversation, beginning of the request, and why. Their answers
/// are read, and must be of the protocol's form.
const DIFFERENT: &[(&str, &str, &str)] = &[
    (
        "*",
        "fsck_start",
        "there is no fsck: refused with not_supported",
    ),
    (
        "*",
        "rebalance_",
        "there is no rebalancing: no policy is kept, and none is running",
    ),
    (
        "fsck_rebalance",
        "fsck_status",
        "no check was started, and none has stored where it began",
    ),
    ("mogadm_fsck", "fsck_status", "no check was started"),
    (
        "stale_callid",
        "!",
        "the callid of somebody else's request is not given away",
    ),
    (
        "stale_callid",
        "  ",
        "the callid of somebody else's request is not given away",
    ),
    (
        "stale_callid",
        "\u{ff}",
        "the callid of somebody else's request is not given away",
    ),
    (
        "list_keys",
        "list_keys domain=photos&prefix=LK/",
        "prefixes are bytes: upper and lower case differ",
    ),
    (
        "list_keys",
        "list_keys domain=photos&prefix=lk(&after",
        "the prefix is no regular expression",
    ),
    (
        "create_open",
        "create_open domain=photos&key=co/a&debug_profile",
        "the steps of our own work",
    ),
    ("*", "!stats", "counters"),
    ("*", "!jobs", "our own kinds of work"),
    ("*", "!recent", "times, and what was asked before"),
    ("*", "!version", "our own version"),
    ("admin_commands", "!want 1 nosuch", "our own kinds of work"),
    (
        "noop_test_sleep",
        "replicate_now",
        "how many files wait for a further copy is a matter of moments",
    ),
    (
        "admin_busy",
        "!queue",
        "which of the requests wait is a matter of moments",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_answered_as_recorded() {
    let listed: BTreeSet<String> = PLAYED
        .iter()
        .chain(NOT_PLAYED.iter().map(|(name, _)| name))
        .map(|name| (*name).to_owned())
        .collect();
    assert_eq!(
        listed.len(),
        PLAYED.len() + NOT_PLAYED.len(),
        "a conversation is listed twice"
    );
    assert_eq!(
        conversation_names(),
        listed,
        "conversations in the folder, and in the lists of this test"
    );

    let dir = tempfile::tempdir().unwrap();
    let mut config = TrackerConfig::new(
        dir.path().to_owned(),
        "127.0.0.1:0".parse().unwrap(),
        "127.0.0.2:0".parse().unwrap(),
    );
    config.hosts = [("node1", "127.0.0.2:0", 1), ("node2", "127.0.0.3:0", 2)]
        .map(|(name, listen, devid)| StorageHost {
            name: name.to_owned(),
            listen: listen.parse().unwrap(),
            advertise: None,
            devices: vec![devid],
        })
        .to_vec();
    let class = |name: &str, hashtype| NewClass {
        name: name.to_owned(),
        mindevcount: 2,
        hashtype,
    };
    config.domains = vec![
        NewDomain {
            name: "photos".to_owned(),
            classes: vec![class("thumb", None), class("sums", Some(Kind::Md5))],
        },
        NewDomain {
            name: "docs".to_owned(),
            classes: Vec::new(),
        },
    ];
    // The recorded one had four workers, and showed deleted fids for a while.
    config.workers = 4;
    config.delete_delay = std::time::Duration::from_secs(3600);
    let shutdown = CancellationToken::new();
    let tracker = Tracker::start(config, shutdown.clone()).await.unwrap();

    let (address, storage) = (tracker.addr(), tracker.storage_addrs().to_vec());
    let failures = tokio::task::spawn_blocking(move || {
        let mut player = Player::new(address, storage, DIFFERENT);
        for name in PLAYED {
            player.play(name);
            if *name == "rename_onto_existing" {
                // It was recorded twice; listings still show the files of the first time.
                player.same_file(500_124, 500_057);
                player.same_file(500_125, 500_058);
            }
        }
        player.into_failures()
    })
    .await
    .unwrap();
    shutdown.cancel();
    tracker.stopped().await;
    assert!(
        failures.is_empty(),
        "{} answers differ:\n\n{}",
        failures.len(),
        failures.join("\n\n")
    );
}
