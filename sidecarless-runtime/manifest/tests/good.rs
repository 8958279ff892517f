//! What right manifests become.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ramet_manifest::{
    Isolation, Kind, Manifests, Name, Next, QualifiedName, RemoteFork, Replicas, RequestBody, Run, Source, Start,
    Target, to_yaml,
};

use crate::{apply, chain, desired, function, functions, source};

/// Every field, and most ways to write them.
pub(crate) const EVERYTHING: &str = r#"
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: { name: classify, namespace: shop }
spec:
  command: [./bin/classify, --model, 7, "yes"]
  env: { MODE: fast, PORT: 8080, DEBUG: true, RATE: 1.50, EMPTY: "" }
  replicas: 3
  concurrency: 4
  queue: 0
  calls: [prices, classify]
  requestBody: streamed
  hangGrace: 1m30s
  shutdownGrace: 0s
  resources: { memory: 256Mi, openFiles: 64, processes: 8 }
  restart: { initialBackoff: 250ms, maxBackoff: 1h }
  start: exec
---
{"apiVersion": "ramet.dev/v1alpha1", "kind": "Function", "metadata": {"name": "prices", "namespace": "shop"},
 "spec": {"command": ["/usr/bin/prices"]}}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: { name: join, namespace: shop }
spec: { command: [python3, join.py], start: fork, replicas: { min: 2, max: 8, idle: 500ms } }
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: { name: far, namespace: shop }
spec:
  command: [far]
  replicas: { max: 2 }
  start: { remote-fork: { address: "192.0.2.1:7070", handle: 00112233445566778899AABBCCDDEEFF, keyFile: far.key } }
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: { name: web, namespace: shop }
spec:
  command: [node, server.js]
  http:
    port: 3000
    readiness: { path: "/healthz?full" }
    liveness: { path: /healthz, period: 5s, timeout: 250ms, failureThreshold: 2 }
    startTimeout: 1m
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: { name: site, namespace: shop }
spec: { command: [nginx], http: { listen: unix } }
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: { name: plain, namespace: shop }
spec: { command: [python3, app.py], http: {} }
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: { name: order, namespace: shop }
spec:
  route:
    - { host: Shop.example.org, path: /order/, methods: [POST, PUT] }
    - host: "*.example.org"
  steps:
    - function: classify
      timeout: 500ms
      retries: 10
      next:
        byHeader: X-Kind
        cases: { new: both, "404": reply, "no": last }
        otherwise: last
    - name: both
      parallel:
        - function: prices
        - { name: again, function: prices }
      timeout: 2s
    - function: join
      next: { choices: [last, reply], otherwise: reply }
    - name: last
      function: classify
      next: reply
  deadline: 3s
  maxInFlight: 65536
  maxBody: 8Mi
  isolation: chain
  pool: { 4Ki: 64, 1Mi: 0 }
"#;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn step(text: &str) -> Target {
    Target::Step(name(text))
}

#[test]
fn everything_that_is_written_is_read() {
    let desired = desired(EVERYTHING);
    let function = desired.function(&"shop/classify".parse().unwrap()).unwrap();
    let spec = &function.spec;
    assert_eq!(spec.command, ["/srv/bin/classify", "--model", "7", "yes"]);
    let env = [("MODE", "fast"), ("PORT", "8080"), ("DEBUG", "true"), ("RATE", "1.50"), ("EMPTY", "")];
    assert_eq!(spec.env, BTreeMap::from(env.map(|(name, value)| (name.to_owned(), value.to_owned()))));
    assert_eq!((spec.replicas, spec.concurrency, spec.queue), (Replicas::fixed(3), 4, 0));
    assert_eq!(spec.calls, [name("prices"), name("classify")]);
    assert_eq!(spec.request_body, RequestBody::Streamed);
    assert_eq!((spec.hang_grace, spec.shutdown_grace), (Duration::from_secs(90), Duration::ZERO));
    assert_eq!(spec.resources.memory.unwrap().bytes(), 256 << 20);
    assert_eq!((spec.resources.open_files, spec.resources.processes), (64, 8));
    assert_eq!(spec.restart.initial_backoff, Duration::from_millis(250));
    assert_eq!((spec.restart.max_backoff, spec.start.clone()), (Duration::from_secs(3600), Start::Exec));

    let spec = &desired.function(&"shop/join".parse().unwrap()).unwrap().spec;
    assert_eq!(spec.replicas, Replicas { min: 2, max: 8, idle: Duration::from_millis(500) });
    assert_eq!(spec.start, Start::Fork);
    let spec = &desired.function(&"shop/far".parse().unwrap()).unwrap().spec;
    assert_eq!((spec.replicas.min, spec.replicas.max), (1, 2));
    let handle = "00112233445566778899aabbccddeeff".to_owned();
    let key_file = "/srv/far.key".into();
    assert_eq!(spec.start, Start::RemoteFork(RemoteFork { address: ([192, 0, 2, 1], 7070).into(), handle, key_file }));

    let chain = desired.chain(&"shop/order".parse().unwrap()).unwrap();
    let routes: Vec<_> = chain.spec.route.iter().map(ToString::to_string).collect();
    assert_eq!(routes, ["POST,PUT shop.example.org/order", "*.example.org/"]);
    let [classify, both, join, last] = chain.spec.steps.as_slice() else { panic!("four steps") };
    assert_eq!((classify.timeout, classify.retries), (Some(Duration::from_millis(500)), 10));
    let cases = [("new", step("both")), ("404", Target::Reply), ("no", step("last"))];
    let cases = cases.map(|(value, target)| (value.to_owned(), target)).into();
    assert_eq!(classify.next, Next::ByHeader { by_header: "x-kind".to_owned(), cases, otherwise: step("last") });
    let Run::Parallel(branches) = &both.run else { panic!("a parallel step") };
    let names: Vec<_> = branches.iter().map(|branch| (branch.name.as_str(), branch.function.as_str())).collect();
    assert_eq!(names, [("prices", "prices"), ("again", "prices")]);
    assert_eq!(both.next, Next::To(step("join")));
    let choices = vec![step("last"), Target::Reply];
    assert_eq!(join.next, Next::Choices { choices, otherwise: Target::Reply });
    assert_eq!((last.name.as_str(), &last.run), ("last", &Run::Function(name("classify"))));
    assert_eq!((chain.spec.deadline, chain.spec.max_in_flight), (Duration::from_secs(3), 65_536));
    assert_eq!((chain.spec.max_body.unwrap().bytes(), chain.spec.isolation), (8 << 20, Isolation::Chain));
    assert_eq!(chain.spec.pool.unwrap().over(Default::default()).counts(), [64, 256, 128, 64, 0]);
    assert_eq!(chain.spec.step_index(&step("last")), Some(3));
    assert_eq!(chain.spec.step_index(&Target::Reply), None);
}

#[test]
fn what_is_left_out_has_defaults() {
    let desired = desired(&(functions(&["echo"]) + &chain("echo", "  steps: [{ function: echo }]")));
    let echo: QualifiedName = "echo".parse().unwrap();
    let spec = &desired.function(&echo).unwrap().spec;
    assert_eq!((spec.replicas, spec.concurrency, spec.queue), (Replicas::fixed(1), 1, 64));
    assert_eq!((spec.hang_grace, spec.request_body), (Duration::from_secs(10), RequestBody::Whole));
    assert_eq!((spec.resources.open_files, spec.resources.memory), (1024, None));
    assert_eq!(spec.resources.processes, 64);
    let spec = &desired.chain(&echo).unwrap().spec;
    assert_eq!(spec.route.iter().map(ToString::to_string).collect::<Vec<_>>(), ["/echo"]);
    assert_eq!((spec.deadline, spec.max_in_flight), (Duration::from_secs(10), 512));
    assert_eq!((spec.isolation, spec.max_body, spec.pool), (Isolation::Namespace, None, None));
    assert_eq!((spec.steps[0].name.as_str(), &spec.steps[0].next), ("echo", &Next::To(Target::Reply)));
}

#[test]
fn steps_may_be_listed_in_any_order() {
    let steps = "  steps:\n    - { name: a, function: f, next: c }\n    - { name: b, function: f, next: reply }\n    \
    - { name: c, function: f, next: b }";
    let desired = desired(&(functions(&["f"]) + &chain("c", steps)));
    assert_eq!(desired.chains().len(), 1);
}

#[test]
fn an_unnamed_parallel_step_is_named_by_its_place() {
    let steps = "  steps:\n    - function: a\n    - parallel: [{ function: a }, { function: b }]\n    - function: b";
    let desired = desired(&(functions(&["a", "b"]) + &chain("c", steps)));
    let chain = desired.chains().next().unwrap();
    assert_eq!(chain.spec.steps[1].name.as_str(), "step-2");
}

#[test]
fn what_is_printed_reads_back() {
    let first = desired(EVERYTHING);
    let text = first.to_yaml();
    let second = desired(&text);
    assert_eq!(first, second, "{text}");
    assert_eq!(second.to_yaml(), text);
    for function in first.functions() {
        let json = serde_json::to_string(function.as_ref()).unwrap();
        let objects = Manifests::parse(&[source(&json)]).unwrap_or_else(|errors| panic!("{errors}\n{json}"));
        assert_eq!(to_yaml(objects[0].resource()), to_yaml(function.as_ref()));
    }
}

#[test]
fn objects_know_what_they_are() {
    let objects = Manifests::parse(&[source(EVERYTHING)]).unwrap();
    let names: Vec<_> = objects
        .iter()
        .map(|object| (object.resource().kind(), object.resource().metadata().qualified_name().to_string()))
        .collect();
    let functions = ["classify", "prices", "join", "far", "web", "site", "plain"].map(|name| (Kind::Function, name));
    let expected = functions.into_iter().chain([(Kind::Chain, "order")]);
    assert_eq!(names, expected.map(|(kind, name)| (kind, format!("shop/{name}"))).collect::<Vec<_>>());
}

#[test]
fn nothing_is_a_manifest_too() {
    for text in ["", "# nothing\n", "---\n---\n", "\u{feff}"] {
        assert_eq!(apply(text).unwrap(), Default::default(), "{text:?}");
    }
}

#[test]
fn a_program_is_found_from_the_manifests_folder() {
    let program = |text: &str, base_dir: Option<&str>| {
        let text = function("f", &format!("  command: [{text}]"));
        let source = Source { name: "x".to_owned(), text, base_dir: base_dir.map(Into::into) };
        let objects = Manifests::parse(&[source]).map_err(|errors| errors.to_string())?;
        let yaml = to_yaml(objects[0].resource());
        let line = yaml.lines().find_map(|line| line.strip_prefix("    - ")).unwrap_or_default();
        Ok::<_, String>(line.to_owned())
    };
    assert_eq!(program("python3", None).unwrap(), "python3");
    assert_eq!(program("/bin/x", None).unwrap(), "/bin/x");
    assert_eq!(program("bin/x", Some("/srv/app")).unwrap(), "/srv/app/bin/x");
    assert_eq!(program("./x", Some("/srv/app")).unwrap(), "/srv/app/x");
    assert!(program("bin/x", None).unwrap_err().contains("spec.command[0]: found a relative path"));
}

#[test]
fn the_examples_are_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (example, functions) in [("echo", 1), ("thumbnail", 3)] {
        let folder = root.join("examples").join(example);
        let text = std::fs::read_to_string(folder.join("ramet.yaml")).unwrap();
        let source = Source { name: example.to_owned(), text, base_dir: Some(folder.clone()) };
        let desired = ramet_manifest::Desired::default().apply(&[source]).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!((desired.functions().len(), desired.chains().len()), (functions, 1));
        assert_eq!(desired.routes()[0].0.to_string(), format!("/{example}"));
        for function in desired.functions() {
            let program = Path::new(&function.spec.command[0]);
            assert_eq!(program, folder.join("../../target/release").join(example));
        }
    }
}
