//! Manifests of servers, and nodes that run them.

use std::path::Path;

use ramet_tests::node::skipped;
use ramet_tests::{Node, Start};

const SERVER_PY: &str = include_str!("server.py");
const SERVER_JS: &str = include_str!("server.js");

/// The interpreters that every user can execute.
pub(super) const PYTHON: &str = "/usr/bin/python3";
pub(super) const NODE: &str = "/usr/bin/node";

/// A function that runs the Python server. `spec` is what its manifest says besides, `settings` are the server's own.
pub(super) fn python(name: &str, settings: &[&str], spec: &str) -> String {
    let mut command = vec![PYTHON, "-c", SERVER_PY];
    command.extend(settings);
    function(name, &command, spec)
}

/// A function that runs the Node server.
pub(super) fn javascript(name: &str, spec: &str) -> String {
    function(name, &[NODE, "-e", SERVER_JS], spec)
}

/// A function of the test's own that links the SDK.
pub(super) fn actor(name: &str) -> String {
    function(name, &["{actor}", name], "concurrency: 4")
}

fn function(name: &str, command: &[&str], spec: &str) -> String {
    // A text in JSON is one in YAML too.
    let command = serde_json::to_string(command).expect("texts");
    format!(
        "---\napiVersion: ramet.dev/v1alpha1\nkind: Function\nmetadata: {{name: {name}}}\nspec: {{command: {command}, \
         {spec}}}\n"
    )
}

/// A chain under its own name, as flow YAML.
pub(super) fn chain(name: &str, spec: &str) -> String {
    format!("---\napiVersion: ramet.dev/v1alpha1\nkind: Chain\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

/// A Python server `web` and a chain of it alone.
pub(super) fn web(spec: &str) -> String {
    format!("{}{}", python("web", &[], spec), chain("web", "steps: [{function: web}], deadline: 10s"))
}

/// A node with a manifest. `None`: a program that it needs is not here, as has been said.
pub(super) fn node(transport: &str, manifest: &str) -> Option<Node> {
    for program in [PYTHON, NODE] {
        if manifest.contains(program) && !Path::new(program).exists() {
            assert!(std::env::var_os("CI").is_none(), "CI must have {program}");
            skipped(&format!("there is no {program}"));
            return None;
        }
    }
    Node::start(&Start::new(transport, manifest))
}
