//! What is not HTTP any more passes through.

use super::support::{chain, javascript, node, web};

#[test]
fn an_upgraded_connection_is_the_clients_and_the_functions_alone() {
    let Some(node) = node("ring", &web("http: {}, concurrency: 2")) else { return };
    let mut client = node.client();
    client.send(b"GET /web/upgrade HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n").expect("sent");
    let head = client.until(b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: echo"), "{head}");
    client.until(b"hello").expect("what it said at once");
    for bytes in [1, 100, 70_000] {
        let sent: Vec<u8> = (0..bytes).map(|at| b'a' + (at % 20) as u8).chain([b'!']).collect();
        client.send(&sent).expect("sent");
        assert!(client.until(b"!").expect("echoed") == sent, "{bytes} bytes");
    }
    assert!(node.metric("ramet_in_flight", "chain=\"default/web\"") > 0.0, "it counts as long as it lasts");
    client.end().expect("half closed");
    assert_eq!(client.rest().expect("the rest"), b"bye", "the other half is open until the function closes it");
    ramet_tests::eventually("the tunnel's place to be free", || {
        (node.metric("ramet_in_flight", "chain=\"default/web\"") == 0.0).then_some(())
    });
    let declined = node.request("GET", "/web/upgrade", &[("connection", "upgrade"), ("upgrade", "other")], b"");
    assert_eq!(declined.status, 426);
    assert_eq!(node.post("/web/upper", b"x").text(), "X");
}

#[test]
fn a_websocket_speaks_with_node() {
    let manifest =
        format!("{}{}", javascript("web", "http: {}, concurrency: 4"), chain("web", "steps: [{function: web}]"));
    let Some(node) = node("ring", &manifest) else { return };
    let mut client = node.client();
    client
        .send(
            b"GET /web HTTP/1.1\r\nhost: h\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
              sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .expect("sent");
    let head = client.until(b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&head).into_owned();
    // The example of RFC 6455, 1.3.
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    for text in ["a", "hello", "the last one"] {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![0x81, 0x80 | text.len() as u8];
        frame.extend(mask);
        frame.extend(text.bytes().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
        client.send(&frame).expect("sent");
        let mut expected = vec![0x81, text.len() as u8];
        expected.extend(text.bytes());
        assert_eq!(client.until(text.as_bytes()).expect("a frame"), expected);
    }
}
