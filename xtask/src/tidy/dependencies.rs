//! What every crate asks for and never names: it costs every build, and every audit, for nothing.

use super::Finding;
use super::crates::Package;
use super::source::Source;
use super::tree::TextFile;
use std::collections::BTreeSet;

/// Where the workspace says which release of a crate everybody uses.
const WORKSPACE: &str = "Cargo.toml";
/// The table that says so.
const TABLE: &str = "[workspace.dependencies]";

pub(super) fn check(packages: &[Package], files: &[TextFile]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = packages.iter().flat_map(|package| unused(package, packages, files)).collect();
    if let Some(file) = files.iter().find(|file| file.path == WORKSPACE) {
        findings.extend(unused_by_all(file, packages));
    }
    findings
}

fn unused(package: &Package, packages: &[Package], files: &[TextFile]) -> Vec<Finding> {
    let own = files.iter().filter(|file| file.is_rust() && is_of(file, package, packages));
    let sources: Vec<Source<'_>> = own.map(Source::new).collect();
    let names: BTreeSet<&str> = package.dependencies.iter().map(String::as_str).collect();
    let unused = names.into_iter().filter(|name| {
        let name = name.replace('-', "_");
        !sources.iter().any(|source| source.code.iter().any(|line| names_crate(line, &name)))
    });
    let text = |name| format!("{} never names {name}; take it out of the dependencies", package.name);
    unused.map(|name| Finding::new(&package.manifest, 1, text(name))).collect()
}

/// Whether a file belongs to a package, and not to one in a folder below it.
fn is_of(file: &TextFile, package: &Package, packages: &[Package]) -> bool {
    let folder = package.folder();
    let below = |other: &&Package| other.folder().starts_with(folder) && other.folder() != folder;
    let is_in = |folder: &str| file.path.starts_with(folder);
    is_in(folder) && !packages.iter().filter(below).any(|other| is_in(other.folder()))
}

/// Whether a line of code names a crate: as the start of a path, or in a `use` of the crate itself.
fn names_crate(line: &str, name: &str) -> bool {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(name).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + name.len()..]);
        if before.ends_with(is_word) || after.starts_with(is_word) {
            return false;
        }
        let is_used = before.trim_end().ends_with("use") || before.trim_end().ends_with("crate");
        after.starts_with("::") || is_used
    })
}

fn unused_by_all(file: &TextFile, packages: &[Package]) -> Vec<Finding> {
    let lines = (1..).zip(file.text.lines()).skip_while(|(_, line)| line.trim() != TABLE).skip(1);
    let rows = lines.take_while(|(_, line)| !line.starts_with('['));
    let names = rows.filter_map(|(number, line)| Some((number, line.split_once([' ', '=', '.'])?.0)));
    let unused = names.filter(|(_, name)| !name.is_empty() && !name.starts_with('#')).filter(|(_, name)| {
        let is_named = |package: &Package| package.name == *name || package.dependencies.iter().any(|of| of == name);
        !packages.iter().any(is_named)
    });
    unused
        .map(|(number, name)| Finding::new(WORKSPACE, number, format!("no crate depends on {name}; remove the line")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(folder: &str, dependencies: &[&str]) -> Package {
        Package {
            name: folder.to_owned(),
            manifest: format!("{folder}/Cargo.toml"),
            dependencies: dependencies.iter().map(|&name| name.to_owned()).collect(),
            ..Package::default()
        }
    }

    fn file(path: &str, text: &str) -> TextFile {
        TextFile { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_dependency_that_nothing_names_is_found() {
        let files = [
            file("a/src/lib.rs", "use serde_json as json;\nfn f() { nix::unistd::fork(); }\n"),
            file("a/tests/a.rs", "use bytes;\nlet toml = my_figment::x(\"slab::new\"); // image::open\n"),
        ];
        let all = ["serde-json", "nix", "bytes", "toml", "figment", "slab", "image"];
        let found = check(&[package("a", &all)], &files);
        let named: Vec<_> = found.iter().filter_map(|finding| finding.text.split([' ', ';']).nth(3)).collect();
        assert_eq!(named, ["figment", "image", "slab", "toml"]);
        assert!(found.iter().all(|finding| finding.path == "a/Cargo.toml"));
    }

    #[test]
    fn a_crate_in_a_folder_below_is_another_crate() {
        let packages = [package("a", &["nix"]), package("a/b", &["nix"])];
        let found = check(&packages, &[file("a/b/src/lib.rs", "use nix::fcntl;\n")]);
        assert_eq!(found.iter().map(|finding| finding.path.as_str()).collect::<Vec<_>>(), ["a/Cargo.toml"]);
        assert_eq!(check(&packages[1..], &[file("ab/src/lib.rs", "use nix::fcntl;\n")]).len(), 1);
    }

    #[test]
    fn a_row_of_the_workspace_that_no_crate_asks_for_is_found() {
        let manifest =
            "[workspace.dependencies]\na = { path = \"a\" }\n\nnix.version = \"1\"\nslab = \"1\"\n\n[x]\nb = 1\n";
        let files = [file("Cargo.toml", manifest), file("a/src/lib.rs", "nix::x();\n")];
        let found = check(&[package("a", &["nix"])], &files);
        assert_eq!(
            found.iter().map(|finding| (finding.path.as_str(), finding.line)).collect::<Vec<_>>(),
            [("Cargo.toml", 5)]
        );
    }
}
