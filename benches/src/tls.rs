//! The certificate that the TLS servers show, and the two ends' configurations.
//!
//! Client and server agree on TLS 1.3 and `TLS_AES_128_GCM_SHA256`, whatever the server would like
//! best: the load generator offers nothing else.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version::TLS13};

/// `tls/` beside the folder that the programs are in.
fn folder() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.parent().and_then(|folder| folder.parent());
    Ok(target.ok_or(ErrorKind::NotFound)?.join("tls"))
}

/// Makes a key and a certificate for `localhost` that is signed with it.
///
/// # Errors
///
/// Whatever the system says.
pub fn make_certificate() -> io::Result<()> {
    let folder = folder()?;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let made = made.map_err(io::Error::other)?;
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("key.pem"), made.signing_key.serialize_pem())?;
    fs::write(folder.join("cert.pem"), made.cert.pem())
}

fn certificate() -> io::Result<CertificateDer<'static>> {
    CertificateDer::from_pem_file(folder()?.join("cert.pem")).map_err(io::Error::other)
}

fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    Arc::new(CryptoProvider { cipher_suites, ..ring::default_provider() })
}

/// The load generator's: it trusts that certificate only.
///
/// # Errors
///
/// There is no certificate yet.
pub fn client() -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate()?).map_err(io::Error::other)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A Rust server's.
///
/// # Errors
///
/// There is no certificate yet.
pub fn server() -> io::Result<Arc<ServerConfig>> {
    let key = PrivateKeyDer::from_pem_file(folder()?.join("key.pem")).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate()?], key)
        .map_err(io::Error::other)?;
    Ok(Arc::new(config))
}
