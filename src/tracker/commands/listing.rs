//! `list_keys` and `list_fids`.

use super::{Request, perl};
use crate::tracker::answer::{Answer, Fields, Refusal};
use crate::tracker::store::files;

/// As many keys as one answer holds.
const MAX_KEYS: i64 = 1000;

/// A page of the keys of a domain.
///
/// Bytes are compared: neither prefix nor order folds upper and lower case, and `after` must begin
/// with the prefix itself. (Trackers read the prefix as a regular expression there, and leave order
/// and case to their database.)
pub async fn list_keys(request: &Request<'_>) -> Answer {
    let args = request.args;
    let dmid = request.domain()?.dmid;
    let prefix = perl::non_empty(args, "prefix").unwrap_or_default();
    let after = perl::non_empty(args, "after").unwrap_or_default();
    if perl::is_true(&after) && !after.starts_with(&prefix) {
        return Err(Refusal::new("after_mismatch"));
    }
    let limit = match perl::given(args, "limit") {
        None => MAX_KEYS,
        Some(limit) if perl::number(&limit).fract() != 0.0 => return Err(Refusal::new("failure")),
        Some(_) => match perl::integer(args, "limit") {
            ..0 => MAX_KEYS,
            limit => limit.min(MAX_KEYS),
        },
    };
    let keys = request
        .core
        .store
        .read(move |conn| files::list_keys(conn, dmid, &prefix, &after, limit))
        .await?;
    let Some(last) = keys.last() else {
        return Err(Refusal::new("none_match"));
    };
    let mut fields = Fields::new();
    fields
        .number("key_count", keys.len())
        .text("next_after", last.clone());
    for (n, key) in (1..).zip(keys) {
        fields.text(format!("key_{n}"), key);
    }
    Ok(fields)
}

/// A page of all files by number. `to` is how many, not up to where.
pub async fn list_fids(request: &Request<'_>) -> Answer {
    let from = perl::integer(request.args, "from");
    let count = match perl::integer(request.args, "to") {
        0 => 100,
        count @ 1..=500 => count,
        _ => 500,
    };
    let files = request
        .core
        .store
        .read(move |conn| files::list_after(conn, from, count))
        .await?;
    let mut fields = Fields::new();
    fields.number("fid_count", files.len());
    for (n, file) in (1..).zip(files) {
        fields.number(format!("fid_{n}_fid"), file.fid);
        fields
            .text(format!("fid_{n}_domain"), file.domain)
            .text(format!("fid_{n}_class"), file.class);
        fields
            .text(format!("fid_{n}_key"), file.key)
            .number(format!("fid_{n}_length"), file.length);
        fields.number(format!("fid_{n}_devcount"), file.devcount);
    }
    Ok(fields)
}
