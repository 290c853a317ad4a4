//! Domains, classes, hosts, devices and settings in the database.

use rusqlite::{Connection, OptionalExtension, params};

use crate::tracker::answer::Refusal;
use crate::tracker::checksum::Kind;
use crate::tracker::paths::Devid;
use crate::tracker::topology::{Class, Device, DeviceStatus, Domain, Host, HostStatus, Topology};

/// How many copies a class wants that nobody said more about.
pub const DEFAULT_MINDEVCOUNT: i64 = 2;

/// Reads it all. `own_hosts` are the names of this process's storage nodes.
pub fn load(conn: &Connection, own_hosts: &[Vec<u8>]) -> rusqlite::Result<Topology> {
    let tx = conn.unchecked_transaction()?;
    Ok(Topology {
        domains: load_domains(&tx)?,
        hosts: load_hosts(&tx, own_hosts)?,
        devices: load_devices(&tx)?,
    })
}

fn load_domains(conn: &Connection) -> rusqlite::Result<Vec<Domain>> {
    let mut domains: Vec<Domain> = conn
        .prepare_cached("SELECT dmid, namespace FROM domain ORDER BY dmid")?
        .query_map([], |row| {
            Ok(Domain {
                dmid: row.get(0)?,
                name: row.get(1)?,
                classes: Vec::new(),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut query = conn.prepare_cached(
        "SELECT classid, classname, mindevcount, hashtype, replpolicy FROM class WHERE dmid = ?1 ORDER BY classid",
    )?;
    for domain in &mut domains {
        domain.classes = query
            .query_map([domain.dmid], |row| {
                Ok(Class {
                    classid: row.get(0)?,
                    name: row.get(1)?,
                    mindevcount: row.get(2)?,
                    hashtype: row.get::<_, Option<i64>>(3)?.and_then(Kind::from_id),
                    replpolicy: row.get(4)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        if domain
            .classes
            .first()
            .is_none_or(|class| class.classid != 0)
        {
            let default = Class {
                classid: 0,
                name: b"default".to_vec(),
                mindevcount: DEFAULT_MINDEVCOUNT,
                hashtype: None,
                replpolicy: Vec::new(),
            };
            domain.classes.insert(0, default);
        }
    }
    Ok(domains)
}

fn load_hosts(conn: &Connection, own_hosts: &[Vec<u8>]) -> rusqlite::Result<Vec<Host>> {
    conn.prepare_cached(
        "SELECT hostid, hostname, status, hostip, http_port, http_get_port, altip, altmask FROM host ORDER BY hostid",
    )?
    .query_map([], |row| {
        let name: Vec<u8> = row.get(1)?;
        Ok(Host {
            hostid: row.get(0)?,
            own: own_hosts.contains(&name),
            name,
            status: HostStatus::from_name(row.get_ref(2)?.as_bytes()?).unwrap_or(HostStatus::Down),
            ip: row.get(3)?,
            port: row.get(4)?,
            get_port: row.get(5)?,
            altip: row.get(6)?,
            altmask: row.get(7)?,
        })
    })?
    .collect()
}

fn load_devices(conn: &Connection) -> rusqlite::Result<Vec<Device>> {
    conn.prepare_cached("SELECT devid, hostid, status, weight FROM device ORDER BY devid")?
        .query_map([], |row| {
            Ok(Device {
                devid: row.get(0)?,
                hostid: row.get(1)?,
                status: DeviceStatus::from_name(row.get_ref(2)?.as_bytes()?)
                    .unwrap_or(DeviceStatus::Down),
                weight: row.get(3)?,
            })
        })?
        .collect()
}

fn dmid_of(conn: &Connection, domain: &[u8]) -> rusqlite::Result<Option<i64>> {
    conn.query_row(
        "SELECT dmid FROM domain WHERE namespace = ?1",
        [domain],
        |row| row.get(0),
    )
    .optional()
}

/// Makes a domain.
pub fn create_domain(conn: &Connection, name: &[u8]) -> rusqlite::Result<Result<(), Refusal>> {
    let made = conn.execute(
        "INSERT OR IGNORE INTO domain (namespace) VALUES (?1)",
        [name],
    )?;
    Ok(if made == 1 {
        Ok(())
    } else {
        Err(Refusal::new("domain_exists"))
    })
}

/// Removes a domain that has neither files nor classes but the default one.
pub fn delete_domain(conn: &Connection, name: &[u8]) -> rusqlite::Result<Result<(), Refusal>> {
    let Some(dmid) = dmid_of(conn, name)? else {
        return Ok(Err(Refusal::new("domain_not_found")));
    };
    let exists = |query: &str| conn.query_row(query, [dmid], |row| row.get::<_, bool>(0));
    if exists("SELECT EXISTS (SELECT 1 FROM file WHERE dmid = ?1)")? {
        return Ok(Err(Refusal::new("domain_has_files")));
    }
    if exists("SELECT EXISTS (SELECT 1 FROM class WHERE dmid = ?1 AND classid != 0)")? {
        return Ok(Err(Refusal::new("domain_has_classes")));
    }
    conn.execute("DELETE FROM class WHERE dmid = ?1", [dmid])?;
    conn.execute("DELETE FROM domain WHERE dmid = ?1", [dmid])?;
    Ok(Ok(()))
}

/// A class to make or to change.
#[derive(Debug)]
pub struct ClassChange {
    /// The domain.
    pub domain: Vec<u8>,
    /// The class.
    pub class: Vec<u8>,
    /// How many copies.
    pub mindevcount: i64,
    /// A new policy; none leaves the old one.
    pub replpolicy: Option<Vec<u8>>,
    /// A new kind of digest, or none from now on; `None` leaves the old one.
    pub hashtype: Option<Option<Kind>>,
    /// Change, rather than make.
    pub update: bool,
}

/// Makes or changes a class.
pub fn change_class(
    conn: &Connection,
    change: &ClassChange,
) -> rusqlite::Result<Result<(), Refusal>> {
    let Some(dmid) = dmid_of(conn, &change.domain)? else {
        return Ok(Err(Refusal::new("domain_not_found")));
    };
    let is_default = change.class == b"default";
    let existing = classid_of(conn, dmid, &change.class)?;
    let classid = match (existing, change.update) {
        (Some(classid), true) => classid,
        (Some(_), false) => return Ok(Err(Refusal::new("class_exists"))),
        // The default class is always there; its row is made when something about it is said.
        (None, true) if !is_default => return Ok(Err(Refusal::new("class_not_found"))),
        (None, _) => {
            let classid = if is_default {
                0
            } else {
                conn.query_row(
                    "UPDATE domain SET last_classid = last_classid + 1 WHERE dmid = ?1 RETURNING last_classid",
                    [dmid],
                    |row| row.get(0),
                )?
            };
            conn.execute(
                "INSERT INTO class (dmid, classid, classname, mindevcount) VALUES (?1, ?2, ?3, ?4)",
                params![dmid, classid, change.class, change.mindevcount],
            )?;
            classid
        }
    };
    conn.execute(
        "UPDATE class SET mindevcount = ?3 WHERE dmid = ?1 AND classid = ?2",
        [dmid, classid, change.mindevcount],
    )?;
    if let Some(policy) = &change.replpolicy {
        conn.execute(
            "UPDATE class SET replpolicy = ?3 WHERE dmid = ?1 AND classid = ?2",
            params![dmid, classid, policy],
        )?;
    }
    if let Some(kind) = change.hashtype {
        conn.execute(
            "UPDATE class SET hashtype = ?3 WHERE dmid = ?1 AND classid = ?2",
            params![dmid, classid, kind.map(Kind::id)],
        )?;
    }
    Ok(Ok(()))
}

fn classid_of(conn: &Connection, dmid: i64, class: &[u8]) -> rusqlite::Result<Option<i64>> {
    conn.query_row(
        "SELECT classid FROM class WHERE dmid = ?1 AND classname = ?2",
        params![dmid, class],
        |row| row.get(0),
    )
    .optional()
}

/// Removes a class that has no files.
pub fn delete_class(
    conn: &Connection,
    domain: &[u8],
    class: &[u8],
) -> rusqlite::Result<Result<(), Refusal>> {
    let Some(dmid) = dmid_of(conn, domain)? else {
        return Ok(Err(Refusal::new("domain_not_found")));
    };
    let Some(classid) = classid_of(conn, dmid, class)? else {
        return Ok(Err(Refusal::new("class_not_found")));
    };
    let in_use: bool = conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM file WHERE dmid = ?1 AND classid = ?2)",
        [dmid, classid],
        |row| row.get(0),
    )?;
    if in_use {
        return Ok(Err(Refusal::new("class_has_files")));
    }
    conn.execute(
        "DELETE FROM class WHERE dmid = ?1 AND classid = ?2",
        [dmid, classid],
    )?;
    Ok(Ok(()))
}

/// A host to make or to change; what is `None` stays.
#[derive(Debug, Default)]
pub struct HostChange {
    /// The host.
    pub name: Vec<u8>,
    /// Change, rather than make.
    pub update: bool,
    /// See [`Host::status`].
    pub status: Option<Vec<u8>>,
    /// See [`Host::ip`].
    pub ip: Option<Vec<u8>>,
    /// See [`Host::port`].
    pub port: Option<Vec<u8>>,
    /// See [`Host::get_port`].
    pub get_port: Option<Vec<u8>>,
    /// See [`Host::altip`].
    pub altip: Option<Vec<u8>>,
    /// See [`Host::altmask`].
    pub altmask: Option<Vec<u8>>,
}

/// Makes or changes a host, and says its number.
///
/// The checks are in the order of the tracker's, so that a request with several faults is answered
/// with the same one.
pub fn change_host(
    conn: &Connection,
    mut change: HostChange,
) -> rusqlite::Result<Result<i64, Refusal>> {
    let existing = hostid_of(conn, &change.name)?;
    match (existing, change.update) {
        (None, true) => return Ok(Err(Refusal::new("host_not_found"))),
        (Some(_), false) => return Ok(Err(Refusal::new("host_exists"))),
        (Some(_), true) => {}
        (None, false) => {
            for (value, code) in [(&change.ip, "no_ip"), (&change.port, "no_port")] {
                if value
                    .as_deref()
                    .is_none_or(|value| value.is_empty() || value == b"0")
                {
                    return Ok(Err(Refusal::new(code)));
                }
            }
            change.status.get_or_insert_with(|| b"down".to_vec());
        }
    }
    let status = match change.status.as_deref() {
        None | Some(b"" | b"0") => None,
        Some(status) => match HostStatus::from_name(status) {
            None => return Ok(Err(Refusal::new("unknown_state"))),
            Some(status) => Some(status.name()),
        },
    };
    // Two storage nodes cannot answer at one address.
    for (column, value) in [("hostip", &change.ip), ("altip", &change.altip)] {
        let Some(value) = value.as_ref().filter(|value| !value.is_empty()) else {
            continue;
        };
        let taken: bool = conn.query_row(
            &format!("SELECT EXISTS (SELECT 1 FROM host WHERE {column} = ?1 AND hostid IS NOT ?2)"),
            params![value, existing],
            |row| row.get(0),
        )?;
        if taken {
            return Ok(Err(Refusal::new("dup")));
        }
    }
    let hostid = match existing {
        Some(hostid) => hostid,
        None => {
            conn.execute(
                "INSERT INTO host (hostname, hostip, status) VALUES (?1, ?2, 'down')",
                params![change.name, change.ip],
            )?;
            conn.last_insert_rowid()
        }
    };
    conn.execute(
        "UPDATE host SET status = coalesce(?2, status), hostip = coalesce(?3, hostip),
             http_port = coalesce(?4, http_port), http_get_port = coalesce(?5, http_get_port),
             altip = coalesce(?6, altip), altmask = coalesce(?7, altmask) WHERE hostid = ?1",
        params![
            hostid,
            status,
            change.ip,
            change.port,
            change.get_port,
            change.altip,
            change.altmask
        ],
    )?;
    Ok(Ok(hostid))
}

fn hostid_of(conn: &Connection, name: &[u8]) -> rusqlite::Result<Option<i64>> {
    conn.query_row(
        "SELECT hostid FROM host WHERE hostname = ?1",
        [name],
        |row| row.get(0),
    )
    .optional()
}

/// Removes a host that has no devices, dead ones included.
pub fn delete_host(conn: &Connection, name: &[u8]) -> rusqlite::Result<Result<(), Refusal>> {
    let Some(hostid) = hostid_of(conn, name)? else {
        return Ok(Err(Refusal::new("unknown_host")));
    };
    let in_use: bool = conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM device WHERE hostid = ?1)",
        [hostid],
        |row| row.get(0),
    )?;
    if in_use {
        return Ok(Err(Refusal::new("host_not_empty")));
    }
    conn.execute("DELETE FROM host WHERE hostid = ?1", [hostid])?;
    Ok(Ok(()))
}

/// Which host a new device belongs to.
#[derive(Debug)]
pub enum HostName {
    /// By number.
    Id(i64),
    /// By name.
    Name(Vec<u8>),
}

/// Makes a device.
pub fn create_device(
    conn: &Connection,
    devid: Devid,
    host: &HostName,
    status: DeviceStatus,
) -> rusqlite::Result<Result<(), Refusal>> {
    let hostid = match host {
        HostName::Id(hostid) => conn
            .query_row(
                "SELECT hostid FROM host WHERE hostid = ?1",
                [hostid],
                |row| row.get(0),
            )
            .optional()?
            .ok_or("unknown_hostid"),
        HostName::Name(name) => hostid_of(conn, name)?.ok_or("unknown_host"),
    };
    let hostid: i64 = match hostid {
        Ok(hostid) => hostid,
        Err(code) => return Ok(Err(Refusal::new(code))),
    };
    let made = conn.execute(
        "INSERT OR IGNORE INTO device (devid, hostid, status) VALUES (?1, ?2, ?3)",
        params![devid, hostid, status.name()],
    )?;
    Ok(if made == 1 {
        Ok(())
    } else {
        Err(Refusal::new("existing_devid"))
    })
}

/// Changes the state of a device.
pub fn set_state(conn: &Connection, devid: Devid, status: DeviceStatus) -> rusqlite::Result<()> {
    conn.execute(
        "UPDATE device SET status = ?2 WHERE devid = ?1",
        params![devid, status.name()],
    )?;
    Ok(())
}

/// Changes the weight of a device.
pub fn set_weight(conn: &Connection, devid: Devid, weight: i64) -> rusqlite::Result<()> {
    conn.execute(
        "UPDATE device SET weight = ?2 WHERE devid = ?1",
        params![devid, weight],
    )?;
    Ok(())
}

/// A setting, if it has a value.
pub fn setting(conn: &Connection, field: &[u8]) -> rusqlite::Result<Option<Vec<u8>>> {
    conn.query_row(
        "SELECT value FROM setting WHERE field = ?1",
        [field],
        |row| row.get(0),
    )
    .optional()
}

/// All settings.
pub fn settings(conn: &Connection) -> rusqlite::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    conn.prepare("SELECT field, value FROM setting ORDER BY field")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Gives a setting a value, or takes it away.
pub fn set_setting(conn: &Connection, field: &[u8], value: Option<&[u8]>) -> rusqlite::Result<()> {
    match value {
        Some(value) => conn.execute(
            "INSERT OR REPLACE INTO setting (field, value) VALUES (?1, ?2)",
            [field, value],
        )?,
        None => conn.execute("DELETE FROM setting WHERE field = ?1", [field])?,
    };
    Ok(())
}
