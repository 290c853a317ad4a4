//! What may stand behind a key: each function turns one TOML value into one type, or says what would be right.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

use super::reader::Spot;

/// `true` or `false`.
pub(super) fn boolean(spot: &Spot<'_>) -> Option<bool> {
    match spot.value.as_bool() {
        Some(value) => Some(value),
        None => spot.refuse(
            "neither true nor false",
            "write true or false, without quotes",
        ),
    }
}

/// Text that is not empty.
pub(super) fn text(spot: &Spot<'_>) -> Option<String> {
    match spot.value.as_str() {
        Some("") => spot.refuse("empty", "write a text in quotes"),
        Some(value) => Some(value.to_owned()),
        None => spot.refuse("not a text", "write it in quotes"),
    }
}

/// Text that a type of ours accepts.
pub(super) fn name<T: FromStr>(spot: &Spot<'_>) -> Option<T> {
    let text = text(spot)?;
    match text.parse() {
        Ok(name) => Some(name),
        Err(_) => spot.refuse(
            "not a name",
            "write 1 to 32 of a-z, 0-9, '-' and '_', beginning with a letter or digit, such as \"ma01\"",
        ),
    }
}

/// One of a few names, each of which stands for a value.
pub(super) fn named<T: Copy>(
    names: &'static [(&'static str, T)],
) -> impl Fn(&Spot<'_>) -> Option<T> {
    move |spot| {
        let known: Vec<String> = names.iter().map(|(name, _)| format!("{name:?}")).collect();
        let right = match known.split_last() {
            Some((last, [])) => format!("write {last}"),
            Some((last, others)) => format!("write {} or {last}", others.join(", ")),
            None => String::new(),
        };
        let Some(text) = spot.value.as_str() else {
            return spot.refuse("not a text", right);
        };
        match names.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => Some(*value),
            None => spot.refuse("none that this version knows", right),
        }
    }
}

/// A whole number within `range`.
pub(super) fn count(range: RangeInclusive<usize>) -> impl Fn(&Spot<'_>) -> Option<usize> {
    move |spot| {
        let right = format!("write a number from {} to {}", range.start(), range.end());
        let Some(value) = spot.value.as_integer() else {
            return spot.refuse("not a whole number", right);
        };
        match usize::try_from(value) {
            Ok(value) if range.contains(&value) => Some(value),
            Ok(value) if value > *range.end() => spot.refuse("too many", right),
            _ => spot.refuse("too few", right),
        }
    }
}

/// Bytes: a number, or a text with a unit.
pub(super) fn size(range: RangeInclusive<u64>) -> impl Fn(&Spot<'_>) -> Option<u64> {
    move |spot| {
        let value = match (spot.value.as_integer(), spot.value.as_str()) {
            (Some(number), _) => u64::try_from(number).ok(),
            (None, Some(text)) => text
                .trim()
                .parse::<ByteSize>()
                .ok()
                .map(|size| size.as_u64()),
            (None, None) => None,
        };
        let within = || {
            let (least, most) = (in_bytes(*range.start()), in_bytes(*range.end()));
            format!("write a size from {least} to {most}")
        };
        match value {
            None => spot.refuse(
                "not a size",
                "write bytes as a number, or a text such as \"16 KiB\" or \"1 GiB\"",
            ),
            Some(value) if value < *range.start() => spot.refuse("too small", within()),
            Some(value) if value > *range.end() => spot.refuse("too large", within()),
            Some(value) => Some(value),
        }
    }
}

/// A span of time, as text with units.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Spot<'_>) -> Option<Duration> {
    move |spot| {
        let value = spot.value.as_str().map(humantime::parse_duration);
        let within = || {
            let shown = humantime::format_duration;
            format!(
                "write \"{}\" to \"{}\"",
                shown(*range.start()),
                shown(*range.end())
            )
        };
        match value {
            Some(Ok(value)) if value < *range.start() => spot.refuse("too short", within()),
            Some(Ok(value)) if value > *range.end() => spot.refuse("too long", within()),
            Some(Ok(value)) => Some(value),
            Some(Err(_)) | None => spot.refuse(
                "not a span of time",
                "write a text with a unit, such as \"500ms\", \"30s\" or \"1h 30m\"",
            ),
        }
    }
}

/// A span of time, or `"never"`.
pub(super) fn or_never(
    parse: impl Fn(&Spot<'_>) -> Option<Duration>,
) -> impl Fn(&Spot<'_>) -> Option<Option<Duration>> {
    move |spot| match spot.value.as_str() {
        Some("never") => Some(None),
        _ => parse(spot).map(Some),
    }
}

/// A limit, or `"unlimited"`.
pub(super) fn or_unlimited<T>(
    parse: impl Fn(&Spot<'_>) -> Option<T>,
) -> impl Fn(&Spot<'_>) -> Option<Option<T>> {
    move |spot| match spot.value.as_str() {
        Some("unlimited") => Some(None),
        _ => parse(spot).map(Some),
    }
}

/// A share of a hundred, as text with its sign.
pub(super) fn percent(spot: &Spot<'_>) -> Option<f64> {
    let digits = |text: &str| text.trim().strip_suffix('%')?.trim().parse::<f64>().ok();
    match spot.value.as_str().and_then(digits) {
        Some(share) if (0.0..=100.0).contains(&share) => Some(share),
        Some(_) => spot.refuse("no share of a hundred", "write \"0%\" to \"100%\""),
        None => spot.refuse("not a share", "write a text such as \"5%\" or \"0.5%\""),
    }
}

/// An address of this machine to listen on.
pub(super) fn address(spot: &Spot<'_>) -> Option<SocketAddr> {
    let parsed = spot.value.as_str().and_then(|text| text.parse().ok());
    match parsed {
        Some(address) => Some(address),
        None => spot.refuse(
            "not an address to listen on",
            "write an IP address and a port, such as \"127.0.0.1:7001\", \"0.0.0.0:7001\" or \"[::]:7001\"",
        ),
    }
}

/// `host:port` of another machine; the host may be a name.
pub(super) fn host_and_port(spot: &Spot<'_>) -> Option<String> {
    let right = "write host:port, such as \"10.0.0.5:7001\" or \"tracker1.example.net:7001\"";
    let Some(text) = spot.value.as_str() else {
        return spot.refuse("not a host and port", right);
    };
    let Some((host, port)) = text.rsplit_once(':') else {
        return spot.refuse("without a port", right);
    };
    match (is_host(host), is_port(port)) {
        (true, true) => Some(text.to_owned()),
        (false, _) => spot.refuse("not a host and port", right),
        (true, false) => spot.refuse("not a port", right),
    }
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
pub(super) fn is_host(host: &str) -> bool {
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match bracketed {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_';
            !host.is_empty() && host.chars().all(fits)
        }
    }
}

/// A port that one can connect to.
pub(super) fn is_port(port: &str) -> bool {
    port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// One value or a list of at least one; no two alike.
pub(super) fn one_or_more<T: PartialEq>(
    parse: impl Fn(&Spot<'_>) -> Option<T>,
) -> impl Fn(&Spot<'_>) -> Option<Vec<T>> {
    move |spot| match spot.value.as_array() {
        Some(array) if array.is_empty() => spot.refuse("empty", "write at least one"),
        Some(_) => elements(spot, &parse),
        None => Some(vec![parse(spot)?]),
    }
}

/// A list that may be empty; no two alike.
pub(super) fn list<T: PartialEq>(
    parse: impl Fn(&Spot<'_>) -> Option<T>,
) -> impl Fn(&Spot<'_>) -> Option<Vec<T>> {
    move |spot| match spot.value.as_array() {
        Some(_) => elements(spot, &parse),
        None => spot.refuse("not a list", "write it in brackets: [\"one\", \"another\"]"),
    }
}

fn elements<T: PartialEq>(
    spot: &Spot<'_>,
    parse: &impl Fn(&Spot<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let array = spot.value.as_array()?;
    let mut good = Vec::with_capacity(array.len());
    for (index, value) in array.iter().enumerate() {
        let element = spot.element(index, value);
        // The others are still looked at: every mistake is told.
        if let Some(item) = parse(&element) {
            if good.contains(&item) {
                element.refuse::<T>("named twice", "name it once");
            } else {
                good.push(item);
            }
        }
    }
    Some(good)
}

/// A command of the tracker protocol, in lower case.
pub(super) fn command(spot: &Spot<'_>) -> Option<String> {
    let text = text(spot)?;
    if text.chars().all(|c| c.is_ascii_graphic()) {
        Some(text.to_ascii_lowercase())
    } else {
        spot.refuse(
            "not a command",
            "write one word as clients send it, such as \"!shutdown\" or \"delete_domain\"",
        )
    }
}

/// A path, taken from the folder that the configuration is in if it is relative.
pub(super) fn path(folder: &Path) -> impl Fn(&Spot<'_>) -> Option<PathBuf> {
    move |spot| text(spot).map(|path| folder.join(path).components().collect())
}

/// Bytes for people: the largest unit that leaves no fraction.
pub(super) fn in_bytes(bytes: u64) -> String {
    let units = ["TiB", "GiB", "MiB", "KiB"];
    for (nth, unit) in units.iter().enumerate() {
        let one = 1u64 << (10 * (units.len() - nth));
        if bytes >= one && bytes.is_multiple_of(one) {
            return format!("{} {unit}", bytes / one);
        }
    }
    match bytes {
        1 => "1 byte".to_owned(),
        _ => format!("{bytes} bytes"),
    }
}
