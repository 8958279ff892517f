//! The tests that need another kernel, or an RDMA device, run in emulated guests that have them.
//!
//! [`rounds`] says which programs run in which guest, [`programs`] finds them where cargo has put them, and [`ear`]
//! tells their outputs apart.

mod ear;
mod programs;
mod rounds;

use super::Mode;
use super::report::Report;
use crate::debian;
use crate::vm::{self, Ending, Plan, Role, Script, Series, Stream};
use anyhow::{Context, Result};
use ear::Ear;
use programs::Programs;
use rounds::{Round, Suite};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Whether tests are run in guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Guests {
    /// Yes, unless names are given
    #[default]
    Also,
    /// No
    None,
    /// Yes, and nowhere else; a name is then one of a round or a program: `6.12`, `reads`
    Only,
}

/// How long a program that was told to end may take.
const GRACE: Duration = Duration::from_secs(5);

/// Runs every program whose name, or whose round's, contains one of `filter`, or simply all.
pub(super) fn run(mode: Mode, scope: Guests, root: &Path, filter: &[String], report: &mut Report) -> Result<()> {
    let rounds: Vec<Round> = rounds::all().into_iter().filter_map(|round| round.narrowed(filter)).collect();
    if rounds.is_empty() {
        return Ok(());
    }
    if let Err(error) = vm::ensure_packages() {
        cannot(mode, "the guests", &error, report);
        return Ok(());
    }
    let packages = match scope {
        Guests::Only => rounds.iter().flat_map(Round::packages).collect(),
        _ => BTreeSet::new(),
    };
    let Some(programs) = Programs::list(mode, root, &packages)? else {
        report.broken.push("building the tests for the guests".into());
        return Ok(());
    };
    let mut missing: Vec<Series> = Vec::new();
    for round in &rounds {
        if missing.contains(&round.series) {
            continue;
        }
        // Asked for before there is a guest, so that a mirror's failure is not taken for a guest's.
        if let Err(error) = vm::ensure_kernel(round.series) {
            cannot(mode, &format!("the guests of Linux {}", round.series), &error, report);
            missing.push(round.series);
            continue;
        }
        let found = play(round, &programs).with_context(|| format!("{round} cannot be started"))?;
        report.add(&round.to_string(), found, true);
    }
    Ok(())
}

/// Something is missing. Where it could have been had, CI fails for it.
fn cannot(mode: Mode, what: &str, error: &anyhow::Error, report: &mut Report) {
    eprintln!("warning: {error:#}");
    if mode == Mode::Ci && vm::is_possible() && debian::can_install() {
        report.broken.push(format!("making {what} ({error:#})"));
    } else {
        report.left_out.push(format!("{what}: {error:#}"));
    }
}

/// Boots a round's guests and runs its programs.
fn play(round: &Round, programs: &Programs) -> Result<Report> {
    let mut script = Script::new(programs.root());
    for (number, suite) in round.suites.iter().enumerate() {
        script = script.shell(&line(number, suite, programs)?);
    }
    let mut plan = Plan::new(round.series, round.limit(), script);
    if let Some(peer) = &round.peer {
        let (folder, program) = programs.find(peer)?;
        let program = [program.to_string_lossy().into_owned(), "--nocapture".into()];
        plan.peer = Some(Script::new(folder).words(&[&program[..], &peer.arguments()].concat()));
    }
    eprintln!("\n== {round}: {}", round.suites.iter().map(Suite::to_string).collect::<Vec<_>>().join(", "));
    let start = Instant::now();
    let mut ear = Ear::new(round);
    let ending = vm::follow(&plan, &mut |role, stream, bytes| match (role, stream) {
        (Role::Command, Stream::Out) => ear.hear(bytes),
        _ => ear.keep(role, stream, bytes),
    })?;
    let trouble = match ending {
        Ending::Code(0) => None,
        Ending::Code(code) => Some(format!("its script ended with {code}")),
        Ending::TimedOut => Some(format!("not at its end after {} s", round.limit().as_secs())),
        Ending::Broken(why) => Some(why),
    };
    let mut report = ear.finish(trouble);
    let (counts, seconds) = (report.counts(), start.elapsed().as_secs());
    report.closing = vec![format!("{round}: {counts}; {seconds} s")];
    Ok(report)
}

/// The line of shell that runs one program within its time, and says when it begins and how it ends.
fn line(number: usize, suite: &Suite, programs: &Programs) -> Result<String> {
    let (folder, program) = programs.find(suite)?;
    let words = [&program.to_string_lossy(), "--show-output"].map(str::to_owned);
    let words = [&words[..], &suite.arguments()].concat();
    let words: Vec<String> = words.iter().map(|word| vm::quoted(word)).collect();
    let (folder, limit, grace) = (vm::quoted(&folder.to_string_lossy()), suite.limit_seconds, GRACE.as_secs());
    Ok(format!(
        "echo '{}{number}'; (cd {folder} && exec timeout --kill-after={grace} {limit} {}); echo \"\n{}$?\"",
        ear::BEGIN,
        words.join(" "),
        ear::END
    ))
}
