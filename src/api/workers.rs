//! `/v1/repair`: what repair's workers are doing, and an operator who says what they may do.
//!
//! ```text
//! GET  /v1/repair                              all of them
//! PUT  /v1/repair/workers/scan                 {"paused": true}
//! PUT  /v1/repair/workers/scan                 {"files_per_second": 100, "rest": 1.5}
//! POST /v1/repair/workers/scan/begin           now, or after the one under way
//! ```
//!
//! `files_per_second` is a number or `"unlimited"`, `rest` the seconds of rest after each second of work; with `null` each is again as
//! the configuration says, and what is not named stays as it is.
//!
//! Always true: what is answered with 200 outlives restarts; what is refused has changed nothing.

use std::num::NonZeroU32;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::bare_fids::read;
use super::{Refusal, Shared};
use crate::repair::settings::{Change, NotChanged, Rate};
use crate::repair::status::{Status, WorkerStatus};

/// The body of a PUT.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    paused: Option<bool>,
    #[serde(default, deserialize_with = "even_null")]
    files_per_second: Option<Option<RateWanted>>,
    #[serde(default, deserialize_with = "even_null")]
    rest: Option<Option<f64>>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "files_per_second: write a number of 1 or more, \"unlimited\", or null for what the configuration says"
)]
enum RateWanted {
    AtMost(NonZeroU32),
    Word(Unlimited),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unlimited {
    Unlimited,
}

/// A member that is there, also as null.
fn even_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

pub(super) async fn all(State(api): Shared) -> Json<Status> {
    Json(api.context.vitals.repair())
}

pub(super) async fn change(
    State(api): Shared,
    Path(worker): Path<String>,
    body: Body,
) -> Result<Json<WorkerStatus>, Refusal> {
    let wanted: Wanted = read(body).await?;
    let rate = |wanted| match wanted {
        RateWanted::AtMost(rate) => Rate::AtMost(rate),
        RateWanted::Word(Unlimited::Unlimited) => Rate::Unlimited,
    };
    let change = Change {
        paused: wanted.paused,
        files_per_second: wanted.files_per_second.map(|wanted| wanted.map(rate)),
        rest: wanted.rest,
    };
    if change == Change::default() {
        return Err(Refusal::Bad(
            "nothing is to be changed: send paused, files_per_second or rest".to_owned(),
        ));
    }
    let vitals = &api.context.vitals;
    let changing = async {
        match vitals.change_worker(&worker, change).await {
            Err(NotChanged::Ledger(error)) => Err(error),
            changed => Ok(changed),
        }
    };
    let changed = api.ask("keep what was set", changing).await?;
    Ok(Json(changed.map_err(refusal)?))
}

pub(super) async fn begin(
    State(api): Shared,
    Path(worker): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let asked = api.context.vitals.begin_worker(&worker);
    asked.map_err(refusal)?;
    Ok(Json(json!({ "asked": worker })))
}

fn refusal(error: NotChanged) -> Refusal {
    match error {
        NotChanged::Ledger(error) => Refusal::Ledger(error),
        NotChanged::NoSuchWorker { .. } => Refusal::NotFound(error.to_string()),
        NotChanged::Disabled => Refusal::Known(error.to_string()),
        NotChanged::NoRest { .. } | NotChanged::RestBeyond { .. } | NotChanged::AlwaysOn { .. } => {
            Refusal::Bad(error.to_string())
        }
    }
}
