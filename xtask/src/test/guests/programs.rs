//! Where cargo has put the test programs that guests run.

use super::Mode;
use super::rounds::Suite;
use crate::commands::{Output, overhear};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The test programs of the workspace.
#[derive(Debug)]
pub(super) struct Programs {
    root: PathBuf,
    all: Vec<Program>,
}

/// One of them.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    package: String,
    /// The folder of its package, which is where cargo would start it.
    folder: PathBuf,
    /// `reads` of `tests/reads.rs`, or the crate's name for the tests within its sources.
    target: String,
    path: PathBuf,
}

impl Programs {
    /// Builds all of `packages`, or of the workspace if there are none: features may differ between the two, and then
    /// so do the programs. `None`: it failed, and said why.
    pub(super) fn list(mode: Mode, root: &Path, packages: &BTreeSet<&str>) -> Result<Option<Self>> {
        const ARGUMENTS: [&str; 5] =
            ["test", "--no-run", "--bins", "--tests", "--message-format=json-render-diagnostics"];
        let mut command = if packages.is_empty() {
            mode.cargo_everything(root, &ARGUMENTS)
        } else {
            let mut command = mode.cargo(root, &ARGUMENTS);
            command.arg("--all-features").args(packages.iter().flat_map(|package| ["-p", package]));
            command
        };
        let mut all = Vec::new();
        let succeeded = overhear(&mut command, Output::Standard, |line| all.extend(program(line)))?;
        Ok(succeeded.then(|| Self { root: root.to_owned(), all }))
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder in which a suite's program starts, and the program.
    pub(super) fn find(&self, suite: &Suite) -> Result<(&Path, &Path)> {
        let is_it = |program: &&Program| program.package == suite.package && program.target == suite.target;
        let program = self.all.iter().find(is_it).with_context(|| {
            format!("cargo builds no test program {suite}; correct the list in xtask/src/test/guests/rounds.rs")
        })?;
        Ok((&program.folder, &program.path))
    }
}

/// What a line of cargo's messages says of a test program.
fn program(line: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let path = PathBuf::from(message["executable"].as_str()?);
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    let package = package(message["package_id"].as_str()?)?.to_owned();
    Some(Program { package, folder, target: message["target"]["name"].as_str()?.to_owned(), path })
}

/// `path+file:///w/a#name@0.1.0`, or `path+file:///w/name#0.1.0` where the folder has the package's name.
fn package(id: &str) -> Option<&str> {
    let (source, version) = id.rsplit_once('#')?;
    version.split_once('@').map(|(name, _)| name).or_else(|| source.rsplit('/').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_told_from_everything_else() {
        let artifact = |is_test: bool| {
            format!(
                "{{\"reason\":\"compiler-artifact\",\"package_id\":\"path+file:///w/a#p@0.1.0\",\
                 \"manifest_path\":\"/w/a/Cargo.toml\",\
                 \"target\":{{\"name\":\"t\"}},\"profile\":{{\"test\":{is_test}}},\"executable\":\"/w/target/t-1\"}}"
            )
        };
        let expected =
            Program { package: "p".into(), folder: "/w/a".into(), target: "t".into(), path: "/w/target/t-1".into() };
        assert_eq!(program(&artifact(true)), Some(expected));
        assert_eq!(program(&artifact(false)), None);
        assert_eq!(program("{\"reason\":\"build-finished\"}"), None);
        assert_eq!(program("warning: no JSON"), None);
        assert_eq!(package("path+file:///w/xtask#0.1.0"), Some("xtask"));
    }
}
