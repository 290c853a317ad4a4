//! `create_open` and `create_close`.

use std::time::Instant;

use rand::seq::SliceRandom as _;

use super::{Request, perl};
use crate::tracker::answer::{Answer, Fields, Refusal};
use crate::tracker::checksum::Checksum;
use crate::tracker::core::Probe;
use crate::tracker::paths::{Devid, Fid};
use crate::tracker::store::files::{self, Closing, Opening};
use crate::tracker::topology::{Device, Host};

/// As many destinations as `multi_dest` offers.
const DESTINATIONS: usize = 3;

/// Reserves a fid and names where to put its bytes.
pub async fn create_open(request: &Request<'_>) -> Answer {
    let begun = Instant::now();
    let args = request.args;
    let domain = request.domain()?;
    let multi = args.is_set("multi_dest");
    let classid = match perl::non_empty(args, "class") {
        None => 0,
        // The default class cannot be named here, though it can in updateclass.
        Some(name) => match domain.class(&name).filter(|class| class.classid != 0) {
            Some(class) => class.classid,
            None if !perl::is_true(&name) => 0,
            None => return Err(Refusal::new("unreg_class")),
        },
    };
    let size = perl::given(args, "size").map_or(0.0, |size| perl::number(&size));
    let devids = destinations(request, size, if multi { DESTINATIONS } else { 1 });
    if devids.is_empty() {
        return Err(Refusal::new("no_devices"));
    }

    let wanted = perl::given(args, "fid").map(|_| perl::integer(args, "fid"));
    let opening = Opening {
        fid: wanted,
        dmid: domain.dmid,
        key: args
            .get("key")
            .map(std::borrow::Cow::into_owned)
            .unwrap_or_default(),
        classid,
        devids: devids.clone(),
    };
    let registered = request
        .core
        .store
        .write(move |conn| match opening.fid {
            // Not a number. It costs one all the same.
            Some(0) => files::next_fid(conn).map(|_| Err("db")),
            Some(i64::MAX) => Ok(Err("db")),
            Some(..0) => Ok(Err("fid_in_use")),
            _ => files::open(conn, &opening).map(|fid| fid.ok_or("fid_in_use")),
        })
        .await;
    let fid = match registered {
        Ok(Ok(fid)) => fid,
        Ok(Err(code)) => return Err(Refusal::new(code)),
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "an upload could not be registered"
            );
            return Err(Refusal::new("db"));
        }
    };

    let mut fields = Fields::new();
    fields.number("fid", fid);
    if args.is_set("debug_profile") {
        fields.number("profpoints", 1).text("prof_1_name", "begin");
        fields.text(
            "prof_1_time",
            format!("{:.3}", begun.elapsed().as_secs_f64()),
        );
    }
    let url = |devid| {
        request
            .topology
            .put_url(devid, fid, request.viewer)
            .unwrap_or_default()
    };
    if multi {
        for (n, &devid) in (1..).zip(&devids) {
            fields
                .number(format!("devid_{n}"), devid)
                .text(format!("path_{n}"), url(devid));
        }
        fields.number("dev_count", devids.len());
    } else {
        fields
            .number("devid", devids[0])
            .text("path", url(devids[0]));
    }
    Ok(fields)
}

/// Devices with room for `size` bytes in random order, at most one of each host.
fn destinations(request: &Request<'_>, size: f64, count: usize) -> Vec<Devid> {
    let has_room = |device: &Device| {
        #[expect(clippy::cast_precision_loss, reason = "nobody sees the last bits")]
        let room = request.core.storage.room(device.devid) as f64;
        room > size.max(0.0)
    };
    let mut devices: Vec<(&Device, &Host)> = request
        .topology
        .own_devices()
        .filter(|(device, host)| device.may_write(host) && has_room(device))
        .collect();
    devices.shuffle(&mut rand::rng());
    let mut chosen: Vec<(Devid, i64)> = Vec::with_capacity(count);
    for (device, host) in devices {
        if chosen.len() < count && chosen.iter().all(|&(_, hostid)| hostid != host.hostid) {
            chosen.push((device.devid, host.hostid));
        }
    }
    chosen.into_iter().map(|(devid, _)| devid).collect()
}

/// Makes a file of an upload, after the checks of the protocol in their order.
pub async fn create_close(request: &Request<'_>) -> Answer {
    let args = request.args;
    let dmid = request.domain()?.dmid;
    let need = |name, code| perl::given(args, name).ok_or_else(|| Refusal::new(code));
    let fid = need("fid", "no_fid")?;
    let devid = need("devid", "no_devid")?;
    let path = need("path", "no_path")?;
    let checksum = match perl::given(args, "checksum") {
        None => None,
        Some(text) => {
            Some(Checksum::parse(&text).ok_or_else(|| Refusal::new("invalid_checksum_format"))?)
        }
    };
    let bogus = || Refusal::new("bogus_args");
    let fid: Fid = plain_number(&fid).ok_or_else(bogus)?;
    let devid = plain_number(&devid)
        .and_then(|devid| Devid::try_from(devid).ok())
        .ok_or_else(bogus)?;
    if request
        .topology
        .put_url(devid, fid, request.viewer)
        .as_ref()
        != Some(&path)
    {
        return Err(bogus());
    }

    let key = perl::non_empty(args, "key");
    let found = match &key {
        // The upload is given up: nobody needs to look.
        None => Ok(0),
        Some(_) => verify(request, fid, devid, &path, checksum.as_ref()).await,
    };
    let closing = Closing {
        fid,
        devid,
        dmid,
        key,
        found,
        checksum,
    };
    request
        .core
        .store
        .write(move |conn| files::close(conn, closing))
        .await??;
    request.core.poke_background();
    Ok(Fields::new())
}

/// Looks at the bytes: are they there, as many as the client says, and the ones it says?
async fn verify(
    request: &Request<'_>,
    fid: Fid,
    devid: Devid,
    path: &[u8],
    checksum: Option<&Checksum>,
) -> Result<u64, Refusal> {
    let path = String::from_utf8_lossy(path);
    let expected = perl::given(request.args, "size").unwrap_or_else(|| b"-1".to_vec());
    let shown = String::from_utf8_lossy(&expected);
    let unverified = |kind: &str, why: &str| {
        Refusal::with_text(
            "size_verify_error",
            format!("Expected: {shown}; actual: 0 ({kind}); path: {path}; error: {why}"),
        )
    };
    let size = match request.core.probe(devid, fid, &path).await {
        Probe::Size(size) => size,
        Probe::Missing => return Err(unverified("missing", "no such file")),
        Probe::Unreachable(why) => {
            return Err(unverified(
                "cantreach",
                &format!("Failed HEAD check for {path} (500): {why}"),
            ));
        }
    };
    let expected = perl::number(&expected);
    #[expect(
        clippy::cast_precision_loss,
        clippy::float_cmp,
        reason = "as the tracker compares them"
    )]
    if expected > -1.0 && expected != size as f64 {
        return Err(Refusal::with_text(
            "size_mismatch",
            format!("Expected: {shown}; actual: {size}; path: {path}"),
        ));
    }
    if let Some(expected) = checksum
        && request.args.is_set("checksumverify")
    {
        let actual = request
            .core
            .storage
            .digest(devid, fid, expected.kind)
            .await
            .map_err(|error| {
                tracing::error!(%error, fid, devid, "a file could not be read to check its digest");
                Refusal::new("failure")
            })?;
        if actual != *expected {
            let digest = hex::encode(&expected.digest);
            return Err(Refusal::with_text(
                "checksum_mismatch",
                format!(
                    "Expected: Checksum[f={fid};{}={digest}]; actual: {actual}; path: {path}",
                    expected.kind.name()
                ),
            ));
        }
    }
    Ok(size)
}

/// A number written the one usual way, which is how it stands in a path.
fn plain_number(text: &[u8]) -> Option<i64> {
    let number: i64 = str::from_utf8(text).ok()?.parse().ok()?;
    (number > 0 && number.to_string().as_bytes() == text).then_some(number)
}
