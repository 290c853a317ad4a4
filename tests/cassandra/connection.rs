//! Mistakes in how the cluster is reached: each is told with what to do, keeps nobody's clients from being served, and is over
//! when its cause is mended. The password is in no log.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use phylactery::config::CassandraConfig;
use phylactery::file::Datacenter;
use phylactery::ledger::cassandra::CassandraLedger;

use crate::cluster::{self, Cluster, NodeOptions, Tls, USER};
use crate::harness::{self, LedgerAt, Site, record, until};
use crate::outside::{agreed, cql, log, logs, prepared, program, put};
use crate::support::config;

/// What opening says, and `check-config --connect` says the same.
async fn told(config: &CassandraConfig) -> String {
    let opening = CassandraLedger::open(config).await;
    let told = opening.err().expect("it must not open").to_string();
    let (said, good) = check_config(config);
    assert!(!good, "{said}");
    // A node that answers is another one each time, and so is what the system says of a port.
    let (ours, _) = told.split_once("(os error").unwrap_or((&told, ""));
    let (ours, _) = ours.split_once("127.").unwrap_or((ours, ""));
    assert!(said.contains(ours), "{told}\nbut check-config: {said}");
    told
}

fn check_config(config: &CassandraConfig) -> (String, bool) {
    let folder = tempfile::tempdir().unwrap();
    let name = &config.local_datacenter;
    let tracker = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let tracker = tracker.local_addr().unwrap();
    let ledger = LedgerAt::Cassandra(vec![config.clone()]).section(name);
    let text = format!(
        "[datacenter]\nname = \"ma01\"\n\n[proxy]\ntrackers = [\"{tracker}\"]\n\n[journal]\npath = \"journal\"\n\n[ledger]\n{ledger}"
    );
    let file = folder.path().join("phylactery.toml");
    std::fs::write(&file, text).unwrap();
    program(&["check-config", "--connect", file.to_str().unwrap()], &[])
}

/// Clients are served by a process that has no ledger; `/readyz` says why it has none.
async fn serves_and_says(site: &mut Site, key: &str, why: &str) {
    put(site, key).await;
    until(&format!("{why:?} in readyz"), async || {
        let (ready, line) = site.ready().await?;
        assert!(!ready, "{line}");
        assert!(line.starts_with("not ready: "), "{line}");
        match line.contains(why) && line.lines().count() == 1 {
            true => Ok(()),
            false => Err(line),
        }
    })
    .await;
    assert!(!site.node().has_ended());
}

/// The ledger has opened by itself, and hears of what was stored before.
async fn opens(site: &mut Site, config: &CassandraConfig, keys: &[&str]) {
    until("readyz says ready", async || match site.ready().await? {
        (true, _) => Ok(()),
        (false, line) => Err(line),
    })
    .await;
    assert!(!site.node().has_ended());
    let ledger = CassandraLedger::open(config).await.unwrap();
    let here: Datacenter = site.name.clone();
    for key in keys {
        until(&format!("the ledger hears of {key}"), async || {
            let record = record(&ledger, "photos", key.as_bytes()).await;
            match record.is_whole_in(&here, true) && record.content().is_some() {
                true => Ok(()),
                false => Err(format!("{record:?}")),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_with_what_to_do() {
    let cluster = Cluster::shared().await;
    let _calm = cluster.calm().await;
    let keyspace = &cluster.keyspace().await;
    let good = config(cluster, "ma01", keyspace);

    let nowhere = told(&config(cluster, "ma01", "nowhere")).await;
    assert_eq!(
        nowhere,
        "there is no keyspace nowhere: name your datacenters in the first lines of what `phylactery schema print --keyspace nowhere` \
         prints, and paste it into cqlsh"
    );
    let mut mars = good.clone();
    mars.local_datacenter = "mars".to_owned();
    assert_eq!(
        told(&mars).await,
        "the cluster has no datacenter \"mars\" (ledger.local_datacenter); it has ma01, tx01"
    );
    let elsewhere = format!("{keyspace}_elsewhere");
    cql(
        cluster,
        &format!(
            "CREATE KEYSPACE {elsewhere} WITH replication = {{'class': 'NetworkTopologyStrategy', 'tx01': 2}}"
        ),
    )
    .await;
    agreed(cluster).await;
    assert_eq!(
        told(&config(cluster, "ma01", &elsewhere)).await,
        format!(
            "the keyspace {elsewhere} keeps no copy in ma01: add it with ALTER KEYSPACE, then run `nodetool rebuild` there \
             (schema/README.md)"
        )
    );
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let dead = held.local_addr().unwrap().to_string();
    drop(held);
    let mut nobody = good.clone();
    nobody.contact_points = vec![dead.clone()];
    let said = told(&nobody).await;
    assert!(
        said.starts_with(&format!(
            "connect to Cassandra at {dead} (ledger.contact_points): "
        )),
        "{said}"
    );
    assert!(said.contains("Connection refused"), "{said}");
    assert!(
        said.ends_with("; does it listen there, and does it ask for TLS (ledger.tls_ca)?"),
        "{said}"
    );

    let strangers = tempfile::tempdir().unwrap();
    let mut encrypted = good.clone();
    encrypted.tls_ca = Some(cluster::Certificates::of_strangers(strangers.path()));
    let said = told(&encrypted).await;
    assert!(said.contains("does it speak TLS there"), "{said}");
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut hanging = good.clone();
    hanging.contact_points = vec![silent.local_addr().unwrap().to_string()];
    hanging.connect_timeout = Duration::from_secs(1);
    let said = told(&hanging).await;
    assert!(said.contains("does the node hang"), "{said}");

    let set_version = async |version: &str| {
        cql(
            cluster,
            &format!("UPDATE {keyspace}.meta SET value = '{version}' WHERE name = 'schema'"),
        )
        .await;
    };
    set_version("99").await;
    assert_eq!(
        told(&good).await,
        format!(
            "the tables of keyspace {keyspace} are of version 99, and this program knows version 2: run the newer program"
        )
    );
    set_version("0").await;
    let old = format!(
        "the tables of keyspace {keyspace} are of version 0, and this program needs version 2: paste what `phylactery schema print \
         --keyspace {keyspace} --after 0` prints into cqlsh"
    );
    assert_eq!(told(&good).await, old);

    // A process that starts into it serves clients, and opens its ledger when that has been done.
    let mut sites = prepared(cluster, keyspace).await;
    sites.ma01.start_node().await;
    serves_and_says(&mut sites.ma01, "stored before the paste", &old).await;
    set_version("1").await;
    opens(&mut sites.ma01, &good, &["stored before the paste"]).await;
    sites.ma01.node().terminate();
    assert_eq!(log(&sites.ma01).matches(&old).count(), 1, "told once");

    cql(cluster, &format!("DROP TABLE {keyspace}.gaps")).await;
    agreed(cluster).await;
    assert_eq!(
        told(&good).await,
        format!(
            "the keyspace {keyspace} has no table gaps: paste what `phylactery schema print --keyspace {keyspace}` prints into cqlsh; \
             what is there already stays"
        )
    );
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

const WRONG: &str = "correct-horse";
const RIGHT: &str = "battery-staple";

#[tokio::test(flavor = "multi_thread")]
async fn passwords_and_certificates() {
    let cluster = &Cluster::one_node(NodeOptions {
        passwords: true,
        tls: Tls::Mutual,
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let keyspace = &cluster.keyspace().await;
    let ours = cluster.certificates().unwrap();
    let mut good = config(cluster, "ma01", keyspace);
    good.username = Some("phylactery".to_owned());
    good.password_file = Some(write(folder.path(), "password", &format!("{RIGHT}\n")));
    good.tls_ca = Some(ours.ca.clone());
    good.tls_cert = Some(ours.client_cert.clone());
    good.tls_key = Some(ours.client_key.clone());
    cql(
        cluster,
        &format!("CREATE ROLE phylactery WITH PASSWORD = '{RIGHT}' AND LOGIN = true"),
    )
    .await;
    assert_ne!(USER.0, "phylactery");
    let point = &good.contact_points[0];
    let unreachable = format!("connect to Cassandra at {point} (ledger.contact_points): ");

    // Who is let in may still not see the tables.
    let said = told(&good).await;
    assert!(said.contains("GRANT"), "{said}");
    cql(
        cluster,
        &format!("GRANT ALL ON KEYSPACE {keyspace} TO phylactery"),
    )
    .await;
    until("it opens", async || {
        let opened = CassandraLedger::open(&good).await;
        opened.map(|_ledger| ()).map_err(|why| why.to_string())
    })
    .await;

    let mut plain = good.clone();
    (plain.tls_ca, plain.tls_cert, plain.tls_key) = (None, None, None);
    let said = told(&plain).await;
    assert!(said.starts_with(&unreachable), "{said}");
    assert!(
        said.contains("does it ask for TLS (ledger.tls_ca)?"),
        "{said}"
    );

    let mut strangers = good.clone();
    let other = tempfile::tempdir().unwrap();
    strangers.tls_ca = Some(cluster::Certificates::of_strangers(other.path()));
    let said = told(&strangers).await;
    assert!(said.starts_with(&unreachable), "{said}");
    assert!(said.contains("ledger.tls_ca"), "{said}");

    let mut without = good.clone();
    (without.tls_cert, without.tls_key) = (None, None);
    let said = told(&without).await;
    assert!(said.starts_with(&unreachable), "{said}");
    assert!(said.contains("ledger.tls_cert"), "{said}");

    let mut unreadable = good.clone();
    unreadable.tls_key = Some(folder.path().join("no.key"));
    let said = told(&unreadable).await;
    let file = folder.path().join("no.key");
    assert!(
        said.starts_with(&format!("ledger.tls_key, {}: ", file.display())),
        "{said}"
    );

    let mut wrong = good.clone();
    wrong.password_file = Some(write(folder.path(), "wrong", WRONG));
    let refused = told(&wrong).await;
    assert!(
        refused.starts_with("Cassandra does not let \"phylactery\" in: ")
            && refused.ends_with("; look at ledger.username and ledger.password_file"),
        "{refused}"
    );
    let mut nobody = good.clone();
    (nobody.username, nobody.password_file) = (None, None);
    assert_eq!(
        told(&nobody).await,
        format!(
            "Cassandra at {point} asks for a name and a password: set ledger.username and ledger.password_file"
        )
    );
    let mut nameless = good.clone();
    nameless.password_file = None;
    assert_eq!(
        told(&nameless).await,
        "there is no password for \"phylactery\": set ledger.password_file, or the variable PHYLACTERY_LEDGER_PASSWORD"
    );
    for said in [&refused, &told(&without).await] {
        assert!(!said.contains(WRONG) && !said.contains(RIGHT), "{said}");
    }

    // A process with the wrong password, and no tables: both are mended while it runs.
    let later = "made_later";
    let mut process = wrong.clone();
    process.keyspace = later.to_owned();
    let mut unused = process.clone();
    unused.local_datacenter = "tx01".to_owned();
    let ledger = LedgerAt::Cassandra(vec![process.clone(), unused]);
    let home = tempfile::tempdir().unwrap();
    let mut sites = harness::Cluster::prepare_on(home, ledger, "").await;
    let site = &mut sites.ma01;
    site.node_environment = vec![("RUST_LOG".to_owned(), "debug,scylla=trace".to_owned())];
    site.start_node().await;
    let pid = site.node().pid();
    serves_and_says(
        site,
        "with the wrong password",
        "does not let \"phylactery\" in",
    )
    .await;
    std::fs::write(process.password_file.as_ref().unwrap(), RIGHT).unwrap();
    serves_and_says(site, "without tables", "there is no keyspace made_later").await;
    paste(cluster, later).await;
    opens(
        site,
        &process,
        &["with the wrong password", "without tables"],
    )
    .await;
    assert_eq!(site.node().pid(), pid);
    logs(site, &["the ledger in Cassandra at", "is open"]).await;
    let log = log(site);
    for secret in [WRONG, RIGHT] {
        assert!(!log.contains(secret), "the password is in the log");
        let bytes: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
        assert!(
            !log.contains(&bytes.join(", ")),
            "the password is in the log"
        );
    }
}

/// What `phylactery schema print` says, with the datacenters of this cluster, and the right to use it.
async fn paste(cluster: &Cluster, keyspace: &str) {
    let (printed, good) = program(&["schema", "print", "--keyspace", keyspace], &[]);
    assert!(good, "{printed}");
    let here = printed.replace("'ma01': 3, 'tx01': 3", "'ma01': 1");
    assert_ne!(here, printed);
    let session = cluster.session().await;
    for text in cluster::cql::statements(&here) {
        match text.strip_prefix("USE ") {
            Some(name) => session.use_keyspace(name, false).await.unwrap(),
            None => cql(cluster, &text).await,
        }
    }
    cql(
        cluster,
        &format!("GRANT ALL ON KEYSPACE {keyspace} TO phylactery"),
    )
    .await;
}
