//! `/readyz`: whether to send clients here, in one line of plain text.
//!
//! Ready is who serves clients and has a ledger that answers. One without a ledger serves clients all the same; that it is not
//! ready only says that what they store does not spread. A doubt is named and is no reason: clients are served, and the ledger is told.

use axum::extract::State;
use axum::http::StatusCode;

use super::Shared;

pub(super) async fn ready(State(api): Shared) -> (StatusCode, String) {
    let context = &api.context;
    let not_ready = |why: String| {
        let line = why.replace(['\n', '\r'], " ");
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {line}\n"),
        )
    };
    if let Some(why) = context.vitals.refusing() {
        return not_ready(format!("changes are refused: {why}"));
    }
    // Read and written to once a second; asking it for each question would be a load that others control.
    if let Some(why) = context.vitals.unheard() {
        return not_ready(why);
    }
    let line = match context.vitals.doubt() {
        None => "ready\n".to_owned(),
        Some(doubt) => format!("ready, but repair has stopped: {}\n", doubt.sentence()),
    };
    (StatusCode::OK, line)
}
