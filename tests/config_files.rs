//! The configuration files of `fixtures/config`: what is good in the good ones, and what exactly is said of the bad ones.
//!
//! Beside each bad file, `NAME.expected` has every line that the program says. After a change of words on
//! purpose, write them anew with `WRITE_EXPECTED=1 cargo test --test config_files` and read the difference.

#![allow(clippy::unwrap_used, reason = "what panics in a test has failed it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use phylactery::config::{self, Config, LedgerCompression, LedgerConfig, WriteConsistency};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/config")
}

fn load(name: &str) -> Config {
    config::load(&fixtures().join(name)).unwrap()
}

fn phylactery(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_phylactery"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn every_bad_file_is_refused_in_the_expected_words() {
    let folder = fixtures().join("bad");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    names.sort();
    assert!(names.len() > 50, "the bad files are gone: {names:?}");
    let mut different = Vec::new();
    for name in &names {
        let output = phylactery(&folder, &["check-config", name]);
        let errors = said(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{name}: {errors}");
        assert_eq!(said(&output.stdout), "", "{name}");
        let beside = folder.join(name.replace(".toml", ".expected"));
        if std::env::var_os("WRITE_EXPECTED").is_some() {
            std::fs::write(&beside, &errors).unwrap();
        }
        let expected = std::fs::read_to_string(&beside).unwrap_or_default();
        if errors != expected {
            different.push(format!("{name} says\n{errors}expected is\n{expected}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn a_mistake_of_each_key_has_a_file() {
    let bad = fixtures().join("bad");
    let mut told = String::new();
    for entry in std::fs::read_dir(bad).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "expected")
        {
            told.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    for good in ["good.toml", "cassandra.toml"] {
        let config = load(good).to_json();
        for (section, keys) in config.as_object().unwrap() {
            for key in keys.as_object().unwrap().keys() {
                // The longest pause alone cannot be wrong but as a span of time, as many others are.
                if key == "retry_most" {
                    continue;
                }
                // Followed by its value or by what is wrong, so that no longer key is taken for it.
                let wanted = [" =", ":", "["].map(|after| format!("{section}.{key}{after}"));
                assert!(
                    wanted.iter().any(|wanted| told.contains(wanted)),
                    "no bad file has a wrong {section}.{key}"
                );
            }
        }
    }
}

#[test]
fn run_refuses_what_check_config_refuses_and_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let good = std::fs::read_to_string(fixtures().join("smallest.toml")).unwrap();
    std::fs::write(
        folder.path().join("p.toml"),
        format!("{good}\ncolour = 1\n"),
    )
    .unwrap();
    let output = phylactery(folder.path(), &["run", "--config", "p.toml"]);
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(
        said(&output.stderr),
        "error: p.toml: 1 mistake\n  line 15: ledger.colour = 1: no such key; the keys of [ledger] are kind, path\n"
    );
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_a_wrong_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let output = phylactery(folder.path(), &["check-config", "none.toml"]);
    assert_eq!(output.status.code(), Some(64));
    let errors = said(&output.stderr);
    assert!(
        errors.contains("none.toml: 1 mistake\n  cannot be read: No such file"),
        "{errors}"
    );

    std::fs::write(folder.path().join("binary.toml"), b"\xff\xfe\x00").unwrap();
    let output = phylactery(folder.path(), &["check-config", "binary.toml"]);
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn the_good_file_names_every_key_and_the_defaults() {
    let text = std::fs::read_to_string(fixtures().join("good.toml")).unwrap();
    let good = load("good.toml").to_json();
    for (section, keys) in good.as_object().unwrap() {
        assert!(text.contains(&format!("[{section}]")), "{section}");
        for key in keys.as_object().unwrap().keys() {
            assert!(
                text.contains(&format!("\n{key} = ")),
                "{section}.{key} is not explained"
            );
        }
    }
    // What good.toml gives as a default is what a file without the key gets.
    let smallest = load("smallest.toml").to_json();
    let own = [
        "datacenter.trackers",
        "datacenter.storage_hosts",
        "proxy.idle_timeout",
        "proxy.threads",
        "journal.path",
        "ledger.path",
        "repair.spool_dir",
        "repair.spool_size",
    ];
    for (section, keys) in good.as_object().unwrap() {
        for (key, value) in keys.as_object().unwrap() {
            let path = format!("{section}.{key}");
            if !own.contains(&path.as_str()) {
                assert_eq!(*value, smallest[section][key], "{path}");
            }
        }
    }
}

#[test]
fn the_file_for_cassandra_names_every_key_of_its_ledger_and_the_defaults() {
    let text = std::fs::read_to_string(fixtures().join("cassandra.toml")).unwrap();
    let full = load("cassandra.toml").to_json();
    let full = full["ledger"].as_object().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let least = least_of_cassandra(folder.path(), "").to_json();
    let without_default = [
        "contact_points",
        "username",
        "password_file",
        "tls_ca",
        "tls_cert",
        "tls_key",
    ];
    for (key, value) in full {
        assert!(
            text.contains(&format!("\n{key} = ")),
            "{key} is not explained"
        );
        assert!(!value.is_null(), "{key} has no value");
        if !without_default.contains(&key.as_str()) {
            assert_eq!(*value, least["ledger"][key], "{key}");
        }
    }
    for key in &without_default[1..] {
        assert!(least["ledger"][key].is_null(), "{key}");
    }
}

/// The least that a ledger in Cassandra needs, and `more` of its keys.
fn least_of_cassandra(folder: &Path, more: &str) -> Config {
    let least = std::fs::read_to_string(fixtures().join("smallest.toml")).unwrap();
    let cluster =
        "kind = \"cassandra\"\ncontact_points = \"10.1.0.31\"\nlocal_datacenter = \"ma01\"";
    let text = least.replace("path = \"ledger.db\"", &format!("{cluster}\n{more}"));
    assert_ne!(text, least);
    let file = folder.join("least.toml");
    std::fs::write(&file, text).unwrap();
    config::load(&file).unwrap()
}

#[test]
fn a_ledger_in_cassandra_is_read_as_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let more = r#"
        keyspace = "ledger_2"
        write_consistency = "EACH_QUORUM"
        username = "phylactery"
        password_file = "secrets/password"
        tls_ca = "ca.pem"
        tls_cert = "client.pem"
        tls_key = "/etc/client.key"
        compression = "none"
        request_timeout = "1500ms"
        connect_timeout = "1m"
    "#;
    let LedgerConfig::Cassandra(read) = least_of_cassandra(folder.path(), more).ledger else {
        panic!("it is in Cassandra")
    };
    assert_eq!(read.contact_points, ["10.1.0.31:9042"]);
    assert_eq!(read.local_datacenter, "ma01");
    assert_eq!(read.keyspace, "ledger_2");
    assert_eq!(read.write_consistency, WriteConsistency::EachQuorum);
    assert_eq!(read.username.as_deref(), Some("phylactery"));
    let inside = |name: &str| Some(folder.path().join(name));
    assert_eq!(read.password_file, inside("secrets/password"));
    assert_eq!(read.tls_ca, inside("ca.pem"));
    assert_eq!(read.tls_cert, inside("client.pem"));
    assert_eq!(read.tls_key, Some(PathBuf::from("/etc/client.key")));
    assert_eq!(read.compression, LedgerCompression::None);
    assert_eq!(read.request_timeout, Duration::from_millis(1500));
    assert_eq!(read.connect_timeout, Duration::from_secs(60));
}

#[test]
fn a_password_is_shown_to_nobody() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), "correct horse\n").unwrap();
    let more = "username = \"phylactery\"\npassword_file = \"password\"";
    least_of_cassandra(folder.path(), more);
    for json in [&["--json"][..], &[]] {
        let arguments = [&["check-config", "least.toml"], json].concat();
        let output = phylactery(folder.path(), &arguments);
        let told = said(&output.stdout) + &said(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert!(told.contains("phylactery"), "{told}");
        assert!(!told.contains("correct horse"), "{told}");
    }
}

#[test]
fn relative_paths_are_taken_from_the_files_folder() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("etc");
    std::fs::create_dir(&inside).unwrap();
    std::fs::copy(fixtures().join("smallest.toml"), inside.join("p.toml")).unwrap();
    let output = phylactery(folder.path(), &["check-config", "--json", "etc/p.toml"]);
    assert_eq!(output.status.code(), Some(0));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let canonical = inside.canonicalize().unwrap();
    assert_eq!(answer["good"], true);
    assert_eq!(
        answer["config"]["journal"]["path"],
        json!(canonical.join("journal"))
    );
    assert_eq!(
        answer["config"]["ledger"]["path"],
        json!(canonical.join("ledger.db"))
    );
}

#[test]
fn sizes_times_and_addresses_may_be_written_in_several_ways() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
        [datacenter]
        name = "ma01"
        [proxy]
        listen = ["127.0.0.1:7001", "[::1]:7001"]
        trackers = "tracker1:7001"
        max_line = 65536
        idle_timeout = "1h 30m"
        deny = []
        [journal]
        path = "/var/journal"
        max_size = "1.5 GiB"
        [ledger]
        path = "../ledger.db"
    "#;
    let file = folder.path().join("p.toml");
    std::fs::write(&file, text).unwrap();
    let config = config::load(&file).unwrap();
    assert_eq!(config.proxy.listen.len(), 2);
    assert_eq!(config.proxy.trackers, ["tracker1:7001"]);
    assert_eq!(config.datacenter.trackers, ["tracker1:7001"]);
    assert_eq!(config.proxy.max_line, 65_536);
    assert_eq!(config.proxy.idle_timeout, Some(Duration::from_secs(5400)));
    assert!(config.proxy.deny.is_empty());
    assert_eq!(config.journal.path, Path::new("/var/journal"));
    assert_eq!(config.journal.max_size, 3 << 29);
    let LedgerConfig::Embedded { path } = config.ledger else {
        panic!("the smallest file has an embedded ledger")
    };
    assert_eq!(path, folder.path().join("../ledger.db"));
}

#[test]
fn mistakes_are_told_as_json_too() {
    let output = phylactery(
        &fixtures().join("bad"),
        &["check-config", "--json", "unknown_key.toml"],
    );
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(said(&output.stderr), "");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        answer,
        json!({ "good": false, "mistakes": [{
            "line": 8,
            "key": "proxy.max_conections",
            "value": "5",
            "wrong": "no such key",
            "right": "did you mean max_connections?",
        }]})
    );
}
