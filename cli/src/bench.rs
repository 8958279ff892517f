//! `bench`: ramet beside other ways to do the same.

use ramet_bench::{ChainOptions, ForkOptions};

use crate::arguments::{Bench, Format};
use crate::exit::Failure;
use crate::output;

/// `ramet bench`.
pub(crate) fn run(what: &Bench) -> Result<(), Failure> {
    match what {
        Bench::Chain { options, output } => chain(options, output.output),
        Bench::Fork { options, output } => fork(options, output.output),
    }
}

fn fork(options: &ForkOptions, format: Format) -> Result<(), Failure> {
    let report = ramet_bench::fork(options)?;
    match format {
        Format::Table => output::line(report.to_string().trim_end()),
        Format::Json | Format::Yaml => output::value(format, &report),
    }
}

fn chain(options: &ChainOptions, format: Format) -> Result<(), Failure> {
    let report = ramet_bench::chain(options)?;
    match format {
        Format::Table => output::line(report.to_string().trim_end())?,
        Format::Json | Format::Yaml => {
            for left_out in report.left_out() {
                eprintln!("left out: {left_out}");
            }
            output::value(format, &report)?;
        }
    }
    if report.has_failures() {
        return Err(Failure::Failed("a system answered wrongly or not at all; see above".to_owned()));
    }
    Ok(())
}
