//! How servers start, fall ill, die and are replaced.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ramet_tests::{Client, Node, Start, eventually};

use super::support::{chain, node, python, web};

fn pid_line(node: &Node) -> String {
    node.request("GET", "/web/pid", &[], b"").text()
}

#[test]
fn a_request_that_a_server_dies_of_is_answered_and_the_server_replaced() {
    let Some(node) = node("ring", &web("http: {}, concurrency: 4, restart: {maxBackoff: 200ms}")) else { return };
    for deaths in 1..4 {
        let dead = node.request("GET", "/web/die", &[], b"");
        assert_eq!(dead.status, 502, "{}", dead.text());
        let after = node.post("/web/upper", b"x");
        assert_eq!((after.status, after.text().as_str()), (200, "X"), "the next one waits for the next instance");
        let restarts = node.metric("ramet_instance_restarts_total", "function=\"web\"");
        assert!((restarts - f64::from(deaths)).abs() < 0.5, "{restarts} died of {deaths} deadly requests");
    }
    node.wait_all_slots_free();
}

#[test]
fn a_server_that_starts_slowly_gets_no_request_before_it_is_ready() {
    let manifest = format!(
        "{}{}",
        python("web", &["sleep=1", "warmup=2"], "http: {readiness: {path: /healthz, period: 50ms}}"),
        chain("web", "steps: [{function: web}]")
    );
    let mut start = Start::new("ring", &manifest);
    start.wait = false;
    let Some(mut node) = Node::start(&start) else { return };
    eventually("the node to say what it waits for", || {
        let output = node.ramet(&["get", "functions", "-o", "json"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text.contains("503") || text.contains("refused")).then_some(())
    });
    node.wait_ready();
    assert_eq!(node.post("/web/upper", b"x").text(), "X");
}

#[test]
fn a_server_that_never_gets_ready_is_a_failed_start() {
    let Some(node) = node("ring", &web("http: {}, concurrency: 4")) else { return };
    let never = format!(
        "{}{}",
        python("web", &["sleep=60"], "http: {startTimeout: 1s}"),
        chain("web", "steps: [{function: web}], deadline: 10s")
    );
    let file = node.write_manifest("never.yaml", &never).display().to_string();
    let output = node.ramet(&["apply", "-f", &file]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("it was not ready within 1s"), "{errors}");
    assert_eq!(node.post("/web/upper", b"x").text(), "X", "the old one still serves");
}

#[test]
fn a_server_that_is_alive_no_more_is_replaced() {
    let spec = "http: {liveness: {path: /healthz, period: 50ms, failureThreshold: 2}}, concurrency: 4";
    let Some(node) = node("ring", &web(spec)) else { return };
    let before = node.request("GET", "/web/started", &[], b"").text();
    assert_eq!(node.request("GET", "/web/sicken", &[], b"").text(), "ill");
    eventually("another instance to serve", || {
        // One that is just being killed may break off within its answer.
        let now = node.client().request("GET", "/web/started", &[], b"").ok()?;
        (now.status == 200 && now.text() != before).then_some(())
    });
    assert!(node.log().contains("its liveness probe failed 2 times in a row"), "{}", node.log());
}

#[test]
fn a_server_that_is_not_ready_any_more_gets_no_requests_and_is_kept() {
    let manifest = format!(
        "{}{}",
        python(
            "web",
            &[],
            "replicas: 2, http: {readiness: {path: /healthz, period: 50ms, failureThreshold: 1}}, concurrency: 4"
        ),
        chain("web", "steps: [{function: web}], deadline: 10s")
    );
    let Some(node) = node("ring", &manifest) else { return };
    let ready = || {
        let output = node.ramet(&["get", "functions", "-o", "json"]);
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")[0]["status"]["ready_instances"]
            .clone()
    };
    eventually("both to be ready", || (ready() == 2).then_some(()));
    assert_eq!(node.request("GET", "/web/sicken", &[], b"").text(), "ill");
    eventually("one to be left", || (ready() == 1).then_some(()));
    let left = node.request("GET", "/web/started", &[], b"").text();
    for _ in 0..10 {
        assert_eq!(node.request("GET", "/web/started", &[], b"").text(), left);
    }
    assert_eq!(node.instances("python3").len(), 2, "nobody was replaced");
}

#[test]
fn one_that_keeps_a_request_for_too_long_is_replaced() {
    let manifest = format!(
        "{}{}",
        python("web", &[], "http: {}, concurrency: 4, hangGrace: 200ms"),
        chain("web", "steps: [{function: web}], deadline: 500ms")
    );
    let Some(node) = node("ring", &manifest) else { return };
    let before = node.request("GET", "/web/started", &[], b"").text();
    assert_eq!(node.request("GET", "/web/sleep?0.6", &[], b"").status, 504);
    assert_eq!(node.request("GET", "/web/started", &[], b"").text(), before, "it answered within its grace");
    assert_eq!(node.request("GET", "/web/sleep?20", &[], b"").status, 504);
    eventually("another instance to serve", || {
        // One that is just being killed may break off within its answer.
        let now = node.client().request("GET", "/web/started", &[], b"").ok()?;
        (now.status == 200 && now.text() != before).then_some(())
    });
    assert!(node.log().contains("hangGrace"), "{}", node.log());
}

#[test]
fn versions_change_while_requests_run() {
    let version = |tag: &str, replicas: u32| {
        format!(
            "{}{}",
            python("web", &[&format!("name={tag}")], &format!("http: {{}}, concurrency: 2, replicas: {replicas}")),
            chain("web", "steps: [{function: web}], deadline: 20s")
        )
    };
    let Some(node) = node("ring", &version("v0", 1)) else { return };
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = Client::connect(node.listen).expect("connected");
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.request("POST", "/web/upper", &[], b"x").expect("an answer");
                    assert_eq!((answer.status, answer.text().as_str()), (200, "X"));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for number in 1..4 {
            let before = answered.load(Ordering::Relaxed);
            eventually("requests to run", || (answered.load(Ordering::Relaxed) > before + 30).then_some(()));
            let text = version(&format!("v{number}"), 1 + number % 2);
            let file = node.write_manifest("next.yaml", &text).display().to_string();
            let output = node.ramet(&["apply", "-f", &file]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(pid_line(&node).contains(&format!(" v{number} ")), "new requests run on the new version");
        }
        stop.store(true, Ordering::Relaxed);
    });
    eventually("old instances to be gone", || (node.instances("python3").len() <= 2).then_some(()));
}

#[test]
fn there_are_as_many_as_the_load_asks_for() {
    let manifest = format!(
        "{}{}",
        python("web", &[], "http: {}, replicas: {min: 1, max: 3, idle: 300ms}, concurrency: 1, queue: 8"),
        chain("web", "steps: [{function: web}], deadline: 20s")
    );
    let Some(node) = node("ring", &manifest) else { return };
    let wanted = || node.metric("ramet_instances_wanted", "function=\"web\"");
    let mut clients: Vec<_> = (0..4).map(|_| node.client()).collect();
    for client in &mut clients {
        client.send(b"GET /web/sleep?3 HTTP/1.1\r\nhost: h\r\n\r\n").expect("sent");
    }
    eventually("more to be wanted", || (wanted() > 2.5).then_some(()));
    for client in &mut clients {
        assert_eq!(client.answer(false).expect("an answer").status, 200);
    }
    eventually("one to be enough", || (wanted() < 1.5).then_some(()));
    assert_eq!(node.post("/web/upper", b"x").text(), "X");
}
