//! File names: a file's name says what is in it, and a module is never called `mod.rs`.

use super::Finding;

/// Names under which anything may be put, and so everything is.
const VAGUE: [&str; 9] = ["util", "utils", "helper", "helpers", "misc", "manager", "managers", "common", "stuff"];
/// The kernel's and user space's common layouts are what this one holds.
const COMMON_CRATE: &str = "ebpf/common";

pub(super) fn check(path: &str) -> Vec<Finding> {
    if !path.ends_with(".rs") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if path.ends_with("/mod.rs") {
        let folder = path.trim_end_matches("/mod.rs");
        findings.push(Finding::new(path, 1, format!("the module is in `mod.rs`; rename it to {folder}.rs")));
    }
    let own = path.strip_prefix(COMMON_CRATE).unwrap_or(path).trim_end_matches(".rs");
    let vague = own.split(['/', '_', '-']).find(|word| VAGUE.contains(word));
    if let Some(word) = vague {
        findings.push(Finding::new(path, 1, format!("`{word}` says nothing; name the file after what is in it")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mod_rs_is_found() {
        assert!(check("a/src/b/mod.rs")[0].text.contains("a/src/b.rs"));
        assert_eq!(check("a/src/b.rs"), []);
    }

    #[test]
    fn vague_names_are_found() {
        for path in ["a/src/util.rs", "a/src/misc/b.rs", "a/src/pool_manager.rs", "a/tests/common.rs"] {
            assert_eq!(check(path).len(), 1, "{path}");
        }
        for path in ["ebpf/common/src/lib.rs", "a/src/utility.rs", "a/common.md", "gateway/src/lending.rs"] {
            assert_eq!(check(path), [], "{path}");
        }
        assert_eq!(check("ebpf/common/src/util.rs").len(), 1);
    }
}
