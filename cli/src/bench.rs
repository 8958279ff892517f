//! `bench`: ramet beside other ways to do the same.

mod targets;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use ramet_bench::Report;

use crate::arguments::{Bench, BenchFormat, BenchOutput, NodeArguments};
use crate::exit::Failure;
use crate::output;

/// `ramet bench`.
pub(crate) fn run(node: &NodeArguments, what: &mut Bench) -> Result<(), Failure> {
    match what {
        Bench::Chain { options, output } => {
            options.nodes.config.clone_from(&node.config);
            let targets = targets::of(node, options)?;
            reported(output, || match targets.as_slice() {
                [] => ramet_bench::chain(options),
                targets => ramet_bench::targets(options, targets),
            })
        }
        Bench::Hop { options, output } => reported(output, || ramet_bench::hop(options)),
        Bench::Ingress { options, output } => {
            options.nodes.config.clone_from(&node.config);
            reported(output, || ramet_bench::ingress(options))
        }
        Bench::Fork { options, output } => reported(output, || Ok(Report::Fork(ramet_bench::fork(options)?))),
    }
}

/// Measures, and reports.
fn reported(output: &BenchOutput, measure: impl FnOnce() -> anyhow::Result<Report>) -> Result<(), Failure> {
    // Before anything is measured for nothing.
    let plot = output.plot.as_deref().map(Plot::create).transpose()?;
    let report = measure()?;
    if output.output != BenchFormat::Table {
        // The other forms have no place for them.
        for left_out in report.left_out() {
            eprintln!("{left_out}");
        }
    }
    match output.output {
        BenchFormat::Table => output::line(report.to_string().trim_end())?,
        BenchFormat::Json => output::json(&report)?,
        BenchFormat::Yaml => output::yaml(&report)?,
        BenchFormat::Csv => output::line(report.csv().context("the report cannot be written as CSV")?.trim_end())?,
    }
    if let Some(plot) = plot {
        plot.write(&report.svg()?)?;
    }
    if report.has_failures() {
        return Err(Failure::Failed("a system answered wrongly or not at all; see above".to_owned()));
    }
    Ok(())
}

/// A picture's file, which is gone again if there is no picture.
struct Plot {
    path: PathBuf,
    file: File,
    is_new: bool,
}

impl Plot {
    fn create(path: &Path) -> Result<Self, Failure> {
        let is_new = !path.exists();
        let file = File::options().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| Failure::Invalid(format!("cannot write {}: {error}", path.display())))?;
        Ok(Self { path: path.to_owned(), file, is_new })
    }

    fn write(mut self, text: &str) -> Result<(), Failure> {
        let write = || {
            // What is no file of its own, such as a pipe, has no length.
            if self.file.metadata()?.is_file() {
                self.file.set_len(0)?;
            }
            (&self.file).write_all(text.as_bytes())
        };
        write().with_context(|| format!("cannot write {}", self.path.display()))?;
        self.is_new = false;
        Ok(())
    }
}

impl Drop for Plot {
    fn drop(&mut self) {
        if self.is_new {
            let _ = fs::remove_file(&self.path);
        }
    }
}
