//! `check`: what this machine offers a node.

use ramet_runtime::CheckItem;

use crate::arguments::{Check, Format, NodeArguments};
use crate::exit::Failure;
use crate::{output, up};

/// `ramet check`.
pub(crate) fn run(node: &NodeArguments, options: &Check) -> Result<(), Failure> {
    let mut settings = up::settings(node)?;
    settings.transport = options.transport.map_or(settings.transport, up::transport);
    let report = ramet_runtime::check(&settings);
    print(options.output.output, &report.items)?;
    match &report.transport {
        Ok(chosen) => {
            if options.output.output == Format::Table {
                output::line(&format!("\ntransport: {} ({})", chosen.kind.as_str(), chosen.reason))?;
            }
            Ok(())
        }
        Err(reason) => Err(Failure::Unfit(reason.clone())),
    }
}

fn print(format: Format, items: &[CheckItem]) -> Result<(), Failure> {
    output::rows(format, items, &["CHECK", "RESULT", "DETAIL"], |item| {
        let result = if item.ok { "ok" } else { "no" };
        let detail = match &item.advice {
            Some(advice) => format!("{}; {advice}", item.detail),
            None => item.detail.clone(),
        };
        vec![item.name.clone(), result.to_owned(), detail]
    })
}
