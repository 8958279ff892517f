//! `tidy`: the project's own rules, checked all at once, so that a reviewer's time goes to what a program cannot see.
//!
//! [`tree`] reads the files, [`source`] tells Rust's code from its comments, and every other module is a family of
//! rules. A rule says what is wrong and what to do; the line that breaks it is the whole context it needs.

mod arrows;
mod crates;
mod dependencies;
mod markdown;
mod names;
mod rust;
mod safety;
mod size;
mod source;
mod text;
mod tree;

use crate::build_ebpf::workspace_root;
use anyhow::{Result, bail};
use source::Source;
use std::fmt;
use std::path::Path;
use tree::TextFile;

/// The arguments of `cargo xtask tidy`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Show the soft limits too: files over 400 lines, functions over 70
    #[arg(long)]
    pedantic: bool,
}

/// Whether a finding fails the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// It does.
    Rule,
    /// It is advice, shown on demand.
    Advice,
}

/// One line of the answer.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// Relative to the workspace.
    path: String,
    /// Counted from one.
    line: usize,
    /// What is wrong, and what to do.
    text: String,
    weight: Weight,
}

impl Finding {
    fn new(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, text: text.into(), weight: Weight::Rule }
    }

    fn advice(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { weight: Weight::Advice, ..Self::new(path, line, text) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.text)
    }
}

/// Runs the verb. `verbs` are the names that documents may use after `cargo xtask`.
pub(crate) fn run(args: &Args, verbs: &[String]) -> Result<()> {
    let root = workspace_root()?;
    let (rules, advice): (Vec<_>, Vec<_>) =
        findings(&root, verbs)?.into_iter().partition(|finding| finding.weight == Weight::Rule);
    if args.pedantic {
        for finding in &advice {
            println!("{finding}");
        }
    }
    for finding in &rules {
        println!("{finding}");
    }
    match rules.len() {
        0 => println!("tidy: nothing to find"),
        1 => bail!("tidy: 1 finding"),
        count => bail!("tidy: {count} findings"),
    }
    Ok(())
}

/// Every finding, in the order of paths and lines.
fn findings(root: &Path, verbs: &[String]) -> Result<Vec<Finding>> {
    let files = tree::read(root)?;
    let mut findings = Vec::new();
    for file in &files {
        findings.extend(in_file(file));
        findings.extend(markdown::commands(file, verbs));
        findings.extend(markdown::links(file, |target| root.join(target).exists()));
    }
    let packages = crates::packages(root)?;
    findings.extend(arrows::check(&packages));
    findings.extend(crates::check(&packages, &files));
    findings.extend(dependencies::check(&packages, &files));
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    Ok(findings)
}

/// The rules that need one file only.
fn in_file(file: &TextFile) -> Vec<Finding> {
    let mut findings = text::check(file);
    findings.extend(names::check(&file.path));
    if file.is_rust() {
        let source = Source::new(file);
        findings.extend(rust::check(&source));
        findings.extend(safety::check(&source));
        findings.extend(size::check(&source));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_tree_has_no_file_that_cannot_be_read() {
        let root = workspace_root().expect("the source is where it was built");
        assert!(tree::read(&root).expect("readable").iter().any(|file| file.path == "xtask/src/tidy.rs"));
    }

    #[test]
    fn a_finding_is_one_line_that_editors_understand() {
        assert_eq!(Finding::new("a/b.rs", 7, "bad; do good").to_string(), "a/b.rs:7: bad; do good");
    }
}
