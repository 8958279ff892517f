//! What cannot be done: one clear message on standard error, nothing else, and the documented exit code.

use std::process::{Command, Output};

use ramet_tests::node::{program, ramet_without_privilege};
use ramet_tests::{Node, Start};
use tempfile::TempDir;

use crate::{MANIFEST, code, done, err, node, out, ramet};

/// A failure is one message that begins with the program's name, and prints nothing where the answer would be.
fn assert_says(output: &Output, expected: i32, what: &str) {
    assert_eq!((code(output), out(output).as_str()), (expected, ""), "{what}: {}", err(output));
    assert!(err(output).starts_with("ramet: "), "{what}: {}", err(output));
    assert_eq!(err(output).lines().count(), 1, "{what}: {}", err(output));
}

#[test]
fn what_does_not_exist_is_exit_code_three() {
    let node = node();
    for arguments in [
        &["get", "function", "nosuch"][..],
        &["get", "chain", "nosuch"],
        &["get", "function", "b", "-n", "elsewhere"],
        &["get", "function", "nosuch", "-o", "json"],
        &["describe", "function", "nosuch"],
        &["describe", "chain", "nosuch"],
        &["delete", "function", "nosuch"],
        &["delete", "chain", "nosuch"],
        &["invoke", "nosuch"],
        &["invoke", "pair", "-n", "elsewhere"],
    ] {
        assert_says(&node.ramet(arguments), 3, &format!("{arguments:?}"));
    }
}

#[test]
fn a_function_that_does_not_exist_has_neither_instances_nor_logs() {
    let node = node();
    for arguments in [&["get", "instances", "nosuch"][..], &["logs", "nosuch"], &["logs", "b", "-n", "elsewhere"]] {
        assert_says(&node.ramet(arguments), 3, &format!("{arguments:?}"));
    }
}

#[test]
fn wrong_arguments_are_exit_code_two() {
    let node = node();
    for arguments in [
        &["get"][..],
        &["get", "nonsense"],
        &["get", "functions", "-o", "nonsense"],
        &["describe", "instance", "a"],
        &["delete"],
        &["delete", "function"],
        &["delete", "function", "a", "-f", "x.yaml"],
        &["delete", "-f", "x.yaml", "-n", "elsewhere"],
        &["apply"],
        &["nonsense"],
        &["schema", "nonsense"],
        &["check", "--transport", "nonsense"],
        &["up", "--listen", "nonsense"],
    ] {
        let output = node.ramet(arguments);
        assert_eq!((code(&output), out(&output).as_str()), (2, ""), "{arguments:?}: {}", err(&output));
        assert!(err(&output).starts_with("error: "), "{arguments:?}: {}", err(&output));
    }
    for arguments in [
        &["invoke", "one", "-H", "no colon"][..],
        &["invoke", "one", "-H", "a b: c"],
        &["invoke", "one", "-X", "A B"],
        &["invoke", "one", "--path", "a blank"],
        &["invoke", "one", "-d", "@/does/not/exist"],
        &["apply", "-f", "/does/not/exist.yaml"],
        &["delete", "-f", "/does/not/exist.yaml"],
        &["get", "node", "some"],
        &["get", "node", "-n", "default"],
        &["gateway"],
    ] {
        assert_says(&node.ramet(arguments), 2, &format!("{arguments:?}"));
    }
}

#[test]
fn a_name_that_none_can_have_is_a_wrong_argument() {
    let node = node();
    for arguments in
        [&["get", "function", "Bad Name"][..], &["describe", "chain", "a_b"], &["get", "chains", "-n", "a.b"]]
    {
        let output = node.ramet(arguments);
        assert_says(&output, 2, &format!("{arguments:?}"));
        assert!(!err(&output).contains("deserialize"), "{}", err(&output));
    }
}

#[test]
fn without_a_node_it_is_exit_code_four() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = folder.path().join("ramet.yaml");
    std::fs::write(&manifest, MANIFEST).expect("written");
    let (manifest, socket) = (manifest.display().to_string(), folder.path().join("none.sock").display().to_string());
    for arguments in [
        &["get", "functions"][..],
        &["get", "node", "-o", "json"],
        &["describe", "function", "a"],
        &["apply", "-f", &manifest],
        &["delete", "chain", "one"],
        &["delete", "-f", &manifest],
        &["invoke", "one", "-d", "x"],
        &["logs"],
        &["logs", "--follow"],
    ] {
        let output = ramet(&[arguments, &["--socket", &socket]].concat());
        assert_says(&output, 4, &format!("{arguments:?}"));
        let said = err(&output);
        assert!(said.contains(&socket) && said.contains("ramet up") && said.contains("--socket"), "{said}");
    }
}

#[test]
fn a_wrong_manifest_is_shown_with_every_error_and_its_place() {
    let node = node();
    let text = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: Bad}
spec: {command: [], replicas: 0}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: wrong}
spec:
  steps: [{function: nosuch}]
  deadine: 2s
";
    let expected = [
        ":4:18: metadata.name: ",
        ":5:17: spec.command: ",
        ":5:31: spec.replicas: ",
        ":11:22: spec.steps[0].function: ",
        ":12:3: spec.deadine: ",
    ];
    let before = done(&node.ramet(&["get", "functions", "-o", "json"]));
    let file = node.write_manifest("wrong.yaml", text).display().to_string();
    let applied = node.ramet(&["apply", "-f", &file]);
    let fed = node.ramet_fed(&["apply", "-f", "-"], text.as_bytes());
    let started = ramet(&["up", "-f", &file, "--transport", "ring"]);
    for (output, name) in [(applied, file.as_str()), (fed, "standard input"), (started, &file)] {
        let said = err(&output);
        assert_eq!((code(&output), out(&output).as_str()), (2, ""), "{said}");
        for place in expected {
            assert!(said.contains(&format!("{name}{place}")), "no {name}{place} in:\n{said}");
        }
    }
    assert_eq!(done(&node.ramet(&["get", "functions", "-o", "json"])), before, "nothing was changed");
}

#[test]
fn wrong_settings_are_shown_with_every_error_and_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ramet.toml");
    std::fs::write(&file, "listen = 5\nnonsense = 1\n[gateway]\nworkers = 0\n").expect("written");
    let file = file.display().to_string();
    for arguments in [&["up"][..], &["check"], &["get", "node"]] {
        let output = ramet(&[arguments, &["--config", &file]].concat());
        assert_eq!((code(&output), out(&output).as_str()), (2, ""), "{}", err(&output));
        for place in [":1:10: listen: ", ":2:1: nonsense: ", ":4:11: gateway.workers: "] {
            assert!(err(&output).contains(&format!("{file}{place}")), "no {place} in:\n{}", err(&output));
        }
    }
    assert_says(&ramet(&["check", "--config", "/does/not/exist.toml"]), 2, "no such settings file");
}

#[test]
fn a_delete_that_cannot_be_done_whole_deletes_nothing() {
    let node = node();
    let all = |kind: &str| done(&node.ramet(&["get", kind, "-o", "json"]));
    let chains = all("chains");
    let delete = |name: &str, text: &str| {
        let file = node.write_manifest(name, text).display().to_string();
        node.ramet(&["delete", "-f", &file])
    };
    let text = MANIFEST.replace("name: b}", "name: nosuch}").replace("function: b", "function: nosuch");
    let partly = delete("partly.yaml", &text.replace("name: one}", "name: none}"));
    assert_eq!((code(&partly), out(&partly).as_str()), (3, ""), "{}", err(&partly));
    let said = err(&partly);
    assert!(said.starts_with("ramet: nothing was deleted"), "{said}");
    let rows: Vec<_> = said.lines().skip(1).collect();
    assert_eq!(rows, ["there is no chain \"default/none\"", "there is no function \"default/nosuch\""]);

    // Both chains of the default namespace use the function, and only one of them is to go.
    let documents: Vec<_> = MANIFEST.split("---").collect();
    let used = delete("used.yaml", &[documents[0], documents[3]].join("---"));
    assert_says(&used, 1, "a function that is used by what stays");
    assert!(err(&used).contains("is used by chain \"default/pair\""), "{}", err(&used));
    assert!(err(&used).contains("nothing was deleted"), "{}", err(&used));
    assert_eq!((all("functions").matches("\"kind\"").count(), all("chains")), (6, chains));

    let whole = done(&delete("all.yaml", MANIFEST));
    let rows: Vec<_> = whole.lines().map(|row| row.trim_end_matches(" deleted")).collect();
    let expected = ["default/one", "default/pair", "elsewhere/one"].map(|chain| format!("chain {chain}"));
    assert_eq!(rows[..3], expected, "chains first: they use the functions");
    assert_eq!(rows[3..], ["function default/a", "function default/b", "function elsewhere/a"]);
    assert_eq!((all("functions").trim(), all("chains").trim()), ("[]", "[]"));
}

/// TLS changes how a node is spoken to, not what the commands can do.
#[test]
fn invoke_finds_a_node_that_speaks_tls() {
    let pair = Pair::new();
    let node = Node::start(&pair.settings(Start::new("ring", MANIFEST))).expect("ring runs everywhere");
    assert_eq!(done(&node.ramet(&["invoke", "one", "-d", "x"])), "x+a");
    assert_eq!(done(&node.ramet(&["invoke", "one", "-n", "elsewhere", "-d", "x"])), "x+away", "another host");
    // The gateway goes on with the pair that it was given: what lies in the files by now is another one's.
    pair.write();
    assert_eq!(done(&node.ramet(&["invoke", "one", "-d", "x"])), "x+a");
}

#[test]
fn a_certificate_that_cannot_be_used_is_a_wrong_setting() {
    let pair = Pair::new();
    let start = |certificate: &str, key: &str| {
        let mut command = Command::new(program("ramet"));
        command.args(["up", "--transport", "ring", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--socket"]);
        command.arg(pair.file("ramet.sock")).env("RAMET_TLS__CERTIFICATE", pair.file(certificate));
        command.env("RAMET_TLS__KEY", pair.file(key)).output().expect("ramet runs")
    };
    for (certificate, key, named) in [
        ("certificate.pem", "nosuch.pem", "`tls.key`"),
        ("nosuch.pem", "key.pem", "`tls.certificate`"),
        ("certificate.pem", "certificate.pem", "`tls.key`"),
        ("key.pem", "key.pem", "`tls.certificate`"),
        ("certificate.pem", "other.pem", "do not go together"),
    ] {
        let output = start(certificate, key);
        assert_says(&output, 2, named);
        assert!(err(&output).contains(named), "{named}: {}", err(&output));
    }
    let both = err(&start("nosuch.pem", "nosuch.pem"));
    assert!(both.contains("`tls.certificate`") && both.contains("`tls.key`"), "{both}");
}

/// A certificate and its key in files of their own.
struct Pair(TempDir);

impl Pair {
    fn new() -> Self {
        let pair = Self(tempfile::tempdir().expect("a folder"));
        pair.write();
        std::fs::copy(pair.file("key.pem"), pair.file("other.pem")).expect("copied");
        pair.write();
        pair
    }

    fn write(&self) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::write(self.file("certificate.pem"), made.cert.pem()).expect("written");
        std::fs::write(self.file("key.pem"), made.signing_key.serialize_pem()).expect("written");
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn settings<'a>(&self, start: Start<'a>) -> Start<'a> {
        start.with("RAMET_TLS__CERTIFICATE", self.file("certificate.pem")).with("RAMET_TLS__KEY", self.file("key.pem"))
    }
}

#[test]
fn an_unfit_machine_is_exit_code_five() {
    let Some(output) = ramet_without_privilege(&["check", "--transport", "skmsg"]) else { return };
    assert_eq!(code(&output), 5, "{}", err(&output));
    assert!(err(&output).starts_with("ramet: ") && err(&output).contains("skmsg"), "{}", err(&output));
    assert!(out(&output).contains("fails"), "{}", out(&output));
}
