//! TLS: which HTTP is spoken is agreed on in the handshake.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use ramet_tests::{Answer, Node, Start, eventually};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::speaker::{Speaker, Version, runtime};
use crate::{MANIFEST, pattern, started, wait_running};

/// A node with a certificate of its own.
pub(crate) struct Secured {
    pub(crate) node: Node,
    certificate: CertificateDer<'static>,
    /// The gateway is given the files anew when it is started anew.
    _files: TempDir,
}

impl Secured {
    pub(crate) fn start(start: &Start<'_>) -> Self {
        let made = made();
        let files = tempfile::tempdir().expect("a temporary folder");
        let (certificate, key) = (files.path().join("certificate.pem"), files.path().join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).expect("the certificate can be written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("the key can be written");
        let start = start
            .clone()
            .with("RAMET_TLS__CERTIFICATE", certificate.display().to_string())
            .with("RAMET_TLS__KEY", key.display().to_string());
        Self { node: started(&start), certificate: made.cert.der().clone(), _files: files }
    }

    /// Posts on a connection of its own.
    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        runtime().block_on(async {
            let (mut speaker, _) = self.speaker(&["h2"]).await;
            speaker.ask("POST", path, &[], body.to_owned()).await
        })
    }

    /// A connection that is only a handshake, for a test that goes on byte by byte.
    pub(crate) fn handshake_by_hand(&self, alpn: &[&str]) -> StreamOwned<ClientConnection, TcpStream> {
        let mut stream = TcpStream::connect(self.node.listen).expect("the gateway accepts");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time limit");
        let config = config(&self.certificate, alpn, &[&TLS13]);
        let mut session = ClientConnection::new(Arc::new(config), name()).expect("a session");
        while session.is_handshaking() || session.wants_write() {
            session.complete_io(&mut stream).expect("a handshake");
        }
        StreamOwned::new(session, stream)
    }

    /// Speaks what has been agreed on, which is HTTP/1.1 without an agreement; and says what that was.
    async fn speaker(&self, alpn: &[&str]) -> (Speaker, Option<Vec<u8>>) {
        let stream = self.connect(config(&self.certificate, alpn, &[&TLS12, &TLS13])).await.expect("a handshake");
        let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let version = if agreed.as_deref() == Some(b"h2") { Version::Http2 } else { Version::Http1 };
        (Speaker::over(version, stream).await.expect("a connection"), agreed)
    }

    async fn connect(&self, config: ClientConfig) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
        let stream = tokio::net::TcpStream::connect(self.node.listen).await?;
        TlsConnector::from(Arc::new(config)).connect(name(), stream).await
    }
}

fn config(
    trusted: &CertificateDer<'static>,
    alpn: &[&str],
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a usable certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

fn made() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate")
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

fn secured() -> Secured {
    Secured::start(&Start::new("ring", MANIFEST))
}

#[test]
fn what_the_handshake_agrees_on_is_spoken() {
    let secured = secured();
    let body = pattern(3 << 20);
    runtime().block_on(async {
        let offers = [(&["h2"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)];
        let both = [(&["h2", "http/1.1"][..], Some("h2")), (&["spdy/3", "http/1.1"], Some("http/1.1"))];
        for (offered, expected) in offers.into_iter().chain(both) {
            let (mut speaker, agreed) = secured.speaker(offered).await;
            assert_eq!(agreed.as_deref(), expected.map(str::as_bytes), "{offered:?}");
            for _ in 0..3 {
                let answer = speaker.ask("POST", "/pair", &[], "x").await;
                assert_eq!((answer.status, answer.text().as_str()), (200, "x+a+b"), "{offered:?}");
            }
            let echo = speaker.ask("POST", "/pair", &[("x-do", "echo")], body.clone()).await;
            assert!(echo.body == body, "{offered:?}: {} bytes came back", echo.body.len());
        }
    });
    secured.node.wait_all_slots_free();
}

#[test]
fn functions_are_told_that_it_was_https() {
    let secured = secured();
    runtime().block_on(async {
        for offered in [&["h2"][..], &["http/1.1"]] {
            let (mut speaker, _) = secured.speaker(offered).await;
            let forged = [("x-do", "headers"), ("x-forwarded-proto", "gopher"), ("x-forwarded-for", "10.0.0.1")];
            let seen = speaker.ask("POST", "/one", &forged, "x").await.text();
            let forwarded: Vec<_> = seen.lines().filter(|line| line.starts_with("x-forwarded-")).collect();
            assert_eq!(forwarded, ["x-forwarded-for: 127.0.0.1", "x-forwarded-proto: https"], "{offered:?}");
        }
    });
}

#[test]
fn both_versions_of_tls_are_spoken_and_no_unknown_protocol() {
    let secured = secured();
    runtime().block_on(async {
        for version in [&TLS12, &TLS13] {
            let stream = secured.connect(config(&secured.certificate, &["h2"], &[version])).await.expect("a handshake");
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
            let mut speaker = Speaker::over(Version::Http2, stream).await.expect("a connection");
            assert_eq!(speaker.ask("POST", "/pair", &[], "x").await.text(), "x+a+b");
        }
        let refused = secured.connect(config(&secured.certificate, &["spdy/3"], &[&TLS13])).await;
        assert!(refused.is_err(), "RFC 7301 wants an alert where nothing can be agreed on");
    });
}

#[test]
fn plain_http_at_the_tls_port_is_turned_away() {
    let secured = secured();
    let gateway = secured.node.instances("gateway");
    for said in [&b"POST /pair HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\nx"[..], b"PRI * HTTP/2.0\r\n\r\n", b"\0"]
    {
        let mut stream = TcpStream::connect(secured.node.listen).expect("the gateway accepts");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
        stream.write_all(said).expect("sent");
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_ne!(error.kind(), ErrorKind::WouldBlock, "{said:?} is left hanging"),
        }
        assert!(!answer.starts_with(b"HTTP/"), "{:?}", String::from_utf8_lossy(&answer));
        assert_eq!(secured.post("/pair", "x").text(), "x+a+b", "after {said:?}");
    }
    assert_eq!(secured.node.instances("gateway"), gateway, "the gateway lives");
    secured.node.wait_all_slots_free();
}

#[test]
fn a_client_that_does_not_know_the_certificate_costs_nobody() {
    let secured = secured();
    let other = made().cert.der().clone();
    runtime().block_on(async {
        for _ in 0..10 {
            assert!(secured.connect(config(&other, &["h2"], &[&TLS13])).await.is_err());
        }
    });
    assert_eq!(secured.post("/pair", "x").text(), "x+a+b");
}

#[test]
fn a_new_gateway_has_the_certificate_too() {
    let mut secured = secured();
    let gateway = secured.node.instances("gateway");
    kill(gateway[0], Signal::SIGKILL).expect("killed");
    eventually("the next gateway", || {
        let now = secured.node.instances("gateway");
        (!now.is_empty() && now != gateway).then_some(())
    });
    secured.node.wait_ready();
    assert_eq!(secured.post("/pair", "x").text(), "x+a+b");
}

#[test]
fn accepted_requests_are_finished_before_the_node_ends() {
    let mut secured = secured();
    let runtime = runtime();
    let asked: Vec<_> = [&["h2"][..], &["http/1.1"]]
        .into_iter()
        .map(|offered| {
            let (mut speaker, _) = runtime.block_on(secured.speaker(offered));
            runtime.spawn(async move { speaker.ask("POST", "/one", &[("x-do", "pause:400")], "x").await })
        })
        .collect();
    wait_running(&secured.node, 2.0);
    assert!(secured.node.stop().success(), "{}", secured.node.log());
    for answer in asked {
        assert_eq!(runtime.block_on(answer).expect("an answer").text(), "x");
    }
}
