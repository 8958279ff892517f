//! `count`: how many instructions the hot paths take, which unlike their time is the same in every run, so that CI can
//! hold it.
//!
//! valgrind's callgrind runs the program `hot-paths` (of `tests/`) twice for each path; what the longer run has more is
//! the path's own. The counts that hold are in `tests/hot-paths.json`.

use crate::build_ebpf::{Install, target_directory, workspace_root};
use crate::commands::succeeds;
use crate::debian::{self, Need};
use crate::test::Mode;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the counts are that hold.
const FILE: &str = "tests/hot-paths.json";
/// How often a path is taken in the shorter run, and in the longer one.
const TIMES: [u64; 2] = [1000, 3000];
/// What the bound is when the file is made anew.
const TOLERANCE_PERCENT: f64 = 4.0;
const NEEDS: [Need; 1] = [Need { package: "valgrind", probe: &["valgrind", "--version"] }];

/// The arguments of `cargo xtask count`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write the counts down as the ones that hold from now on
    #[arg(long)]
    renew: bool,
}

/// The file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Counts {
    /// Another compiler makes other instructions.
    rustc: String,
    /// How much more or less may be found.
    tolerance_percent: f64,
    /// Of one turn of each path.
    instructions: BTreeMap<String, f64>,
}

/// What came of the counting.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All is within its bound.
    Held(String),
    /// A path takes more, or so much less that the file should say so.
    Broken(String),
    /// There is nothing to compare with here.
    Skipped(String),
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = workspace_root()?;
    if args.renew {
        let counts = Counts { rustc: rustc()?, tolerance_percent: TOLERANCE_PERCENT, instructions: count(&root)? };
        let text = serde_json::to_string_pretty(&counts).context("the counts cannot be written")?;
        fs::write(root.join(FILE), text + "\n").with_context(|| format!("cannot write {FILE}"))?;
        println!("{}", table(&counts.instructions, &counts));
        return Ok(());
    }
    match check(&root)? {
        Outcome::Held(text) => println!("{text}"),
        Outcome::Skipped(why) => println!("skipped: {why}"),
        Outcome::Broken(text) => bail!("{text}"),
    }
    Ok(())
}

/// Counts, and compares with the file.
pub(crate) fn check(root: &Path) -> Result<Outcome> {
    let text = fs::read_to_string(root.join(FILE)).with_context(|| format!("cannot read {FILE}"))?;
    let held: Counts = serde_json::from_str(&text).with_context(|| format!("{FILE} has another form"))?;
    let rustc = rustc()?;
    if rustc != held.rustc {
        let why =
            format!("the counts in {FILE} are of {}, and this is {rustc}; `cargo xtask count --renew`", held.rustc);
        return Ok(Outcome::Skipped(why));
    }
    let found = count(root)?;
    let table = table(&found, &held);
    let wrong = broken(&found, &held);
    if wrong.is_empty() {
        return Ok(Outcome::Held(table));
    }
    let advice = "if that is meant, run `cargo xtask count --renew` and say why in the commit";
    Ok(Outcome::Broken(format!("{table}\n{}; {advice}", wrong.join("; "))))
}

/// The paths that are not within their bounds.
fn broken(found: &BTreeMap<String, f64>, held: &Counts) -> Vec<String> {
    let mut names: Vec<&String> = found.keys().chain(held.instructions.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let wrong = |name: &&String| match (found.get(*name), held.instructions.get(*name)) {
        (Some(found), Some(held_count)) => {
            let percent = (found / held_count - 1.0) * 100.0;
            (percent.abs() > held.tolerance_percent).then(|| format!("{name} takes {percent:+.1} %"))
        }
        (Some(_), None) => Some(format!("{name} has no bound in {FILE}")),
        _ => Some(format!("{name} is in {FILE}, and there is no such path")),
    };
    names.iter().filter_map(wrong).collect()
}

fn table(found: &BTreeMap<String, f64>, held: &Counts) -> String {
    let line = |(name, count): (&String, &f64)| {
        let bound = held.instructions.get(name).copied().unwrap_or(f64::NAN);
        format!("{name:<20} {count:>9.1} instructions, bound {bound:.1} ± {} %", held.tolerance_percent)
    };
    found.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn count(root: &Path) -> Result<BTreeMap<String, f64>> {
    debian::ensure_packages("counting instructions", &NEEDS, Install::Allowed)?;
    let program = build(root)?;
    let list = said(Command::new(&program).arg("--list"))?;
    let mut counts = BTreeMap::new();
    for path in list.0.lines() {
        let [short, long] = TIMES.map(|times| instructions(&program, path, times));
        let turns = (TIMES[1] - TIMES[0]) as f64;
        counts.insert(path.to_owned(), (long? - short?) as f64 / turns);
    }
    Ok(counts)
}

fn build(root: &Path) -> Result<PathBuf> {
    let profile = ["build", "--profile", "counted", "-p", "ramet-tests", "--bin", "hot-paths"];
    ensure!(succeeds(&mut Mode::of_environment().cargo(root, &profile))?, "building `hot-paths` failed");
    Ok(target_directory(root)?.join("counted").join("hot-paths"))
}

fn instructions(program: &Path, path: &str, times: u64) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    let (_, errors) = said(command.arg(program).arg(path).arg(times.to_string()))?;
    collected(&errors).with_context(|| format!("valgrind does not say what it counted:\n{errors}"))
}

/// The number behind `Collected :`.
fn collected(errors: &str) -> Option<u64> {
    let line = errors.lines().find(|line| line.contains("Collected :"))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn rustc() -> Result<String> {
    Ok(said(Command::new("rustc").arg("--version"))?.0.trim().to_owned())
}

/// Both outputs of a program that must succeed.
fn said(command: &mut Command) -> Result<(String, String)> {
    let shown = crate::commands::typed(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {shown}"))?;
    let [out, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    ensure!(output.status.success(), "{shown} failed: {}", errors.trim());
    Ok((out, errors))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    fn held() -> Counts {
        let instructions = counts(&[("ring", 100.0), ("hand-over", 50.0)]);
        Counts { rustc: "rustc 1".to_owned(), tolerance_percent: 4.0, instructions }
    }

    #[test]
    fn more_than_the_bound_is_found_and_less_too() {
        assert_eq!(broken(&counts(&[("ring", 103.9), ("hand-over", 48.1)]), &held()), [""; 0]);
        let wrong = broken(&counts(&[("ring", 105.0), ("hand-over", 47.0)]), &held());
        assert_eq!(wrong, ["hand-over takes -6.0 %", "ring takes +5.0 %"]);
    }

    #[test]
    fn paths_that_came_or_went_are_found() {
        let wrong = broken(&counts(&[("ring", 100.0), ("new", 1.0)]), &held());
        assert_eq!(wrong.len(), 2);
        assert!(wrong[0].starts_with("hand-over is in") && wrong[1].starts_with("new has no bound"), "{wrong:?}");
    }

    #[test]
    fn what_valgrind_counted_is_read() {
        let errors = "==7== Events    : Ir\n==7== Collected : 2107455\n==7==\n==7== I   refs:      2,107,455\n";
        assert_eq!(collected(errors), Some(2_107_455));
        assert_eq!(collected("==7== Killed"), None);
    }
}
