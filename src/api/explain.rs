//! `/v1/explain/{domain}/{key}`: why a file is here, or is not, in one sentence and with the facts.
//!
//! Domain and key as for `/v1/files/…`. It answers also when the ledger does not, and for a file that nobody knows: that is a reason too.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde_json::{Value, json};

use super::files::{describe_gap, describe_head, file_named, missing, named, replicas};
use super::placements::shown;
use super::{Refusal, Shared, rfc3339};
use crate::repair::explain::{Ahead, Explanation, Reason};

/// How long it may take in all: several questions to the ledger, and less than the command line waits.
const LIMIT: Duration = Duration::from_secs(25);

pub(super) async fn explain(State(api): Shared, uri: Uri) -> Result<Json<Value>, Refusal> {
    let file = file_named(&uri, "/v1/explain/")?;
    let explaining = api.context.vitals.explain(&file);
    match tokio::time::timeout(LIMIT, explaining).await {
        Ok(explanation) => Ok(Json(describe(&explanation))),
        Err(_) => Err(Refusal::Unfinished(format!(
            "{file} was not looked into within {} s: ask again",
            LIMIT.as_secs()
        ))),
    }
}

fn describe(explanation: &Explanation) -> Value {
    let record = explanation.record.as_ref();
    let facts = json!({
        "datacenter": explanation.datacenter,
        "reason": explanation.reason.word(),
        "says": explanation.says(),
        "head": record.map(describe_head),
        "replicas": record.map(replicas),
        "due": explanation.due,
        "missing": record.map(|record| missing(record, &explanation.due)),
        "due_here": explanation.due.contains(&explanation.datacenter),
        "placement": explanation.placement.as_ref().map(shown),
        // What it holds under the key; what hinders us from knowing.
        "tracker": match &explanation.tracker {
            Ok(fid) => json!({ "fid": fid, "problem": null }),
            Err(why) => json!({ "fid": null, "problem": why }),
        },
        "journal": {
            "open": explanation.standing.open,
            "newest": explanation.standing.newest,
        },
        "gap": explanation.gap.as_ref().map(describe_gap),
        "pending": match &explanation.reason {
            Reason::Pending(ahead) => pending(ahead),
            _ => Value::Null,
        },
        "scan": explanation.scan,
        "next_scan": explanation.next_scan.map(rfc3339),
        "hindered": explanation.hindered,
    });
    let mut answer = named(&explanation.file);
    if let Value::Object(facts) = facts {
        answer.extend(facts);
    }
    Value::Object(answer)
}

fn pending(ahead: &Ahead) -> Value {
    json!({
        "stream": ahead.stream.to_string(),
        "number": ahead.number,
        "before": ahead.before,
    })
}
