//! `bench`: ramet beside other ways to do the same.

mod targets;

use std::path::Path;

use anyhow::Context;
use ramet_bench::Report;

use crate::arguments::{Bench, BenchFormat, BenchOutput, NodeArguments};
use crate::exit::Failure;
use crate::output;

/// `ramet bench`.
pub(crate) fn run(node: &NodeArguments, what: &Bench) -> Result<(), Failure> {
    match what {
        Bench::Chain { options, output } => {
            let targets = targets::of(node, options)?;
            let report = match targets.as_slice() {
                [] => ramet_bench::chain(options)?,
                targets => ramet_bench::targets(options, targets)?,
            };
            show(&report, output)
        }
        Bench::Hop { options, output } => show(&ramet_bench::hop(options)?, output),
        Bench::Ingress { options, output } => show(&ramet_bench::ingress(options)?, output),
        Bench::Fork { options, output } => show(&Report::Fork(ramet_bench::fork(options)?), output),
    }
}

fn show(report: &Report, output: &BenchOutput) -> Result<(), Failure> {
    if output.output != BenchFormat::Table {
        // The other forms have no place for them.
        for left_out in report.left_out() {
            eprintln!("{left_out}");
        }
    }
    match output.output {
        BenchFormat::Table => output::line(report.to_string().trim_end())?,
        BenchFormat::Json => output::json(report)?,
        BenchFormat::Yaml => output::yaml(report)?,
        BenchFormat::Csv => output::line(report.csv().context("the report cannot be written as CSV")?.trim_end())?,
    }
    if let Some(file) = &output.plot {
        write_plot(report, file)?;
    }
    if report.has_failures() {
        return Err(Failure::Failed("a system answered wrongly or not at all; see above".to_owned()));
    }
    Ok(())
}

fn write_plot(report: &Report, file: &Path) -> Result<(), Failure> {
    let svg = report.svg()?;
    Ok(std::fs::write(file, svg).with_context(|| format!("cannot write {}", file.display()))?)
}
