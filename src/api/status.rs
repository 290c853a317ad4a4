//! `/v1/status`: this datacenter at a glance. It answers when the ledger does not: that is when it is asked.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::{Shared, Vitals, rfc3339};
use crate::version::wall_clock;

pub(super) async fn status(State(api): Shared) -> Json<Value> {
    let context = &api.context;
    // Before the gaps: what is proved by now is done, or will be among them.
    let proof = context.vitals.proof();
    let counting = context.ledger.count_gaps(&context.datacenter);
    let counted = api.ask("count the gaps", counting).await;
    let looking = context.ledger.oldest_gap(&context.datacenter);
    let oldest_gap = match &counted {
        Ok(_) => api.ask("look for the oldest gap", looking).await.ok(),
        // Whoever does not answer is asked one question, and not two.
        Err(_) => None,
    };
    let depth = context.vitals.journal();
    let age = depth
        .oldest
        .map(|oldest| (wall_clock().seconds() - oldest.seconds()).max(0.0));
    let problem = counted.as_ref().err().map(ToString::to_string);
    let gaps = counted.ok();
    let repair = context.vitals.repair();
    // Without the gaps it is not known.
    let not_applied = oldest_gap.map(|gap| gap.into_iter().chain(repair.lag.oldest_pending).min());
    Json(json!({
        "datacenter": context.datacenter,
        "node": context.node,
        "version": env!("CARGO_PKG_VERSION"),
        "journal": {
            "depth": depth.entries,
            "open_intents": depth.open,
            "oldest_seconds": age.unwrap_or(0.0),
            "bytes": depth.bytes,
            "refusing": context.vitals.refusing().map(|why| why.to_string()),
        },
        "ledger": {
            "is": context.ledger.describe(),
            "problem": problem,
            "not_yet_whole": not_yet_whole(&*context.vitals),
            "unreachable": context.ledger.unreachable(),
        },
        "repair": repair,
        "proxy": context.vitals.proxy(),
        // Not known is not none.
        "gaps": gaps,
        // The oldest change of another datacenter, or other reason, for which something is to be done here and is not done.
        "oldest_not_applied": not_applied.flatten().map(|since| json!({
            "since": rfc3339(since),
            "age_seconds": (wall_clock().seconds() - since.seconds()).max(0.0),
        })),
        "doubt": context.vitals.doubt().map(|doubt| super::doubt::shown(&doubt)),
        "in_sync": proof.in_sync && gaps == Some(0),
        "proved_at": proof.proved_at.map(rfc3339),
    }))
}

/// What the ledger has, and not yet on as many copies as the operator wants.
fn not_yet_whole(vitals: &dyn Vitals) -> Value {
    let (debts, paying) = vitals.debts();
    let last_error = paying.last_error;
    json!({
        "count": debts.count,
        "since": debts.oldest.map(rfc3339),
        // Beyond those that are counted, everything that has changed since then.
        "asserting_since": debts.collapsed_since.map(rfc3339),
        "walk_percent": paying.walk_percent,
        "failing_since": paying.failing_since.map(rfc3339),
        "last_error": last_error.map(|last| json!({ "at": rfc3339(last.at), "error": last.error })),
        "paid": paying.paid,
        "set_aside": paying.set_aside,
        "named": paying.named,
    })
}
