//! What people see: objects, logs, metrics, errors.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use ramet_control::admin::{LogLine, Object};

use crate::harness::{DEADLINE, Running, chain, eventually, function};

pub(super) const CASES: &[(&str, fn())] = &[
    ("objects_are_shown_as_they_are", objects_are_shown_as_they_are),
    ("output_is_kept_and_followed", output_is_kept_and_followed),
    ("metrics_count_instances", metrics_count_instances),
    ("the_admin_socket_is_private", the_admin_socket_is_private),
    ("wrong_requests_are_told_so", wrong_requests_are_told_so),
];

fn manifests() -> String {
    function("solo", "good", "replicas: 2")
        + &chain("solo", &["solo"], "route: [{path: /a, methods: [GET]}, {host: '*.b.c'}]")
}

fn objects_are_shown_as_they_are() {
    let node = Running::ready("ring", &manifests());
    let all: Vec<Object> = node.get("/v1/objects");
    assert_eq!(all.iter().map(|object| object.kind.as_str()).collect::<Vec<_>>(), ["Function", "Chain"]);
    let function = node.object("Function", "solo");
    assert_eq!(function.manifest["spec"]["concurrency"], 1, "defaults are filled in");
    assert!(function.status.ready);
    let chain = node.object("Chain", "solo");
    assert_eq!(chain.status.routes, ["GET */a", "ANY *.b.c/"]);
    assert!(chain.status.ready, "{chain:?}");
    let described = node.node();
    assert_eq!(described.pid, node.supervisor.id());
    assert!(described.transport_reason.contains("ask"), "{}", described.transport_reason);
}

fn output_is_kept_and_followed() {
    let node = Running::ready("ring", &manifests());
    let lines = eventually("both have spoken", || {
        let (_, body) = node.request("GET", "/v1/logs?function=solo", "")?;
        let lines: Vec<LogLine> = body.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (lines.iter().filter(|line| line.line == "I am good").count() == 2).then_some(lines)
    });
    assert!(lines.is_sorted_by_key(|line| line.time_us));
    assert!(lines.iter().all(|line| line.stream == "stdout" && line.namespace == "default"));
    let mut stream = UnixStream::connect(node.socket()).expect("connected");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    write!(stream, "GET /v1/logs?function=late&follow=true HTTP/1.1\r\nhost: x\r\n\r\n").expect("asked");
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("an answer");
    assert!(line.contains("200"), "{line}");
    node.apply(&function("late", "good", "")).expect("applied");
    loop {
        line.clear();
        reader.read_line(&mut line).expect("a line in time");
        if line.starts_with('{') {
            let line: LogLine = serde_json::from_str(&line).expect("JSON");
            assert_eq!((line.function.as_str(), line.line.as_str()), ("late", "I am good"));
            break;
        }
    }
}

fn metrics_count_instances() {
    let node = Running::ready("ring", &manifests());
    let metrics = node.ask_gateway("metrics");
    assert!(
        metrics.contains("ramet_instances{namespace=\"default\",function=\"solo\",state=\"ready\"} 2"),
        "{metrics}"
    );
    assert!(metrics.contains("ramet_node_info{"), "{metrics}");
}

fn the_admin_socket_is_private() {
    let node = Running::ready("ring", &manifests());
    let mode = std::fs::metadata(node.socket()).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

fn wrong_requests_are_told_so() {
    let node = Running::ready("ring", &manifests());
    let status = |method, path| node.request(method, path, "").expect("an answer").0;
    assert_eq!(status("GET", "/nowhere"), 404);
    assert_eq!(status("PUT", "/v1/node"), 405);
    assert_eq!(status("GET", "/v1/objects?kind=Potato"), 400);
    assert_eq!(status("GET", "/v1/objects?colour=red"), 400);
    assert_eq!(status("DELETE", "/v1/objects?kind=Chain"), 400);
}
