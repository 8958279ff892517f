//! What every crate declares: its licence, its place on the map, and that it has no unsafe code.

use super::Finding;
use super::source::Source;
use super::tree::TextFile;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// The licence of everything here.
const LICENCE: &str = "MIT OR Apache-2.0";
/// Files that a release needs.
const REQUIRED: [&str; 3] = ["CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"];
/// The crates that may have unsafe code, with what they need it for.
const UNSAFE_CRATES: [&str; 5] = [
    // Memory that other processes map.
    "ramet-shm",
    // Between fork and exec there is no safe function.
    "ramet-sys",
    // A C library, and a device that writes to memory.
    "ramet-rdma",
    // The kernel's pointers and helpers.
    "ramet-ebpf",
    // A page of assembly that turns one process into another. The rest of the crate denies it.
    "ramet-fork",
];
/// The map.
const MAP: &str = "ARCHITECTURE.md";
/// The kernel's programs, which are no member of the workspace.
pub(super) const PROGRAMS: &str = "ebpf/programs/Cargo.toml";

/// What `cargo metadata` knows of one of our crates.
#[derive(Debug, Default)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) licence: String,
    /// `Cargo.toml`, relative to the workspace.
    pub(super) manifest: String,
    pub(super) uses: Vec<Use>,
    /// The names of all crates that it asks for, whoever's they are and whatever for.
    pub(super) dependencies: Vec<String>,
    /// The files that are crate roots of what is shipped, relative to the workspace.
    pub(super) roots: Vec<String>,
}

impl Package {
    /// Its folder with the slash at the end, so that no other folder's name begins like it.
    pub(super) fn folder(&self) -> &str {
        self.manifest.trim_end_matches("Cargo.toml")
    }
}

/// One of our crates that another uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) name: String,
    pub(super) section: Section,
}

/// Where a crate is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// In what is shipped, or in what builds it.
    Product,
    /// In tests only.
    Tests,
}

/// Every crate of ours, the kernel's programs included.
pub(super) fn packages(root: &Path) -> Result<Vec<Package>> {
    let mut packages = parse(&metadata(root, "Cargo.toml")?, root)?;
    packages.extend(parse(&metadata(root, PROGRAMS)?, root)?);
    Ok(packages)
}

pub(super) fn check(packages: &[Package], files: &[TextFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let map = files.iter().find(|file| file.path == MAP).map_or("", |file| &file.text);
    for package in packages {
        findings.extend(check_licence(package));
        findings.extend(check_map(package, map));
        for path in &package.roots {
            let file = files.iter().find(|file| file.path == *path);
            findings.extend(file.and_then(|file| check_unsafe(package, file)));
        }
    }
    for path in REQUIRED {
        if !files.iter().any(|file| file.path == path) {
            findings.push(Finding::new(path, 1, "the file is missing; a release needs it"));
        }
    }
    findings
}

fn check_licence(package: &Package) -> Option<Finding> {
    let text = || format!("the licence is {:?}; it must be {LICENCE:?}", package.licence);
    (package.licence != LICENCE).then(|| Finding::new(&package.manifest, 1, text()))
}

fn check_map(package: &Package, map: &str) -> Option<Finding> {
    // The programs have a row that says why they have no name, the examples one for all of them.
    if package.manifest == PROGRAMS || package.manifest.starts_with("examples/") {
        return None;
    }
    let name = format!("`{}`", package.name);
    let first_cell = |line: &str| line.strip_prefix('|')?.split('|').next().map(str::to_owned);
    let is_named = map.lines().filter_map(first_cell).any(|cell| cell.contains(&name));
    let text = || format!("the table of crates has no row for {name}; add one");
    (!is_named).then(|| Finding::new(MAP, 1, text()))
}

fn check_unsafe(package: &Package, root: &TextFile) -> Option<Finding> {
    if UNSAFE_CRATES.contains(&package.name.as_str()) {
        return None;
    }
    let forbids = Source::new(root).code.iter().any(|line| line.trim() == "#![forbid(unsafe_code)]");
    let text = "unsafe code is not forbidden; add `#![forbid(unsafe_code)]`";
    (!forbids).then(|| Finding::new(&root.path, 1, text))
}

fn metadata(root: &Path, manifest: &str) -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path", manifest]);
    let output = command.stdin(Stdio::null()).output().context("cannot run cargo metadata")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo metadata does not understand {manifest}: {}", errors.trim());
    serde_json::from_slice(&output.stdout).context("the output of cargo metadata is not JSON")
}

fn parse(metadata: &Value, root: &Path) -> Result<Vec<Package>> {
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    Ok(packages.iter().map(|package| parse_package(package, root)).collect())
}

fn parse_package(package: &Value, root: &Path) -> Package {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let relative = |value: &Value| {
        let path = Path::new(value.as_str().unwrap_or_default());
        path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
    };
    let list = |name: &str| package[name].as_array().map(Vec::as_slice).unwrap_or_default();
    // Only our own crates are dependencies by path.
    let is_ours = |dependency: &&Value| dependency["path"].is_string();
    let is_shipped = |target: &&Value| {
        let kinds = target["kind"].as_array().map(Vec::as_slice).unwrap_or_default();
        !kinds.iter().any(|kind| matches!(kind.as_str(), Some("test" | "bench")))
    };
    Package {
        name: text(&package["name"]),
        licence: text(&package["license"]),
        manifest: relative(&package["manifest_path"]),
        uses: list("dependencies").iter().filter(is_ours).map(parse_use).collect(),
        // Code knows a crate that is renamed by its new name.
        dependencies: list("dependencies")
            .iter()
            .map(|dependency| {
                text(dependency.get("rename").filter(|name| name.is_string()).unwrap_or(&dependency["name"]))
            })
            .collect(),
        roots: list("targets").iter().filter(is_shipped).map(|target| relative(&target["src_path"])).collect(),
    }
}

fn parse_use(dependency: &Value) -> Use {
    let section = if dependency["kind"] == "dev" { Section::Tests } else { Section::Product };
    Use { name: dependency["name"].as_str().unwrap_or_default().to_owned(), section }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> Package {
        Package {
            name: "ramet-a".into(),
            licence: LICENCE.into(),
            manifest: "a/Cargo.toml".into(),
            uses: Vec::new(),
            dependencies: Vec::new(),
            roots: vec!["a/src/lib.rs".into()],
        }
    }

    fn files(map: &str, root: &str) -> Vec<TextFile> {
        let mut files: Vec<TextFile> =
            REQUIRED.iter().map(|path| TextFile { path: (*path).into(), text: "x\n".into() }).collect();
        files.push(TextFile { path: MAP.into(), text: map.into() });
        files.push(TextFile { path: "a/src/lib.rs".into(), text: root.into() });
        files
    }

    const GOOD_MAP: &str = "| crate |\n|---|\n| `ramet-a` | `a` |\n";
    const GOOD_ROOT: &str = "//! Why.\n#![forbid(unsafe_code)]\n";

    #[test]
    fn a_crate_in_order_is_not_found() {
        assert_eq!(check(&[package()], &files(GOOD_MAP, GOOD_ROOT)), []);
    }

    #[test]
    fn another_licence_is_found() {
        let package = Package { licence: "MIT".into(), ..package() };
        assert_eq!(check(&[package], &files(GOOD_MAP, GOOD_ROOT))[0].path, "a/Cargo.toml");
    }

    #[test]
    fn a_crate_that_is_not_on_the_map_is_found() {
        let found = check(&[package()], &files("`ramet-a`\n| `ramet-b` | `ramet-a` |\n", GOOD_ROOT));
        assert_eq!(found[0].path, MAP);
    }

    #[test]
    fn a_root_that_allows_unsafe_code_is_found() {
        let bad = "//! Why.\n// #![forbid(unsafe_code)]\n";
        assert_eq!(check(&[package()], &files(GOOD_MAP, bad))[0].path, "a/src/lib.rs");
        let map = "| `ramet-shm` |\n";
        assert_eq!(check(&[Package { name: "ramet-shm".into(), ..package() }], &files(map, bad)), []);
    }

    #[test]
    fn a_missing_changelog_is_found() {
        let files: Vec<TextFile> =
            files(GOOD_MAP, GOOD_ROOT).into_iter().filter(|file| file.path != "CHANGELOG.md").collect();
        assert_eq!(check(&[package()], &files)[0].path, "CHANGELOG.md");
    }

    #[test]
    fn metadata_is_understood() {
        let metadata = serde_json::json!({ "packages": [{
            "name": "ramet-a", "license": "MIT", "manifest_path": "/w/a/Cargo.toml",
            "dependencies": [{ "name": "ramet-b", "path": "/w/b", "kind": "dev" }, { "name": "serde", "path": null }],
            "targets": [
                { "kind": ["lib"], "src_path": "/w/a/src/lib.rs" },
                { "kind": ["test"], "src_path": "/w/a/tests/c.rs" },
            ],
        }]});
        let packages = parse(&metadata, Path::new("/w")).expect("packages");
        let [package] = &packages[..] else { panic!("{packages:?}") };
        assert_eq!(package.manifest, "a/Cargo.toml");
        assert_eq!(package.uses, [Use { name: "ramet-b".into(), section: Section::Tests }]);
        assert_eq!(package.dependencies, ["ramet-b", "serde"]);
        assert_eq!(package.roots, ["a/src/lib.rs"]);
    }
}
