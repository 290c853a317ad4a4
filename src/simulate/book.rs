//! What clients have done and read, and so what may be true: the book that promises are checked by.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::story::Op;
use super::tracker::DOMAIN;
use crate::file::{Content, FileName, Revision};
use crate::version::Version;

/// A mutation that a client's proxy has recorded.
#[derive(Clone, Debug)]
pub struct Intent {
    /// In which datacenter.
    pub at: usize,
    pub version: Version,
    pub op: Op,
    /// The bytes that it stored, or, of a rename, those that it was seen to move.
    pub body: Option<Bytes>,
    /// The client has read OK.
    pub acknowledged: bool,
}

impl Intent {
    /// The keys that it decides.
    pub fn keys(&self) -> Vec<&str> {
        match &self.op {
            Op::Put { key, .. } | Op::Delete { key } | Op::SetClass { key, .. } => vec![key],
            Op::Rename { from, to } => vec![from, to],
        }
    }
}

/// All of it.
#[derive(Default)]
pub struct Book {
    pub intents: Vec<Intent>,
    contents: BTreeMap<Content, Bytes>,
    /// Revisions that a copy of the ledger was told, with their bytes; `None` for a delete.
    heads: BTreeMap<FileName, BTreeSet<(Version, Option<Bytes>)>>,
}

pub fn file(key: &str) -> FileName {
    FileName::from_bytes(DOMAIN, key.as_bytes())
}

impl Book {
    /// Notes an intent, before its request is sent; gives its place.
    pub fn intended(&mut self, intent: Intent, content: Option<Content>) -> usize {
        if let (Some(content), Some(body)) = (content, &intent.body) {
            self.contents.insert(content, body.clone());
        }
        self.intents.push(intent);
        self.intents.len() - 1
    }

    /// The tracker has carried it out for this key.
    pub fn carried(&mut self, intent: usize, key: &[u8], after: Option<&Bytes>) {
        let intent = &mut self.intents[intent];
        if let Op::Rename { to, .. } = &intent.op
            && to.as_bytes() == key
            && let Some(body) = after
        {
            intent.body = Some(body.clone());
        }
    }

    /// A copy of the ledger was told this.
    pub fn told(&mut self, file: &FileName, head: &Revision) {
        let body = head
            .content()
            .and_then(|content| self.contents.get(content));
        let heads = self.heads.entry(file.clone()).or_default();
        heads.insert((head.version, body.cloned()));
    }

    /// The bytes of a content, if a client has stored them.
    pub fn bytes_of(&self, content: &Content) -> Option<&Bytes> {
        self.contents.get(content)
    }

    /// By which versions these bytes may be under a key.
    pub fn versions_of(&self, key: &str, body: &Bytes) -> BTreeSet<Version> {
        let intents = self.intents.iter().filter(|intent| match &intent.op {
            Op::Put { key: to, .. } | Op::Rename { to, .. } => {
                to == key && intent.body.as_ref() == Some(body)
            }
            Op::Delete { .. } | Op::SetClass { .. } => false,
        });
        let heads = self.heads.get(&file(key)).into_iter().flatten();
        let heads = heads.filter(|(_, told)| told.as_ref() == Some(body));
        intents
            .map(|intent| intent.version)
            .chain(heads.map(|(version, _)| *version))
            .collect()
    }

    /// By which versions nothing may be under a key.
    pub fn removals_of(&self, key: &str) -> BTreeSet<Version> {
        let intents = self.intents.iter().filter(|intent| match &intent.op {
            Op::Delete { key: of } | Op::Rename { from: of, .. } => of == key,
            Op::Put { .. } | Op::SetClass { .. } => false,
        });
        let heads = self.heads.get(&file(key)).into_iter().flatten();
        let heads = heads.filter(|(_, told)| told.is_none());
        intents
            .map(|intent| intent.version)
            .chain(heads.map(|(version, _)| *version))
            .collect()
    }

    /// Whether repair may have put `after` in the place of `before`: nothing newer is replaced by older.
    ///
    /// # Errors
    /// What it did instead.
    pub fn may_change(
        &self,
        key: &[u8],
        before: Option<&Bytes>,
        after: Option<&Bytes>,
    ) -> Result<(), String> {
        let key = String::from_utf8_lossy(key);
        let newest = match after {
            Some(body) => self.versions_of(&key, body).last().copied(),
            None => self.removals_of(&key).last().copied(),
        };
        let Some(newest) = newest else {
            return Err(match after {
                Some(body) => format!("{body:?} came under {key}, where nobody has put it"),
                None => format!("{key} was removed, which nobody has done"),
            });
        };
        let Some(body) = before else { return Ok(()) };
        let oldest = self.versions_of(&key, body).first().copied();
        match oldest {
            Some(oldest) if oldest > newest && Some(body) != after => Err(format!(
                "{body:?} of {oldest} under {key} was replaced by {} of {newest}",
                match after {
                    Some(after) => format!("{after:?}"),
                    None => "nothing".to_owned(),
                }
            )),
            _ => Ok(()),
        }
    }
}
