//! I9: without privilege the same program runs with the next best transport and says so.

use ramet_tests::node::ramet_without_privilege;

#[test]
fn a_user_without_privilege_gets_rings_and_is_told_why() {
    let Some(output) = ramet_without_privilege(&["check", "-o", "json"]) else { return };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let chosen = rows.as_array().expect("rows").iter().find(|row| row["check"] == "transport").expect("a choice");
    assert_eq!(chosen["result"], "ok");
    let detail = chosen["detail"].as_str().expect("text");
    assert!(detail.starts_with("ring: "), "{detail}");
}
