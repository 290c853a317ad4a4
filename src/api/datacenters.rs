//! `/v1/datacenters`: who takes part, how far each is, and an operator who says so.
//!
//! ```text
//! GET  /v1/datacenters                   all of them
//! GET  /v1/datacenters/tx01              one
//! PUT  /v1/datacenters/tx01              {} or {"seeded": "2026-11-01T00:00:00Z"}: it takes part, before or after its process first starts
//! POST /v1/datacenters/tx01/pause        its repair rests
//! POST /v1/datacenters/tx01/resume       it works again, and stays if it was about to be removed
//! POST /v1/datacenters/tx01/rejoin       it takes part again after it was removed, or away for too long, and verifies first
//! POST /v1/datacenters/tx01/removal      see [`removal`](super::removal)
//! ```
//!
//! Always true: what an operator says is a row apart from what a datacenter says of itself, stamped above what it shows. It has to reach the ledger's
//! copies of this datacenter; whether all others have it too is told, and saying it again tells them.
//! What is shown of another datacenter is what the ledger has: its nodes' words, its cursors, and what its repair last showed.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::bare_fids::read;
use super::{Api, Refusal, Shared, rfc3339};
use crate::file::Datacenter;
use crate::ledger::{DatacenterRecord, MemberState, Membership, NodeRecord, Strength};
use crate::placement::Placements;
use crate::repair;
use crate::version::{ClockAhead, Version, wall_clock};

/// The body of a PUT.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Added {
    seeded: Option<String>,
}

/// Everything that is asked for to show datacenters.
pub(super) struct Registered {
    pub(super) placements: Placements,
    pub(super) records: BTreeMap<Datacenter, DatacenterRecord>,
    pub(super) nodes: Vec<NodeRecord>,
}

pub(super) async fn all(State(api): Shared) -> Result<Json<Value>, Refusal> {
    let registered = api.registered().await?;
    let mut shown = Vec::new();
    for name in registered.names() {
        shown.push(api.shown(&registered, &name).await?);
    }
    Ok(Json(json!({ "datacenters": shown })))
}

pub(super) async fn one(
    State(api): Shared,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let registered = api.registered().await?;
    let name = registered.named(&name)?;
    Ok(Json(api.shown(&registered, &name).await?))
}

pub(super) async fn add(
    State(api): Shared,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let Added { seeded } = read(body).await?;
    let name: Datacenter = name
        .parse()
        .map_err(|why| Refusal::Bad(format!("{name:?} is no name of a datacenter: {why}")))?;
    let seeded = seeded.as_deref().map(moment).transpose()?;
    let _one_at_a_time = api.placing.lock().await;
    let registered = api.registered().await?;
    let said = registered.placements.membership(&name);
    if said.state == MemberState::Removed {
        return Err(Refusal::Known(format!(
            "{name} was removed; to take it in again say `phylactery dc rejoin {name}`"
        )));
    }
    let is_new = !registered.names().contains(&name);
    let mut means = vec![match is_new {
        true => format!(
            "{name} takes part from now on: files are due there, and nothing is forgotten before it has looked. It is filled by a scan of all files when its process starts."
        ),
        false => format!("{name} took part already."),
    }];
    if let Some(seeded) = seeded {
        means.push(format!(
            "Files there that the ledger does not know are as of {}: once that is longer ago than repair.tombstone_retention, they may have been deleted and \
             forgotten, so they are listed, and not announced.",
            rfc3339(seeded)
        ));
    }
    let wanted = Membership {
        seeded: seeded.or(said.seeded),
        ..said.clone()
    };
    api.say_membership(&said, wanted, means).await
}

pub(super) async fn pause(
    State(api): Shared,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let _one_at_a_time = api.placing.lock().await;
    let (name, said) = api.said_of(&name).await?;
    if !said.state.is_relied_on() {
        return Err(Refusal::Known(format!(
            "{name} is {} and cannot be paused",
            said.state.word()
        )));
    }
    let means = format!(
        "Repair rests in {name}; clients are served, and their changes told. Nothing is forgotten before it has gone on."
    );
    let wanted = Membership {
        state: MemberState::Paused,
        ..said.clone()
    };
    api.say_membership(&said, wanted, vec![means]).await
}

pub(super) async fn resume(
    State(api): Shared,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let _one_at_a_time = api.placing.lock().await;
    let (name, said) = api.said_of(&name).await?;
    if said.state == MemberState::Removed {
        return Err(Refusal::Known(format!(
            "{name} was removed; to take it in again say `phylactery dc rejoin {name}`"
        )));
    }
    let means = format!("Repair works in {name}.");
    let wanted = Membership {
        state: MemberState::Active,
        ..said.clone()
    };
    api.say_membership(&said, wanted, vec![means]).await
}

pub(super) async fn rejoin(
    State(api): Shared,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let _one_at_a_time = api.placing.lock().await;
    let (name, said) = api.said_of(&name).await?;
    let ledger = &api.context.ledger;
    let asking = repair::last_thorough(&**ledger, &name);
    let scanned = api.ask("read how far it had scanned", asking).await?;
    // What it holds and the ledger does not know is as old as that: what was deleted since, it may have missed.
    let known_as_of = scanned.unwrap_or_default();
    let seeded = said
        .seeded
        .map_or(known_as_of, |seeded| seeded.min(known_as_of));
    let wanted = Membership {
        state: MemberState::Active,
        seeded: Some(seeded),
        rejoined: Some(wall_clock()),
        ..said.clone()
    };
    let means = vec![
        format!(
            "{name} takes part again. It verifies all that it is believed to hold, then it is scanned: what was deleted goes, what is missing comes."
        ),
        "Files there that the ledger does not know are neither announced nor removed before a person says so, if they may have been deleted and forgotten.".to_owned(),
    ];
    api.say_membership(&said, wanted, means).await
}

/// A time as a person writes it: a date, or a date and a time, in UTC.
fn moment(text: &str) -> Result<Version, Refusal> {
    let whole = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        _ => text.to_owned(),
    };
    let wrong = |why: &dyn std::fmt::Display| {
        Refusal::Bad(format!(
            "seeded = {text:?}: {why}; write a time in UTC, such as 2026-11-01 or 2026-11-01T12:00:00Z"
        ))
    };
    let time = humantime::parse_rfc3339_weak(&whole).map_err(|why| wrong(&why))?;
    let since = time.duration_since(std::time::UNIX_EPOCH);
    let micros = since.map_err(|_| wrong(&"it is before 1970"))?.as_micros();
    let seeded = Version(i64::try_from(micros).unwrap_or(i64::MAX));
    if seeded > wall_clock() {
        return Err(wrong(&"it lies ahead"));
    }
    Ok(seeded)
}

impl Registered {
    /// All that were ever heard of, removed ones too.
    pub(super) fn names(&self) -> Vec<Datacenter> {
        let mut names: Vec<Datacenter> = self.records.keys().cloned().collect();
        names.extend(self.placements.registered().iter().cloned());
        names.extend(self.placements.removed().cloned());
        names.sort();
        names.dedup();
        names
    }

    pub(super) fn named(&self, name: &str) -> Result<Datacenter, Refusal> {
        let names = self.names();
        let found = names.iter().find(|known| known.as_str() == name);
        found.cloned().ok_or_else(|| {
            Refusal::NotFound(format!(
                "no datacenter {name:?} is registered; there are {}. `phylactery dc add` adds one",
                super::bare_fids::list(names.iter())
            ))
        })
    }

    /// The streams of one datacenter that its nodes write now, and those that they have left.
    pub(super) fn nodes_of(&self, name: &Datacenter) -> impl Iterator<Item = &NodeRecord> {
        let nodes = self.nodes.iter();
        nodes.filter(move |node| node.stream.datacenter == *name)
    }
}

impl Api {
    pub(super) async fn registered(&self) -> Result<Registered, Refusal> {
        let ledger = &self.context.ledger;
        let records = self
            .ask("read the datacenters", ledger.datacenters())
            .await?;
        Ok(Registered {
            placements: self.placements().await?,
            records: records
                .into_iter()
                .map(|record| (record.name.clone(), record))
                .collect(),
            nodes: self.ask("read the nodes", ledger.nodes()).await?,
        })
    }

    async fn said_of(&self, name: &str) -> Result<(Datacenter, Membership), Refusal> {
        let registered = self.registered().await?;
        let name = registered.named(name)?;
        let said = registered.placements.membership(&name);
        Ok((name, said))
    }

    /// Says it to the ledger: here, and then to all of it. Stamped above what is there.
    pub(super) async fn say_membership(
        &self,
        before: &Membership,
        wanted: Membership,
        mut means: Vec<String>,
    ) -> Result<Json<Value>, Refusal> {
        let said = self.stamped_membership(before, wanted)?;
        if said == *before {
            means.insert(0, "It was said already.".to_owned());
        }
        let ledger = &self.context.ledger;
        let saying = ledger.set_membership(&said, Strength::Local);
        self.ask("say what is to become of a datacenter", saying)
            .await?;
        tracing::info!(datacenter = %said.name, state = said.state.word(), "an operator has said what is to become of a datacenter");
        let saying = ledger.set_membership(&said, Strength::Each);
        let heard = self.ask("say it everywhere", saying).await;
        let mut warnings = Vec::new();
        if let Err(why) = &heard {
            warnings.push(format!(
                "not all datacenters' copies of the ledger have it ({why}): where they have not, what held before may go on to count; say it again when \
                 they are reached"
            ));
        }
        let registered = self.registered().await?;
        let mut answer = self.shown(&registered, &said.name).await?;
        answer["means"] = json!(means);
        answer["warnings"] = json!(warnings);
        answer["heard_by_all"] = json!(heard.is_ok());
        Ok(Json(answer))
    }

    /// What is wanted, newer than what is there; or what is there, if that is the same.
    pub(super) fn stamped_membership(
        &self,
        before: &Membership,
        wanted: Membership,
    ) -> Result<Membership, Refusal> {
        // What was never said is said, also if it changes nothing: so a datacenter is known before it starts.
        if wanted == *before && before.updated > Version(0) {
            return Ok(wanted);
        }
        let clock = &self.context.clock;
        if let Some(ahead) = clock.ahead() {
            return Err(ClockAhead { ahead }.into());
        }
        Ok(Membership {
            updated: clock.stamp_above(before.updated),
            ..wanted
        })
    }

    /// One datacenter, as the ledger has it.
    async fn shown(&self, registered: &Registered, name: &Datacenter) -> Result<Value, Refusal> {
        let ledger = &self.context.ledger;
        let said = registered.placements.membership(name);
        let record = registered.records.get(name);
        let asking = repair::last_thorough(&**ledger, name);
        let scanned = self.ask("read how far it has scanned", asking).await?;
        let asking = ledger.cursor(name, repair::SHOWN);
        let shown = self.ask("read how far its repair is", asking).await?;
        let shown: Value = shown
            .and_then(|shown| serde_json::from_str(&shown.note).ok())
            .unwrap_or_default();
        let state = match said.state {
            MemberState::Active if scanned.max(said.rejoined) == said.rejoined => "joining",
            state => state.word(),
        };
        let heard = registered.nodes_of(name).map(|node| node.heartbeat).max();
        let undelivered = registered.nodes_of(name).filter_map(undelivered).min();
        let time = |version: Option<Version>| version.map(rfc3339);
        let of_shown = |what: &str| time(shown[what].as_i64().map(Version));
        let gaps = self.ask("count its gaps", ledger.count_gaps(name)).await?;
        Ok(json!({
            "name": name,
            "state": state,
            "said": time(Some(said.updated).filter(|said| *said > Version(0))),
            "seeded": time(said.seeded),
            "rejoined": time(said.rejoined),
            "trackers": record.map(|record| &record.trackers),
            "api": record.and_then(|record| record.api.as_ref()),
            "last_heard": time(heard),
            "undelivered_since": time(undelivered),
            "behind": self.behind(registered, name).await?,
            "gaps": gaps,
            "in_sync_as_of": of_shown("proved_at"),
            "scanned_as_of": time(scanned),
            "scan": shown["scan"],
            "hindered": shown["hindered"],
            "shown": of_shown("at"),
        }))
    }

    /// How many changes of others a datacenter has not passed yet.
    async fn behind(&self, registered: &Registered, name: &Datacenter) -> Result<u64, Refusal> {
        let mut behind = 0;
        for node in &registered.nodes {
            let of = &node.stream.datacenter;
            let counts = registered.placements.membership(of).state != MemberState::Removed;
            if of == name || !counts {
                continue;
            }
            let stream = node.stream.to_string();
            let asking = self.context.ledger.cursor(name, &stream);
            let cursor = self.ask("read how far it has read", asking).await?;
            let passed = cursor.map_or(0, |cursor| cursor.number);
            behind += node.last_number.saturating_sub(passed);
        }
        Ok(behind)
    }
}

/// The oldest change that a node has not delivered, or of which it does not know what became.
pub(super) fn undelivered(node: &NodeRecord) -> Option<Version> {
    let oldest = node.oldest_undelivered.into_iter().chain(node.oldest_open);
    oldest.min()
}
