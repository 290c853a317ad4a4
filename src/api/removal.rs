//! `/v1/datacenters/{name}/removal`: a datacenter is removed when no file would lose its last replica, or an operator has said that they may.
//!
//! ```text
//! POST /v1/datacenters/tx01/removal        {"lost": false}     it is leaving; a count over all files begins, whose "id" is told
//! POST /v1/datacenters/tx01/removal/next   {"id": "…"}         a second's worth of it, with the files that would be lost; the last one removes it
//! ```
//!
//! Always true: first it is said to every datacenter of the ledger that it is leaving, so that nobody removes a replica of their own for its sake;
//! then every page is read from every datacenter. Only what is due where it is, in a datacenter that stays, and not leaving itself counts as
//! kept. A node that has something to tell, or that clients changed files through meanwhile, keeps the count from being the truth, and so the datacenter from being removed.
//! One count at a time. Memory: one page of files.
//! Killed in the middle: it is leaving, which `resume` takes back, and the next removal counts anew.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::bare_fids::{list, read};
use super::datacenters::{Registered, undelivered};
use super::files::text;
use super::{Api, Refusal, Shared};
use crate::file::{Datacenter, FileName, Held};
use crate::ledger::{
    FileRecord, LedgerError, MemberState, Membership, StreamId, Strength, TokenRange,
};
use crate::placement::Placements;

/// How long one call counts.
const STEP: Duration = Duration::from_secs(1);
/// Files read at a time.
const PAGE: usize = 500;
/// Files that one answer lists, but for the rest of a page.
const LISTED: usize = 500;

/// A count under way.
pub(super) struct Removal {
    id: String,
    name: Datacenter,
    /// An operator has said that files may be lost.
    lost: bool,
    /// What had been said of it before.
    before: Membership,
    /// What its nodes had told when the count began.
    told: BTreeMap<StreamId, u64>,
    next: Option<String>,
    percent: f64,
    files: u64,
    only_there: u64,
    bytes: u64,
    unreadable: u64,
}

/// The body that begins one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    #[serde(default)]
    lost: bool,
}

/// The body that goes on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Next {
    id: String,
}

pub(super) async fn begin(
    State(api): Shared,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let Begun { lost } = read(body).await?;
    let mut removal = api.removal.lock().await;
    let _one_at_a_time = api.placing.lock().await;
    let registered = api.registered().await?;
    let name = registered.named(&name)?;
    let said = registered.placements.membership(&name);
    if said.state == MemberState::Removed {
        return Err(Refusal::Known(format!("{name} was removed already")));
    }
    others_are_due(&registered.placements, &name)?;
    let leaving = Membership {
        state: MemberState::Leaving,
        ..said.clone()
    };
    let leaving = api.stamped_membership(&said, leaving)?;
    let saying = api.context.ledger.set_membership(&leaving, Strength::Each);
    let said_to_all = api.ask("say everywhere that it is leaving", saying).await;
    said_to_all.map_err(|refusal| in_words(refusal, &name))?;
    tracing::warn!(datacenter = %name, lost, "an operator has a datacenter removed: its files are counted");
    // As of after everybody could hear it.
    let told = told(&api.registered().await?, &name);
    let begun = removal.insert(Removal {
        id: format!("{:016x}", rand::random::<u64>()),
        name,
        lost,
        before: said,
        told,
        next: None,
        percent: 0.0,
        files: 0,
        only_there: 0,
        bytes: 0,
        unreadable: 0,
    });
    Ok(Json(begun.shown(&[])))
}

pub(super) async fn next(
    State(api): Shared,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let Next { id } = read(body).await?;
    let mut removal = api.removal.lock().await;
    let under_way = removal.as_mut();
    let count = under_way.filter(|count| count.id == id && count.name.as_str() == name);
    let Some(count) = count else {
        return Err(Refusal::NotFound(format!(
            "no removal of {name} with the id {id:?} is under way at this node: begin another one"
        )));
    };
    let listed = api.count(count).await?;
    let mut answer = count.shown(&listed);
    if count.percent < 100.0 {
        return Ok(Json(answer));
    }
    let outcome = api.end(count).await?;
    *removal = None;
    answer["done"] = json!(true);
    answer["removed"] = json!(outcome.is_ok());
    answer["why_not"] = json!(outcome.as_ref().err());
    answer["warnings"] = json!(outcome.unwrap_or_default());
    Ok(Json(answer))
}

/// Refused where a placement, or the default, would be left without any datacenter.
fn others_are_due(placements: &Placements, name: &Datacenter) -> Result<(), Refusal> {
    let without = |row| {
        let mut due = placements.due_by(row);
        due.remove(name) && due.is_empty()
    };
    if without(None) {
        return Err(Refusal::Bad(format!("{name} is the only datacenter")));
    }
    let only = placements.stated().filter(|row| without(Some(row)));
    let only: Vec<String> = only
        .map(|row| match &row.class {
            Some(class) => format!("{}:{class}", row.domain),
            None => row.domain.to_string(),
        })
        .collect();
    if only.is_empty() {
        return Ok(());
    }
    Err(Refusal::Bad(format!(
        "{} is due nowhere but in {name}: set its placement first",
        list(only.iter())
    )))
}

/// What the nodes of a datacenter have told so far.
fn told(registered: &Registered, name: &Datacenter) -> BTreeMap<StreamId, u64> {
    let nodes = registered.nodes_of(name);
    nodes
        .map(|node| (node.stream.clone(), node.last_number))
        .collect()
}

fn in_words(refusal: Refusal, name: &Datacenter) -> Refusal {
    match refusal {
        Refusal::Ledger(LedgerError::Unavailable { doing, why }) => {
            Refusal::Ledger(LedgerError::Unavailable {
                doing,
                why: format!(
                    "{why}. Every datacenter of the ledger has to answer for that; if {name} is gone for good with its copies of the ledger, take \
                     them out of the keyspace first"
                ),
            })
        }
        other => other,
    }
}

/// Whether `name` holds the bytes that the file should have, and nobody else can be relied on to keep them.
fn is_only_in(
    name: &Datacenter,
    file: &FileName,
    record: &FileRecord,
    placements: &Placements,
) -> bool {
    let Some(content) = record.content() else {
        return false;
    };
    let good = |held: &&Held| held.content == *content && !held.claimed && !held.is_damaged();
    let holders = record.replicas.iter();
    let mut holders = holders.filter_map(|(of, replica)| {
        let held = replica.held.as_ref().filter(good)?;
        Some((of, held))
    });
    let class = record.class();
    let keeps = |(of, held): (&Datacenter, &Held)| {
        of != name
            && !held.leaving
            && placements.is_due(of, &file.domain, class)
            && placements.membership(of).state.is_relied_on()
    };
    holders.clone().any(|(of, _)| of == name) && !holders.any(keeps)
}

impl Removal {
    fn shown(&self, listed: &[Value]) -> Value {
        json!({
            "id": self.id,
            "datacenter": self.name,
            "percent": self.percent,
            "files": self.files,
            "only_there": self.only_there,
            "bytes": self.bytes,
            "unreadable": self.unreadable,
            "listed": listed,
            "done": false,
        })
    }
}

impl Api {
    /// Goes on with a count for a moment; the files that would be lost, of those that were met.
    async fn count(&self, count: &mut Removal) -> Result<Vec<Value>, Refusal> {
        let began = Instant::now();
        let placements = self.placements().await?;
        let mut listed = Vec::new();
        while count.percent < 100.0 && began.elapsed() < STEP && listed.len() < LISTED {
            let ledger = &self.context.ledger;
            let from = count.next.as_deref();
            let reading = ledger.scan(TokenRange::ALL, from, PAGE, Strength::Each);
            let page = self.ask("count the files", reading).await;
            let page = page.map_err(|refusal| in_words(refusal, &count.name))?;
            count.files += (page.files.len() + page.unreadable.len()) as u64;
            count.unreadable += page.unreadable.len() as u64;
            for (file, record) in &page.files {
                if !is_only_in(&count.name, file, record, &placements) {
                    continue;
                }
                let put = record.head.as_ref().and_then(|head| head.put());
                let size = put.map_or(0, |put| put.size);
                count.only_there += 1;
                count.bytes += size;
                listed.push(json!({
                    "domain": text(&file.domain.bytes(), file.domain.escaped()),
                    "key": text(&file.key.bytes(), file.key.escaped()),
                    "size": size,
                }));
            }
            let reached = page.reached.map(|token| TokenRange::ALL.share_up_to(token));
            count.percent = match (&page.next, reached) {
                // Not 100 before it has ended.
                (Some(_), Some(share)) => (100.0 * share).min(99.9),
                (Some(_), None) => count.percent,
                (None, _) => 100.0,
            };
            count.next = page.next;
        }
        Ok(listed)
    }

    /// All files are counted: removes it, and gives what there is to be warned of; or says why not, and takes back that it is leaving.
    async fn end(&self, count: &Removal) -> Result<Result<Vec<String>, String>, Refusal> {
        let _one_at_a_time = self.placing.lock().await;
        let registered = self.registered().await?;
        let name = &count.name;
        let said = registered.placements.membership(name);
        if said.state != MemberState::Leaving {
            return Ok(Err(format!(
                "somebody else has said meanwhile that it is {}",
                said.state.word()
            )));
        }
        let why_not = match count.lost {
            true => None,
            false => count.refuses(&registered),
        };
        let state = match &why_not {
            None => MemberState::Removed,
            Some(_) if count.before.state == MemberState::Leaving => MemberState::Active,
            Some(_) => count.before.state,
        };
        let wanted = Membership {
            state,
            ..said.clone()
        };
        let answer = self.say_membership(&said, wanted, Vec::new()).await?;
        if let Some(why_not) = why_not {
            return Ok(Err(why_not));
        }
        tracing::warn!(datacenter = %name, lost = count.only_there, "a datacenter was removed");
        let warnings = answer["warnings"].as_array().cloned().unwrap_or_default();
        let warnings = warnings.iter().filter_map(Value::as_str);
        Ok(Ok(warnings.map(str::to_owned).collect()))
    }
}

impl Removal {
    /// Why the datacenter stays, if it does.
    fn refuses(&self, registered: &Registered) -> Option<String> {
        let name = &self.name;
        if self.only_there > 0 {
            return Some(format!(
                "{} files, {} bytes, would lose their last replica: they are not in another datacenter where they are due (yet)",
                self.only_there, self.bytes
            ));
        }
        if self.unreadable > 0 {
            return Some(format!(
                "the records of {} files cannot be read, so nobody knows where they are",
                self.unreadable
            ));
        }
        if let Some(since) = registered.nodes_of(name).filter_map(undelivered).min() {
            return Some(format!(
                "a node of {name} has changes since {} that the ledger does not have yet",
                super::rfc3339(since)
            ));
        }
        if told(registered, name) != self.told {
            return Some(format!(
                "clients have changed files through {name} meanwhile: point them at another datacenter first"
            ));
        }
        None
    }
}
