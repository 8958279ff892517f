//! Requests and answers as they come, and answers as they should not.

use ramet_tests::eventually;

use super::support::{chain, javascript, node, python, web};

#[test]
fn a_server_in_python_gets_what_the_client_sent_and_the_client_what_it_answered() {
    let Some(node) = node("ring", &web("http: {}, concurrency: 8")) else { return };
    let answer = node.request("GET", "/web/a?b=c", &[("x-mine", "1"), ("connection", "x-hop"), ("x-hop", "2")], b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-set"), Some("by the function"));
    let text = answer.text();
    assert!(text.starts_with("GET /web/a?b=c\n"), "{text}");
    for line in ["host: test\n", "x-mine: 1\n", "x-forwarded-for: 127.0.0.1\n", "x-forwarded-proto: http\n"] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    assert!(!text.contains("x-hop"), "{text}");
    let mut client = node.client();
    for method in ["POST", "PUT", "DELETE"] {
        let answer = client.request(method, "/web/upper", &[], b"a body").expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "A BODY"), "{method}");
    }
    let head = client.request("HEAD", "/web/big?5000", &[], b"").expect("an answer");
    assert_eq!((head.status, head.header("content-length")), (200, Some("5000")));
    for status in [204, 304, 404, 500, 599] {
        let answer = client.request("GET", &format!("/web/status?{status}"), &[], b"").expect("an answer");
        assert_eq!(answer.status, status);
    }
    let closed = client.request("GET", "/web/close", &[], b"").expect("an answer");
    assert_eq!(closed.text(), "the last one", "the function's connection ends, the client's does not");
    for bytes in [0, 1, 4096, 65_536, 3_000_000] {
        let answer = client.request("GET", &format!("/web/big?{bytes}"), &[], b"").expect("an answer");
        assert_eq!((answer.status, answer.body.len()), (200, bytes));
        let body: Vec<u8> = (0..bytes).map(|at| b'a' + (at % 26) as u8).collect();
        let answer = client.request("POST", "/web/upper", &[], &body).expect("an answer");
        assert!(answer.body == body.to_ascii_uppercase(), "{bytes} bytes");
    }
    assert!(node.metric("ramet_answers_total", "chain=\"default/web\",code=\"200\"") >= 15.0);
    node.wait_all_slots_free();
}

#[test]
fn a_server_in_javascript_serves_too() {
    let manifest = format!(
        "{}{}",
        javascript("web", "http: {port: 3000}, concurrency: 4"),
        chain("web", "steps: [{function: web}], deadline: 10s")
    );
    let Some(node) = node("ring", &manifest) else { return };
    let mut client = node.client();
    let answer = client.request("POST", "/web", &[], b"live").expect("an answer");
    assert_eq!((answer.text().as_str(), answer.header("x-powered-by")), ("evil", Some("node")));
    let expected: String = (0..10_000).map(|line| format!("line {line}\n")).collect();
    for _ in 0..3 {
        assert!(client.request("GET", "/web/stream", &[], b"").expect("an answer").text() == expected);
    }
}

#[test]
fn answers_that_are_none_are_502_and_hurt_nobody() {
    let Some(node) = node("ring", &web("http: {}, concurrency: 4")) else { return };
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    for bad in [
        "NONSENSE\r\n\r\n",
        "HTTP/1.1 200\r\nbad header\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/9.9 200 OK\r\n\r\n",
        "HTTP/1.1 99 TOO LOW\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        let answer = node.request("GET", &format!("/web/raw?{}", hex(bad)), &[], b"");
        assert_eq!(answer.status, 502, "{bad:?}: {}", answer.text());
    }
    assert_eq!(node.request("GET", "/web/heads", &[], b"").status, 502, "a head without an end");
    let vanished = node.request("GET", "/web/vanish", &[], b"");
    assert_eq!(vanished.status, 502, "no answer at all");
    assert!(vanished.text().contains("a function closed the connection before it had answered"), "{}", vanished.text());
    for broken in ["content-length: 100\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n5\r\nab"] {
        let mut client = node.client();
        let target = format!("/web/raw?{}", hex(&format!("HTTP/1.1 200 OK\r\n{broken}")));
        let answer = client.request("GET", &target, &[], b"");
        assert!(answer.is_err(), "what breaks off is not taken for the whole: {answer:?}");
    }
    let early = node.request(
        "GET",
        &format!("/web/raw?{}", hex("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more")),
        &[],
        b"",
    );
    assert_eq!(early.text(), "ok");
    for _ in 0..20 {
        assert_eq!(node.post("/web/upper", b"x").text(), "X", "what it said too much is nobody's answer");
    }
    eventually("the instance to be free", || {
        (node.metric("ramet_in_flight", "chain=\"default/web\"") == 0.0).then_some(())
    });
}

#[test]
fn limits_are_the_chains_and_the_functions() {
    let manifest = format!(
        "{}{}{}",
        python("web", &[], "http: {}, concurrency: 1, queue: 1"),
        chain("web", "steps: [{function: web}], deadline: 10s, maxBody: 100Ki"),
        chain("hasty", "steps: [{function: web}], deadline: 300ms"),
    );
    let Some(node) = node("ring", &manifest) else { return };
    assert_eq!(node.post("/web/upper", &vec![b'a'; 100 << 10]).status, 200);
    assert_eq!(node.post("/web/upper", &vec![b'a'; (100 << 10) + 1]).status, 413);
    let mut client = node.client();
    client.send(b"POST /web/upper HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n").expect("sent");
    let chunk = [&b"10000\r\n"[..], &[b'a'; 0x10000], b"\r\n"].concat();
    client.send(&[chunk.clone(), chunk].concat()).expect("sent");
    assert_eq!(client.answer(false).expect("an answer").status, 413, "too long, as it turns out");
    assert_eq!(node.request("GET", "/hasty/sleep?1", &[], b"").status, 504);
    assert_eq!(node.post("/web/upper", b"x").status, 200, "the late one is over");
    // One is served and one waits; there is no room for a third as long as that may wait for it.
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let ask = || scope.spawn(|| node.request("GET", "/web/sleep?2.5", &[], b"").status);
        let asked: Vec<_> = (0..4).map(|_| ask()).collect();
        asked.into_iter().map(|asked| asked.join().expect("a client")).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 2, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 2, "{statuses:?}");
}

#[test]
fn an_instance_is_alone_in_its_network() {
    let manifest = format!(
        "{}{}{}{}",
        python("web", &[], "http: {}, concurrency: 4"),
        python("other", &[], "http: {port: 9090}, concurrency: 4"),
        chain("web", "steps: [{function: web}]"),
        chain("other", "steps: [{function: other}]")
    );
    let Some(node) = node("ring", &manifest) else { return };
    let reach = |target: &str| node.request("GET", target, &[], b"").text();
    assert_eq!(reach("/web/reach?127.0.0.1:8080"), "reached", "itself");
    assert!(reach("/web/reach?127.0.0.1:9090").contains("refused"), "another function");
    assert!(reach(&format!("/web/reach?{}", node.listen)).contains("refused"), "the node");
    assert!(reach("/web/reach?192.0.2.1:80").contains("unreachable"), "the world");
}
