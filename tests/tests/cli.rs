//! The `ramet` command as it is documented: what it prints, in which form, and with which exit code it ends.

use std::fs::File;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use ramet_tests::node::program;
use ramet_tests::{Node, Start, eventually};
use serde_json::Value;
use tempfile::TempDir;

#[path = "cli/failures.rs"]
mod failures;
#[path = "cli/printed.rs"]
mod printed;

const MANIFEST: &str = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: a}
spec: {command: ['{actor}', a], concurrency: 4}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: b}
spec: {command: ['{actor}', b], replicas: 2}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: a, namespace: elsewhere}
spec: {command: ['{actor}', away]}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: one}
spec: {steps: [{function: a}]}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: pair}
spec:
  steps: [{function: a}, {function: b}]
  route: [{path: /by/pair, methods: [POST]}, {host: '*.example.org', path: /}]
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: one, namespace: elsewhere}
spec: {steps: [{function: a}], route: [{host: '*.elsewhere.test', path: /away}]}
";

fn node() -> Node {
    let node = Node::start(&Start::new("ring", MANIFEST)).expect("ring runs everywhere");
    // A node is ready with the first instance of each function, and these tests count all of them.
    eventually("both instances of b", || out(&node.ramet(&["get", "function", "b"])).contains("2/2").then_some(()));
    node
}

/// A command that is told of no node.
fn ramet(arguments: &[&str]) -> Output {
    Command::new(program("ramet")).args(arguments).stdin(Stdio::null()).output().expect("ramet runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("ramet ends by itself")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The output of a command that has to succeed.
fn done(output: &Output) -> String {
    assert_eq!(code(output), 0, "{}", err(output));
    assert_eq!(err(output), "", "who succeeds has nothing to explain");
    out(output)
}

#[test]
fn invoke_sends_what_it_is_given() {
    let node = node();
    let invoke = |arguments: &[&str]| done(&node.ramet(&[&["invoke"], arguments].concat()));
    assert_eq!(invoke(&["one", "--data", "body"]), "body+a");
    assert_eq!(invoke(&["one"]), "+a", "without a body");
    assert_eq!(invoke(&["pair", "-d", "x"]), "x+a+b", "a chain with a route of its own");
    assert_eq!(invoke(&["one", "-n", "elsewhere", "-d", "x"]), "x+away", "a host with a wildcard");
    let described = |arguments: &[&str]| invoke(&[&["one", "-H", "x-do: headers"], arguments].concat());
    assert!(described(&[]).starts_with("GET /one\n"));
    assert!(described(&["-d", ""]).starts_with("POST /one\n"));
    assert!(described(&["-X", "DELETE", "--path", "/more?w=64"]).starts_with("DELETE /one/more?w=64\n"));
    assert!(described(&["-H", "x-seen:1"]).contains("\nx-seen: 1\n"));

    let folder = tempfile::tempdir().expect("a folder");
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    std::fs::write(&from, b"of a file\0\xff").expect("written");
    let data = format!("@{}", from.display());
    let written = node.ramet(&["invoke", "one", "-d", &data, "--to", &to.display().to_string()]);
    assert_eq!(done(&written), "", "the answer is in the file");
    assert_eq!(std::fs::read(&to).expect("an answer"), b"of a file\0\xff+a");
}

#[test]
fn invoke_passes_bytes_through_unchanged() {
    let node = node();
    let body: Vec<u8> = (0..1_000_000).map(|at| (at % 251) as u8).collect();
    let output = node.ramet_fed(&["invoke", "one", "-d", "@-", "-H", "x-do: echo"], &body);
    assert_eq!((code(&output), err(&output)), (0, String::new()));
    assert!(output.stdout == body, "{} bytes came back", output.stdout.len());
}

#[test]
fn invoke_prints_a_failure_and_fails() {
    let node = node();
    for (order, status) in [("error", 500), ("panic", 500), ("status:418", 418), ("status:302", 302)] {
        let output = node.ramet(&["invoke", "one", "-d", "x", "-H", &format!("x-do: {order}")]);
        assert_eq!(code(&output), 1, "{order}");
        assert!(err(&output).starts_with(&format!("ramet: the chain answered {status}")), "{}", err(&output));
        assert_eq!(err(&output).lines().count(), 1);
        assert!(!out(&output).is_empty(), "{order}: the answer is printed all the same");
    }
    assert_eq!(code(&node.ramet(&["invoke", "pair"])), 1, "a GET to a chain that takes POST");
}

#[test]
fn logs_show_what_functions_wrote() {
    let node = node();
    done(&node.ramet(&["invoke", "one", "-d", "x", "-H", "x-do: log:from the first"]));
    done(&node.ramet(&["invoke", "one", "-n", "elsewhere", "-d", "x", "-H", "x-do: log:from away"]));
    let has = |arguments: &[&str], line: &str| {
        eventually(&format!("{line:?} in the log"), || {
            let text = done(&node.ramet(&[&["logs"], arguments].concat()));
            text.lines().any(|found| found.ends_with(line)).then_some(text)
        })
    };
    let all = has(&[], "] err from away");
    assert!(
        all.contains("default/a[") && all.contains("] err from the first") && all.contains("elsewhere/a["),
        "{all}"
    );
    let first = has(&["a", "-n", "default"], "] from the first");
    assert!(!first.contains("from away"), "{first}");
    let text = done(&node.ramet(&["logs", "a", "-o", "json"]));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let written = |line: &str| lines.iter().find(|found| found["line"] == line).expect("the line").clone();
    assert_eq!(
        (&written("from away")["stream"], &written("err from away")["stream"]),
        (&"stdout".into(), &"stderr".into())
    );
    assert_eq!(written("from the first")["namespace"], "default");
}

#[test]
fn logs_follow_until_the_node_ends() {
    let mut node = node();
    let mut following = Following::of(&node, &["logs", "a", "--follow"]);
    following.wait_for("] actor a starts");
    for line in ["one", "two"] {
        done(&node.ramet(&["invoke", "one", "-d", "x", "-H", &format!("x-do: log:line {line}")]));
        following.wait_for(&format!("] line {line}"));
    }
    assert!(node.stop().success(), "{}", node.log());
    let (status, said) = following.wait_for_end();
    assert!(status.success() && said.is_empty(), "an end in good order is no failure: {status}, {said}");
}

#[test]
fn logs_that_break_off_are_a_failure() {
    let node = node();
    let mut following = Following::of(&node, &["logs", "a", "--follow"]);
    following.wait_for("] actor a starts");
    // As an end without notice, which is no end of the log.
    kill(node.pid(), Signal::SIGKILL).expect("killed");
    let (status, said) = following.wait_for_end();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.starts_with("ramet: the node broke off the log"), "{said}");
}

/// A command that goes on, with its output in a file.
struct Following {
    child: Child,
    folder: TempDir,
}

impl Following {
    fn of(node: &Node, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name| File::create(folder.path().join(name)).expect("a file");
        let mut command = Command::new(program("ramet"));
        command.args(arguments).arg("--socket").arg(node.socket()).stdin(Stdio::null());
        let child = command.stdout(file("output")).stderr(file("errors")).spawn().expect("ramet runs");
        Self { child, folder }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).expect("the output")
    }

    fn wait_for(&self, end: &str) {
        eventually(&format!("a line that ends with {end:?}"), || {
            self.read("output").lines().any(|line| line.ends_with(end)).then_some(())
        });
    }

    /// How it ended, and what it said about that.
    fn wait_for_end(&mut self) -> (ExitStatus, String) {
        let status = eventually("the command to end", || self.child.try_wait().expect("wait"));
        (status, self.read("errors"))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It has ended already if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn apply_and_delete_say_what_they_did() {
    let node = node();
    let file = |text: &str| node.write_manifest("next.yaml", text).display().to_string();
    let text = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: new}
spec: {command: ['{actor}', v1]}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: new}
spec: {steps: [{function: new}]}
";
    let both = |action: &str| format!("function default/new {action}\nchain default/new {action}\n");
    assert_eq!(done(&node.ramet(&["apply", "-f", &file(text)])), both("created"));
    assert_eq!(done(&node.ramet(&["apply", "-f", &file(text)])), both("unchanged"));
    let other = text.replace("v1]", "v2]");
    let fed = std::fs::read(file(&other)).expect("the manifest");
    let changed = done(&node.ramet_fed(&["apply", "-f", "-"], &fed));
    assert_eq!(changed, "function default/new changed\nchain default/new unchanged\n");
    assert_eq!(node.post("/new", b"x").text(), "x+v2");

    let used = node.ramet(&["delete", "function", "new"]);
    assert_eq!((code(&used), out(&used).as_str()), (1, ""));
    assert!(err(&used).contains("is used by chain \"default/new\""), "{}", err(&used));
    assert_eq!(node.post("/new", b"x").status, 200, "nothing was changed");
    let gone = done(&node.ramet(&["delete", "-f", &file(&other)]));
    assert_eq!(
        gone, "chain default/new deleted\nfunction default/new deleted\n",
        "the chain first: it uses the function"
    );
    assert_eq!(code(&node.ramet(&["delete", "-f", &file(&other)])), 3);
    assert_eq!(done(&node.ramet(&["delete", "chain", "one", "-n", "elsewhere"])), "chain elsewhere/one deleted\n");
    assert_eq!(node.post("/one", b"x").status, 200, "of the same name, in another namespace");
}
