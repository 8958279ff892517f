//! Rules of HTTP that whoever stands between clients and programs has to keep, each with its place in the RFCs.

use ramet_tests::Node;

use crate::node;
use crate::speaker::{Speaker, runtime};

/// Sends a request that asks for what the function sees.
fn seen(node: &Node, line: &str, headers: &str) -> String {
    let mut client = node.client();
    client.send(format!("{line} HTTP/1.1\r\nx-do: headers\r\n{headers}\r\n").as_bytes()).expect("sent");
    client.answer(false).expect("an answer").text()
}

/// RFC 9113, 8.2.3: HTTP/2 may send a cookie in crumbs, as browsers do; elsewhere there is one header.
#[test]
fn a_cookie_in_crumbs_reaches_the_function_as_one() {
    let node = node();
    let crumbs = [("x-do", "headers"), ("cookie", "a=b"), ("cookie", "c=d"), ("cookie", "e=f")];
    let seen =
        runtime().block_on(async { Speaker::h2c(node.listen).await.ask("GET", "/one", &crumbs, "").await.text() });
    let cookies: Vec<_> = seen.lines().filter(|line| line.starts_with("cookie")).collect();
    assert_eq!(cookies, ["cookie: a=b; c=d; e=f"]);
}

/// RFC 9112, 3.2.
#[test]
fn a_host_that_is_none_is_refused() {
    let node = node();
    for host in ["a b", "a/b", "user@a", "a?b", "a:b:c", "a:port"] {
        let mut client = node.client();
        client.send(format!("GET /one HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).expect("sent");
        assert_eq!(client.answer(false).expect("an answer").status, 400, "{host:?}");
    }
    for host in ["a", "a.b:80", "127.0.0.1", "[::1]:80", "a-b_c~d", "xn--a"] {
        let described = seen(&node, "GET /one", &format!("host: {host}\r\n"));
        assert!(described.contains(&format!("\nhost: {host}\n")), "{described}");
    }
}

/// RFC 9112, 3.2.2.
#[test]
fn the_host_of_an_absolute_target_is_the_host() {
    let node = node();
    let described = seen(&node, "GET http://meant/one", "host: other\r\n");
    assert!(described.starts_with("GET /one\n"), "{described}");
    assert!(described.contains("\nhost: meant\n") && !described.contains("other"), "{described}");
}

/// RFC 9110, 7.6.1.
#[test]
fn what_connection_names_is_not_passed_on() {
    let node = node();
    let described = seen(&node, "GET /one", "host: h\r\nconnection: keep-alive, X-Hop\r\nx-hop: 1\r\nx-end: 1\r\n");
    assert!(described.contains("\nx-end: 1\n") && !described.contains("x-hop"), "{described}");
}

/// RFC 9110, 9.3.6: success would mean that a tunnel begins.
#[test]
fn connect_is_refused() {
    let node = node();
    let manifest = "
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: root}
spec: {steps: [{function: a}], route: [{path: /}]}
";
    let manifest = node.write_manifest("root.yaml", manifest).display().to_string();
    assert!(node.ramet(&["apply", "-f", &manifest]).status.success());
    let mut client = node.client();
    client.send(b"CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\n\r\n").expect("sent");
    let answer = client.answer(false).expect("an answer");
    assert!((400..=501).contains(&answer.status), "{}", answer.status);
}

/// RFC 9110, 15.3.6.
#[test]
fn reset_content_has_no_content() {
    let node = node();
    for method in ["GET", "OPTIONS"] {
        let mut client = node.client();
        let answer = client.request(method, "/one", &[("x-do", "status:205")], b"").expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (205, ""), "{method}");
    }
}
