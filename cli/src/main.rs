//! The `ramet` command: run a node, apply chains to it, look at it, fork processes, measure it all.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line program answers on standard output")]

mod arguments;
mod bench;
mod check;
mod client;
mod delete;
mod exit;
mod fork;
mod invoke;
mod logs;
mod objects;
mod output;
mod selection;
mod tls;
mod up;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use ramet_manifest::SchemaOf;

use crate::arguments::{Arguments, Command, InternalArguments, InternalCommand, SchemaKind};
use crate::exit::Failure;

fn main() -> ExitCode {
    let outcome = match InternalArguments::of_process() {
        Some(arguments) => run_internal(arguments),
        None => run(Arguments::parse()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ramet: {failure}");
            failure.exit_code()
        }
    }
}

fn run_internal(arguments: InternalArguments) -> Result<(), Failure> {
    match arguments.command {
        InternalCommand::Gateway => up::run_gateway(&arguments.node),
        InternalCommand::Zygote => fork::run_zygote(),
        InternalCommand::BenchPeer(options) => Ok(ramet_bench::peer(options)?),
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let node = arguments.node;
    match arguments.command {
        Command::Up(options) => {
            // A certificate that cannot be used is a wrong setting like any other: nothing is started for it.
            tls::check(&up::settings(&node)?)?;
            up::run(&node, &options)
        }
        Command::Apply(options) => objects::apply(&node, &options),
        Command::Get(options) => objects::get(&node, &options),
        Command::Describe(options) => objects::describe(&node, &options),
        Command::Delete(options) => delete::run(&node, &options),
        Command::Invoke(options) => invoke::run(&node, &options),
        Command::Logs(options) => logs::run(&node, &options),
        Command::Check(options) => check::run(&node, &options),
        Command::Fork { what } => fork::run(&node, &what),
        Command::Bench { mut what } => bench::run(&node, &mut what),
        Command::Schema { of } => {
            let of = match of {
                SchemaKind::Function => SchemaOf::Function,
                SchemaKind::Chain => SchemaOf::Chain,
                SchemaKind::Manifest => SchemaOf::Manifest,
                SchemaKind::Node => SchemaOf::NodeSettings,
            };
            output::json(&ramet_manifest::schema(of))
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "ramet", &mut io::stdout());
            Ok(())
        }
    }
}
