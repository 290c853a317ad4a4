//! `/v1/repair/budget`: what repair may take, and an operator who says how much.
//!
//! ```text
//! GET    /v1/repair/budget    what holds, what is configured, and what was set above that
//! PUT    /v1/repair/budget    {"bytes_per_second": 50000000, "copies_at_once": 8}
//! DELETE /v1/repair/budget    what was set is taken back: the configuration holds
//! ```
//!
//! Always true: a limit that is not named stays as it is, and `null` means none. What is set holds at once, also for copies under way, and
//! after a restart; where the ledger cannot keep it, the answer says so. It is of this datacenter alone.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde_json::{Value, json};

use super::bare_fids::read;
use super::{Api, Refusal, Shared};
use crate::repair::budget::Setting;

pub(super) async fn show(State(api): Shared) -> Json<Value> {
    Json(json!(api.context.vitals.budget()))
}

pub(super) async fn set(State(api): Shared, body: Body) -> Result<Json<Value>, Refusal> {
    let setting: Setting = read(body).await?;
    setting
        .check()
        .map_err(|wrong| Refusal::Bad(wrong.to_string()))?;
    if setting.is_empty() {
        return Err(Refusal::Bad(
            "no limit is named; name some of bytes_per_second, bytes_per_source, files_per_second, copies_at_once and copies_per_source, \
             or DELETE what was set"
                .to_owned(),
        ));
    }
    Ok(api.say_budget(Some(setting)).await)
}

pub(super) async fn reset(State(api): Shared) -> Json<Value> {
    api.say_budget(None).await
}

impl Api {
    async fn say_budget(&self, setting: Option<Setting>) -> Json<Value> {
        let vitals = &self.context.vitals;
        let kept = self
            .ask("keep the budget", vitals.set_budget(setting))
            .await;
        let mut answer = json!(vitals.budget());
        answer["warnings"] = match kept {
            Ok(()) => json!([]),
            Err(why) => json!([format!(
                "it holds now, and is lost with the next restart: {why}"
            )]),
        };
        Json(answer)
    }
}
