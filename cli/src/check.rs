//! `check`: what this machine offers a node.

use ramet_runtime::{Item, Verdict};
use serde::Serialize;

use crate::arguments::{Check, NodeArguments};
use crate::exit::Failure;
use crate::{output, up};

/// One thing that was tried, as programs read it.
#[derive(Serialize)]
struct Row {
    check: String,
    result: &'static str,
    detail: String,
    advice: String,
}

/// `ramet check`.
pub(crate) fn run(node: &NodeArguments, options: &Check) -> Result<(), Failure> {
    let settings = up::settings(node)?;
    let transport = options.transport.map_or(settings.transport, up::transport);
    let items = ramet_runtime::check(transport, settings.uid_base);
    let failed: Vec<String> = items
        .iter()
        .filter(|item| item.verdict == Verdict::Fails)
        .map(|item| format!("{}: {}; {}", item.name, item.detail, item.advice))
        .collect();
    let rows: Vec<Row> = items.into_iter().map(row).collect();
    output::rows(options.output.output, &rows, &["CHECK", "RESULT", "DETAIL"], |row| {
        let detail = if row.advice.is_empty() { row.detail.clone() } else { format!("{}; {}", row.detail, row.advice) };
        vec![row.check.clone(), row.result.to_owned(), detail]
    })?;
    if failed.is_empty() { Ok(()) } else { Err(Failure::Unfit(failed.join("\n"))) }
}

fn row(item: Item) -> Row {
    let result = match item.verdict {
        Verdict::Works => "ok",
        Verdict::Missing => "missing",
        Verdict::Fails => "fails",
    };
    Row { check: item.name, result, detail: item.detail, advice: item.advice }
}
