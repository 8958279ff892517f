//! What is printed: tables for people, JSON and YAML with the same facts for programs, schemas, completion, help.

use std::process::{Command, Stdio};

use ramet_tests::node::program;
use ramet_tests::{Node, eventually};
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Value, json};

use crate::{MANIFEST, code, done, err, node, out, ramet};

/// The commands that ramet starts for itself.
const INTERNAL: [&str; 2] = ["gateway", "bench-peer"];

#[test]
fn lists_show_what_runs() {
    let node = node();
    let get = |arguments: &[&str]| table(&done(&node.ramet(&[&["get"], arguments].concat())));
    let functions = get(&["functions"]);
    assert_eq!(functions[0], ["NAMESPACE", "NAME", "READY", "RESTARTS", "MESSAGE"]);
    assert_eq!(
        functions[1..],
        [["default", "a", "1/1", "0"], ["default", "b", "2/2", "0"], ["elsewhere", "a", "1/1", "0"]]
    );
    assert_eq!(get(&["functions", "-n", "elsewhere"])[1..], [["elsewhere", "a", "1/1", "0"]]);
    assert_eq!(get(&["fn", "b"])[1..], [["default", "b", "2/2", "0"]]);
    assert_eq!(get(&["functions", "-n", "nowhere"]).len(), 1, "a list may be empty");

    let chains = get(&["chains"]);
    assert_eq!(chains[0], ["NAMESPACE", "NAME", "READY", "ROUTES", "MESSAGE"]);
    assert_eq!(chains[1], ["default", "one", "true", "ANY", "*/one"]);
    assert_eq!(chains[2], ["default", "pair", "true", "POST", "*/by/pair,", "ANY", "*.example.org/"]);
    assert_eq!(chains.len(), 4);

    let instances = get(&["instances"]);
    assert_eq!(instances[0], ["ID", "NAMESPACE", "FUNCTION", "PID", "ORIGIN", "STATE", "AGE"]);
    assert_eq!(instances.len(), 5);
    let pids: Vec<_> = node.instances("actor b").iter().map(|pid| pid.as_raw().to_string()).collect();
    let listed: Vec<_> = get(&["instances", "b"])[1..].iter().map(|row| row[3].clone()).collect();
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| listed.contains(pid)), "{listed:?} are not the pids {pids:?}");
}

/// Rows of words.
fn table(text: &str) -> Vec<Vec<String>> {
    text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn json_and_yaml_carry_the_same_facts() {
    let node = node();
    let manifest = node.write_manifest("same.yaml", MANIFEST).display().to_string();
    for (arguments, fact) in [
        (&["get", "functions"][..], "/1/status/ready_instances"),
        (&["get", "functions", "b"], "/0/manifest/spec/replicas"),
        (&["get", "functions", "-n", "nowhere"], ""),
        (&["get", "chains"], "/1/status/routes/0"),
        (&["get", "instances"], "/3/pid"),
        (&["get", "node"], "/listen"),
        (&["describe", "function", "a"], "/manifest/spec/command/1"),
        (&["describe", "chain", "pair"], "/manifest/spec/steps/1/function"),
        (&["apply", "-f", &manifest], "/changes/0/action"),
        (&["check", "--transport", "ring"], "/0/check"),
    ] {
        let printed = |format| done(&node.ramet(&[arguments, &["-o", format]].concat()));
        let mut json: Value = serde_json::from_str(&printed("json")).unwrap_or_else(|e| panic!("{arguments:?}: {e}"));
        let mut yaml = from_yaml(&printed("yaml"));
        assert!(json.pointer(fact).is_some(), "{arguments:?}: no {fact} in {json:#}");
        [&mut json, &mut yaml].into_iter().for_each(forget_ages);
        assert_eq!(json, yaml, "{arguments:?}");
    }
    assert_facts(&node);
}

/// A few facts, lest both forms be wrong in the same way.
fn assert_facts(node: &Node) {
    let assert_has = |arguments: &[&str], facts: &[(&str, Value)]| {
        let printed = done(&node.ramet(&[arguments, &["-o", "json"]].concat()));
        let value: Value = serde_json::from_str(&printed).expect("JSON");
        for (pointer, expected) in facts {
            assert_eq!(value.pointer(pointer), Some(expected), "{arguments:?}, {pointer}");
        }
    };
    let listen = json!(node.listen.to_string());
    let status = [("/transport", json!("ring")), ("/waiting_for", json!([])), ("/listen", listen)];
    assert_has(&["get", "node"], &status);
    assert_has(&["get", "node"], &[("/pid", json!(node.pid().as_raw()))]);
    let function = [
        ("/kind", json!("Function")),
        ("/namespace", json!("default")),
        ("/name", json!("b")),
        ("/manifest/spec/replicas", json!(2)),
        // A default, filled in.
        ("/manifest/spec/queue", json!(64)),
        ("/status/ready_instances", json!(2)),
    ];
    assert_has(&["describe", "function", "b"], &function);
    let routes = json!(["POST */by/pair", "ANY *.example.org/"]);
    assert_has(&["describe", "chain", "pair"], &[("/status/routes", routes)]);
}

#[test]
fn a_log_of_several_lines_is_yaml_too() {
    let node = node();
    done(&node.ramet(&["invoke", "one", "-d", "x", "-H", "x-do: log:a line"]));
    eventually("three lines", || {
        let text = done(&node.ramet(&["logs", "a", "-n", "default"]));
        (text.lines().count() == 3).then_some(())
    });
    let text = done(&node.ramet(&["logs", "a", "-n", "default", "-o", "yaml"]));
    assert_eq!(text.lines().filter(|line| *line == "---").count(), 3, "{text}");
    let documents = Yaml::load_from_str(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    let lines: Vec<_> =
        documents.iter().map(to_json).flat_map(|one| one.as_array().cloned().unwrap_or(vec![one])).collect();
    assert_eq!(lines.len(), 3, "{text}");
}

fn forget_ages(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(forget_ages),
        Value::Object(fields) => {
            fields.remove("age_seconds");
        }
        _ => {}
    }
}

fn from_yaml(text: &str) -> Value {
    let documents = Yaml::load_from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    assert_eq!(documents.len(), 1, "{text}");
    to_json(&documents[0])
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
fn schemas_take_the_examples_and_refuse_what_is_wrong() {
    let schema = |of: &str| -> Value { serde_json::from_str(&done(&ramet(&["schema", of]))).expect("JSON") };
    assert_eq!(schema("function")["properties"]["kind"]["const"], "Function");
    assert_eq!(schema("chain")["properties"]["kind"]["const"], "Chain");
    assert!(schema("node")["properties"]["tls"].is_object());
    assert_eq!(done(&ramet(&["schema"])), done(&ramet(&["schema", "manifest"])), "the default");
    let manifest = jsonschema::validator_for(&schema("manifest")).expect("a schema");
    for example in ["echo", "thumbnail"] {
        let path = format!("{}/../examples/{example}/ramet.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("an example");
        let documents = Yaml::load_from_str(&text).expect("YAML");
        assert!(documents.len() >= 2, "{example}");
        for mut document in documents.iter().map(to_json) {
            assert!(manifest.is_valid(&document), "{example}: {document:#}");
            document["kind"] = json!("Nonsense");
            assert!(!manifest.is_valid(&document));
        }
    }
}

#[test]
fn completion_is_a_script_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let script = done(&ramet(&["completion", shell]));
        for command in ["apply", "describe", "invoke", "--socket"] {
            let word = if shell == "fish" { command.trim_start_matches('-') } else { command };
            assert!(script.contains(word), "{shell} does not complete {command}");
        }
        // A system that `bench` measures is called so too.
        let mut lines = script.lines().filter(|line| !line.contains("ramet-gateway"));
        let internal = lines.find(|line| INTERNAL.iter().any(|internal| line.contains(internal)));
        assert_eq!(internal, None, "{shell} completes what nobody starts by hand");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("script");
    std::fs::write(&script, done(&ramet(&["completion", "bash"]))).expect("written");
    let bash = Command::new("bash").arg("-n").arg(&script).stdin(Stdio::null()).output().expect("bash runs");
    assert!(bash.status.success() && bash.stderr.is_empty(), "{}", String::from_utf8_lossy(&bash.stderr));
}

#[test]
fn help_names_every_command_and_exit_code() {
    let help = done(&ramet(&["help"]));
    for command in
        ["up", "apply", "get", "describe", "delete", "invoke", "logs", "check", "bench", "schema", "completion"]
    {
        assert!(help.lines().any(|line| line.starts_with(&format!("  {command} "))), "{command} in\n{help}");
        assert!(done(&ramet(&[command, "--help"])).contains("Usage: ramet"), "{command}");
    }
    let (_, codes) = help.split_once("Exit codes:\n").expect("exit codes");
    let numbers: Vec<_> = codes.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(numbers, ["0", "1", "2", "3", "4", "5"]);
    let lists = [help, err(&ramet(&[])), err(&ramet(&["--socket", "/none"])), err(&ramet(&["nonsense"]))];
    for (list, internal) in lists.iter().flat_map(|list| INTERNAL.map(|internal| (list, internal))) {
        assert!(!list.contains(internal), "what nobody starts by hand is not shown:\n{list}");
    }
}

#[test]
fn check_says_what_would_be_used_and_why() {
    let output = ramet(&["check", "--transport", "ring"]);
    let text = done(&output);
    assert_eq!(table(&text)[0], ["CHECK", "RESULT", "DETAIL"]);
    let last = text.lines().last().expect("a row");
    assert!(last.trim_start().starts_with("transport") && last.contains("ring"), "{last}");
    let rows: Value =
        serde_json::from_str(&done(&ramet(&["check", "--transport", "socket", "-o", "json"]))).expect("JSON");
    let rows = rows.as_array().expect("rows");
    assert!(rows.iter().all(|row| row["check"].is_string() && row["result"].is_string() && row["detail"].is_string()));
    let chosen = rows.iter().find(|row| row["check"] == "transport").expect("a choice");
    assert!(chosen["detail"].as_str().is_some_and(|detail| detail.starts_with("socket: ")), "{chosen}");
}

/// A reader that has seen enough is no failure.
#[test]
fn a_closed_pipe_ends_the_command_quietly() {
    let mut command = Command::new(program("ramet"));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = command.args(["check", "--transport", "ring"]).stdin(Stdio::null()).stdout(writer).output();
    let output = output.expect("ramet runs");
    assert_eq!((code(&output), out(&output)), (0, String::new()));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
