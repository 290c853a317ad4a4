//! Server settings: kept and given back. None of them changes what this tracker does.

use super::{Request, perl};
use crate::tracker::answer::{Answer, Fields, Refusal};
use crate::tracker::checksum::Kind;
use crate::tracker::store::topology;
use crate::tracker::topology::parse_netmask;

/// One setting; empty if it has no value.
pub async fn server_setting(request: &Request<'_>) -> Answer {
    let key = perl::given(request.args, "key").ok_or_else(|| Refusal::new("bad_params"))?;
    let wanted = key.clone();
    let value = request
        .core
        .store
        .read(move |conn| topology::setting(conn, &wanted))
        .await?;
    let mut fields = Fields::new();
    fields
        .text("key", key)
        .text("value", value.unwrap_or_default());
    Ok(fields)
}

/// All settings but the workings of fsck.
pub async fn server_settings(request: &Request<'_>) -> Answer {
    let settings = request.core.store.read(topology::settings).await?;
    let shown = |key: &[u8]| key == b"fsck_checksum" || !key.starts_with(b"fsck_");
    let mut fields = Fields::new();
    let mut count = 0;
    for (key, value) in settings.into_iter().filter(|(key, _)| shown(key)) {
        count += 1;
        fields
            .text(format!("key_{count}"), key)
            .text(format!("value_{count}"), value);
    }
    fields.number("key_count", count);
    Ok(fields)
}

/// Gives a setting a value, if it is one that may be set and the value is of its form.
pub async fn set_server_setting(request: &Request<'_>) -> Answer {
    let key = perl::given(request.args, "key").ok_or_else(|| Refusal::new("bad_params"))?;
    let value = request.args.get("value").map(std::borrow::Cow::into_owned);
    let value = clean(&key, value)?;
    request
        .core
        .store
        .write(move |conn| {
            topology::set_setting(conn, &key, value.as_deref())?;
            if key.starts_with(b"slave_") {
                // Other trackers on one database would notice changed slaves by this.
                let version = topology::setting(conn, b"slave_version")?
                    .map_or(0.0, |old| perl::number(&old));
                topology::set_setting(
                    conn,
                    b"slave_version",
                    Some((version + 1.0).to_string().as_bytes()),
                )?;
            }
            Ok(())
        })
        .await?;
    Ok(Fields::new())
}

/// The value in the form it is kept in; `None` deletes.
fn clean(key: &[u8], value: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Refusal> {
    let bad = |why: &'static str| Err(Refusal::with_text("invalid_format", why));
    let given = value.clone().filter(|value| perl::is_true(value));
    match key {
        _ if key.starts_with(b"slave_") => Ok(given),
        b"skip_devcount" | b"skip_mkcol" | b"case_sensitive_list_keys" => {
            let Some(value) = given else {
                return Ok(Some(b"0".to_vec()));
            };
            let value = value.to_ascii_lowercase();
            match value.first() {
                Some(b'0' | b'f' | b'n') => Ok(Some(b"0".to_vec())),
                Some(b'1' | b't' | b'y') => Ok(Some(b"1".to_vec())),
                _ if value.starts_with(b"off") => Ok(Some(b"0".to_vec())),
                _ if value.starts_with(b"on") => Ok(Some(b"1".to_vec())),
                _ => bad("Unknown format"),
            }
        }
        b"memcache_ttl" | b"internal_queue_limit" => match given {
            None => Ok(Some(b"0".to_vec())),
            Some(value) if value.iter().all(u8::is_ascii_digit) => Ok(Some(value)),
            Some(_) => bad("Must be numeric"),
        },
        b"memcache_servers" | b"network_zones" => Ok(value),
        _ if key.starts_with(b"queue_") => Ok(value),
        _ if key.starts_with(b"zone_") => {
            let list = value.clone().unwrap_or_default();
            let parts = list.split(|&byte| byte == b',' || byte.is_ascii_whitespace());
            if parts
                .filter(|part| !part.is_empty())
                .all(|part| parse_netmask(part).is_some())
            {
                Ok(value)
            } else {
                bad("Doesn't match an acceptable netmask")
            }
        }
        b"fsck_checksum" => match value.as_deref() {
            Some(b"class") => Ok(None),
            Some(name) if name == b"off" || Kind::from_name(name).is_some() => Ok(value),
            _ => bad("Not a valid checksum algorithm"),
        },
        _ => Err(Refusal::new("not_writable")),
    }
}
