//! Servers that listen on a unix socket.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use ramet_tests::{Node, Start, eventually};

use super::support::{chain, node, python};

/// Sets who can enter the folder of the node's socket: functions that have users of their own have to.
fn set_mode(node: &Node, mode: u32) {
    let folder = node.socket().parent().expect("a folder").to_owned();
    std::fs::set_permissions(folder, Permissions::from_mode(mode)).expect("chmod");
}

#[test]
fn a_unix_socket_is_as_good_as_a_port() {
    let empty = chain("nothing", "steps: [{function: a}]") + &super::support::actor("a");
    let Some(node) = node("ring", &empty) else { return };
    let manifest = python("web", &[], "http: {listen: unix, readiness: {path: /healthz}}, concurrency: 4")
        + &chain("web", "steps: [{function: web}]");
    let file = node.write_manifest("web.yaml", &manifest).display().to_string();
    if nix::unistd::geteuid().is_root() {
        set_mode(&node, 0o700);
        let refused = node.ramet(&["apply", "-f", &file]);
        let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && errors.contains("only some users can enter"), "{errors}");
    }
    set_mode(&node, 0o755);
    let output = node.ramet(&["apply", "-f", &file]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut client = node.client();
    for _ in 0..3 {
        assert_eq!(client.request("POST", "/web/upper", &[], b"x").expect("an answer").text(), "X");
    }
    assert_eq!(node.request("GET", "/web/die", &[], b"").status, 502);
    assert_eq!(node.post("/web/upper", b"x").text(), "X");
    assert!(node.ramet(&["delete", "-f", &file]).status.success());
    let folder = format!("{}.http", node.socket().display());
    eventually("its folder to be gone", || (!std::path::Path::new(&folder).exists()).then_some(()));
}

/// A function owns its folder, so it can put a link there that leads to somebody else's socket.
#[test]
fn a_link_to_somebody_elses_socket_is_not_followed() {
    if !nix::unistd::geteuid().is_root() {
        return ramet_tests::node::skipped("only root gives functions users of their own");
    }
    let empty = chain("nothing", "steps: [{function: a}]") + &super::support::actor("a");
    let Some(node) = Node::start(&Start::new("ring", &empty)) else { return };
    set_mode(&node, 0o755);
    // Somebody's socket, which the gateway may connect to.
    let victim = node.socket().with_file_name("victim.sock");
    let listener = std::os::unix::net::UnixListener::bind(&victim).expect("bound");
    std::fs::set_permissions(&victim, Permissions::from_mode(0o777)).expect("chmod");
    listener.set_nonblocking(true).expect("nonblocking");
    let link = format!("link={}", victim.display());
    let manifest =
        python("web", &[&link], "http: {listen: unix, startTimeout: 3s}") + &chain("web", "steps: [{function: web}]");
    let file = node.write_manifest("web.yaml", &manifest).display().to_string();
    let output = node.ramet(&["apply", "-f", &file]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && errors.contains("another user's"), "{errors}");
}
