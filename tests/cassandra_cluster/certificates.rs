//! A certificate authority of one test: what a node with TLS shows, what its clients trust, and what they show themselves.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Files in PEM form.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// What clients trust (`tls_ca`).
    pub ca: PathBuf,
    /// A client's certificate (`tls_cert`).
    pub client_cert: PathBuf,
    /// And its key (`tls_key`).
    pub client_key: PathBuf,
    /// The node's key and certificate in one file.
    pub(super) node: PathBuf,
}

impl Certificates {
    /// Makes them in `folder`, for a node with this address.
    pub(super) fn make(folder: &Path, address: Ipv4Addr) -> Result<Certificates, String> {
        let said = |why: rcgen::Error| why.to_string();
        let key = KeyPair::generate().map_err(said)?;
        let mut authority = named("test authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = authority.self_signed(&key).map_err(said)?;
        let issuer = Issuer::new(authority, key);

        let mut node = named("node");
        node.subject_alt_names = vec![SanType::IpAddress(address.into())];
        let node_key = KeyPair::generate().map_err(said)?;
        let node = node.signed_by(&node_key, &issuer).map_err(said)?;

        let client_key = KeyPair::generate().map_err(said)?;
        let client = named("client")
            .signed_by(&client_key, &issuer)
            .map_err(said)?;

        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|why| format!("{}: {why}", path.display()))?;
            Ok::<_, String>(path)
        };
        Ok(Certificates {
            ca: write("ca.pem", ca.pem())?,
            client_cert: write("client.pem", client.pem())?,
            client_key: write("client.key", client_key.serialize_pem())?,
            node: write("node.pem", node_key.serialize_pem() + &node.pem())?,
        })
    }

    /// The certificate of an authority that has vouched for nobody here, as a file in `folder`.
    pub fn of_strangers(folder: &Path) -> PathBuf {
        let made = Certificates::make(folder, Ipv4Addr::LOCALHOST);
        made.unwrap_or_else(|why| panic!("{why}")).ca
    }

    /// How a session connects with these.
    pub fn client(&self) -> Arc<rustls::ClientConfig> {
        let ours = "the harness wrote this file";
        let mut roots = rustls::RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(&self.ca).expect(ours);
        roots.add(authority).expect(ours);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(&self.client_cert).expect(ours)],
                PrivateKeyDer::from_pem_file(&self.client_key).expect(ours),
            );
        Arc::new(config.expect(ours))
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
