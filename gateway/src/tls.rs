//! TLS with ALPN, from a certificate that the supervisor has read.

use std::sync::Arc;

use ramet_control::gateway::Tls;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// What is wrong with a certificate or key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("the certificate file is no PEM certificate chain: {0}")]
    Certificate(rustls::pki_types::pem::Error),
    #[error("the key file is no PEM private key: {0}")]
    Key(rustls::pki_types::pem::Error),
    #[error("certificate and key do not go together: {0}")]
    Pair(#[from] rustls::Error),
}

pub(crate) fn acceptor(tls: &Tls) -> Result<TlsAcceptor, TlsError> {
    let chain = CertificateDer::pem_slice_iter(&tls.certificate_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(TlsError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&tls.key_pem).map_err(TlsError::Key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
