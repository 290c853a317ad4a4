//! `/v1/files/{domain}/{key}` and `/v1/gaps`.
//!
//! Domain and key are percent-encoded in the path, as in any URL, and may be any bytes; a `/` in the key may stay
//! as it is. In JSON they are text; those that are not UTF-8 are in the tracker's escaping, and the answer
//! says so (`"escaped": true`).

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{Query, State};
use axum::http::Uri;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Refusal, Shared, rfc3339};
use crate::file::{Datacenter, FileName, Op, Replica};
use crate::ledger::{FileRecord, Gap, Strength};
use crate::placement::Placements;
use crate::version::Version;

/// How many gaps are told if the caller does not say.
const GAPS: usize = 1000;
/// How many gaps are told at most: some megabytes.
const MOST_GAPS: usize = 10_000;

pub(super) async fn file(State(api): Shared, uri: Uri) -> Result<Json<Value>, Refusal> {
    let file = file_named(&uri, "/v1/files/")?;
    let reading = api.context.ledger.read(&file, Strength::Local);
    let record = api.ask("read the file", reading).await?;
    if record == FileRecord::default() {
        return Err(Refusal::NotFound(format!(
            "the ledger knows no file {file}"
        )));
    }
    let placements = api.placements().await?;
    Ok(Json(describe(&file, &record, &placements)))
}

/// From the path as it was sent, behind `call`: axum's own decoding takes only UTF-8, and would lose a `//`.
pub(super) fn file_named(uri: &Uri, call: &str) -> Result<FileName, Refusal> {
    let wrong = || Refusal::Bad(format!("write {call}DOMAIN/KEY, percent-encoded"));
    let named = uri.path().strip_prefix(call).ok_or_else(wrong)?;
    let (domain, key) = named.split_once('/').ok_or_else(wrong)?;
    if domain.is_empty() || key.is_empty() {
        return Err(wrong());
    }
    Ok(FileName::from_bytes(&decoded(domain), &decoded(key)))
}

/// The bytes of a part of a path.
pub(super) fn decoded(part: &str) -> Vec<u8> {
    percent_decode_str(part).collect()
}

fn describe(file: &FileName, record: &FileRecord, placements: &Placements) -> Value {
    let due = placements.due_of(file, record);
    let mut answer = named(file);
    answer.insert("head".to_owned(), describe_head(record));
    answer.insert("replicas".to_owned(), replicas(record));
    answer.insert("due".to_owned(), json!(due));
    answer.insert("missing".to_owned(), missing(record, &due));
    Value::Object(answer)
}

/// Those of `due` that have not what they should.
pub(super) fn missing(record: &FileRecord, due: &BTreeSet<Datacenter>) -> Value {
    let due = due.iter();
    let missing: Vec<_> = due
        .filter(|datacenter| !record.is_whole_in(datacenter, true))
        .collect();
    json!(missing)
}

/// What each datacenter holds.
pub(super) fn replicas(record: &FileRecord) -> Value {
    let replicas = record.replicas.iter();
    let replicas: BTreeMap<_, _> = replicas
        .map(|(datacenter, replica)| (datacenter, describe_replica(replica)))
        .collect();
    json!(replicas)
}

pub(super) fn describe_head(record: &FileRecord) -> Value {
    let Some(head) = &record.head else {
        // Only replicas have arrived so far.
        return Value::Null;
    };
    let put = head.put();
    json!({
        "version": head.version,
        "op": match &head.op {
            Op::Put(_) => "put",
            Op::Delete { .. } => "delete",
        },
        "origin": head.origin,
        "class": record.class().map(|class| text(&class.bytes(), class.escaped())),
        "size": put.map(|put| put.size),
        "checksum": put.and_then(|put| put.checksum.as_ref()),
        "fid": put.map(|put| put.fid),
    })
}

fn describe_replica(replica: &Replica) -> Value {
    let held = replica.held.as_ref();
    let mut answer = json!({
        "content": held.map(|held| held.content.to_string()),
        "fid": held.map(|held| held.fid),
        "since": replica.since,
    });
    // Said only where it is so: by an outsider, and never looked at.
    if held.is_some_and(|held| held.claimed) {
        answer["claimed"] = json!(true);
    }
    if let Some(checked) = held.and_then(|held| held.checked.as_ref()) {
        answer["checked"] = json!(checked);
    }
    answer
}

/// What may follow `/v1/gaps?`.
#[derive(Deserialize)]
pub(super) struct GapsQuery {
    limit: Option<usize>,
}

pub(super) async fn gaps(
    State(api): Shared,
    query: Result<Query<GapsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let Query(query) = query
        .map_err(|_| Refusal::Bad(format!("limit: write a whole number, up to {MOST_GAPS}")))?;
    let limit = query.limit.unwrap_or(GAPS).min(MOST_GAPS);
    let context = &api.context;
    let reading = context
        .ledger
        .gaps(&context.datacenter, Version(i64::MAX), limit);
    let found = api.ask("read the gaps", reading).await?;
    let counting = context.ledger.count_gaps(&context.datacenter);
    let count = api.ask("count the gaps", counting).await?;
    let told: Vec<Value> = found.iter().map(describe_gap).collect();
    Ok(Json(json!({
        "datacenter": context.datacenter,
        "count": count,
        "gaps": told,
    })))
}

/// A file that did not come at once, and why.
pub(super) fn describe_gap(gap: &Gap) -> Value {
    let mut answer = named(&gap.file);
    answer.insert("since".to_owned(), json!(rfc3339(gap.since)));
    answer.insert("attempts".to_owned(), json!(gap.attempts));
    answer.insert("last_error".to_owned(), json!(gap.last_error));
    answer.insert("next_try".to_owned(), json!(rfc3339(gap.next_try)));
    Value::Object(answer)
}

/// The members that name a file.
pub(super) fn named(file: &FileName) -> Map<String, Value> {
    let (domain, key) = (file.domain.bytes(), file.key.bytes());
    let mut answer = Map::new();
    let readable = std::str::from_utf8(&domain).is_ok() && std::str::from_utf8(&key).is_ok();
    if readable {
        answer.insert("domain".to_owned(), text(&domain, file.domain.escaped()));
        answer.insert("key".to_owned(), text(&key, file.key.escaped()));
    } else {
        answer.insert("domain".to_owned(), json!(file.domain.escaped()));
        answer.insert("key".to_owned(), json!(file.key.escaped()));
        answer.insert("escaped".to_owned(), json!(true));
    }
    answer
}

/// A name as text, if it is any.
pub(super) fn text(bytes: &[u8], escaped: &str) -> Value {
    json!(std::str::from_utf8(bytes).unwrap_or(escaped))
}
