//! `ci`: what must hold for every commit, cheapest first, and everything that is wrong in one run.

use crate::build_ebpf::{Install, workspace_root};
use crate::commands::{cargo, succeeds};
use crate::test::{Guests, Mode};
use crate::{debian, test, tidy};
use anyhow::Result;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The outcome of one step.
#[derive(Debug)]
struct Step {
    name: &'static str,
    took: Duration,
    passed: bool,
}

/// Runs the verb. `verbs` are the names that documents may use.
pub(crate) fn run(verbs: &[String]) -> Result<ExitCode> {
    let root = workspace_root()?;
    let mode = Mode::of_environment();
    debian::ensure_build_packages(Install::Allowed)?;
    let mut steps = vec![
        step("fmt", || format(&root)),
        step("tidy", || tidy::run(&tidy::Args::default(), verbs).map(|()| true)),
        step("clippy", || clippy(mode, &root)),
        step("doc", || document(mode, &root)),
    ];
    let mut report = None;
    steps.push(step("test", || {
        let outcome = test::run_all(mode, Guests::Also, &[])?;
        let passed = outcome.exit_code() == ExitCode::SUCCESS;
        report = Some(outcome);
        Ok(passed)
    }));
    for line in table(&steps) {
        println!("{line}");
    }
    // The tests' counts come last, where a reader looks first.
    if let Some(report) = &report {
        report.print();
    }
    let passed = steps.iter().all(|step| step.passed);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one step; an error is a failure of this step and stops no other.
fn step(name: &'static str, action: impl FnOnce() -> Result<bool>) -> Step {
    eprintln!("\n== {name}");
    let start = Instant::now();
    let passed = action().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        false
    });
    Step { name, took: start.elapsed(), passed }
}

fn format(root: &Path) -> Result<bool> {
    let workspace = succeeds(cargo(root).args(["fmt", "--all", "--check"]))?;
    // The kernel's programs are no member of the workspace.
    let programs = succeeds(cargo(&root.join("ebpf/programs")).args(["fmt", "--check"]))?;
    Ok(workspace && programs)
}

fn clippy(mode: Mode, root: &Path) -> Result<bool> {
    const STRICT: [&str; 3] = ["--", "-D", "warnings"];
    let mut everything = mode.cargo_everything(root, &["clippy", "--all-targets", "--keep-going"]);
    let everything = succeeds(everything.args(STRICT))?;
    // Functions link the SDK without its features, where other code is dead.
    let plain = succeeds(mode.cargo(root, &["clippy", "-p", "ramet-sdk"]).args(STRICT))?;
    Ok(everything && plain)
}

fn document(mode: Mode, root: &Path) -> Result<bool> {
    let mut command = mode.cargo_everything(root, &["doc", "--no-deps", "--keep-going"]);
    succeeds(command.env("RUSTDOCFLAGS", "-D warnings"))
}

fn table(steps: &[Step]) -> Vec<String> {
    let line = |step: &Step| {
        let outcome = if step.passed { "ok" } else { "FAILED" };
        format!("ci: {:<8} {:>7.1} s  {outcome}", step.name, step.took.as_secs_f64())
    };
    let total: Duration = steps.iter().map(|step| step.took).sum();
    let mut lines: Vec<String> = steps.iter().map(line).collect();
    lines.push(format!("ci: {:<8} {:>7.1} s", "all", total.as_secs_f64()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_one_step_is_its_failure() {
        assert!(!step("a", || anyhow::bail!("no")).passed);
        assert!(!step("b", || Ok(false)).passed);
        assert!(step("c", || Ok(true)).passed);
    }

    #[test]
    fn the_table_names_what_failed() {
        let step = |name, passed| Step { name, took: Duration::from_millis(1500), passed };
        let table = table(&[step("fmt", true), step("tidy", false)]);
        assert_eq!(table, ["ci: fmt          1.5 s  ok", "ci: tidy         1.5 s  FAILED", "ci: all          3.0 s"]);
    }
}
