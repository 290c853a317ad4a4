//! Hosts and devices.
//!
//! Only this process's own hosts serve files. Others may be made, changed and removed as on any
//! tracker; nobody watches them, so no file goes there.

use rusqlite::Connection;

use super::{Request, perl};
use crate::tracker::answer::{Answer, Fields, Refusal};
use crate::tracker::paths::Devid;
use crate::tracker::store::files;
use crate::tracker::store::topology::{self, HostChange, HostName};
use crate::tracker::topology::{Device, DeviceStatus, Host};

/// All hosts, or one.
pub fn get_hosts(request: &Request<'_>) -> Fields {
    let wanted = request
        .args
        .get("hostid")
        .map(|_| perl::integer(request.args, "hostid"));
    let hosts = request
        .topology
        .hosts
        .iter()
        .filter(|host| wanted.is_none_or(|id| id == host.hostid));
    let mut fields = Fields::new();
    let mut count = 0;
    for host in hosts {
        count += 1;
        let name = |field: &str| format!("host{count}_{field}");
        fields
            .number(name("hostid"), host.hostid)
            .text(name("status"), host.status.name());
        fields
            .text(name("hostname"), host.name.clone())
            .text(name("hostip"), host.ip.clone());
        fields
            .text(name("http_port"), host.port.clone())
            .text(name("http_get_port"), host.get_port.clone());
        fields
            .text(name("altip"), host.altip.clone())
            .text(name("altmask"), host.altmask.clone());
    }
    fields.number("hosts", count);
    fields
}

/// `create_host` and `update_host`.
pub async fn change_host(request: &Request<'_>, update: bool) -> Answer {
    let args = request.args;
    let name = perl::given(args, "host").ok_or_else(|| Refusal::new("no_host"))?;
    let said = |name| args.get(name).map(std::borrow::Cow::into_owned);
    let change_of_host = HostChange {
        name: name.clone(),
        update,
        status: said("status"),
        ip: said("ip"),
        port: said("port"),
        get_port: said("getport"),
        altip: said("altip"),
        altmask: said("altmask"),
    };
    let hostid = change(request, move |conn| {
        topology::change_host(conn, change_of_host)
    })
    .await?;
    let mut fields = Fields::new();
    fields.number("hostid", hostid).text("hostname", name);
    Ok(fields)
}

/// Removes a host without devices.
pub async fn delete_host(request: &Request<'_>) -> Answer {
    let name = perl::non_empty(request.args, "host").unwrap_or_default();
    request
        .core
        .change_topology(move |conn| topology::delete_host(conn, &name))
        .await?;
    Ok(Fields::new())
}

/// All devices, or one.
pub fn get_devices(request: &Request<'_>) -> Fields {
    let wanted = request
        .args
        .get("devid")
        .map(|_| perl::integer(request.args, "devid"));
    let devices = request
        .topology
        .devices
        .iter()
        .filter(|device| wanted.is_none_or(|id| id == i64::from(device.devid)));
    let mut fields = Fields::new();
    let mut count = 0;
    for device in devices {
        count += 1;
        let name = |field: &str| format!("dev{count}_{field}");
        fields
            .number(name("devid"), device.devid)
            .number(name("hostid"), device.hostid);
        fields
            .text(name("status"), device.status.name())
            .number(name("weight"), device.weight);
        // What a tracker learns by watching its devices. Nobody watches those that are not ours.
        let observed = request
            .topology
            .host(device.hostid)
            .is_some_and(|host| device.may_read(host));
        let usage = observed
            .then(|| request.core.storage.usage(device.devid))
            .flatten();
        let mib = |bytes: u64| (bytes >> 20).to_string();
        fields.text(
            name("mb_total"),
            usage.map(|usage| mib(usage.total)).unwrap_or_default(),
        );
        fields.text(
            name("mb_used"),
            usage.map(|usage| mib(usage.used)).unwrap_or_default(),
        );
        fields.text(
            name("mb_free"),
            usage
                .map(|usage| mib(usage.total - usage.used))
                .unwrap_or_default(),
        );
        fields
            .text(name("mb_asof"), "")
            .text(name("utilization"), if observed { "0.00" } else { "" });
        fields.text(
            name("observed_state"),
            if observed { "writeable" } else { "" },
        );
        fields.text(name("reject_bad_md5"), if observed { "1" } else { "" });
    }
    fields.number("devices", count);
    fields
}

/// Makes a device; on one of our own hosts with its folder.
pub async fn create_device(request: &Request<'_>) -> Answer {
    let args = request.args;
    let state = perl::given(args, "state").unwrap_or_else(|| b"alive".to_vec());
    let status = DeviceStatus::from_name(&state).ok_or_else(|| Refusal::new("invalid_state"))?;
    let digits = |value: &Vec<u8>| value.iter().all(u8::is_ascii_digit);
    let devid = perl::given(args, "devid")
        .filter(digits)
        .map(|_| perl::integer(args, "devid"));
    let devid = devid
        .and_then(|devid| Devid::try_from(devid).ok())
        .filter(|&devid| devid > 0);
    let devid = devid.ok_or_else(|| Refusal::new("invalid_devid"))?;
    let host = match perl::given(args, "hostid").filter(digits) {
        Some(_) => HostName::Id(perl::integer(args, "hostid")),
        None => HostName::Name(
            perl::given(args, "hostname")
                .ok_or_else(|| Refusal::with_text("bad_args", "No hostid/hostname parameter"))?,
        ),
    };
    change(request, move |conn| {
        topology::create_device(conn, devid, &host, status)
    })
    .await?;
    if request
        .core
        .topology()
        .device(devid)
        .is_some_and(|(_, host)| host.own)
        && let Err(error) = request.core.storage.prepare_device(devid).await
    {
        tracing::error!(%error, devid, "the folder of a new device could not be made");
        return Err(Refusal::new("failure"));
    }
    Ok(Fields::new())
}

/// Changes the state of a device.
pub async fn set_state(request: &Request<'_>) -> Answer {
    let status = request
        .args
        .get("state")
        .and_then(|state| DeviceStatus::from_name(&state));
    let status = status.ok_or_else(|| Refusal::new("bad_params"));
    let (device, _) = named_device(request, status.is_ok())?;
    let (devid, status) = (device.devid, status?);
    if device.status == DeviceStatus::Dead && status == DeviceStatus::Alive {
        return Err(Refusal::new("state_too_high"));
    }
    change(request, move |conn| {
        topology::set_state(conn, devid, status).map(Ok)
    })
    .await?;
    Ok(Fields::new())
}

/// Changes the weight of a device.
pub async fn set_weight(request: &Request<'_>) -> Answer {
    let weight = perl::integer(request.args, "weight");
    let (device, _) = named_device(request, weight >= 0)?;
    let devid = device.devid;
    request
        .core
        .change_topology(move |conn| topology::set_weight(conn, devid, weight).map(Ok))
        .await?;
    Ok(Fields::new())
}

/// Changes what files can be put on. Those that waited for a device are looked at again.
async fn change<T, F>(request: &Request<'_>, job: F) -> Result<T, Refusal>
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> rusqlite::Result<Result<T, Refusal>> + Send + 'static,
{
    let changed = request
        .core
        .change_topology(move |conn| {
            let changed = job(conn)?;
            files::retry_replication(conn)?;
            Ok(changed)
        })
        .await?;
    request.core.poke_background();
    Ok(changed)
}

/// The device that `host` and `device` name together.
fn named_device<'a>(
    request: &'a Request<'_>,
    rest_is_good: bool,
) -> Result<(&'a Device, &'a Host), Refusal> {
    let hostname = perl::given(request.args, "host").filter(|_| rest_is_good);
    let devid = perl::integer(request.args, "device");
    let (Some(hostname), true) = (hostname, devid != 0) else {
        return Err(Refusal::new("bad_params"));
    };
    let device = Devid::try_from(devid)
        .ok()
        .and_then(|devid| request.topology.device(devid));
    let (device, host) = device.ok_or_else(|| Refusal::new("no_device"))?;
    if host.name != hostname {
        return Err(Refusal::new("host_mismatch"));
    }
    Ok((device, host))
}
