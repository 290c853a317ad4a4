//! What repair changes in the local tracker: always under the keys' locks, always with an intent before.
//!
//! Always true: under the lock the journal is asked whether the key was changed here meanwhile, and the tracker whether it
//! still holds what is believed. The clock was moved above the revision that is applied when it was read, so
//! a client who changes the key next is newer. A client who waits for the key is given way.
//! Never here: waiting for the ledger or another datacenter while a lock is held.
//! Killed in the middle: the intent is open, and settled by what the tracker holds.

use std::time::Duration;

use crate::events::{Event, What};
use crate::failpoint::{self, pass};
use crate::file::{Class, FileName, Revision};
use crate::journal::{By, Intent, Mutation, Outcome};
use crate::locks::KeyGuard;
use crate::machine::{self, Rule, keeps};
use crate::trackers::TrackerError;
use crate::version::Version;

use super::reconcile::{Did, NotDone, Reconciler, View};

/// How long the tracker may take to say what it holds while a lock is held.
const LOOK: Duration = Duration::from_secs(5);

/// How often it is asked whether a client waits for the lock.
const GIVE_WAY: Duration = Duration::from_millis(20);

/// The locks of some files whose state here was found to be what it was taken for.
pub(super) struct Permit {
    guard: KeyGuard,
}

/// What the tracker has to hold for a [`Permit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// The fid that is believed, or nothing.
    AtMostBelieved,
    /// The fid that is believed.
    Believed,
    /// Nothing.
    Nothing,
}

impl Reconciler {
    pub(super) async fn apply_delete(&self, view: &View, head: &Revision) -> Result<Did, NotDone> {
        // Nothing there is asked for all the same: what becomes of it corrects what is believed.
        let permit = self
            .permit(&[(view, Wanted::AtMostBelieved)], head.version)
            .await?;
        let mutation = Mutation::Delete {
            file: view.file.clone(),
        };
        let intent = self
            .intend(&permit, By::Repair { content: None }, mutation)
            .await?;
        pass(failpoint::REMOVE_INTENT);
        let answer = self.local.delete(&view.file).await;
        pass(failpoint::REMOVE_DONE);
        self.settle(intent, permit, answer)?;
        self.tell(&view.file, What::Removed);
        Ok(Did::Removed)
    }

    pub(super) async fn apply_rename(
        &self,
        from: &View,
        to: &View,
        head: &Revision,
    ) -> Result<Did, NotDone> {
        let newest = head.version.max(
            from.record
                .head
                .as_ref()
                .map_or(head.version, |head| head.version),
        );
        let permit = self
            .permit(&[(from, Wanted::Believed), (to, Wanted::Nothing)], newest)
            .await?;
        let mutation = Mutation::Rename {
            from: from.file.clone(),
            to: to.file.clone(),
        };
        let by = By::Repair {
            content: head.content().cloned(),
        };
        let intent = self.intend(&permit, by, mutation).await?;
        pass(failpoint::REMOVE_INTENT);
        let answer = self.local.rename(&from.file, &to.file.key).await;
        pass(failpoint::REMOVE_DONE);
        self.settle(intent, permit, answer)?;
        self.tell(
            &from.file,
            What::Moved {
                to: to.file.key.clone(),
            },
        );
        let held = from.held(&self.datacenter);
        match (to.record.class(), held) {
            (Some(class), Some(held)) if *class != held.class => {
                Err(NotDone::Later("renamed; its class is changed next".into()))
            }
            _ => Ok(Did::Moved {
                from: from.file.key.clone(),
            }),
        }
    }

    pub(super) async fn apply_class(
        &self,
        view: &View,
        head: &Revision,
        class: &Class,
    ) -> Result<Did, NotDone> {
        let version = view.newest().unwrap_or(head.version);
        let permit = self.permit(&[(view, Wanted::Believed)], version).await?;
        let mutation = Mutation::SetClass {
            file: view.file.clone(),
            class: class.clone(),
        };
        let by = By::Repair {
            content: head.content().cloned(),
        };
        let intent = self.intend(&permit, by, mutation).await?;
        pass(failpoint::REMOVE_INTENT);
        let answer = self.local.updateclass(&view.file, class).await;
        pass(failpoint::REMOVE_DONE);
        let missing = answer
            .as_ref()
            .is_err_and(|error| error.is_code("class_not_found"));
        let settled = self.settle(intent, permit, answer);
        if missing && self.config.create_domains {
            self.make_domain_as_elsewhere(&view.record, &view.file.domain)
                .await?;
            return Err(NotDone::Later(
                "the class was made; it is applied next".into(),
            ));
        }
        settled?;
        self.tell(
            &view.file,
            What::ClassApplied {
                class: class.clone(),
            },
        );
        Ok(Did::ClassApplied)
    }

    /// Locks the files of `views` and makes sure that they are here as they were taken to be. `version`: the newest
    /// that is going to be applied.
    pub(super) async fn permit(
        &self,
        views: &[(&View, Wanted)],
        version: Version,
    ) -> Result<Permit, NotDone> {
        let files: Vec<&FileName> = views.iter().map(|(view, _)| &view.file).collect();
        let Some(guard) = self.locks.try_lock(&files) else {
            return Err(NotDone::Later("a client is changing it here".into()));
        };
        for (view, _) in views {
            let now = self.journal.standing(&view.file);
            if now.open
                || now.newest > view.standing.newest.max(Some(version))
                || !view.watch.is_untouched()
            {
                return Err(NotDone::Later("it was changed here just now".into()));
            }
        }
        for (view, wanted) in views {
            let fid = self.fid_here(&guard, &view.file).await?;
            let believed = view.held(&self.datacenter).map(|held| held.fid.0);
            let as_wanted = match wanted {
                Wanted::AtMostBelieved => fid.is_none() || fid == believed,
                Wanted::Believed => fid.is_some() && fid == believed,
                Wanted::Nothing => fid.is_none(),
            };
            if !as_wanted {
                // If it stays so, the next look finds and names it.
                return Err(NotDone::Later(match (believed, fid) {
                    (Some(believed), None) => {
                        format!("the tracker does not hold fid {believed} under this key any more")
                    }
                    (_, _) => "it was changed here just now".to_owned(),
                }));
            }
        }
        if guard.wanted() {
            return Err(give_way());
        }
        Ok(Permit { guard })
    }

    pub(super) async fn intend(
        &self,
        permit: &Permit,
        by: By,
        mutation: Mutation,
    ) -> Result<Intent, NotDone> {
        let by = match keeps(Rule::CopiesAreMarked) {
            true => by,
            false => By::Client,
        };
        let intent = self.journal.intend(&permit.guard, by, mutation).await;
        intent.map_err(|refused| NotDone::Later(refused.to_string()))
    }

    /// What the tracker's master holds under a key right now, unless a client wants to have the lock first.
    pub(super) async fn fid_here(
        &self,
        guard: &KeyGuard,
        file: &FileName,
    ) -> Result<Option<u64>, NotDone> {
        let wanted = async {
            while !guard.wanted() {
                tokio::time::sleep(GIVE_WAY).await;
            }
        };
        tokio::select! {
            biased;
            found = self.fid_of(file) => found,
            () = wanted => Err(give_way()),
            () = tokio::time::sleep(LOOK) => Err(NotDone::Failed(format!(
                "the tracker did not say within {LOOK:?} what it holds under this key"
            ))),
        }
    }

    pub(super) fn tell(&self, file: &FileName, what: What) {
        let datacenter = self.datacenter.clone();
        self.events.publish(Event {
            datacenter,
            file: file.clone(),
            what,
        });
    }
}

fn give_way() -> NotDone {
    NotDone::Later("a client wants to change it here".into())
}

impl Reconciler {
    /// Tells the journal what became of an intent.
    pub(super) fn settle(
        &self,
        intent: Intent,
        permit: Permit,
        answer: Result<(), TrackerError>,
    ) -> Result<(), NotDone> {
        // A client went on beside it: nobody can tell from the answers which of the two came last.
        let was_passed = permit.guard.was_passed();
        let Err(error) = answer else {
            if was_passed {
                intent.outcome(Outcome::Lost);
                return Err(NotDone::Later("a client changed it meanwhile".into()));
            }
            intent.outcome(Outcome::Happened);
            return Ok(());
        };
        let outcome = match error.outcome() {
            Outcome::Doubtful if was_passed => Outcome::Lost,
            outcome => outcome,
        };
        intent.outcome(outcome);
        Err(match outcome {
            Outcome::DidNotHappen => NotDone::Failed(error.to_string()),
            Outcome::Doubtful | Outcome::Lost | Outcome::Happened => {
                if outcome == Outcome::Lost {
                    self.hold_on(permit);
                }
                NotDone::Later(format!("it is not known yet what became of it: {error}"))
            }
        })
    }

    /// Keeps the locks for a quiet time. The tracker may still hold a request whose answer was lost: what a client does to the key before it
    /// is carried out, it would undo. A client waits for that as for any other change of the key, and no longer.
    fn hold_on(&self, permit: Permit) {
        let mut held = self.held.lock();
        while held.try_join_next().is_some() {}
        let quiet_time = self.quiet_time;
        machine::spawn_in(&mut held, async move {
            tokio::time::sleep(quiet_time).await;
            drop(permit);
        });
    }
}
