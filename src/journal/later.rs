//! What came after an entry: mutations that may have moved, replaced or closed what it speaks of. Pure.
//!
//! Settling compares what the tracker holds *now* with an entry that may be long past; what happened in between is in
//! the journal too, and is looked up here.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::file::{Fid, FileName};
use crate::version::Version;

use super::{Entry, Mutation, Outcome};

/// The mutations after one entry that have to do with its keys, in order.
pub(super) struct Later<'a>(Vec<&'a Entry>);

impl Later<'_> {
    /// Whether one of them may have to do with what is under the key.
    pub(super) fn touches(&self, file: &FileName) -> bool {
        self.0.iter().any(|entry| {
            entry.outcome != Some(Outcome::DidNotHappen) && entry.mutation.files().contains(&file)
        })
    }

    /// The version of the last one that touches the key.
    pub(super) fn newest(&self, file: &FileName) -> Option<Version> {
        let touching = self
            .0
            .iter()
            .rev()
            .find(|entry| entry.mutation.files().contains(&file));
        touching.map(|entry| entry.version)
    }

    /// Whether the outcome of one that touches the key is not known.
    pub(super) fn is_open(&self, file: &FileName) -> bool {
        self.0.iter().any(|entry| {
            !matches!(
                entry.outcome,
                Some(Outcome::Happened | Outcome::DidNotHappen)
            ) && entry.mutation.files().contains(&file)
        })
    }

    /// The last one that is known to have decided what is under the key.
    pub(super) fn last_decided(&self, file: &FileName) -> Option<&Entry> {
        self.0.iter().rev().copied().find(|entry| {
            entry.outcome == Some(Outcome::Happened)
                && !matches!(entry.mutation, Mutation::SetClass { .. })
                && entry.mutation.files().contains(&file)
        })
    }

    /// The last one that has decided what is under the key, if what was there before cannot be there since.
    pub(super) fn last_replaced(&self, file: &FileName) -> Option<&Entry> {
        self.last_decided(file).filter(|last| {
            matches!(
                last.mutation,
                Mutation::Put { .. } | Mutation::Delete { .. }
            )
        })
    }

    /// Whether bytes that were under `start` may be under `end` after these renames. So they are if both are one name.
    pub(super) fn may_bring(&self, start: &FileName, end: &FileName) -> bool {
        let mut names = HashSet::from([start]);
        for entry in &self.0 {
            if let Mutation::Rename { from, to } = &entry.mutation
                && entry.outcome != Some(Outcome::DidNotHappen)
                && names.contains(from)
            {
                if entry.outcome == Some(Outcome::Happened) {
                    names.remove(from);
                }
                names.insert(to);
            }
        }
        names.contains(end)
    }

    /// Whether one of them closes this very upload under the key.
    pub(super) fn names(&self, file: &FileName, fid: Fid) -> bool {
        self.0.iter().any(|entry| {
            matches!(&entry.mutation, Mutation::Put { file: f, fid: Some(named), .. } if f == file && *named == fid)
        })
    }
}

/// For each entry of `wanted` (places in `entries`) the later entries that touch its keys, or keys that those have
/// renamed to or from.
pub(super) fn touched_later<'a>(
    entries: &'a [Entry],
    wanted: &[usize],
) -> HashMap<usize, Later<'a>> {
    let mut by_file: HashMap<&FileName, Vec<usize>> = HashMap::new();
    if !wanted.is_empty() {
        for (at, entry) in entries.iter().enumerate() {
            for file in entry.mutation.files() {
                by_file.entry(file).or_default().push(at);
            }
        }
    }
    let later = |&at: &usize| {
        let mut places: BTreeSet<usize> = BTreeSet::new();
        let mut names: Vec<&FileName> = entries[at].mutation.files();
        let mut seen: HashSet<&FileName> = names.iter().copied().collect();
        while let Some(file) = names.pop() {
            for &place in by_file[file].iter().filter(|&&place| place > at) {
                places.insert(place);
                names.extend(
                    entries[place]
                        .mutation
                        .files()
                        .into_iter()
                        .filter(|name| seen.insert(name)),
                );
            }
        }
        (
            at,
            Later(places.into_iter().map(|place| &entries[place]).collect()),
        )
    };
    wanted.iter().map(later).collect()
}
