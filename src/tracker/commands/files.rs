//! Commands on files that are there: finding, moving, deleting.

use rand::seq::SliceRandom as _;

use super::{Request, perl};
use crate::tracker::answer::{Answer, Fields, Refusal};
use crate::tracker::core::Probe;
use crate::tracker::paths::{Devid, Fid};
use crate::tracker::store::files;

/// Where the bytes of a key can be read.
///
/// The first path was looked at unless `noverify` is said; devices that will be emptied come last,
/// and one that is down is named only if there is nothing else.
pub async fn get_paths(request: &Request<'_>) -> Answer {
    let args = request.args;
    let dmid = request.domain()?.dmid;
    let key = request.key()?;
    let wanted = usize::try_from(perl::integer(args, "pathcount"))
        .unwrap_or(0)
        .max(2);
    let found = request
        .core
        .store
        .read(move |conn| {
            let Some(file) = files::find(conn, dmid, &key)? else {
                return Ok(None);
            };
            let devids = files::devices_of(conn, file.fid)?;
            Ok(Some((file, devids)))
        })
        .await?;
    let Some((file, mut devids)) = found else {
        return Err(Refusal::new("unknown_key"));
    };
    devids.shuffle(&mut rand::rng());

    let mut paths = Vec::new();
    let mut draining = Vec::new();
    let mut last_resort = None;
    for devid in devids {
        if paths.len() == wanted {
            break;
        }
        let Some((device, host)) = request.topology.device(devid) else {
            continue;
        };
        let Some(url) = request.topology.get_url(devid, file.fid, request.viewer) else {
            continue;
        };
        if !device.may_read(host) {
            last_resort = Some(url);
            continue;
        }
        let verified = !paths.is_empty() || args.is_set("noverify");
        if !verified && !has_length(request, devid, file.fid, &url, file.length).await {
            continue;
        }
        if device.status == crate::tracker::topology::DeviceStatus::Drain {
            draining.push(url);
        } else {
            paths.push(url);
        }
    }
    draining.truncate(wanted - paths.len());
    paths.append(&mut draining);
    if paths.is_empty() {
        paths.extend(last_resort);
    }

    let mut fields = Fields::new();
    fields.number("paths", paths.len());
    for (n, path) in (1..).zip(paths) {
        fields.text(format!("path{n}"), path);
    }
    Ok(fields)
}

async fn has_length(
    request: &Request<'_>,
    devid: Devid,
    fid: Fid,
    url: &[u8],
    length: i64,
) -> bool {
    match request
        .core
        .probe(devid, fid, &String::from_utf8_lossy(url))
        .await
    {
        Probe::Size(size) if i64::try_from(size) == Ok(length) => true,
        Probe::Size(size) => {
            tracing::warn!(
                fid,
                devid,
                size,
                length,
                "a copy has not the length of its file"
            );
            false
        }
        Probe::Missing => {
            tracing::warn!(fid, devid, "a copy is not where it should be");
            false
        }
        Probe::Unreachable(why) => {
            tracing::warn!(fid, devid, why, "a copy cannot be looked at");
            false
        }
    }
}

/// What the database says about a key.
pub async fn file_info(request: &Request<'_>) -> Answer {
    let dmid = request.domain()?.dmid;
    let key = request.key()?;
    let with_devices = request.args.is_set("devices");
    let wanted = key.clone();
    let found = request
        .core
        .store
        .read(move |conn| {
            let Some(file) = files::find(conn, dmid, &wanted)? else {
                return Ok(None);
            };
            let checksum = match file.hashtype {
                Some(_) => files::checksum_of(conn, file.fid)?,
                None => None,
            };
            let devids = if with_devices {
                files::devices_of(conn, file.fid)?
            } else {
                Vec::new()
            };
            Ok(Some((file, checksum, devids)))
        })
        .await?;
    let Some((file, checksum, devids)) = found else {
        return Err(Refusal::new("unknown_key"));
    };
    let mut fields = Fields::new();
    fields
        .number("fid", file.fid)
        .text("domain", file.domain)
        .text("class", file.class);
    if file.hashtype.is_some() {
        fields.text(
            "checksum",
            checksum.map_or("MISSING".to_owned(), |checksum| checksum.to_string()),
        );
    }
    fields
        .text("key", key)
        .number("length", file.length)
        .number("devcount", file.devcount);
    if with_devices {
        fields.text("devids", join(&devids));
    }
    Ok(fields)
}

/// All that the database holds about a fid, by number or by key.
pub async fn file_debug(request: &Request<'_>) -> Answer {
    enum Wanted {
        Fid(Fid),
        Key(i64, Vec<u8>),
    }
    let wanted = if request.args.is_set("fid") {
        Wanted::Fid(perl::integer(request.args, "fid"))
    } else {
        let dmid = request.domain()?.dmid;
        Wanted::Key(dmid, request.key()?)
    };
    let found = request
        .core
        .store
        .read(move |conn| {
            // One transaction, so that the rows belong together.
            let tx = conn.unchecked_transaction()?;
            let (fid, file) = match wanted {
                Wanted::Fid(fid) => (fid, files::find_fid(&tx, fid)?),
                Wanted::Key(dmid, key) => match files::find(&tx, dmid, &key)? {
                    Some(file) => (file.fid, Some(file)),
                    None => return Ok(None),
                },
            };
            let devids = files::devices_of(&tx, fid)?;
            Ok(Some((
                fid,
                file,
                devids,
                files::checksum_of(&tx, fid)?,
                files::debug_rows(&tx, fid)?,
            )))
        })
        .await?;
    let Some((fid, file, devids, checksum, rows)) = found else {
        return Err(Refusal::new("unknown_key"));
    };

    let mut fields = Fields::new();
    if let Some(file) = file {
        fields
            .number("fid_fid", file.fid)
            .number("fid_dmid", file.dmid)
            .text("fid_dkey", file.key);
        fields
            .number("fid_length", file.length)
            .number("fid_classid", file.classid);
        fields.number("fid_devcount", file.devcount);
        fields
            .text("fid_domain", file.domain)
            .text("fid_class", file.class);
    }
    for &devid in &devids {
        if let Some(url) = request.topology.get_url(devid, fid, request.viewer) {
            fields.text(format!("devpath_{devid}"), url);
        }
    }
    if !devids.is_empty() {
        fields.text("devids", join(&devids));
    }
    fields.text(
        "checksum",
        checksum.map_or("NONE".to_owned(), |checksum| checksum.to_string()),
    );
    for (name, value) in rows.into_iter().flatten() {
        fields.text(name, value);
    }
    Ok(fields)
}

/// Takes a key away; the bytes follow in the background.
pub async fn delete(request: &Request<'_>) -> Answer {
    let dmid = request.domain()?.dmid;
    let key = request.key()?;
    request
        .core
        .store
        .write(move |conn| files::delete(conn, dmid, &key))
        .await??;
    request.core.poke_background();
    Ok(Fields::new())
}

/// Gives a file another key, unless that one is taken.
pub async fn rename(request: &Request<'_>) -> Answer {
    let dmid = request.domain()?.dmid;
    let (Some(from), Some(to)) = (
        perl::non_empty(request.args, "from_key"),
        perl::non_empty(request.args, "to_key"),
    ) else {
        return Err(Refusal::new("no_key"));
    };
    request
        .core
        .store
        .write(move |conn| files::rename(conn, dmid, &from, &to))
        .await??;
    Ok(Fields::new())
}

/// Moves a file to another class.
pub async fn updateclass(request: &Request<'_>) -> Answer {
    let domain = request.domain()?;
    let dmid = domain.dmid;
    let key = request.key()?;
    let class = perl::given(request.args, "class").ok_or_else(|| Refusal::new("no_class"))?;
    let classid = domain
        .class(&class)
        .ok_or_else(|| Refusal::new("class_not_found"))?
        .classid;
    request
        .core
        .store
        .write(move |conn| files::set_class(conn, dmid, &key, classid))
        .await??;
    request.core.poke_background();
    Ok(Fields::new())
}

/// Not done here, and answered as by a tracker without memcached.
pub fn edit_file(request: &Request<'_>) -> Answer {
    request.domain()?;
    request.key()?;
    Err(Refusal::new("failure"))
}

fn join(devids: &[Devid]) -> String {
    devids
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}
