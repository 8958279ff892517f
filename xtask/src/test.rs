//! `test`: everything that can be tested here, set up by itself, and a word about everything that cannot.

mod guests;
mod libtest;
mod nextest;
mod report;

pub(crate) use guests::Guests;
pub(crate) use report::Report;

use crate::build_ebpf::{self, Freshness, Install, target_directory, workspace_root};
use crate::commands::{cargo, succeeds};
use crate::count::{self, Outcome};
use crate::debian;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Command, ExitCode};

/// The arguments of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fail where something would be skipped for a missing privilege or tool; the same as `CI=true`
    #[arg(long)]
    ci: bool,
    /// Whether tests are run in emulated guests, too
    #[arg(long, value_enum, default_value_t)]
    guests: Guests,
    /// Only the tests whose name contains one of these
    #[arg(last = true)]
    filter: Vec<String>,
}

/// How much may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// What cannot run is named.
    Local,
    /// What cannot run is a failure, and `Cargo.lock` must be right.
    Ci,
}

impl Mode {
    /// What the environment says.
    pub(crate) fn of_environment() -> Self {
        if std::env::var("CI").is_ok_and(|value| value == "true") { Self::Ci } else { Self::Local }
    }

    /// A cargo command in this mode. Tests look at `CI` themselves.
    pub(crate) fn cargo(self, root: &Path, verb: &[&str]) -> Command {
        let mut command = cargo(root);
        command.args(verb);
        if self == Self::Ci {
            command.env("CI", "true").arg("--locked");
        }
        command
    }

    /// The same for the whole workspace with every feature: code behind a feature that nothing turns on by default is
    /// promised to users all the same. (loom is a `cfg` and no feature, so this does not turn it on.)
    pub(crate) fn cargo_everything(self, root: &Path, verb: &[&str]) -> Command {
        let mut command = self.cargo(root, verb);
        command.args(["--workspace", "--all-features"]);
        command
    }
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mode = if args.ci { Mode::Ci } else { Mode::of_environment() };
    let report = run_all(mode, args.guests, &args.filter)?;
    report.print();
    Ok(report.exit_code())
}

/// Sets everything up and runs all tests whose name contains one of `filter`, or simply all.
pub(crate) fn run_all(mode: Mode, guests: Guests, filter: &[String]) -> Result<Report> {
    let root = workspace_root()?;
    let target = target_directory(&root)?;
    debian::ensure_build_packages(Install::Allowed)?;
    let mut report = Report::default();
    build_object(mode, &mut report);
    find_forked_programs(mode, &mut report);
    if guests == Guests::Only {
        guests::run(mode, guests, &root, filter, &mut report)?;
        return Ok(report);
    }
    // Tests start the programs that lie beside them. With `--tests`, features are the same as when the tests are run,
    // so nothing is compiled twice.
    if !succeeds(&mut mode.cargo_everything(&root, &["build", "--bins", "--tests"]))? {
        report.broken.push("building the workspace and its tests".into());
        return Ok(report);
    }
    if nextest::is_here(cargo(&root)) {
        let (tests, succeeded) = nextest::run(mode, &root, filter)?;
        report.add("cargo nextest", tests, succeeded);
        let (tests, succeeded) = libtest::run(mode.cargo_everything(&root, &["test", "--doc"]), filter)?;
        report.add("the examples in documentation", tests, succeeded);
    } else {
        let (tests, succeeded) = libtest::run(mode.cargo_everything(&root, &["test", "--no-fail-fast"]), filter)?;
        report.add("cargo test", tests, succeeded);
    }
    run_models(mode, &root, &target, filter, &mut report)?;
    count_instructions(mode, &root, filter, &mut report);
    match guests {
        Guests::Also if filter.is_empty() => guests::run(mode, guests, &root, &[], &mut report)?,
        Guests::Also => report.left_out.push("the guests: a filter is given; --guests only has them alone".into()),
        _ => report.left_out.push("the guests: --guests none".into()),
    }
    Ok(report)
}

/// Builds the eBPF object, without which the kernel's transport is not tested.
fn build_object(mode: Mode, report: &mut Report) {
    // In CI the target folder may be older than the checkout, so times say nothing.
    let freshness = if mode == Mode::Ci { Freshness::Rebuild } else { Freshness::Reuse };
    let Err(error) = build_ebpf::ensure(Install::Allowed, freshness) else { return };
    if mode == Mode::Ci {
        eprintln!("error: {error:#}");
        report.broken.push("building the eBPF object".into());
    } else {
        eprintln!("warning: {error:#}");
        report.left_out.push("the eBPF object could not be built (see above), so nothing runs in the kernel".into());
    }
}

/// Looks for the programs that tests fork. Without one its tests skip themselves.
fn find_forked_programs(mode: Mode, report: &mut Report) {
    let Err(error) = debian::ensure_forked_programs(Install::Allowed) else { return };
    if mode == Mode::Ci {
        eprintln!("error: {error:#}");
        report.broken.push("finding the programs that tests fork".into());
    } else {
        eprintln!("warning: {error:#}");
    }
}

/// Has loom try every order in which the lanes' loads and stores can happen.
fn run_models(mode: Mode, root: &Path, target: &Path, filter: &[String], report: &mut Report) -> Result<()> {
    const PREFIX: &str = "loom_";
    if !filter.is_empty() && !filter.iter().any(|part| part.contains(PREFIX)) {
        report.left_out.push(format!("the loom models: the filter names no `{PREFIX}`"));
        return Ok(());
    }
    // Other flags mean other artefacts; in a folder of their own they do not push the usual ones out.
    let target = target.join("loom");
    let target = target.to_str().context("the target folder's path is not UTF-8; choose another")?;
    let mut command = mode.cargo(root, &["test", "-p", "ramet-shm", "--lib", "--release", "--target-dir", target]);
    command.env("RUSTFLAGS", "--cfg loom");
    let filter = if filter.is_empty() { &[PREFIX.to_owned()][..] } else { filter };
    let (tests, succeeded) = libtest::run(command, filter)?;
    report.add("the loom models", tests, succeeded);
    Ok(())
}

/// Holds the hot paths to the instructions that they took when that was written down.
fn count_instructions(mode: Mode, root: &Path, filter: &[String], report: &mut Report) {
    const NAME: &str = "the hot paths' instructions";
    if !filter.is_empty() {
        report.left_out.push(format!("{NAME}: a filter is given; `cargo xtask count` has them alone"));
        return;
    }
    eprintln!("\n== {NAME}");
    let found = match count::check(root) {
        Ok(Outcome::Held(table)) => {
            eprintln!("{table}");
            Report { passed: 1, ..Report::default() }
        }
        Ok(Outcome::Broken(why)) => {
            eprintln!("error: {why}");
            Report { failed: 1, failures: vec![NAME.to_owned()], ..Report::default() }
        }
        Ok(Outcome::Skipped(why)) => {
            report.left_out.push(format!("{NAME}: {why}"));
            return;
        }
        Err(error) if mode == Mode::Ci => {
            eprintln!("error: {error:#}");
            report.broken.push(format!("counting {NAME}"));
            return;
        }
        Err(error) => {
            report.left_out.push(format!("{NAME}: {error:#}"));
            return;
        }
    };
    report.add(NAME, found, true);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::typed;

    #[test]
    fn everything_means_every_feature_too() {
        let command = Mode::Local.cargo_everything(Path::new("/"), &["test", "--doc"]);
        assert!(typed(&command).ends_with(" test --doc --workspace --all-features"), "{}", typed(&command));
        assert!(typed(&Mode::Ci.cargo_everything(Path::new("/"), &["test"])).contains(" --locked "));
    }
}
