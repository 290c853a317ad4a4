//! `/metrics`: this process in figures, in the text format that Prometheus reads.
//!
//! Always true: what is not known is absent, and never 0. Names are `phylactery_<part>_<what>_<unit>`, in seconds, bytes and ratios
//! from 0 to 1; counters end in `_total` and begin anew with the process. Each HELP says what is healthy. Labels are few and
//! from configuration or registry: no file, and nothing that a client chooses, is ever one.
//! A scrape looks at what the parts have in memory; of the ledger it asks how many gaps there are and how old the oldest is
//! ([`super::gap_count`]), and does not wait for it.
//! Where to look: [`snapshot`] is what is told, [`page`] how a figure is written.

mod page;
mod snapshot;

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use prometheus_client::encoding::prometheus_text;
use prometheus_client::registry::Registry;

use super::Shared;
use super::gap_count::Counted;
use snapshot::Snapshot;

pub(super) async fn metrics(State(api): Shared) -> impl IntoResponse {
    let counting = Arc::clone(&api);
    let counted = api.gap_count.known(move || async move {
        let context = &counting.context;
        // Before the gaps: what is proved by now is done, or will be among them.
        let proof = context.vitals.proof();
        let count = context.ledger.count_gaps(&context.datacenter);
        let gaps = counting.ask("count the gaps", count).await.ok()?;
        let looking = context.ledger.oldest_gap(&context.datacenter);
        let oldest = counting
            .ask("look for the oldest gap", looking)
            .await
            .ok()?;
        Some(Counted {
            gaps,
            oldest,
            proof,
        })
    });
    let counted = counted.await;
    let mut registry = Registry::with_prefix("phylactery");
    registry.register_collector(Box::new(Snapshot::take(&api.context, counted)));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)
        .expect("a String takes all that is written, and no figure is beyond the format");
    ([(CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], text)
}
