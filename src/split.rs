//! One MogileFS that becomes two over the same storage nodes: whether they can destroy each other's files.
//!
//! A tracker deletes bytes by its own database. Where two databases name the same storage node, a delete in one takes the other's bytes
//! away, and where both hand out the same fids, an upload in one overwrites the other's. So after a split each database has to keep only its own
//! devices, nothing may wait in the queues of the copied one, and their fids have to be disjoint, all of it before its tracker first starts with its
//! background jobs. `phylactery split guide` has the steps; this looks whether they were taken, as far as a tracker tells.
//!
//! Always true: nothing is changed, and what cannot be told is said to be so, not taken for good.

use std::collections::{BTreeMap, BTreeSet};

use mogilefs_protocol::client::{Device, Host};

use crate::file::{Datacenter, Fid};
use crate::ledger::DatacenterRecord;
use crate::repair::newest_fid;
use crate::trackers::{TrackerError, Trackers};

/// Fids that two databases may still be apart by before they count as one range: years of uploads for most.
const APART: u64 = 10_000_000;

/// What is wrong, right, or cannot be told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// As it should be.
    Good,
    /// It cannot be told from here.
    Unknown,
    /// Files are in danger.
    Bad,
}

impl Level {
    /// Its word, for scripts.
    pub fn word(self) -> &'static str {
        match self {
            Level::Good => "good",
            Level::Unknown => "unknown",
            Level::Bad => "bad",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What it means.
    pub level: Level,
    /// Which datacenters it is about.
    pub of: Vec<Datacenter>,
    /// What was looked at: `storage`, `devices`, `queues` or `fids`.
    pub about: &'static str,
    /// What was found, and what to do.
    pub text: String,
}

/// Two datacenters that name one storage node.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{host} is a storage node of {here} and of {other} too: two trackers that share storage nodes destroy each other's files. Take it, and \
     its devices, out of the database of one of them (see `phylactery split guide`, and `phylactery split check`)"
)]
pub struct Clash {
    /// One of them.
    pub here: Datacenter,
    /// The other.
    pub other: Datacenter,
    /// `host:port`.
    pub host: String,
}

/// The first storage node of `here` that another datacenter has registered, if there is one.
pub fn clash(
    here: &Datacenter,
    storage_hosts: &BTreeSet<String>,
    known: &[DatacenterRecord],
) -> Option<Clash> {
    let others = known.iter().filter(|known| known.name != *here);
    others.into_iter().find_map(|other| {
        let host = other.storage_hosts.intersection(storage_hosts).next()?;
        Some(Clash {
            here: here.clone(),
            other: other.name.clone(),
            host: host.clone(),
        })
    })
}

/// Where a tracker's hosts are reached, as `host:port`: what stands in the URLs of files.
pub fn storage_urls(hosts: &[Host]) -> BTreeSet<String> {
    let mut urls = BTreeSet::new();
    for host in hosts {
        for ip in std::iter::once(&host.hostip).chain(&host.altip) {
            for port in std::iter::once(host.http_port).chain(host.http_get_port) {
                urls.insert(format!("{ip}:{port}"));
            }
        }
    }
    urls
}

/// A datacenter as it is looked at.
pub struct Site {
    /// Its name.
    pub name: Datacenter,
    /// Its trackers.
    pub trackers: Trackers,
    /// What it has registered, if it has.
    pub registered: Option<DatacenterRecord>,
}

/// What one tracker says.
struct Seen {
    name: Datacenter,
    urls: BTreeSet<String>,
    hosts: Vec<Host>,
    devices: Vec<Device>,
    newest: u64,
    /// The first and the last files that it lists: where they are, and what they are called.
    sample: BTreeMap<u64, Sampled>,
    /// `name value`, as far as they count what waits.
    waiting: Vec<(String, u64)>,
}

struct Sampled {
    name: String,
    devids: Vec<u32>,
}

/// Looks at all of them, each pair of them, and how many files of each. Changes nothing.
pub async fn check(sites: &[Site], sample: u32) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for site in sites {
        match look(site, sample).await {
            Ok(one) => seen.push(one),
            Err(error) => found.push(Finding {
                level: Level::Unknown,
                of: vec![site.name.clone()],
                about: "devices",
                text: format!("its tracker does not answer: {error}"),
            }),
        }
    }
    for (nth, site) in sites.iter().enumerate() {
        for other in &sites[nth + 1..] {
            found.extend(registered_twice(site, other));
        }
    }
    for one in &seen {
        found.extend(alone(one));
    }
    for (nth, one) in seen.iter().enumerate() {
        for other in &seen[nth + 1..] {
            found.extend(pair(one, other));
        }
    }
    found
}

async fn look(site: &Site, sample: u32) -> Result<Seen, TrackerError> {
    let hosts = site.trackers.get_hosts().await?;
    let devices = site.trackers.get_devices().await?;
    let newest = newest_fid(&site.trackers).await?;
    let count = (sample / 2).clamp(1, 500);
    let mut listed = site.trackers.list_fids(Fid(0), count).await?;
    let late = newest.saturating_sub(u64::from(count));
    listed.extend(site.trackers.list_fids(Fid(late), count).await?);
    let mut sampled = BTreeMap::new();
    for file in listed {
        let known = site.trackers.file_debug_by_fid(Fid(file.fid)).await?;
        if let Some(row) = known.file {
            let name = crate::file::FileName::from_bytes(&row.domain, &row.key);
            let one = Sampled {
                name: name.to_string(),
                devids: known.devids,
            };
            sampled.insert(file.fid, one);
        }
    }
    let stats = site.trackers.stats().await?;
    let waiting = stats
        .into_iter()
        .filter(|(name, value)| name.starts_with("work_queue_for_") && *value > 0);
    Ok(Seen {
        name: site.name.clone(),
        urls: storage_urls(&hosts),
        hosts,
        devices,
        newest,
        sample: sampled,
        waiting: waiting.collect(),
    })
}

fn registered_twice(site: &Site, other: &Site) -> Option<Finding> {
    let (ours, theirs) = (site.registered.as_ref()?, other.registered.as_ref()?);
    let clash = clash(
        &site.name,
        &ours.storage_hosts,
        std::slice::from_ref(theirs),
    )?;
    Some(Finding {
        level: Level::Bad,
        of: vec![site.name.clone(), other.name.clone()],
        about: "storage",
        text: clash.to_string(),
    })
}

/// What can be said of one database by itself.
fn alone(seen: &Seen) -> Vec<Finding> {
    let finding = |level, about, text| Finding {
        level,
        of: vec![seen.name.clone()],
        about,
        text,
    };
    let mut found = Vec::new();
    let known: BTreeSet<u32> = seen.devices.iter().map(|device| device.devid).collect();
    let foreign = seen.sample.iter().find_map(|(fid, file)| {
        let devid = file.devids.iter().find(|devid| !known.contains(devid))?;
        Some((fid, devid))
    });
    found.push(match foreign {
        Some((fid, devid)) => finding(
            Level::Bad,
            "devices",
            format!(
                "its database says that fid {fid} is on dev{devid}, which it does not know: rows of file_on are left of devices that are not its own"
            ),
        ),
        None => finding(
            Level::Good,
            "devices",
            format!(
                "{} files were looked at, and are on its own devices only",
                seen.sample.len()
            ),
        ),
    });
    let nowhere = seen.sample.values().filter(|file| file.devids.is_empty());
    let nowhere = nowhere.count();
    if nowhere > 0 {
        found.push(finding(
            Level::Good,
            "devices",
            format!("{nowhere} of them are on none of its devices: repair will fetch those"),
        ));
    }
    if seen.waiting.is_empty() {
        found.push(finding(
            Level::Unknown,
            "queues",
            "its tracker has nothing in hand to delete or copy; what waits in its database no tracker tells: `phylactery split guide` has the query".to_owned(),
        ));
    } else {
        let waiting = seen
            .waiting
            .iter()
            .map(|(name, value)| format!("{name} {value}"));
        found.push(finding(
            Level::Unknown,
            "queues",
            format!(
                "its tracker is at work ({}): as it should be for one that clients use, and dangerous for a copied database that was not emptied",
                waiting.collect::<Vec<_>>().join(", ")
            ),
        ));
    }
    found
}

/// What can be said of two databases.
fn pair(one: &Seen, other: &Seen) -> Vec<Finding> {
    let finding = |level, about, text| Finding {
        level,
        of: vec![one.name.clone(), other.name.clone()],
        about,
        text,
    };
    let mut found = Vec::new();
    let shared: Vec<&String> = one.urls.intersection(&other.urls).collect();
    if shared.is_empty() {
        found.push(finding(
            Level::Good,
            "storage",
            "they name no storage node together".to_owned(),
        ));
    }
    for url in shared {
        let of = |seen: &Seen| {
            let host = seen
                .hosts
                .iter()
                .find(|host| storage_urls(std::slice::from_ref(host)).contains(url));
            let devices = seen.devices.iter().filter(|device| {
                host.is_some_and(|host| host.hostid == device.hostid) && device.status != "dead"
            });
            let devices: Vec<String> = devices
                .map(|device| format!("dev{} {}", device.devid, device.status))
                .collect();
            match devices.is_empty() {
                true => "no devices".to_owned(),
                false => devices.join(", "),
            }
        };
        found.push(finding(
            Level::Bad,
            "storage",
            format!(
                "both trackers name the storage node {url} (in {}: {}; in {}: {}): each would delete the other's files. Take the host and its devices out of one of the databases",
                one.name,
                of(one),
                other.name,
                of(other)
            ),
        ));
    }
    let mut contradiction = None;
    let mut together = 0;
    for (fid, file) in &one.sample {
        match other.sample.get(fid) {
            Some(there) if there.name == file.name => together += 1,
            Some(there) => contradiction = Some((fid, &file.name, &there.name)),
            None => {}
        }
    }
    let apart = one.newest.abs_diff(other.newest);
    found.push(match contradiction {
        Some((fid, here, there)) if together > 0 => finding(
            Level::Bad,
            "fids",
            format!(
                "fid {fid} is {here} in {} and {there} in {}: both databases have handed it out since they were one",
                one.name, other.name
            ),
        ),
        _ if together == 0 => finding(
            Level::Good,
            "fids",
            "they were never one database, as far as was looked".to_owned(),
        ),
        _ if apart >= APART => finding(
            Level::Good,
            "fids",
            format!("they were one database, and hand out fids that are {apart} apart by now"),
        ),
        _ => finding(
            Level::Unknown,
            "fids",
            format!(
                "they were one database, and their newest fids are only {apart} apart ({} and {}): unless the copied one was told to begin far above, and nothing has been stored there yet, both hand out the same numbers",
                one.newest, other.newest
            ),
        ),
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Version;

    fn record(name: &str, hosts: &[&str]) -> DatacenterRecord {
        DatacenterRecord {
            name: name.parse().expect("a name"),
            trackers: Vec::new(),
            storage_hosts: hosts.iter().map(ToString::to_string).collect(),
            api: None,
            updated: Version(1),
        }
    }

    #[test]
    fn rule_19_two_datacenters_that_name_one_storage_node_clash() {
        let (ma, tx) = (
            record("ma01", &["10.1.0.1:7500", "10.1.0.2:7500"]),
            record("tx01", &["10.2.0.1:7500", "10.1.0.2:7500"]),
        );
        let known = [ma.clone(), tx.clone()];
        let found = clash(&tx.name, &tx.storage_hosts, &known).expect("a clash");
        assert_eq!(
            (found.other, found.host.as_str()),
            (ma.name.clone(), "10.1.0.2:7500")
        );
        let own = BTreeSet::from(["10.2.0.1:7500".to_owned()]);
        assert_eq!(clash(&tx.name, &own, &known), None);
        assert_eq!(
            clash(&ma.name, &ma.storage_hosts, &known[..1]),
            None,
            "itself"
        );
    }
}
