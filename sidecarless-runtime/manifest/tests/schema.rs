//! The schemas take what the parser takes, and refuse what it refuses where a schema can know.

use jsonschema::Validator;
use ramet_manifest::{Kind, Manifests, NodeSettings, SchemaOf, Source, Surroundings, schema};
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Value, json};

use crate::{desired, good, source};

fn validator(of: SchemaOf) -> Validator {
    jsonschema::validator_for(&schema(of)).unwrap_or_else(|error| panic!("{of:?}: {error}"))
}

fn assert_valid(validator: &Validator, document: &Value) {
    let errors: Vec<_> =
        validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{document:#}");
}

/// The documents of a manifest as another YAML reader sees them.
fn documents(text: &str) -> Vec<Value> {
    let documents = Yaml::load_from_str(text).unwrap_or_else(|error| panic!("{error}"));
    documents.iter().map(to_json).collect()
}

fn to_json(yaml: &Yaml<'_>) -> Value {
    match yaml {
        Yaml::Value(Scalar::String(text)) => json!(text),
        Yaml::Value(Scalar::Integer(number)) => json!(number),
        Yaml::Value(Scalar::FloatingPoint(number)) => json!(number.into_inner()),
        Yaml::Value(Scalar::Boolean(truth)) => json!(truth),
        Yaml::Sequence(items) => items.iter().map(to_json).collect(),
        Yaml::Mapping(fields) => {
            fields.iter().map(|(key, value)| (key.as_str().unwrap_or_default().to_owned(), to_json(value))).collect()
        }
        _ => Value::Null,
    }
}

#[test]
fn right_manifests_are_valid() {
    let [function, chain, any] = [SchemaOf::Function, SchemaOf::Chain, SchemaOf::Manifest].map(validator);
    let examples = ["echo", "thumbnail"].map(|example| {
        let path = format!("{}/../../examples/{example}/ramet.yaml", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    });
    for text in examples.iter().map(String::as_str).chain([good::EVERYTHING]) {
        let printed = desired(text).to_yaml();
        for document in documents(text).into_iter().chain(documents(&printed)) {
            let [right, wrong] =
                if document["kind"] == Kind::Chain.as_str() { [&chain, &function] } else { [&function, &chain] };
            assert_valid(right, &document);
            assert_valid(&any, &document);
            assert!(!wrong.is_valid(&document));
        }
    }
}

/// Function specs that neither takes; each is laid over a right one.
fn bad_functions() -> Vec<Value> {
    vec![
        json!({ "command": null }),
        json!({ "command": [] }),
        json!({ "command": "x" }),
        json!({ "command": [["x"]] }),
        json!({ "comand": ["x"] }),
        json!({ "env": { "1A": "x" } }),
        json!({ "env": { "RAMET_X": "x" } }),
        json!({ "env": { "A": null } }),
        json!({ "env": ["A"] }),
        json!({ "requestBody": "chunked" }),
        json!({ "replicas": 0 }),
        json!({ "replicas": 65 }),
        json!({ "replicas": "1" }),
        json!({ "replicas": null }),
        json!({ "replicas": 1.5 }),
        json!({ "concurrency": 1025 }),
        json!({ "queue": -1 }),
        json!({ "calls": ["f", "f"] }),
        json!({ "calls": ["other/f"] }),
        json!({ "calls": "f" }),
        json!({ "hangGrace": 10 }),
        json!({ "hangGrace": "10" }),
        json!({ "hangGrace": "1s1m" }),
        json!({ "hangGrace": "1.5s" }),
        json!({ "shutdownGrace": "" }),
        json!({ "resources": { "memory": "8MB" } }),
        json!({ "resources": { "memory": -1 } }),
        json!({ "resources": { "openFiles": 1 } }),
        json!({ "resources": { "cpu": 1 } }),
        json!({ "resources": [] }),
        json!({ "restart": { "initialBackoff": 1 } }),
        json!({ "replicas": { "min": 1 } }),
        json!({ "replicas": { "max": 65 } }),
        json!({ "replicas": { "max": 2, "idle": 3 } }),
        json!({ "replicas": [1, 2] }),
        json!({ "http": null }),
        json!({ "http": 8080 }),
        json!({ "http": { "listen": "udp" } }),
        json!({ "http": { "port": 80 } }),
        json!({ "http": { "readiness": {} } }),
        json!({ "http": { "liveness": { "path": "healthz" } } }),
        json!({ "http": { "liveness": { "path": "/", "failureThreshold": 0 } } }),
        json!({ "start": "spawn" }),
        json!({ "start": "remote-fork" }),
        json!({ "start": { "fork": {} } }),
        json!({ "start": { "remote-fork": { "address": "127.0.0.1:7070", "handle": "12", "keyFile": "/key" } } }),
        json!({ "start": { "remote-fork": { "address": "127.0.0.1:7070", "keyFile": "/key" } } }),
    ]
}

/// Chain specs that neither takes; each is laid over a right one.
fn bad_chains() -> Vec<Value> {
    let next = |next: Value| json!({ "steps": [{ "function": "f", "next": next }, { "name": "g", "function": "f" }] });
    let route = |route: Value| json!({ "route": [route] });
    let step = |step: Value| json!({ "steps": [step, { "name": "g", "function": "f" }] });
    vec![
        json!({ "steps": null }),
        json!({ "steps": [] }),
        json!({ "steps": {} }),
        step(json!({})),
        step(json!({ "name": "x" })),
        step(json!({ "function": "f", "name": "reply" })),
        step(json!({ "function": "f", "retries": 11 })),
        step(json!({ "function": "f", "retry": 1 })),
        step(json!({ "function": "f", "timeout": 1 })),
        step(json!({ "function": "f", "parallel": [{ "function": "f" }, { "name": "h", "function": "f" }] })),
        step(json!({ "parallel": [{ "function": "f" }] })),
        step(json!({ "parallel": [{ "function": "f" }, { "name": "h" }] })),
        step(json!({ "parallel": [{ "function": "f" }, { "name": "h", "function": "f", "retries": 1 }] })),
        next(json!("G")),
        next(json!(["g"])),
        next(json!({})),
        next(json!({ "choices": ["g"] })),
        next(json!({ "choices": [], "otherwise": "g" })),
        next(json!({ "choices": ["g", "g"], "otherwise": "g" })),
        next(json!({ "byHeader": "a b", "cases": { "x": "g" }, "otherwise": "g" })),
        next(json!({ "byHeader": "k", "cases": {}, "otherwise": "g" })),
        next(json!({ "byHeader": "k", "cases": { "x": "g" } })),
        next(json!({ "byHeader": "k", "cases": { "x": "g" }, "choices": ["g"], "otherwise": "g" })),
        json!({ "route": [] }),
        route(json!({ "path": "x" })),
        route(json!({ "path": "/a//b" })),
        route(json!({ "path": "/a/*" })),
        route(json!({ "path": "/a?b" })),
        route(json!({ "host": "a:80" })),
        route(json!({ "host": "a.*" })),
        route(json!({ "methods": ["get"] })),
        route(json!({ "methods": [] })),
        route(json!({ "paths": "/" })),
        json!({ "deadline": "soon" }),
        json!({ "maxInFlight": 0 }),
        json!({ "maxBody": "8M" }),
        json!({ "isolation": "node" }),
        json!({ "isolation": "chain", "pool": { "4Ki": 0 } }),
        json!({ "isolation": "chain", "pool": { "4Ki": 65537 } }),
        json!({ "isolation": "chain", "pool": { "2Ki": 1 } }),
    ]
}

fn document(kind: Kind, mut spec: Value, change: &Value) -> Value {
    for (key, value) in change.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({ "apiVersion": "ramet.dev/v1alpha1", "kind": kind.as_str(), "metadata": { "name": "f" }, "spec": spec })
}

#[test]
fn wrong_manifests_are_neither_valid_nor_read() {
    let function = |change: &Value| document(Kind::Function, json!({ "command": ["x"] }), change);
    let chain = |change: &Value| document(Kind::Chain, json!({ "steps": [{ "function": "f" }] }), change);
    let mut table = Vec::new();
    table.extend(bad_functions().iter().map(|change| (SchemaOf::Function, function(change))));
    table.extend(bad_chains().iter().map(|change| (SchemaOf::Chain, chain(change))));
    for (pointer, value) in [
        ("/apiVersion", json!("ramet.dev/v1")),
        ("/kind", json!("function")),
        ("/metadata", json!({})),
        ("/metadata", json!({ "name": "F" })),
        ("/metadata", json!({ "name": "-f" })),
        ("/metadata", json!({ "name": "f", "labels": {} })),
        ("/metadata", json!({ "name": 7 })),
    ] {
        let mut wrong = function(&json!({}));
        *wrong.pointer_mut(pointer).unwrap() = value;
        table.push((SchemaOf::Function, wrong));
    }
    assert_valid(&validator(SchemaOf::Function), &function(&json!({})));
    assert_valid(&validator(SchemaOf::Chain), &chain(&json!({})));
    for (of, document) in table {
        assert!(Manifests::parse(&[source(&document.to_string())]).is_err(), "the parser takes {document}");
        assert!(!validator(of).is_valid(&document), "the schema takes {document}");
        assert!(!validator(SchemaOf::Manifest).is_valid(&document), "the schema takes {document}");
    }
}

#[test]
fn settings_have_a_schema() {
    let validator = validator(SchemaOf::NodeSettings);
    let surroundings = Surroundings { uid: 0, runtime_dir: None, cores: 2 };
    let defaults = NodeSettings::default_for(&surroundings);
    assert_valid(&validator, &serde_json::to_value(&defaults).unwrap());
    assert_valid(&validator, &json!({}));
    for wrong in [
        "listen = 80",
        "listen = \"localhost\"",
        "socket = \"\"",
        "transport = \"tcp\"",
        "placement = \"pinned:\"",
        "placement = 1",
        "uid_base = 0",
        "uidBase = 5000",
        "[tls]\nkey = \"k\"",
        "[gateway]\nworkers = 0",
        "[gateway]\nheader_timeout = 1",
        "[gateway]\nmax_header_bytes = \"1MB\"",
        "[pool]\n4Ki = 0",
        "[pool]\n3Ki = 1",
        "[log]\nlevel = \"loud\"",
        "[log]\nformat = \"xml\"",
    ] {
        let file = Source { name: "x".to_owned(), text: wrong.to_owned(), base_dir: None };
        assert!(NodeSettings::parse(Some(&file), [], &surroundings).is_err(), "the parser takes {wrong}");
        let value: toml::Table = wrong.parse().unwrap();
        assert!(!validator.is_valid(&serde_json::to_value(value).unwrap()), "the schema takes {wrong}");
    }
}

#[test]
fn schema_defaults_are_those_of_the_parser() {
    let settings =
        serde_json::to_value(NodeSettings::default_for(&Surroundings { uid: 0, runtime_dir: None, cores: 2 }));
    let settings = settings.unwrap();
    let of_settings = schema(SchemaOf::NodeSettings);
    for (name, field) in of_settings["properties"].as_object().unwrap() {
        if let Some(default) = field.get("default") {
            assert_eq!(default, &settings[name], "{name}");
        }
    }
    let gateway = of_settings["$defs"]["GatewaySettings"]["properties"].as_object().unwrap();
    for (name, field) in gateway.iter().filter(|(_, field)| field.get("default").is_some()) {
        assert_eq!(field["default"], settings["gateway"][name], "{name}");
    }
    let text = crate::functions(&["f"]) + &crate::chain("f", "  steps: [{ function: f }]");
    let desired = desired(&text);
    let function = serde_json::to_value(desired.functions().next().unwrap().as_ref()).unwrap();
    let chain = serde_json::to_value(desired.chains().next().unwrap().as_ref()).unwrap();
    for (of, object, name) in [(SchemaOf::Function, function, "FunctionSpec"), (SchemaOf::Chain, chain, "ChainSpec")] {
        let schema = schema(of);
        for (field, schema) in schema["$defs"][name]["properties"].as_object().unwrap() {
            if let Some(default) = schema.get("default") {
                assert_eq!(default, &object["spec"][field], "{field}");
            }
        }
    }
}
