//! A server can be any step of a chain.

use ramet_tests::TRANSPORTS;

use super::support::{actor, chain, node, python};

#[test]
fn it_is_the_first_the_middle_or_the_last_step() {
    let manifest = [
        python("web", &[], "http: {}, concurrency: 4"),
        actor("a"),
        actor("b"),
        chain("upper", "route: [{path: /first/upper}], steps: [{function: web}, {function: a}]"),
        chain("middle", "route: [{path: /middle/upper}], steps: [{function: a}, {function: web}, {function: b}]"),
        chain("last", "route: [{path: /last/upper}], steps: [{function: a}, {function: web}]"),
        chain(
            "twice",
            "route: [{path: /twice/upper}], steps: [{function: web}, {name: again, function: web}, {function: a}]",
        ),
        chain("error", "route: [{path: /error/status}], steps: [{function: web}, {function: a}]"),
    ]
    .concat();
    for transport in TRANSPORTS {
        let Some(node) = node(transport, &manifest) else { continue };
        assert_eq!(node.post("/first/upper", b"x").text(), "X+a", "{transport}");
        assert_eq!(node.post("/middle/upper", b"x").text(), "X+A+b", "{transport}");
        assert_eq!(node.post("/last/upper", b"x").text(), "X+A", "{transport}");
        assert_eq!(node.post("/twice/upper", b"x").text(), "X+a", "{transport}");
        let big = vec![b'x'; 1_500_000];
        let answer = node.post("/middle/upper", &big);
        assert_eq!((answer.status, answer.body.len()), (200, big.len() + 4), "{transport}");
        let early = node.post("/error/status?418", b"x");
        assert_eq!((early.status, early.text().as_str()), (418, "as told"), "an error replies at once");
        node.wait_all_slots_free();
    }
}

#[test]
fn its_answers_headers_lead_the_way() {
    let by_header = "{function: web, next: {byHeader: x-kind, cases: {big: b}, otherwise: a}}";
    let choice = "{function: web, next: {choices: [b, reply], otherwise: a}}";
    let rest = "{name: a, function: a, next: reply}, {name: b, function: b}";
    let manifest = [
        python("web", &[], "http: {}, concurrency: 4"),
        actor("a"),
        actor("b"),
        chain("by-header", &format!("route: [{{path: /by/upper}}], steps: [{by_header}, {rest}]")),
        chain("choice", &format!("route: [{{path: /choice/next}}], steps: [{choice}, {rest}]")),
    ]
    .concat();
    let Some(node) = node("ring", &manifest) else { return };
    assert_eq!(node.post("/by/upper?big", b"x").text(), "X+b");
    assert_eq!(node.post("/by/upper?small", b"x").text(), "X+a");
    assert_eq!(node.post("/choice/next?b", b"x").text(), "x+b");
    let replied = node.post("/choice/next?reply", b"x");
    assert_eq!((replied.text().as_str(), replied.header("ramet-next")), ("x", None));
    assert_eq!(node.post("/choice/next?nowhere", b"x").status, 502);
}

#[test]
fn it_is_supervised_like_any_other() {
    let manifest = [
        python("web", &[], "http: {}, concurrency: 4"),
        actor("a"),
        actor("join"),
        chain("patient", "route: [{path: /patient}], steps: [{function: web, timeout: 300ms, retries: 1}]"),
        chain(
            "both",
            "route: [{path: /both/upper}], steps: [{name: both, parallel: [{name: web, function: web}, {name: a, \
             function: a}]}, {function: join}]",
        ),
    ]
    .concat();
    let Some(node) = node("ring", &manifest) else { return };
    assert_eq!(node.post("/patient/upper", b"x").text(), "X");
    assert_eq!(node.request("GET", "/patient/sleep?2", &[], b"").status, 504);
    assert_eq!(node.request("GET", "/patient/vanish", &[], b"").status, 502, "both attempts failed");
    let joined = node.request("POST", "/both/upper", &[("x-do-join", "join")], b"x").text();
    assert_eq!(joined, "web=200:X;a=200:x+a;");
    node.wait_all_slots_free();
}

#[test]
fn an_answer_without_an_end_is_no_next_steps_input() {
    let manifest = [
        python("web", &[], "http: {}, concurrency: 4"),
        actor("a"),
        chain("endless", "route: [{path: /m/endless}], steps: [{function: web}, {function: a}], deadline: 20s"),
    ]
    .concat();
    let Some(node) = node("ring", &manifest) else { return };
    assert_eq!(node.request("GET", "/m/endless", &[], b"").status, 502);
    node.wait_all_slots_free();
}

#[test]
fn what_passes_is_counted_for_each_function() {
    let manifest = [
        python("web", &[], "http: {}, concurrency: 4"),
        actor("a"),
        chain("both", "route: [{path: /both/upper}], steps: [{function: a}, {function: web}], deadline: 20s"),
        chain("slow", "route: [{path: /slow}], steps: [{function: a}]"),
    ]
    .concat();
    for transport in TRANSPORTS {
        let Some(node) = node(transport, &manifest) else { continue };
        for _ in 0..20 {
            assert_eq!(node.post("/both/upper", b"x").text(), "X+A", "{transport}");
        }
        let of = |metric: &str, function: &str| node.metric(metric, &format!("function=\"default/{function}\""));
        assert_eq!(of("ramet_function_messages_total", "web"), 20.0, "{transport}");
        assert!(of("ramet_function_seconds_total", "web") > 0.0, "{transport}");
        assert_eq!((of("ramet_function_held", "web"), of("ramet_function_held", "a")), (0.0, 0.0), "{transport}");
        assert_eq!(of("ramet_function_messages_total", "a"), 20.0, "{transport}");
        let edge = |from: &str, to: &str| {
            let labels = format!("from=\"{from}\",to=\"{to}\"");
            (node.metric("ramet_sproxy_descriptors_total", &labels), node.metric("ramet_sproxy_sends_total", &labels))
        };
        for function in ["default/a", "default/web"] {
            let both = (edge("gateway", function), edge(function, "gateway"));
            assert_eq!(both, ((20.0, 20.0), (20.0, 20.0)), "{transport}: {function}");
        }
        let before = of("ramet_function_seconds_total", "a");
        assert_eq!(node.request("POST", "/slow", &[("x-do", "pause:300")], b"x").status, 200);
        let spent = of("ramet_function_seconds_total", "a") - before;
        assert!((0.3..20.0).contains(&spent), "{transport}: {spent} s for a request of 0.3 s");
    }
}
