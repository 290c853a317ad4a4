//! Removing what is here and not due here: bytes that were overwritten elsewhere, or any where an operator has said `remove_extra`.
//!
//! Always true: never the last one. What is to go is published as leaving to every datacenter of the ledger, *then* file and rules are
//! read again from every datacenter, and only a replica counts that is due where it is, not leaving itself, and in a datacenter that
//! stays; and one of those was looked at. Of two datacenters that would remove theirs for each other's sake at least one sees the other
//! leaving, whatever rules each of them goes by: so rules that are changed to and fro lose nothing.
//! Never here: deciding that it should go ([`decide`](super::reconcile::decide)).
//! Killed in the middle: it is leaving, and counts for nobody; whoever meets it next goes on, or keeps it.

use tokio::time::Instant;

use crate::file::{Datacenter, Fid, Held, Put, Revision};
use crate::ledger::Strength;

use super::fetch;
use super::reconcile::{Did, NotDone, Reconciler, Step, View};
use super::registry::{Known, Reading};
use super::supply::PATHS;

impl Reconciler {
    /// Removes what is here, if it is safe elsewhere.
    pub(super) async fn remove_extra(
        &self,
        view: &View,
        head: &Revision,
        put: &Put,
    ) -> Result<Did, NotDone> {
        let Some(held) = view.held(&self.datacenter) else {
            return Ok(Did::Nothing);
        };
        // Overwritten bytes are nobody's replica of the file any more: nobody can rely on them.
        let counts = held.content == put.content;
        let reading = self.registry().await?;
        if keepers(&reading, view, put, &self.datacenter).is_empty() {
            return match counts {
                // Not yet. It is as it was before anybody wanted it to go, and the next scan looks again.
                true => Ok(Did::Nothing),
                false => Err(NotDone::Later(
                    "older bytes are here, which go once newer ones are where the file is due"
                        .into(),
                )),
            };
        }
        if counts {
            self.say_leaving(view, held, true, Strength::Each).await?;
        }
        let published = Instant::now();
        let again = self.look(&view.file, Strength::Each).await;
        let view = again.map_err(|error| match error {
            NotDone::LedgerAway(error) => NotDone::Later(format!(
                "not every datacenter of the ledger says what it has of it: {error}"
            )),
            other => other,
        })?;
        let reading = self.registry.read_since(published).await?;
        let is_as_it_was = view.record.head.as_ref() == Some(head)
            && self.judge_by(&view, reading.clone()).step == Step::RemoveExtra;
        if !is_as_it_was {
            return Err(NotDone::Later(
                "it, or where it is due, was changed just now".into(),
            ));
        }
        let keepers = keepers(&reading, &view, put, &self.datacenter);
        if keepers.is_empty() {
            return Err(NotDone::Later(
                "the datacenters where it is due are about to remove it, or to leave, too".into(),
            ));
        }
        let mut whys = Vec::new();
        for (known, fid) in &keepers {
            match self.shows(known, &view, *fid, put).await {
                Ok(()) => return self.apply_delete(&view, head).await,
                Err(why) => whys.push(format!("{}: {why}", known.record.name)),
            }
        }
        Err(NotDone::Failed(format!(
            "it is not due here and stays, since no datacenter where it is due shows that it has it: {}",
            whys.join("; ")
        )))
    }

    /// It is to stay after all.
    pub(super) async fn keep(&self, view: &View) -> Result<Did, NotDone> {
        if let Some(held) = view.held(&self.datacenter) {
            self.say_leaving(view, held, false, Strength::Local).await?;
        }
        Ok(Did::Nothing)
    }

    /// Whether a storage node of another datacenter has as many bytes of it as there should be.
    async fn shows(&self, known: &Known, view: &View, fid: Fid, put: &Put) -> Result<(), String> {
        let paths = known.trackers.get_paths(&view.file, PATHS).await;
        let mut why = "its tracker names no storage node that has it".to_owned();
        for path in paths.map_err(|error| error.to_string())? {
            let url = match fetch::allowed(&path, &known.record, fid) {
                Ok(url) => url,
                Err(refused) => {
                    why = refused.to_string();
                    continue;
                }
            };
            match self.fetcher.length(&url).await {
                Ok(Some(length)) if length == put.size => return Ok(()),
                Ok(Some(length)) => {
                    why = format!("{url} has {length} bytes, where {} are expected", put.size);
                }
                Ok(None) => why = format!("nothing is at {url}"),
                Err(error) => why = error.to_string(),
            }
        }
        Err(why)
    }
}

/// Who can be relied on to keep the bytes that the head names, other than `here`; with the fid there.
fn keepers(reading: &Reading, view: &View, put: &Put, here: &Datacenter) -> Vec<(Known, Fid)> {
    let placements = reading.placements();
    let (domain, class) = (&view.file.domain, view.record.class());
    let keeps = |held: &&Held| {
        held.content == put.content && !held.claimed && !held.is_damaged() && !held.leaving
    };
    let keeper = view.record.replicas.iter().filter_map(|(name, replica)| {
        let held = replica.held.as_ref().filter(keeps)?;
        let stays = name != here
            && placements.is_due(name, domain, class)
            && placements.membership(name).state.is_relied_on();
        let known = reading.datacenter(name).filter(|_| stays)?;
        Some((known.clone(), held.fid))
    });
    keeper.collect()
}
