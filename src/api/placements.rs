//! `/v1/placements`: where files are due, and an operator who says where.
//!
//! ```text
//! GET    /v1/placements                        all of them, and the default
//! GET    /v1/placements/photos                 those of one domain
//! PUT    /v1/placements/photos                 {"datacenters": ["ma01", "tx01"]}
//! PUT    /v1/placements/photos                 {"datacenters": ["ma01", "tx01"], "lag_goal_seconds": 300}
//! PUT    /v1/placements/photos/raw             the same, for one class of it
//! DELETE /v1/placements/photos/raw             taken back: what counts without it
//! ```
//!
//! Domain and class are percent-encoded in the path, as in any URL, and may be any bytes.
//!
//! Always true: only registered datacenters are named, and never none; a row is stamped above what it shows, by this node's
//! clock. What it means for files is told with every answer: nothing is deleted because of it.
//! It has to reach the ledger's copies of this datacenter; whether those of all others have it too is told, and saying it again tells them.
//! Two operators who say different things in the same moment, at two nodes, may both be told that it is done; the later one counts.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Uri;
use serde::Deserialize;
use serde_json::{Value, json};

use super::bare_fids::{list, read, registered};
use super::files::{decoded, text};
use super::{Api, Refusal, Shared, rfc3339};
use crate::file::{Class, Datacenter, Domain};
use crate::ledger::{Placement, Strength};
use crate::placement::{LAG_GOAL, Placements, lag_goal_of};
use crate::version::{ClockAhead, Version};

/// Which files a placement is for.
struct Of {
    domain: Domain,
    class: Option<Class>,
}

/// The body of a PUT.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    datacenters: Vec<String>,
    /// Left out: it stays as it is.
    lag_goal_seconds: Option<u32>,
}

pub(super) async fn all(State(api): Shared) -> Result<Json<Value>, Refusal> {
    Ok(Json(listed(&api.placements().await?, |_| true)))
}

pub(super) async fn of_domain(State(api): Shared, uri: Uri) -> Result<Json<Value>, Refusal> {
    let of = Of::named(&uri)?;
    let placements = api.placements().await?;
    let mut answer = listed(&placements, |row| {
        row.domain == of.domain && (of.class.is_none() || row.class == of.class)
    });
    of.name(&mut answer);
    answer["due"] = json!(of.due(&placements));
    Ok(Json(answer))
}

pub(super) async fn set(State(api): Shared, uri: Uri, body: Body) -> Result<Json<Value>, Refusal> {
    let of = Of::named(&uri)?;
    let Wanted {
        datacenters,
        lag_goal_seconds,
    } = read(body).await?;
    if lag_goal_seconds == Some(0) {
        return Err(Refusal::Bad(
            "lag_goal_seconds: write a whole number of seconds, at least 1".to_owned(),
        ));
    }
    if datacenters.is_empty() {
        return Err(Refusal::Bad(format!(
            "name at least one datacenter where {of} is due; DELETE takes its placement back, and the default counts"
        )));
    }
    let _one_at_a_time = api.placing.lock().await;
    let before = api.placements().await?;
    let known = datacenters
        .iter()
        .map(|name| registered(&before, name).map_err(|why| Refusal::Bad(why.to_string())));
    let datacenters: BTreeSet<Datacenter> = known.collect::<Result<_, _>>()?;
    let row = before.row(&of.domain, of.class.as_ref());
    let goal_before = row
        .filter(|row| !row.is_taken_back())
        .and_then(|row| row.lag_goal_seconds);
    let goal = lag_goal_seconds.or(goal_before);
    let same = |row: &&Placement| row.datacenters == datacenters && row.lag_goal_seconds == goal;
    let placement = match row.filter(same) {
        // The same again, for copies of the ledger that have not heard it.
        Some(row) => row.clone(),
        None => Placement {
            lag_goal_seconds: goal,
            ..api.stamped(&of, row, datacenters)?
        },
    };
    api.say(&of, before, placement).await
}

pub(super) async fn take_back(State(api): Shared, uri: Uri) -> Result<Json<Value>, Refusal> {
    let of = Of::named(&uri)?;
    let _one_at_a_time = api.placing.lock().await;
    let before = api.placements().await?;
    let row = before.row(&of.domain, of.class.as_ref());
    // One that was taken back may be so only where we read it.
    let Some(row) = row else {
        let there = before.stated().map(|row| Of::row(row).to_string());
        return Err(Refusal::NotFound(format!(
            "{of} has no placement of its own; those that have one: {}",
            list(there)
        )));
    };
    let placement = match row.is_taken_back() {
        true => row.clone(),
        false => api.stamped(&of, Some(row), BTreeSet::new())?,
    };
    api.say(&of, before, placement).await
}

impl Api {
    /// A row that is newer than the one that is there.
    fn stamped(
        &self,
        of: &Of,
        row: Option<&Placement>,
        datacenters: BTreeSet<Datacenter>,
    ) -> Result<Placement, Refusal> {
        let clock = &self.context.clock;
        // No client waits for it, so a clock that is too far ahead does not stamp it.
        if let Some(ahead) = clock.ahead() {
            return Err(ClockAhead { ahead }.into());
        }
        Ok(Placement {
            domain: of.domain.clone(),
            class: of.class.clone(),
            datacenters,
            lag_goal_seconds: None,
            updated: clock.stamp_above(row.map_or(Version(0), |row| row.updated)),
        })
    }

    /// Says it to the ledger: here, and then to all of it.
    async fn say(
        &self,
        of: &Of,
        before: Placements,
        placement: Placement,
    ) -> Result<Json<Value>, Refusal> {
        let ledger = &self.context.ledger;
        let saying = ledger.set_placement(&placement, Strength::Local);
        self.ask("set the placement", saying).await?;
        tracing::info!(%of, datacenters = list(placement.datacenters.iter()), "an operator has set a placement");
        let saying = ledger.set_placement(&placement, Strength::Each);
        let heard = self.ask("set the placement everywhere", saying).await;
        let after = before.clone().with(placement);
        let mut answer = told(of, &before, &after);
        answer["heard_by_all"] = json!(heard.is_ok());
        if let (Err(why), Some(warnings)) = (heard, answer["warnings"].as_array_mut()) {
            warnings.push(json!(format!(
                "not all datacenters' copies of the ledger have it ({why}): where they have not, what held before may go on \
                 to count; say it again when they are reached"
            )));
        }
        Ok(Json(answer))
    }
}

impl Of {
    /// From the path as it was sent.
    fn named(uri: &Uri) -> Result<Of, Refusal> {
        let wrong = || {
            Refusal::Bad(
                "write /v1/placements/DOMAIN or /v1/placements/DOMAIN/CLASS, percent-encoded"
                    .to_owned(),
            )
        };
        let named = uri
            .path()
            .strip_prefix("/v1/placements/")
            .ok_or_else(wrong)?;
        let (domain, class) = match named.split_once('/') {
            Some((domain, class)) => (domain, Some(class)),
            None => (named, None),
        };
        if domain.is_empty() || class == Some("") {
            return Err(wrong());
        }
        Ok(Of {
            domain: Domain::from_bytes(&decoded(domain)),
            class: class.map(|class| Class::from_bytes(&decoded(class))),
        })
    }

    fn row(row: &Placement) -> Of {
        Of {
            domain: row.domain.clone(),
            class: row.class.clone(),
        }
    }

    fn due<'a>(&self, placements: &'a Placements) -> &'a BTreeSet<Datacenter> {
        match &self.class {
            Some(class) => placements.due(&self.domain, Some(class)),
            None => placements.due_of_domain(&self.domain),
        }
    }

    /// Puts the members in that name it.
    fn name(&self, answer: &mut Value) {
        let class = self.class.as_ref();
        answer["domain"] = text(&self.domain.bytes(), self.domain.escaped());
        answer["class"] = json!(class.map(|class| text(&class.bytes(), class.escaped())));
    }
}

/// As the command line takes it.
impl std::fmt::Display for Of {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.class {
            Some(class) => write!(f, "{}:{class}", self.domain),
            None => write!(f, "{}", self.domain),
        }
    }
}

/// One row, as a person and a script need it.
pub(super) fn shown(row: &Placement) -> Value {
    let mut answer = json!({
        "datacenters": row.datacenters,
        "lag_goal_seconds": lag_goal_of(row).as_secs(),
        "since": rfc3339(row.updated),
    });
    Of::row(row).name(&mut answer);
    answer
}

/// The rows that are asked for, what counts where there is none, and which names there are.
fn listed(placements: &Placements, wanted: impl Fn(&Placement) -> bool) -> Value {
    let rows = placements.stated().filter(|row| wanted(row)).map(shown);
    let states: BTreeMap<_, _> = placements
        .registered()
        .iter()
        .map(|name| (name, state(placements, name)))
        .collect();
    json!({
        "placements": rows.collect::<Vec<_>>(),
        "default": placements.active(),
        "default_lag_goal_seconds": LAG_GOAL.as_secs(),
        "datacenters": states,
    })
}

fn state(placements: &Placements, name: &Datacenter) -> &'static str {
    match placements.active().contains(name) {
        true => "active",
        false => "inactive",
    }
}

/// What has come of it, and what it means for files.
fn told(of: &Of, before: &Placements, after: &Placements) -> Value {
    let row = |of: &Of, all: &Placements| all.row(&of.domain, of.class.as_ref()).cloned();
    let changed = row(of, before) != row(of, after);
    let (was, is) = (of.due(before), of.due(after));
    let less = |of: &BTreeSet<Datacenter>, by: &BTreeSet<Datacenter>| -> Vec<Datacenter> {
        of.difference(by).cloned().collect()
    };
    let (added, dropped) = (less(is, was), less(was, is));
    let mut means = Vec::new();
    if !changed {
        means.push("It was so already.".to_owned());
    }
    if !added.is_empty() {
        means.push(format!(
            "What is missing in {} comes by a scan of all files, which begins there within seconds, or after the one under way; see `phylactery status` there.",
            list(added.iter())
        ));
    }
    if !dropped.is_empty() {
        means.push(format!(
            "Nothing is deleted in {}: files that are there stay as they are, though no newer bytes come to them, until they are deleted everywhere.",
            list(dropped.iter())
        ));
    }
    let goal = |all: &Placements| all.lag_goal(&of.domain, of.class.as_ref()).as_secs();
    let (goal_before, goal) = (goal(before), goal(after));
    if goal != goal_before {
        means.push(format!(
            "A change is to be done there within {goal} s, before it was {goal_before} s; what takes longer is counted and told, and nothing else is done about it."
        ));
        if added.is_empty() && dropped.is_empty() {
            means.push("As with any new placement, all files are scanned once more.".to_owned());
        }
    }
    if of.class.is_none() {
        let own = after
            .stated()
            .filter(|row| row.domain == of.domain && row.class.is_some());
        means.extend(own.map(|row| {
            format!(
                "{} has a placement of its own, which goes on to count: {}.",
                Of::row(row),
                list(row.datacenters.iter())
            )
        }));
    }
    let inactive = is.iter().filter(|name| !after.active().contains(*name));
    let warnings: Vec<String> = inactive
        .map(|name| format!("{name} is not active; these files are due there all the same"))
        .collect();
    let row = row(of, after).filter(|row| !row.is_taken_back());
    let mut answer = json!({
        "due": is,
        "before": was,
        "lag_goal_seconds": goal,
        "lag_goal_seconds_before": goal_before,
        "added": added,
        "dropped": dropped,
        "placement": row.as_ref().map(shown),
        "changed": changed,
        "means": means,
        "warnings": warnings,
    });
    of.name(&mut answer);
    answer
}
