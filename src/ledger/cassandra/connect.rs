//! One session for the whole process: where the cluster is, who we are to it, and what every request gets.
//!
//! Always true: requests go to nodes of the local datacenter only, never silently to another one; a node that hangs loses
//! its connections within seconds; the password is in nobody's log. Never here: waiting in a client's way - a session is opened
//! behind the ones who use it ([`open_behind`](crate::ledger::awaited::open_behind)).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use scylla::client::Compression;
use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileHandle};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{
    BrokenConnectionErrorKind, ConnectionError, ConnectionPoolError,
    ConnectionSetupRequestErrorKind, DbError, MetadataError, NewSessionError,
};
use scylla::policies::load_balancing::{DefaultPolicy, LoadBalancingPolicy};
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use scylla::statement::Consistency;

use super::OpenError;
use crate::config::{CassandraConfig, LedgerCompression, PASSWORD_VARIABLE};

/// How often a quiet connection is asked whether it lives, and how long that may take: a node that hangs is left out after
/// the sum of both.
const KEEPALIVE: Duration = Duration::from_secs(2);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(3);

/// After this time a second node is asked too, once: long before the first is known to hang, and longer than healthy
/// requests take.
const SECOND_TRY: Duration = Duration::from_millis(500);

/// A page of a scan is hundreds of rows: it may take so many times what one row may take.
const SCAN_PATIENCE: u32 = 4;

/// What requests of one kind get: consistency if they do not say, time, and whether a second node is asked when the first is slow.
pub(super) struct Profiles {
    /// Whatever is asked or told at `LOCAL_QUORUM`, which any node here can answer.
    pub(super) local: ExecutionProfileHandle,
    /// What asks other datacenters too: one that is slow is no reason to ask twice.
    pub(super) far: ExecutionProfileHandle,
    /// Pages of a scan.
    pub(super) scan: ExecutionProfileHandle,
}

impl Profiles {
    pub(super) fn new(config: &CassandraConfig) -> Profiles {
        let nodes = nearby(&config.local_datacenter);
        let profile = |timeout: Duration| {
            ExecutionProfile::builder()
                .consistency(Consistency::LocalQuorum)
                .load_balancing_policy(Arc::clone(&nodes))
                .request_timeout(Some(timeout))
        };
        let second_try = SimpleSpeculativeExecutionPolicy {
            max_retry_count: 1,
            retry_interval: SECOND_TRY,
        };
        Profiles {
            local: profile(config.request_timeout)
                .speculative_execution_policy(Some(Arc::new(second_try)))
                .build()
                .into_handle(),
            far: profile(config.request_timeout).build().into_handle(),
            scan: profile(config.request_timeout * SCAN_PATIENCE)
                .build()
                .into_handle(),
        }
    }
}

fn nearby(datacenter: &str) -> Arc<dyn LoadBalancingPolicy> {
    DefaultPolicy::builder()
        .prefer_datacenter(datacenter.to_owned())
        .token_aware(true)
        .permit_dc_failover(false)
        .build()
}

/// Opens the session. Takes up to a minute where a contact point hangs.
pub(super) async fn session(
    config: &CassandraConfig,
    profiles: &Profiles,
) -> Result<Session, OpenError> {
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.contact_points)
        .prefer_datacenter(config.local_datacenter.clone())
        .default_execution_profile_handle(profiles.local.clone())
        .connection_timeout(config.connect_timeout)
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE_ANSWER)
        .compression(match config.compression {
            LedgerCompression::Lz4 => Some(Compression::Lz4),
            LedgerCompression::Snappy => Some(Compression::Snappy),
            LedgerCompression::None => None,
        })
        // Replication is what routing needs of the schema; the rest is looked at with statements of our own.
        .fetch_full_schema_metadata(false);
    if let Some(user) = &config.username {
        builder = builder.user(user, password(config)?);
    }
    if let Some(ca) = &config.tls_ca {
        builder = builder.tls_context(Some(Arc::new(tls(config, ca)?)));
    }
    builder.build().await.map_err(|why| refused(config, &why))
}

fn password(config: &CassandraConfig) -> Result<String, OpenError> {
    let Some(file) = &config.password_file else {
        return std::env::var(PASSWORD_VARIABLE).map_err(|_| OpenError::NoPassword {
            user: config.username.clone().unwrap_or_default(),
        });
    };
    let text = std::fs::read_to_string(file).map_err(|why| OpenError::File {
        key: "password_file",
        file: file.clone(),
        why: why.to_string(),
    })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn tls(config: &CassandraConfig, ca: &Path) -> Result<ClientConfig, OpenError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls_ca", ca)? {
        let added = roots.add(certificate);
        added.map_err(|why| bad_file("tls_ca", ca, &why))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| bad_file("tls_ca", ca, &why))?
        .with_root_certificates(roots);
    match (&config.tls_cert, &config.tls_key) {
        (Some(cert), Some(key)) => {
            let chain = certificates("tls_cert", cert)?;
            let private =
                PrivateKeyDer::from_pem_file(key).map_err(|why| bad_file("tls_key", key, &why))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|why| bad_file("tls_key", key, &why))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<_, _>>);
    let found: Vec<_> = read.map_err(|why| bad_file(key, file, &why))?;
    if found.is_empty() {
        return Err(bad_file(key, file, &"it holds no certificate in PEM form"));
    }
    Ok(found)
}

fn bad_file(key: &'static str, file: &Path, why: &dyn std::fmt::Display) -> OpenError {
    OpenError::File {
        key,
        file: PathBuf::from(file),
        why: why.to_string(),
    }
}

/// What a failed attempt means to whoever wrote the configuration.
fn refused(config: &CassandraConfig, why: &NewSessionError) -> OpenError {
    let points = config.contact_points.join(", ");
    if let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(
        ConnectionPoolError::Broken {
            last_connection_error: ConnectionError::ConnectionSetupRequestError(setup),
        },
    )) = why
    {
        let user = config.username.clone();
        match setup.get_error() {
            ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError, said) => {
                return OpenError::Login {
                    user: user.unwrap_or_default(),
                    said: said.clone(),
                };
            }
            ConnectionSetupRequestErrorKind::MissingAuthentication => {
                return OpenError::LoginWanted { points };
            }
            _ => {}
        }
    }
    OpenError::Unreachable {
        points,
        hint: hint(config, why),
        why: why.to_string(),
    }
}

/// Where to look first.
fn hint(config: &CassandraConfig, why: &NewSessionError) -> &'static str {
    let hangs = match why {
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(
            ConnectionPoolError::Broken {
                last_connection_error: why,
            },
        )) => hangs(why),
        _ => false,
    };
    match (hangs, &config.tls_ca, &config.tls_cert) {
        (true, ..) => {
            "nothing answers there in time: does the node hang (`nodetool status`), or does a firewall drop what is sent to it?"
        }
        (false, None, _) => "does it listen there, and does it ask for TLS (ledger.tls_ca)?",
        (false, Some(_), None) => {
            "does it speak TLS there, does ledger.tls_ca vouch for that name or address, and does it ask for a certificate of ours \
             (ledger.tls_cert, ledger.tls_key)?"
        }
        (false, Some(_), Some(_)) => {
            "does it speak TLS there, does ledger.tls_ca vouch for that name or address, and does it trust ledger.tls_cert?"
        }
    }
}

/// Whether a node took the connection, or not even that, and then said nothing.
fn hangs(why: &ConnectionError) -> bool {
    match why {
        ConnectionError::ConnectTimeout => true,
        ConnectionError::ConnectionSetupRequestError(setup) => match setup.get_error() {
            ConnectionSetupRequestErrorKind::BrokenConnection(broken) => matches!(
                broken.downcast_ref(),
                Some(BrokenConnectionErrorKind::KeepaliveTimeout(_))
            ),
            _ => false,
        },
        _ => false,
    }
}
