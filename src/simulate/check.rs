//! The promises: what may be said at any moment, and what has to be true when all faults are over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::book::{Intent, file};
use super::story::Op;
use super::world::World;
use crate::file::FileName;
use crate::version::Version;

/// How long a node takes to hear of one that has just published its first word: two of its looks.
const HEARD: Duration = Duration::from_secs(2);

/// What a tracker shows of a key.
struct Shown {
    fid: u64,
    class: String,
    body: Option<Bytes>,
}

fn shown(world: &World, at: usize, key: &str) -> Option<Shown> {
    let place = &world.places[at];
    let row = place.tracker.lock().files.get(key.as_bytes()).cloned()?;
    let body = place.shelves.lock().get(&(row.devid, row.fid)).cloned();
    Some(Shown {
        fid: row.fid,
        class: String::from_utf8_lossy(&row.class).into_owned(),
        body,
    })
}

fn name(file: &FileName) -> String {
    String::from_utf8_lossy(&file.key.bytes()).into_owned()
}

/// What was acknowledged is in the journal, or in the ledger: asked of a process that has just begun again.
pub fn nothing_is_lost(world: &World, at: usize) {
    let Some(running) = world.places[at].running.lock().clone() else {
        return;
    };
    let acknowledged: Vec<Intent> = {
        let book = world.book.lock();
        let ours = book.intents.iter();
        ours.filter(|intent| intent.at == at && intent.acknowledged)
            .cloned()
            .collect()
    };
    for intent in acknowledged {
        for key in intent.keys() {
            let file = file(key);
            let journal = running.journal.standing(&file).newest;
            if journal < Some(intent.version) && !has_heard(world, &file, &intent) {
                let here = &world.places[at].name;
                world.breaks(|| {
                    format!(
                        "{here} has forgotten what it has acknowledged: {} ({})",
                        intent.op, intent.version
                    )
                });
            }
        }
    }
}

/// Whether some copy of the ledger has a mutation, or a newer one.
fn has_heard(world: &World, file: &FileName, intent: &Intent) -> bool {
    let record = world.ledger.merged(file);
    let head = record.head.map(|head| head.version);
    let class = record.class_cell.map(|cell| cell.version);
    match &intent.op {
        Op::SetClass { .. } => head.max(class) >= Some(intent.version),
        Op::Put { .. } | Op::Delete { .. } | Op::Rename { .. } => head >= Some(intent.version),
    }
}

/// "In sync as of T" is true: what was acknowledged elsewhere before T is here, or parked by name.
pub fn in_sync_is_true(world: &World, at: usize) {
    let Some(running) = world.places[at].running.lock().clone() else {
        return;
    };
    let Some(proved_at) = running.proved_at() else {
        return;
    };
    let book = world.book.lock();
    for intent in &book.intents {
        if intent.at == at || !intent.acknowledged || intent.version > proved_at {
            continue;
        }
        if let Op::SetClass { .. } = intent.op {
            continue;
        }
        let other = &world.places[intent.at].name;
        let known = world.ledger.knows_since(at, other);
        if known.is_none_or(|since| world.now() < since + HEARD) {
            continue;
        }
        for key in intent.keys() {
            let of = file(key);
            let here = &world.places[at];
            // A put that its own datacenter has replaced before it was told is told by what has replaced it.
            let mut others = book.intents.iter();
            if others.any(|other| {
                other.at == intent.at
                    && other.acknowledged
                    && other.version > proved_at
                    && other.keys().contains(&key)
            }) {
                continue;
            }
            let standing = running.journal.standing(&of);
            let gaps = world.ledger.gaps_of(at, &here.name);
            if standing.newest.is_some() || gaps.iter().any(|gap| gap.file == of) {
                continue;
            }
            let versions: BTreeSet<Version> = match shown(world, at, key) {
                Some(Shown {
                    body: Some(body), ..
                }) => book.versions_of(key, &body),
                // On its way to be looked at again.
                Some(Shown { body: None, .. }) => continue,
                None => book.removals_of(key),
            };
            if versions.last() < Some(&intent.version) {
                world.breaks(|| {
                    format!(
                        "{} says that it is in sync as of {proved_at}, and has not {} ({} of {})",
                        here.name, intent.op, intent.version, world.places[intent.at].name
                    )
                });
            }
        }
    }
}

/// Whether everything is as it should be in the end.
///
/// # Errors
/// What is not, so far.
pub fn all_is_well(world: &Arc<World>) -> Result<(), String> {
    let mut files: BTreeSet<FileName> = world.ledger.files().into_iter().collect();
    for place in &world.places {
        let tracker = place.tracker.lock();
        files.extend(
            tracker
                .files
                .keys()
                .map(|key| FileName::from_bytes(super::tracker::DOMAIN, key)),
        );
    }
    let intents = world.book.lock().intents.clone();
    for intent in intents.iter().filter(|intent| intent.acknowledged) {
        for key in intent.keys() {
            if !has_heard(world, &file(key), intent) {
                return Err(format!(
                    "the ledger has not heard of what {} has acknowledged: {} ({})",
                    world.places[intent.at].name, intent.op, intent.version
                ));
            }
        }
    }
    for (at, place) in world.places.iter().enumerate() {
        let Some(running) = place.running.lock().clone() else {
            return Err(format!("{} does not run", place.name));
        };
        let depth = running.journal.depth();
        if depth.entries > 0 {
            return Err(format!(
                "{} has told the ledger not all: {depth:?}",
                place.name
            ));
        }
        if !running.journal.debts().is_none() {
            return Err(format!(
                "{} owes: {:?}",
                place.name,
                running.journal.debts()
            ));
        }
        if let Some(gap) = world.ledger.gaps_of(at, &place.name).first() {
            return Err(format!("{} has a gap: {gap:?}", place.name));
        }
        if let Some(doubt) = running.trust.doubt() {
            return Err(format!("{} is in doubt: {}", place.name, doubt.sentence()));
        }
        for file in &files {
            is_well(world, at, file)?;
        }
    }
    Ok(())
}

fn is_well(world: &World, at: usize, file: &FileName) -> Result<(), String> {
    let here = &world.places[at].name;
    let record = world.ledger.at(at, file);
    let all = world.ledger.merged(file);
    if record.head != all.head || record.class_cell != all.class_cell {
        return Err(format!(
            "the copy of the ledger in {here} has {record:?} of {file}, and others {all:?}"
        ));
    }
    let shown = shown(world, at, &name(file));
    let held = record
        .replicas
        .get(here)
        .and_then(|replica| replica.held.as_ref());
    let Some(content) = record.content() else {
        return match (shown, held) {
            (None, None) => Ok(()),
            (Some(shown), _) => Err(format!(
                "{file} should be nowhere, and is in {here} as fid {}: {record:?}",
                shown.fid
            )),
            (None, Some(held)) => Err(format!(
                "the ledger says that {here} holds {held:?} of {file}, which is deleted"
            )),
        };
    };
    let Some(shown) = shown else {
        return Err(format!("{file} is not in {here}: {record:?}"));
    };
    let book = world.book.lock();
    let Some(wanted) = book.bytes_of(content) else {
        return Err(format!(
            "nobody has stored the content of {file}: {record:?}"
        ));
    };
    if shown.body.as_ref() != Some(wanted) {
        return Err(format!(
            "{file} in {here} is {:?}, and should be {wanted:?}: {record:?}",
            shown.body
        ));
    }
    match held {
        Some(held) if held.fid.0 == shown.fid && held.content == *content => {}
        held => {
            return Err(format!(
                "{file} in {here} is fid {}, and the ledger says {held:?}",
                shown.fid
            ));
        }
    }
    match record.class() {
        Some(class) if class.escaped() != shown.class => Err(format!(
            "{file} in {here} is in class {}, and should be in {class}",
            shown.class
        )),
        _ => Ok(()),
    }
}
