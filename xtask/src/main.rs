//! The project's own commands, so that nobody has to remember the flags of other people's.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command answers on its standard output")]

mod build_ebpf;
mod ci;
mod commands;
mod count;
mod debian;
mod demo;
mod test;
mod tidy;
mod vm;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// ramet's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build the eBPF object, `target/ebpf/ramet.bpf.o`
    BuildEbpf(build_ebpf::Args),
    /// Check the project's own rules
    Tidy(tidy::Args),
    /// Build what the tests need and run all of them
    Test(test::Args),
    /// Run every check that a commit must pass
    Ci,
    /// Count the instructions of the hot paths, and compare them with those that hold
    Count(count::Args),
    /// Run the thumbnail chain on a node of its own and measure it
    Demo(demo::Args),
    /// Run a command in an emulated guest with another kernel and a soft-RoCE device
    Vm(vm::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A verb that prints its own closing line answers with an exit code, so that nothing is printed after it.
fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::BuildEbpf(args) => build_ebpf::run(&args)?,
        Verb::Tidy(args) => tidy::run(&args, &verbs())?,
        Verb::Test(args) => return test::run(&args),
        Verb::Count(args) => count::run(&args)?,
        Verb::Demo(args) => demo::run(&args)?,
        Verb::Vm(args) => return Ok(vm::run(&args)),
        Verb::Ci => return ci::run(&verbs()),
    }
    Ok(ExitCode::SUCCESS)
}

/// The names of all verbs, for whoever checks a document that tells a reader to type one.
fn verbs() -> Vec<String> {
    Cli::command().get_subcommands().map(|verb| verb.get_name().to_owned()).collect()
}
