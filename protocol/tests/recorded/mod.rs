//! Reads the recorded conversations in `fixtures/transcripts`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// One connection of one conversation.
#[derive(Default)]
pub struct Connection {
    /// Who sent what, in the order of the recording.
    pub parts: Vec<(Side, Vec<u8>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Tracker,
}

impl Connection {
    /// All that one side sent.
    pub fn sent_by(&self, side: Side) -> Vec<u8> {
        self.parts
            .iter()
            .filter(|(from, _)| *from == side)
            .flat_map(|(_, data)| data)
            .copied()
            .collect()
    }
}

/// The conversations by name; each has its connections.
pub fn conversations() -> BTreeMap<String, Vec<Connection>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/transcripts");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the fixtures are in the tree") {
        let path = entry.expect("a readable folder").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "jsonl")
        {
            let name = path
                .file_stem()
                .expect("it has an extension")
                .to_string_lossy()
                .into_owned();
            found.insert(name, connections(&path));
        }
    }
    assert!(found.len() > 50, "only {} conversations", found.len());
    found
}

fn connections(path: &PathBuf) -> Vec<Connection> {
    let mut connections: BTreeMap<u64, Connection> = BTreeMap::new();
    for line in fs::read_to_string(path).expect("a readable file").lines() {
        let part: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        let side = match part["from"].as_str() {
            Some("client") => Side::Client,
            Some("tracker") => Side::Tracker,
            other => panic!("{}: from {other:?}", path.display()),
        };
        let data = part["data"].as_str().unwrap_or_default();
        let data = data
            .chars()
            .map(|c| u8::try_from(u32::from(c)).expect("Latin-1"))
            .collect();
        let conn = part["conn"].as_u64().expect("a connection");
        connections
            .entry(conn)
            .or_default()
            .parts
            .push((side, data));
    }
    connections.into_values().collect()
}
