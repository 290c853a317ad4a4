//! Domains, classes, hosts and devices as requests see them: one consistent picture, read from the
//! database after every change and swapped in whole.

use std::net::IpAddr;

use crate::tracker::checksum::Kind;
use crate::tracker::paths::{Devid, Fid, fid_path};

/// Everything but files.
#[derive(Debug, Default)]
pub struct Topology {
    /// In the order of their making.
    pub domains: Vec<Domain>,
    /// In the order of their making.
    pub hosts: Vec<Host>,
    /// By number.
    pub devices: Vec<Device>,
}

/// A namespace of keys.
#[derive(Debug, Clone)]
pub struct Domain {
    /// Its number.
    pub dmid: i64,
    /// Its name.
    pub name: Vec<u8>,
    /// Its classes, `default` first whether it has a row or not.
    pub classes: Vec<Class>,
}

/// How files of one kind are kept.
#[derive(Debug, Clone)]
pub struct Class {
    /// Its number within the domain; 0 is the default class.
    pub classid: i64,
    /// Its name.
    pub name: Vec<u8>,
    /// How many copies a file should have.
    pub mindevcount: i64,
    /// The digest that is kept of its files.
    pub hashtype: Option<Kind>,
    /// How devices are chosen; kept for those who ask, and not acted upon.
    pub replpolicy: Vec<u8>,
}

/// A storage node.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its number.
    pub hostid: i64,
    /// Its name.
    pub name: Vec<u8>,
    /// What an administrator says about it.
    pub status: HostStatus,
    /// Its address.
    pub ip: Vec<u8>,
    /// Its port for everything.
    pub port: Vec<u8>,
    /// Its port for reading, if that is another one.
    pub get_port: Vec<u8>,
    /// Its address for clients in `altmask`.
    pub altip: Vec<u8>,
    /// Who is told `altip`.
    pub altmask: Vec<u8>,
    /// Whether it is part of this very process.
    pub own: bool,
}

/// A disk.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its number.
    pub devid: Devid,
    /// The host that it is in.
    pub hostid: i64,
    /// What an administrator says about it.
    pub status: DeviceStatus,
    /// Its weight, kept for those who ask.
    pub weight: i64,
}

/// The states of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as on the wire")]
pub enum HostStatus {
    Alive,
    Dead,
    Down,
    Readonly,
}

/// The states of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as on the wire")]
pub enum DeviceStatus {
    Alive,
    Dead,
    Down,
    Readonly,
    Drain,
}

impl HostStatus {
    /// By its name on the wire.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<HostStatus> {
        match name {
            b"alive" => Some(HostStatus::Alive),
            b"dead" => Some(HostStatus::Dead),
            b"down" => Some(HostStatus::Down),
            b"readonly" => Some(HostStatus::Readonly),
            _ => None,
        }
    }

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            HostStatus::Alive => "alive",
            HostStatus::Dead => "dead",
            HostStatus::Down => "down",
            HostStatus::Readonly => "readonly",
        }
    }

    fn may_read(self) -> bool {
        matches!(self, HostStatus::Alive | HostStatus::Readonly)
    }
}

impl DeviceStatus {
    /// By its name on the wire.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<DeviceStatus> {
        match name {
            b"alive" => Some(DeviceStatus::Alive),
            b"dead" => Some(DeviceStatus::Dead),
            b"down" => Some(DeviceStatus::Down),
            b"readonly" => Some(DeviceStatus::Readonly),
            b"drain" => Some(DeviceStatus::Drain),
            _ => None,
        }
    }

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DeviceStatus::Alive => "alive",
            DeviceStatus::Dead => "dead",
            DeviceStatus::Down => "down",
            DeviceStatus::Readonly => "readonly",
            DeviceStatus::Drain => "drain",
        }
    }

    /// Whether it may be read from.
    #[must_use]
    pub fn may_read(self) -> bool {
        matches!(
            self,
            DeviceStatus::Alive | DeviceStatus::Readonly | DeviceStatus::Drain
        )
    }

    /// Whether files may be removed from it.
    #[must_use]
    pub fn may_delete(self) -> bool {
        matches!(self, DeviceStatus::Alive | DeviceStatus::Drain)
    }
}

/// Who asks, as far as addresses in answers depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Viewer {
    /// The address that the connection comes from.
    pub client: IpAddr,
    /// Whether the request says `zone=alt`.
    pub alt_zone: bool,
}

impl Topology {
    /// The domain of this name.
    #[must_use]
    pub fn domain(&self, name: &[u8]) -> Option<&Domain> {
        self.domains.iter().find(|domain| domain.name == name)
    }

    /// The host of this number.
    #[must_use]
    pub fn host(&self, hostid: i64) -> Option<&Host> {
        self.hosts.iter().find(|host| host.hostid == hostid)
    }

    /// The device of this number, and its host.
    #[must_use]
    pub fn device(&self, devid: Devid) -> Option<(&Device, &Host)> {
        let device = self.devices.iter().find(|device| device.devid == devid)?;
        Some((device, self.host(device.hostid)?))
    }

    /// The devices of this process, and their hosts.
    pub fn own_devices(&self) -> impl Iterator<Item = (&Device, &Host)> {
        self.devices.iter().filter_map(|device| {
            let host = self.host(device.hostid)?;
            host.own.then_some((device, host))
        })
    }

    /// The URL to write a fid to.
    #[must_use]
    pub fn put_url(&self, devid: Devid, fid: Fid, viewer: Viewer) -> Option<Vec<u8>> {
        let (_, host) = self.device(devid)?;
        Some(host.url(&host.port, devid, fid, viewer))
    }

    /// The URL to read a fid from.
    #[must_use]
    pub fn get_url(&self, devid: Devid, fid: Fid, viewer: Viewer) -> Option<Vec<u8>> {
        let (_, host) = self.device(devid)?;
        let port = if host.get_port.is_empty() {
            &host.port
        } else {
            &host.get_port
        };
        Some(host.url(port, devid, fid, viewer))
    }
}

impl Domain {
    /// The class of this name, the default one included.
    #[must_use]
    pub fn class(&self, name: &[u8]) -> Option<&Class> {
        self.classes.iter().find(|class| class.name == name)
    }
}

impl Device {
    /// Whether clients may be sent here to read.
    #[must_use]
    pub fn may_read(&self, host: &Host) -> bool {
        host.own && host.status.may_read() && self.status.may_read()
    }

    /// Whether new files may be put here. Only this process's own devices: nobody watches others.
    #[must_use]
    pub fn may_write(&self, host: &Host) -> bool {
        host.own && host.status == HostStatus::Alive && self.status == DeviceStatus::Alive
    }

    /// Whether files may be removed from here.
    #[must_use]
    pub fn may_delete(&self, host: &Host) -> bool {
        host.own && host.status == HostStatus::Alive && self.status.may_delete()
    }
}

impl Host {
    fn url(&self, port: &[u8], devid: Devid, fid: Fid, viewer: Viewer) -> Vec<u8> {
        [
            b"http://",
            self.address_for(viewer),
            b":",
            port,
            fid_path(devid, fid).as_bytes(),
        ]
        .concat()
    }

    fn address_for(&self, viewer: Viewer) -> &[u8] {
        let told_alt = !self.altip.is_empty()
            && parse_netmask(&self.altmask).is_some_and(|(network, bits)| {
                viewer.alt_zone || contains(network, bits, viewer.client)
            });
        if told_alt { &self.altip } else { &self.ip }
    }
}

/// Reads `10.0.0.0/8`, or a bare address, which is a network of one.
#[must_use]
pub fn parse_netmask(text: &[u8]) -> Option<(IpAddr, u8)> {
    let text = str::from_utf8(text).ok()?;
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address.parse().ok()?, Some(bits.parse().ok()?)),
        None => (text.parse().ok()?, None),
    };
    let all = match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    let bits = bits.unwrap_or(all);
    (bits <= all).then_some((address, bits))
}

fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    let differ = match (network, address.to_canonical()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return false,
    };
    differ >= u32::from(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netmasks() {
        let within = |mask: &str, address: &str| {
            let (network, bits) = parse_netmask(mask.as_bytes()).unwrap();
            contains(network, bits, address.parse().unwrap())
        };
        assert!(within("127.0.0.0/8", "127.9.9.9"));
        assert!(!within("10.9.0.0/16", "127.0.0.1"));
        assert!(within("0.0.0.0/0", "1.2.3.4"));
        assert!(within("1.2.3.4", "1.2.3.4"));
        assert!(within("127.0.0.0/8", "::ffff:127.0.0.1"));
        assert!(!within("::/0", "127.0.0.1"));
        for bad in ["", "junk", "1.2.3.4/33", "1.2.3.4/x"] {
            assert_eq!(parse_netmask(bad.as_bytes()), None, "{bad}");
        }
    }
}
