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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rcgen::CertifiedKey as Made;
    use rustls::ServerConfig;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    fn made() -> Made<rcgen::KeyPair> {
        rcgen::generate_simple_self_signed(["somewhere.test".to_owned()]).expect("a certificate")
    }

    /// What a client hears of a server that has `made`, if it trusts `pem`.
    async fn heard(made: &Made<rcgen::KeyPair>, pem: &str) -> Result<String, Failure> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).expect("a key");
        let builder = builder.expect("versions").with_no_client_auth();
        let config = builder.with_single_cert(vec![made.cert.der().clone()], key).expect("a pair");
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            if let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(far).await {
                stream.write_all(b"hello").await.expect("written");
                stream.shutdown().await.expect("closed");
            }
        });
        let mut stream = connect(near, Ipv4Addr::LOCALHOST.into(), pem).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn one_certificate_is_trusted_and_no_other() {
        let (ours, other) = (made(), made());
        assert_eq!(heard(&ours, &ours.cert.pem()).await.expect("trusted"), "hello");
        let chain = ours.cert.pem() + &other.cert.pem();
        assert_eq!(heard(&ours, &chain).await.expect("the first of a chain"), "hello");
        for pem in [other.cert.pem(), other.cert.pem() + &ours.cert.pem()] {
            let error = heard(&ours, &pem).await.expect_err("another one's");
            assert!(error.to_string().contains("its certificate is not the node's"), "{error}");
        }
    }
}
