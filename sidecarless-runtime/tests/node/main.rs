//! Whole nodes, with a gateway and functions that speak the protocols and nothing else.
//!
//! This program is its own test harness because it is every process of the nodes that it tests: the supervisor starts
//! `/proc/self/exe gateway` and, by the tests' manifests, `function`.
#![allow(clippy::print_stdout, reason = "a test function's output is what is tested")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cases;
mod harness;
mod roles;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("up") => roles::supervisor::run(),
        Some("gateway") => roles::gateway::run(),
        Some("function") => roles::function::run(arguments.next().as_deref().unwrap_or_default()),
        _ => run_tests(),
    }
}

fn run_tests() -> ExitCode {
    let trials = cases::all().into_iter().map(|(name, case)| Trial::test(name, move || run(case)));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn run(case: fn()) -> Result<(), Failed> {
    case();
    Ok(())
}
