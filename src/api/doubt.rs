//! `/v1/doubt/accept`: a person says what is true where ledger and journal disagree.
//!
//! Always true: only the doubt is accepted whose id was sent, so nobody accepts what they have not been shown.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::bare_fids::read;
use super::{Refusal, Shared, rfc3339};
use crate::trust::Doubt;

/// The body of a call.
#[derive(Deserialize)]
struct Accept {
    id: String,
}

/// A doubt, as a person and a script need it.
pub(super) fn shown(doubt: &Doubt) -> Value {
    json!({
        "id": doubt.id(),
        "kind": doubt.kind(),
        "found": rfc3339(doubt.found),
        "is": doubt.sentence(),
        "accepting": doubt.accepting(),
    })
}

pub(super) async fn accept(State(api): Shared, body: Body) -> Result<Json<Value>, Refusal> {
    let Accept { id } = read(body).await.map_err(|refusal| match refusal {
        Refusal::Bad(why) => Refusal::Bad(format!(
            "{why}; send {{\"id\": …}} with the id of the doubt as /v1/status shows it"
        )),
        other => other,
    })?;
    let next = api.context.vitals.accept(&id).await?;
    Ok(Json(json!({
        "accepted": id,
        "doubt": next.map(|doubt| shown(&doubt)),
    })))
}
