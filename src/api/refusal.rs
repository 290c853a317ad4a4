//! Why a call was refused, and the status that says so.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::ledger::LedgerError;
use crate::trust::NotAccepted;
use crate::version::ClockAhead;

/// Why a call was refused. Nothing was stored then.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request makes no sense.
    #[error("{0}")]
    Bad(String),
    /// What it asks for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// It exists already.
    #[error("{0}")]
    Known(String),
    /// The path does not take that method.
    #[error("{0}")]
    Method(String),
    /// Not done within the time of one call; asking again goes on.
    #[error("{0}")]
    Unfinished(String),
    /// The ledger would not.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The doubt is not accepted.
    #[error("{}", with_sources(.0))]
    NotAccepted(#[from] NotAccepted),
    /// The clock would not.
    #[error(transparent)]
    Clock(#[from] ClockAhead),
}

impl Refusal {
    /// The one place where a status is decided.
    pub fn status(&self) -> StatusCode {
        match self {
            Refusal::Bad(_) => StatusCode::BAD_REQUEST,
            Refusal::NotFound(_) | Refusal::NotAccepted(NotAccepted::NoDoubt) => {
                StatusCode::NOT_FOUND
            }
            Refusal::Known(_) | Refusal::NotAccepted(NotAccepted::Another { .. }) => {
                StatusCode::CONFLICT
            }
            Refusal::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::Unfinished(_)
            | Refusal::NotAccepted(NotAccepted::Journal(_))
            | Refusal::Ledger(LedgerError::Unavailable { .. })
            | Refusal::Clock(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Ledger(LedgerError::Corrupt { .. }) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::warn!("a call of the API failed: {self}");
        }
        (status, Json(json!({ "message": self.to_string() }))).into_response()
    }
}

/// The chain of causes reads as one sentence.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        said.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    said
}
