//! Domains and classes.

use super::{Request, perl};
use crate::tracker::answer::{Answer, Fields, Refusal};
use crate::tracker::checksum::Kind;
use crate::tracker::store::topology::{self, ClassChange};

/// All domains with their classes. Takes no filter.
pub fn get_domains(request: &Request<'_>) -> Fields {
    let mut fields = Fields::new();
    fields.number("domains", request.topology.domains.len());
    for (n, domain) in (1..).zip(&request.topology.domains) {
        fields.text(format!("domain{n}"), domain.name.clone());
        fields.number(format!("domain{n}classes"), domain.classes.len());
        for (m, class) in (1..).zip(&domain.classes) {
            let policy: &[u8] = if class.replpolicy.is_empty() {
                b"MultipleHosts()"
            } else {
                &class.replpolicy
            };
            fields.text(format!("domain{n}class{m}name"), class.name.clone());
            fields.number(format!("domain{n}class{m}mindevcount"), class.mindevcount);
            fields.text(format!("domain{n}class{m}replpolicy"), policy);
            fields.text(
                format!("domain{n}class{m}hashtype"),
                class.hashtype.map_or("NONE", Kind::name),
            );
        }
    }
    fields
}

/// Makes a domain.
pub async fn create_domain(request: &Request<'_>) -> Answer {
    let domain = perl::given(request.args, "domain").ok_or_else(|| Refusal::new("no_domain"))?;
    let name = domain.clone();
    request
        .core
        .change_topology(move |conn| topology::create_domain(conn, &name))
        .await?;
    Ok(named("domain", domain))
}

/// Removes an empty domain.
pub async fn delete_domain(request: &Request<'_>) -> Answer {
    let domain = perl::given(request.args, "domain").ok_or_else(|| Refusal::new("no_domain"))?;
    let name = domain.clone();
    request
        .core
        .change_topology(move |conn| topology::delete_domain(conn, &name))
        .await?;
    Ok(named("domain", domain))
}

/// `create_class` and `update_class`.
pub async fn change_class(request: &Request<'_>, update: bool) -> Answer {
    let args = request.args;
    let domain = perl::non_empty(args, "domain").ok_or_else(|| Refusal::new("no_domain"))?;
    let class = perl::non_empty(args, "class").ok_or_else(|| Refusal::new("no_class"))?;
    let mindevcount = args
        .get("mindevcount")
        .map_or(0.0, |count| perl::number(&count));
    if mindevcount <= 0.0 {
        return Err(Refusal::new("invalid_mindevcount"));
    }
    let replpolicy = perl::given(args, "replpolicy");
    if let Some(policy) = &replpolicy {
        check_policy(policy)?;
    }
    let hashtype = match perl::given(args, "hashtype").as_deref() {
        None => None,
        Some(b"NONE") => Some(None),
        Some(name) => Some(Some(
            Kind::from_name(name).ok_or_else(|| Refusal::new("invalid_hashtype"))?,
        )),
    };
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    let change = ClassChange {
        domain: domain.clone(),
        class: class.clone(),
        mindevcount: mindevcount.ceil() as i64,
        replpolicy,
        hashtype,
        update,
    };
    request
        .core
        .change_topology(move |conn| topology::change_class(conn, &change))
        .await?;
    let mut fields = named("domain", domain);
    fields
        .text("class", class)
        .number("mindevcount", mindevcount);
    Ok(fields)
}

/// The policies that a tracker brings along. They are kept for those who ask; this one puts copies
/// on different hosts as long as there are any, whatever the policy.
fn check_policy(policy: &[u8]) -> Result<(), Refusal> {
    const KNOWN: [&[u8]; 4] = [
        b"MultipleHosts",
        b"MultipleDevices",
        b"MultipleNetworks",
        b"Union",
    ];
    let policy = policy.trim_ascii_start();
    let end = policy
        .iter()
        .position(|&byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':')));
    let name = &policy[..end.unwrap_or(policy.len())];
    if KNOWN.contains(&name) {
        Ok(())
    } else {
        let name = String::from_utf8_lossy(name).into_owned();
        Err(Refusal::with_text(
            "invalid_replpolicy",
            format!("Failed to load replication policy class {name}"),
        ))
    }
}

/// Removes a class without files.
pub async fn delete_class(request: &Request<'_>) -> Answer {
    let domain =
        perl::non_empty(request.args, "domain").ok_or_else(|| Refusal::new("no_domain"))?;
    let class = perl::non_empty(request.args, "class").unwrap_or_default();
    if class == b"default" {
        return Err(Refusal::new("nodel_default_class"));
    }
    let (in_domain, name) = (domain.clone(), class.clone());
    request
        .core
        .change_topology(move |conn| topology::delete_class(conn, &in_domain, &name))
        .await?;
    let mut fields = named("domain", domain);
    fields.text("class", class);
    Ok(fields)
}

fn named(name: &'static str, value: Vec<u8>) -> Fields {
    let mut fields = Fields::new();
    fields.text(name, value);
    fields
}
