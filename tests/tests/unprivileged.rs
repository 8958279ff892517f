//! I9: without privilege the same program runs with the next best transport and says so.

use std::process::Command;

use ramet_tests::node::{program, skipped};

#[test]
fn a_user_without_privilege_gets_rings_and_is_told_why() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("only root can become somebody else");
    }
    // Somebody without any privilege, in a folder that is theirs.
    let folder = tempfile::tempdir().expect("a folder");
    let ramet = folder.path().join("ramet");
    std::fs::copy(program("ramet"), &ramet).expect("copied");
    let nobody = nix::unistd::Uid::from_raw(65_534);
    nix::unistd::chown(folder.path(), Some(nobody), None).expect("chown");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"])
        .arg(&ramet)
        .args(["check", "-o", "json"])
        .env_remove("XDG_RUNTIME_DIR")
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return skipped(&format!("setpriv: {error}")),
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let chosen = rows.as_array().expect("rows").iter().find(|row| row["check"] == "transport").expect("a choice");
    assert_eq!(chosen["result"], "ok");
    let detail = chosen["detail"].as_str().expect("text");
    assert!(detail.starts_with("ring: "), "{detail}");
}
