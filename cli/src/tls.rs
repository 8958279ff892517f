//! TLS to a node that speaks it, and whether a node could.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use ramet_manifest::{NodeSettings, TlsSettings};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::exit::Failure;

/// Speaks TLS to whoever holds the key of the first certificate in `pem`.
pub(crate) async fn connect<S>(stream: S, address: IpAddr, pem: &str) -> Result<TlsStream<S>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).context("the node's certificate is no PEM")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let only = Arc::new(Only { certificate, provider: Arc::clone(&provider) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?
        .dangerous()
        .with_custom_certificate_verifier(only)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connected = TlsConnector::from(Arc::new(config)).connect(ServerName::from(address), stream).await;
    Ok(connected.context("the gateway cannot be spoken to over TLS")?)
}

/// Trusts one certificate, for every name and at any time: the node has shown it on its admin socket, which says more
/// about it than an issuer could.
#[derive(Debug)]
struct Only {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::General("its certificate is not the node's; does something else listen there?".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a node can speak TLS as its settings say.
pub(crate) fn check(settings: &NodeSettings) -> Result<(), Failure> {
    let Some(TlsSettings { certificate, key }) = &settings.tls else { return Ok(()) };
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.and_then(|chain| if chain.is_empty() { Err(PemError::NoItemsFound) } else { Ok(chain) });
    let chain = chain.map_err(|error| unusable(certificate, "tls.certificate", "certificate", error));
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, "tls.key", "private key", error));
    let (chain, private) = match (chain, private) {
        (Ok(chain), Ok(private)) => (chain, private),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(Failure::Invalid(error)),
        (Err(one), Err(other)) => return Err(Failure::Invalid(format!("{one}\n{other}"))),
    };
    let together = CertifiedKey::from_der(chain, private, &rustls::crypto::ring::default_provider());
    together.map(drop).map_err(|error| {
        let (certificate, key) = (certificate.display(), key.display());
        Failure::Invalid(format!("the certificate {certificate} and the key {key} do not go together: {error}"))
    })
}

fn unusable(file: &Path, setting: &str, what: &str, error: PemError) -> String {
    let file = file.display();
    match error {
        PemError::Io(error) => format!("cannot read {file}, which `{setting}` in the settings names: {error}"),
        error => format!("{file}, which `{setting}` in the settings names, is no PEM {what}: {error}"),
    }
}
