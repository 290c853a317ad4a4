//! Commands for tests, and those about work in the background.
//!
//! There is no fsck and no rebalancing here. Asked how they are, this tracker answers as an idle one;
//! told to start them, it refuses with `not_supported`.

use std::time::Duration;

use super::{Request, perl};
use crate::tracker::answer::{Answer, Fields, Refusal};
use crate::tracker::store::{files, topology, unix_time};

/// Fails on request.
pub fn test(request: &Request<'_>) -> Answer {
    if request.args.is_set("crash") {
        Err(Refusal::new("failure"))
    } else {
        Ok(Fields::new())
    }
}

/// Occupies a worker for whole seconds.
pub async fn sleep(request: &Request<'_>) -> Answer {
    let seconds = match perl::given(request.args, "duration") {
        None => 10,
        Some(_) => u64::try_from(perl::integer(request.args, "duration")).unwrap_or(0),
    };
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    Ok(Fields::new())
}

/// Gives its arguments back. There is no cache to clear: changes are seen at once.
pub fn clear_cache(request: &Request<'_>) -> Fields {
    let mut fields = Fields::new();
    let mut names: Vec<String> = Vec::new();
    for arg in request.args.iter() {
        let name = String::from_utf8_lossy(&arg.name_unescaped()).into_owned();
        if !names.contains(&name) {
            fields.text(
                name.clone(),
                request.args.get(&name).unwrap_or_default().into_owned(),
            );
            names.push(name);
        }
    }
    fields
}

/// Makes everything due that waits for its next try at replication; says how many.
pub async fn replicate_now(request: &Request<'_>) -> Answer {
    let count = request.core.store.write(files::retry_replication).await?;
    request.core.poke_background();
    let mut fields = Fields::new();
    fields.number("count", count);
    Ok(fields)
}

/// A refusal to begin what this tracker does not do.
pub fn not_done(what: &str) -> Refusal {
    Refusal::with_text("not_supported", format!("This tracker does not do {what}"))
}

/// As an idle tracker answers.
pub async fn fsck_status(request: &Request<'_>) -> Answer {
    const SHOWN: [(&str, &[u8]); 5] = [
        ("max_fid_checked", b"fsck_highest_fid_checked"),
        ("policy_only", b"fsck_opt_policy_only"),
        ("end_fid", b"fsck_fid_at_end"),
        ("start_time", b"fsck_start_time"),
        ("stop_time", b"fsck_stop_time"),
    ];
    let values = request
        .core
        .store
        .read(|conn| {
            SHOWN
                .iter()
                .map(|&(name, key)| {
                    Ok((
                        name,
                        topology::setting(conn, key)?.filter(|value| perl::is_true(value)),
                    ))
                })
                .collect::<rusqlite::Result<Vec<_>>>()
        })
        .await?;
    let mut fields = Fields::new();
    fields
        .text("running", "0")
        .text("host", "")
        .text("max_logid", "0")
        .number("current_time", unix_time());
    for (name, value) in values {
        fields.text(name, value.unwrap_or_else(|| b"0".to_vec()));
    }
    Ok(fields)
}

/// Notes from where a check would begin.
pub async fn fsck_reset(request: &Request<'_>) -> Answer {
    let start = perl::given(request.args, "startpos").unwrap_or_else(|| b"0".to_vec());
    let policy_only = request.args.is_set("policy_only").then_some(&b"1"[..]);
    request
        .core
        .store
        .write(move |conn| {
            let last: i64 =
                conn.query_row("SELECT coalesce(max(fid), 0) FROM file", [], |row| {
                    row.get(0)
                })?;
            topology::set_setting(conn, b"fsck_opt_policy_only", policy_only)?;
            topology::set_setting(conn, b"fsck_highest_fid_checked", Some(&start))?;
            topology::set_setting(conn, b"fsck_start_time", None)?;
            topology::set_setting(conn, b"fsck_stop_time", None)?;
            topology::set_setting(conn, b"fsck_fid_at_end", Some(last.to_string().as_bytes()))
        })
        .await?;
    Ok(Fields::new())
}

/// Notes the time, as if something had been stopped.
pub async fn fsck_stop(request: &Request<'_>) -> Answer {
    let now = unix_time().to_string();
    request
        .core
        .store
        .write(move |conn| topology::set_setting(conn, b"fsck_stop_time", Some(now.as_bytes())))
        .await?;
    Ok(Fields::new())
}

/// The log of a check that never ran.
pub fn fsck_getlog() -> Fields {
    let mut fields = Fields::new();
    fields.number("row_count", 0);
    fields
}
