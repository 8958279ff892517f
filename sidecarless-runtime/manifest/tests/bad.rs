//! What wrong manifests are told: place, field, what was found, what was expected.

use ramet_manifest::{Desired, Manifests, Source};

use crate::{apply, chain, function, functions, lines, source};

/// The errors of a manifest, which must have some.
fn errors(text: &str) -> Vec<String> {
    match apply(text) {
        Ok(_) => panic!("this is wrong and was taken:\n{text}"),
        Err(errors) => lines(&errors),
    }
}

#[test]
fn function_specs() {
    // Each is a line of a spec, which stands in line 7 of the document, after `command`.
    for (field, expected) in [
        ("comand: [x]", "7:3: spec.comand: unknown field; did you mean \"command\"?"),
        (
            "cpu: 1",
            "7:3: spec.cpu: unknown field; expected one of command, http, requestBody, env, replicas, concurrency, \
             queue, calls, hangGrace, shutdownGrace, resources, restart, start",
        ),
        ("requestBody: chunked", "7:16: spec.requestBody: found \"chunked\", expected one of \"whole\", \"streamed\""),
        ("replicas: many", "7:13: spec.replicas: found \"many\", expected a whole number from 1 to 64"),
        ("replicas: 0", "7:13: spec.replicas: found the number 0, expected a whole number from 1 to 64"),
        ("replicas: 1.0", "7:13: spec.replicas: found the number 1.0, expected a whole number from 1 to 64"),
        ("replicas: 007", "7:13: spec.replicas: found the number 007, expected a whole number from 1 to 64"),
        ("replicas: \"2\"", "7:13: spec.replicas: found \"2\", expected a whole number from 1 to 64"),
        ("replicas: -1", "7:13: spec.replicas: found the number -1, expected a whole number from 1 to 64"),
        ("replicas:", "7:3: spec.replicas: found nothing, expected a whole number from 1 to 64"),
        (
            "concurrency: 99999",
            "7:16: spec.concurrency: found the number 99999, expected a whole number from 1 to 1024",
        ),
        ("queue: [1]", "7:10: spec.queue: found a list, expected a whole number from 0 to 4096"),
        (
            "hangGrace: 10",
            "7:14: spec.hangGrace: found the number 10, expected a duration from 100ms to 1h, such as 250ms, 10s or \
             1m; did you mean \"10s\"?",
        ),
        (
            "hangGrace: 5ms",
            "7:14: spec.hangGrace: found \"5ms\", expected a duration from 100ms to 1h, such as 250ms, 10s or 1m",
        ),
        ("hang_grace: 5s", "7:3: spec.hang_grace: unknown field; did you mean \"hangGrace\"?"),
        ("replicas: {min: 3, max: 2}", "7:13: spec.replicas: max is less than min"),
        ("replicas: {min: 3}", "7:13: spec.replicas.max: this field is needed"),
        (
            "start: remote-fork",
            "7:10: spec.start: \"remote-fork\" needs to know of which process: a map with address, handle and keyFile",
        ),
        ("start: spawn", "7:10: spec.start: found \"spawn\", expected \"exec\", \"fork\", or a map with `remote-fork`"),
        (
            "start: {remote-fork: {address: here, handle: \"00112233445566778899aabbccddeeff\", keyFile: key}}",
            "7:34: spec.start.remote-fork.address: found \"here\", expected an address and a port, such as \
             192.0.2.1:7070",
        ),
        (
            "resources: { memory: 8MB }",
            "7:24: spec.resources.memory: found \"8MB\", expected a number of bytes from 1Mi to 1024Gi, such as 64Ki \
             or 8Mi; did you mean \"8Mi\"?",
        ),
        (
            "resources: { memory: 1Ki }",
            "7:24: spec.resources.memory: found \"1Ki\", expected a number of bytes from 1Mi to 1024Gi, such as 64Ki \
             or 8Mi",
        ),
        ("resources: 8Mi", "7:14: spec.resources: found \"8Mi\", expected a map with memory, openFiles and processes"),
        ("resources: { openfiles: 99 }", "7:16: spec.resources.openfiles: unknown field; did you mean \"openFiles\"?"),
        (
            "restart: { initialBackoff: 1m, maxBackoff: 1s }",
            "7:12: spec.restart: maxBackoff is shorter than initialBackoff",
        ),
        ("http: 8080", "7:9: spec.http: found the number 8080, expected a map, which may be empty: {}"),
        ("http: { listen: udp }", "7:19: spec.http.listen: found \"udp\", expected one of \"tcp\", \"unix\""),
        ("http: { port: 80 }", "7:17: spec.http.port: found the number 80, expected a whole number from 1024 to 65535"),
        (
            "http: { listen: unix, port: 8080 }",
            "7:31: spec.http.port: a port is for `listen: tcp`; with `listen: unix` the path is the node's to choose",
        ),
        ("http: { readiness: {} }", "7:22: spec.http.readiness.path: this field is needed"),
        (
            "http: { liveness: { path: healthz } }",
            "7:29: spec.http.liveness.path: found \"healthz\", expected a path that begins with `/`, of visible ASCII \
             characters, such as /healthz",
        ),
        (
            "http: { liveness: { path: /, failureThreshold: 0 } }",
            "7:50: spec.http.liveness.failureThreshold: found the number 0, expected a whole number from 1 to 100",
        ),
        ("env: [A]", "7:8: spec.env: found a list, expected a map of names to texts"),
        ("env: { 1A: x }", "7:10: spec.env.1A: a variable's name has letters, digits and `_`, and no digit first"),
        ("env: { RAMET_X: x }", "7:10: spec.env.RAMET_X: variables that begin with RAMET_ are set by the node"),
        ("env: { A: }", "7:10: spec.env.A: found nothing, expected a text; write \"\" for an empty one"),
        ("env: { A: [x] }", "7:13: spec.env.A: found a list, expected a text"),
        ("env: { A: \"\\0\" }", "7:13: spec.env.A: found a null character, which no text can contain"),
        ("calls: f", "7:10: spec.calls: found \"f\", expected a list of functions"),
        ("calls: [f, f]", "7:14: spec.calls[1]: \"f\" is here twice"),
        ("calls: [g]", "7:11: spec.calls[0]: no function \"g\" in namespace \"default\"; did you mean \"f\"?"),
        (
            "calls: [other/f]",
            "7:11: spec.calls[0]: found \"other/f\", but only functions of the same namespace can be used",
        ),
        (
            "calls: [F]",
            "7:11: spec.calls[0]: found \"F\", but a name has only lower-case letters, digits and `-`, not 'F'",
        ),
        ("calls: [1]", "7:11: spec.calls[0]: found the number 1, expected a name; put it in quotes if it is one"),
    ] {
        assert_eq!(errors(&function("f", &format!("  command: [x]\n  {field}"))), [expected], "{field}");
    }
}

#[test]
fn functions_that_serve_http() {
    for (field, expected) in [
        ("start: fork", "8:10: spec.start: a function that serves HTTP by itself cannot be forked; leave `start` out"),
        (
            "calls: [f]",
            "8:10: spec.calls: a function that serves HTTP by itself has no way to call others; leave `calls` out",
        ),
        (
            "env: { PORT: 1 }",
            "8:8: spec.env: PORT is the node's to set for a function that serves HTTP; use `http: { port: … }`",
        ),
    ] {
        let found = errors(&function("f", &format!("  command: [x]\n  http: {{}}\n  {field}")));
        assert_eq!(found[0], expected, "{field}");
    }
}

#[test]
fn what_serves_http_cannot_be_called() {
    let web = function("web", "  command: [x]\n  http: {}");
    let caller = function("caller", "  command: [x]\n  calls: [web]");
    let expected = "spec.calls[0]: function \"web\" serves HTTP by itself, so it can be a step of a chain but not be \
                    called";
    let found = errors(&format!("{web}{caller}"));
    assert!(found.len() == 1 && found[0].ends_with(expected), "{found:?}");
    let before = apply(&format!("{}{caller}", functions(&["web"]))).unwrap();
    let error = before.apply(&[source(&web)]).expect_err("the caller would have nobody to call");
    assert!(error.to_string().contains("function \"default/caller\" calls it"), "{error}");
    before.apply(&[source(&format!("{web}{}", functions(&["caller"])))]).expect("the caller calls no more");
}

#[test]
fn commands() {
    for (spec, expected) in [
        ("  command: x", "6:12: spec.command: found \"x\", expected a list of texts"),
        ("  command: []", "6:12: spec.command: found 0 texts, expected 1 to 256"),
        ("  command: [\"\"]", "6:13: spec.command[0]: found \"\", expected a program"),
        ("  command: [x, ]\n  queue: x", "7:10: spec.queue: found \"x\", expected a whole number from 0 to 4096"),
        ("  command: [x, ~]", "6:16: spec.command[1]: found nothing, expected a text; write \"\" for an empty one"),
        ("  queue: 1", "6:3: spec.command: this field is needed"),
        ("  commands: [x]", "6:3: spec.commands: unknown field; did you mean \"command\"?"),
        ("  - x", "6:3: spec: found a list, expected a map with `command`"),
        ("", "5:1: spec: found nothing, expected a map with `command`"),
    ] {
        assert_eq!(errors(&function("f", spec)), [expected], "{spec}");
    }
}

#[test]
fn chain_specs() {
    // Each is a line of a spec, which stands in line 6 of the document, before two steps.
    for (field, expected) in [
        (
            "deadline: 2h",
            "6:13: spec.deadline: found \"2h\", expected a duration from 1ms to 1h, such as 250ms, 10s or 1m",
        ),
        ("maxInFlight: 0", "6:16: spec.maxInFlight: found the number 0, expected a whole number from 1 to 65536"),
        (
            "maxBody: -1",
            "6:12: spec.maxBody: found the number -1, expected a number of bytes from 0 to 1024Gi, such as 64Ki or 8Mi",
        ),
        ("isolation: node", "6:14: spec.isolation: found \"node\", expected one of \"namespace\", \"chain\""),
        ("pool: { 4Ki: 1 }", "6:9: spec.pool: a chain has a pool of its own only with `isolation: chain`"),
        ("route: []", "6:10: spec.route: found 0 matches, expected 1 to 64"),
        ("route: [{ path: a }]", "6:19: spec.route[0].path: found \"a\", but a path begins with `/`"),
        (
            "route: [{ path: /a/* }]",
            "6:19: spec.route[0].path: found \"/a/*\", but a path is a prefix by itself and needs no `*`",
        ),
        (
            "route: [{ host: \"a:80\" }]",
            "6:19: spec.route[0].host: found \"a:80\", but a host is matched without its port",
        ),
        (
            "route: [{ methods: [get] }]",
            "6:23: spec.route[0].methods[0]: found \"get\", expected one of \"DELETE\", \"GET\", \"HEAD\", \
             \"OPTIONS\", \"PATCH\", \"POST\", \"PUT\"; did you mean \"GET\"?",
        ),
        ("route: [{ methods: [] }]", "6:22: spec.route[0].methods: found 0 methods, expected 1 to 7"),
        (
            "route: [{ path: /a }, { path: /a/ }]",
            "6:25: spec.route[1]: \"/a\" is the same as /a, which is spec.route[0]",
        ),
        ("route: [{ paths: /a }]", "6:13: spec.route[0].paths: unknown field; did you mean \"path\"?"),
    ] {
        let text = chain("c", &format!("  {field}\n  steps: [{{ function: a }}, {{ function: b }}]"));
        assert_eq!(errors(&(text + &functions_text())), [expected], "{field}");
    }
}

/// The functions `a`, `b` and `c`.
fn functions_text() -> String {
    crate::functions(&["a", "b", "c"])
}

#[test]
fn pools() {
    for (pool, expected) in [
        ("{ 4Ki: 0 }", "7:16: spec.pool.4Ki: found the number 0, expected a whole number from 1 to 65536"),
        ("{ 4ki: 9 }", "7:11: spec.pool.4ki: unknown field; did you mean \"4Ki\"?"),
        ("{ 1Mi: 20000 }", "7:9: spec.pool: the slots have 20000Mi bytes together, expected at most 16Gi"),
        ("96Mi", "7:9: spec.pool: found \"96Mi\", expected a map of slot sizes to numbers of slots, such as 4Ki: 1024"),
    ] {
        let text = chain("c", &format!("  isolation: chain\n  pool: {pool}\n  steps: [{{ function: a }}]"));
        assert_eq!(errors(&(text + &functions_text())), [expected], "{pool}");
    }
}

#[test]
fn step_lists() {
    // Each is the list of steps, whose first begins in line 7, column 7.
    for (steps, expected) in [
        ("- a", "7:7: spec.steps[0]: found \"a\", expected a map with `function` or `parallel`"),
        ("- {}", "7:7: spec.steps[0]: expected `function` or `parallel`"),
        (
            "- { function: a, parallel: [{ function: a }, { function: b }] }\n    - { function: b }",
            "7:7: spec.steps[0]: found both `function` and `parallel`, expected one of them",
        ),
        ("- { func: a }", "7:7: spec.steps[0]: expected `function` or `parallel`"),
        ("- { function: resise }", "7:19: spec.steps[0].function: no function \"resise\" in namespace \"default\""),
        (
            "- { function: aa }",
            "7:19: spec.steps[0].function: no function \"aa\" in namespace \"default\"; did you mean \"a\"?",
        ),
        (
            "- { function: a, retries: 11 }",
            "7:31: spec.steps[0].retries: found the number 11, expected a whole number from 0 to 10",
        ),
        (
            "- { function: a, timeout: 11s }",
            "7:31: spec.steps[0].timeout: found \"11s\", expected no more than the chain's deadline, which is 10s",
        ),
        (
            "- { function: a, name: reply }",
            "7:28: spec.steps[0].name: a step cannot be called \"reply\", because `next: reply` ends the chain",
        ),
        (
            "- { function: a }\n    - { function: a }",
            "8:7: spec.steps[1].name: the step \"a\" is here twice; first in line 7. Give one of them another `name`",
        ),
        (
            "- { function: a, next: bb }\n    - { function: b }",
            "7:28: spec.steps[0].next: no step \"bb\" in this chain; did you mean \"b\"?",
        ),
        (
            "- { function: a, next: [b] }\n    - { function: b }",
            "7:28: spec.steps[0].next: found a list, expected \"reply\", a step's name, or a map with `byHeader` or \
             `choices`",
        ),
        (
            "- { function: a, next: {} }\n    - { function: b }",
            "7:28: spec.steps[0].next: expected either `byHeader` with `cases`, or `choices`",
        ),
        (
            "- { function: a, next: a }",
            "7:28: spec.steps[0].next: the steps go round in a circle: a → a; a request must end",
        ),
        (
            "- { function: a, next: { choices: [b], otherwise: reply } }\n    - { function: b, next: c }\n    - { \
             function: c, next: b }",
            "9:28: spec.steps[2].next: the steps go round in a circle: b → c → b; a request must end",
        ),
        (
            "- { function: a, next: reply }\n    - { function: b }",
            "8:7: spec.steps[1]: no step leads to the step \"b\"",
        ),
        (
            "- { function: a, next: { choices: [b], otherwise: b } }\n    - { function: b, next: reply }\n    - { \
             function: c }",
            "9:7: spec.steps[2]: no step leads to the step \"c\"",
        ),
        (
            "- { function: a, next: { choices: [b, b], otherwise: b } }\n    - { function: b }",
            "7:43: spec.steps[0].next.choices[1]: \"b\" is here twice",
        ),
        (
            "- { function: a, next: { choices: [b] } }\n    - { function: b }",
            "7:28: spec.steps[0].next.otherwise: this field is needed",
        ),
        (
            "- { function: a, next: { byHeader: k, cases: {}, otherwise: b } }\n    - { function: b }",
            "7:50: spec.steps[0].next.cases: found 0 cases, expected 1 to 64",
        ),
        (
            "- { function: a, next: { byHeader: \"k:\", cases: { x: b }, otherwise: b } }\n    - { function: b }",
            "7:40: spec.steps[0].next.byHeader: found \"k:\", but expected a header's name such as `content-type`",
        ),
        (
            "- { function: a, next: { byHeader: k, cases: { \"é\": b }, otherwise: b } }\n    - { function: b }",
            "7:52: spec.steps[0].next.cases.é: a header's value here has 1 to 256 visible ASCII characters, and no \
             space at either end",
        ),
    ] {
        let text = chain("c", &format!("  steps:\n    {steps}")) + &functions_text();
        let first = errors(&text).into_iter().next();
        assert_eq!(first.as_deref(), Some(expected), "{steps}");
    }
}

#[test]
fn parallel_steps() {
    let branches = "parallel: [{ function: a }, { function: b }]";
    for (steps, expected) in [
        (
            "- parallel: [{ function: a }]\n    - function: c",
            "7:17: spec.steps[0].parallel: found 1 branches, expected 2 to 16",
        ),
        (
            "- parallel: [{ function: a }, { function: a }]\n    - function: c",
            "7:35: spec.steps[0].parallel[1]: the branch \"a\" is here twice; give one of them a `name`",
        ),
        (
            &format!("- {branches}"),
            "7:7: spec.steps[0]: a parallel step cannot be the last: a step must follow that makes one result of its \
             branches'",
        ),
        (
            &format!("- {branches}\n      next: reply"),
            "8:13: spec.steps[0].next: a parallel step cannot be the last: a step must follow that makes one result \
             of its branches'",
        ),
        (
            &format!("- {branches}\n      next: {{ choices: [c], otherwise: c }}\n    - function: c"),
            "8:13: spec.steps[0].next: a parallel step leads to one step: there is no single result to choose by",
        ),
        (
            "- parallel: [{ function: a }, { function: nn }]\n    - function: c",
            "7:47: spec.steps[0].parallel[1].function: no function \"nn\" in namespace \"default\"",
        ),
    ] {
        let text = chain("c", &format!("  steps:\n    {steps}")) + &functions_text();
        assert_eq!(errors(&text), [expected], "{steps}");
    }
}

#[test]
fn documents() {
    for (text, expected) in [
        ("x", "1:1: found \"x\", expected a document with apiVersion, kind, metadata and spec"),
        ("a: [", "2:1: this is not YAML: while parsing a node, did not find expected node content"),
        ("kind: Function\nmetadata: { name: f }\nspec: { command: [x] }", "1:1: apiVersion: this field is needed"),
        (
            "apiVersion: ramet.dev/v1\nkind: Function\nmetadata: { name: f }\nspec: { command: [x] }",
            "1:13: apiVersion: found \"ramet.dev/v1\", expected \"ramet.dev/v1alpha1\"",
        ),
        (
            "apiVersion: ramet.dev/v1alpha1\nkind: Chian\nmetadata: { name: f }\nspec: { command: [x] }",
            "2:7: kind: found \"Chian\", expected one of \"Function\", \"Chain\"; did you mean \"Chain\"?",
        ),
        (
            "apiVersion: ramet.dev/v1alpha1\nkind: Function\nmetadata: { name: F }\nspec: { command: [x] }",
            "3:19: metadata.name: found \"F\", but a name has only lower-case letters, digits and `-`, not 'F'",
        ),
        (
            "apiVersion: ramet.dev/v1alpha1\nkind: Function\nmetadata: { name: 7 }\nspec: { command: [x] }",
            "3:19: metadata.name: found the number 7, expected a name; put it in quotes if it is one",
        ),
        (
            "apiVersion: ramet.dev/v1alpha1\nkind: Function\nmetadata: { name: f, labels: {} }\nspec: { command: [x] }",
            "3:22: metadata.labels: unknown field; expected one of name, namespace",
        ),
        ("apiVersion: ramet.dev/v1alpha1\nkind: Function\nmetadata: { name: f }", "1:1: spec: this field is needed"),
        (
            "apiVersion: ramet.dev/v1alpha1\nkind: Function\nkind: Chain\nmetadata: { name: f }\nspec: { command: [x] \
             }",
            "3:1: the field \"kind\" is here twice; first in line 2",
        ),
    ] {
        assert_eq!(errors(text), [expected], "{text}");
    }
}

#[test]
fn between_documents() {
    let a = functions(&["a"]);
    let of_shop = |text: String| text.replace("name: b", "name: b, namespace: shop");
    for (text, expected) in [
        (functions(&["a", "a"]), "10:19: metadata.name: function \"default/a\" is here twice; first in ramet.yaml:4"),
        (
            a.clone() + &of_shop(chain("b", "  steps: [{ function: a }]")),
            "12:23: spec.steps[0].function: no function \"a\" in namespace \"shop\"; there is one in namespace \
             \"default\", but only functions of the same namespace can be used",
        ),
        (
            a.clone()
                + &chain("b", "  route: [{ path: /x }]\n  steps: [{ function: a }]")
                + &chain("c", "  route: [{ path: /y }, { path: /x }]\n  steps: [{ function: a }]"),
            "19:25: spec.route[1]: the requests \"/x\" are those of chain \"default/b\" already",
        ),
        (
            a + &chain("b", "  route: [{ path: /c }]\n  steps: [{ function: a }]")
                + &chain("c", "  steps: [{ function: a }]"),
            "17:19: metadata.name: a chain of this name without a `route` has the requests \"/c\", which are those of \
             chain \"default/b\" already; give it a `route`",
        ),
    ] {
        assert_eq!(errors(&text), [expected], "{text}");
    }
}

#[test]
fn every_error_of_every_file_is_reported_in_order() {
    let good = functions(&["a"]);
    let bad = function("b", "  command: [x]\n  replicas: x\n  calls: [zzzz]\n  queue: x");
    let worse = chain("c", "  deadline: 1\n  steps: [{ function: yyyy, timeout: 1 }]");
    let file = |name: &str, text: String| Source { name: name.to_owned(), text, base_dir: None };
    let sources = [file("2.yaml", bad), file("1.yaml", worse), file("0.yaml", good)];
    let errors = Desired::default().apply(&sources).unwrap_err().to_string();
    let fields: Vec<_> = errors.lines().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        fields,
        [
            "2.yaml:7:13 spec.replicas",
            "2.yaml:8:11 spec.calls[0]",
            "2.yaml:9:10 spec.queue",
            "1.yaml:6:13 spec.deadline",
            "1.yaml:7:23 spec.steps[0].function",
            "1.yaml:7:38 spec.steps[0].timeout",
        ]
    );
}

#[test]
fn one_error_has_no_echo() {
    // A function with a broken spec is still there to be named, and an unreadable file says nothing of others.
    let text = function("a", "  - x") + &chain("c", "  steps: [{ function: a }]");
    assert_eq!(errors(&text).len(), 1);
    let sources = [source(&chain("c", "  steps: [{ function: a }]")), source("a: [")];
    assert_eq!(lines(&Desired::default().apply(&sources).unwrap_err()).len(), 1);
    // A step that cannot be read leaves a hole, and steps beyond it are not called unreachable.
    let steps = "  steps: [{ function: A, next: c }, { function: b }, { function: c }]";
    assert_eq!(errors(&(chain("c", steps) + &functions_text())).len(), 1);
}

#[test]
fn a_problem_shows_the_line() {
    let errors = Manifests::parse(&[source(&function("f", "  command: [x]\n  start: later # \u{7}"))]).unwrap_err();
    let shown = format!("{:#}", errors.problems()[0]);
    let marked = "ramet.yaml:7:10: spec.start: found \"later\", expected \"exec\", \"fork\", or a map with \
        `remote-fork`\n    7 |   start: later #\n      |          ^^^^^";
    assert_eq!(shown, marked);
}

#[test]
fn errors_travel_as_json() {
    let errors = Manifests::parse(&[source("x")]).unwrap_err();
    let json = serde_json::to_string(&errors).unwrap();
    assert_eq!(serde_json::from_str::<ramet_manifest::Errors>(&json).unwrap(), errors);
}
