//! The same bytes, whether they go past TCP or not.

use ramet_tests::{Client, Node, Start};

use super::support::{chain, javascript, python};

fn manifest() -> String {
    [
        python("web", &[], "http: {}, concurrency: 8"),
        javascript("js", "http: {port: 3000}, concurrency: 8"),
        chain("web", "steps: [{function: web}], deadline: 20s"),
        chain("js", "steps: [{function: js}], deadline: 20s"),
        chain("both", "route: [{path: /both/upper}], steps: [{function: web}, {function: js}], deadline: 20s"),
    ]
    .concat()
}

/// A node, and whether its connections to functions go past TCP, by its own word.
fn node(shortcut: &str) -> (Node, String) {
    let manifest = manifest();
    let node =
        Node::start(&Start::new("ring", &manifest).with("RAMET_SHORTCUT", shortcut)).expect("ring runs everywhere");
    let output = node.ramet(&["get", "node", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let (is, why) = (status["shortcut"].as_str().expect("a word"), &status["shortcut_reason"]);
    (node, format!("{is}: {why}"))
}

/// Bytes that look random, the same each time.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64 ^ bytes as u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Text, because some of the servers think so.
        b'a' + (state % 26) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// Everything that came back for many kinds of requests.
fn exchanges(node: &Node) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut client = node.client();
    let mut ask = |client: &mut Client, method: &str, target: &str, body: &[u8]| {
        let answer = client.request(method, target, &[], body).expect("an answer");
        let kept = ["content-length", "transfer-encoding", "content-type", "x-set", "x-powered-by"];
        let headers = answer.headers.iter().filter(|(name, _)| kept.contains(&name.as_str()));
        let head = format!(
            "{method} {target} {}: {} {headers:?}",
            body.len(),
            answer.status,
            headers = headers.collect::<Vec<_>>()
        );
        all.push((head, answer.body));
    };
    for bytes in [0, 1, 13, 1000, 4095, 4097, 16_384, 65_537, 300_000, 1_048_577, 6_000_000] {
        let body = noise(bytes);
        ask(&mut client, "POST", "/web/upper", &body);
        ask(&mut client, "POST", "/web/echo", &body);
        ask(&mut client, "GET", &format!("/web/big?{bytes}"), b"");
        ask(&mut client, "HEAD", &format!("/web/big?{bytes}"), b"");
        ask(&mut client, "POST", "/js", &body);
        ask(&mut client, "POST", "/both/upper", &body);
        ask(&mut client, "GET", "/js/stream", b"");
        ask(&mut client, "GET", "/web/close", b"");
    }
    all.push(("chunked".to_owned(), chunked(node)));
    all.push(("tunnel".to_owned(), tunnel(node)));
    all
}

/// A body in chunks of many sizes, and what came back of it.
fn chunked(node: &Node) -> Vec<u8> {
    let mut client = node.client();
    client.send(b"POST /web/upper HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n").expect("sent");
    for bytes in [1, 7, 4096, 100_000, 3, 65_536] {
        client.send(&[format!("{bytes:x}\r\n").as_bytes(), &noise(bytes), b"\r\n"].concat()).expect("sent");
    }
    client.send(b"0\r\n\r\n").expect("sent");
    client.answer(false).expect("an answer").body
}

/// What comes back through an upgraded connection of which the client closes its half in the end.
fn tunnel(node: &Node) -> Vec<u8> {
    let mut client = node.client();
    let head = b"GET /web/upgrade HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    client.send(head).expect("sent");
    client.until(b"hello").expect("a greeting");
    let mut all = Vec::new();
    for bytes in [1, 1000, 70_000, 2] {
        client.send(&[noise(bytes), b"!".to_vec()].concat()).expect("sent");
        all.extend(client.until(b"!").expect("echoed"));
    }
    client.end().expect("half closed");
    all.extend(client.rest().expect("the rest"));
    all
}

#[test]
fn bytes_are_the_same_past_tcp_and_the_kernel_says_which_way_they_went() {
    let (with, word) = node("auto");
    if !word.starts_with("on") {
        assert!(std::env::var_os("CI").is_none(), "CI must have the short-cut: {word}");
        return ramet_tests::node::skipped(&word);
    }
    let (without, word) = node("off");
    assert!(word.starts_with("off") && word.contains("settings"), "{word}");
    let (short, plain) = (exchanges(&with), exchanges(&without));
    assert_eq!(short.len(), plain.len());
    for ((what, body), (plain_what, plain_body)) in short.iter().zip(&plain) {
        assert_eq!(what, plain_what);
        assert!(body == plain_body, "{what}: {} bytes, and {} by TCP", body.len(), plain_body.len());
    }
    for function in ["web", "js"] {
        let sends =
            |way| with.metric("ramet_shortcut_sends_total", &format!("function=\"default/{function}\",way=\"{way}\""));
        assert!(sends("short") > 100.0, "{function}: {} past TCP, {} by TCP", sends("short"), sends("tcp"));
    }
    assert!(
        with.metric("ramet_shortcut_bytes_total", "function=\"default/web\",way=\"tcp\"") > 0.0,
        "what is too much for the short-cut goes by TCP"
    );
    assert!(without.metric("ramet_shortcut_sends_total", "") == 0.0);
}

#[test]
fn a_short_cut_that_cannot_be_had_is_refused_where_it_was_asked_for() {
    let arguments =
        ["up", "--transport", "socket", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--socket", "r.sock"];
    // Settings come from the environment, which survives the change of user.
    let Some(output) = ramet_tests::node::ramet_without_privilege_and(&arguments, &[("RAMET_SHORTCUT", "on")]) else {
        return;
    };
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && errors.contains("shortcut = \"on\" does not work here"), "{errors}");
}
