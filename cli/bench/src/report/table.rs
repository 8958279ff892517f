//! Reports as tables.

use std::fmt;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::{ChainReport, IdleReport, LeftOut, Report};
use crate::machine::Machine;
use crate::statistics::Spread;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(report) => report.fmt(f),
            Self::Idle(report) => report.fmt(f),
        }
    }
}

impl fmt::Display for ChainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.ratios.is_empty() {
            writeln!(f, "Ratios, ramet divided by the other, round by round: median (least–greatest)\n")?;
            writeln!(f, "{}\n", ratios(self))?;
        }
        writeln!(f, "Numbers: median (least–greatest) of {} rounds; every answer was checked\n", self.rounds)?;
        writeln!(f, "{}\n", rows(self))?;
        machine(f, &self.machine)?;
        left_out(f, &self.left_out)
    }
}

impl fmt::Display for IdleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = table(&["system", "functions", "processes", "% of a core"], 1);
        for row in &self.rows {
            table.add_row([
                row.system.to_owned(),
                row.functions.to_string(),
                row.processes.to_string(),
                format!("{:.3}", row.percent_of_core),
            ]);
        }
        writeln!(f, "Processor time of idle nodes\n\n{}\n", table.trim_fmt())?;
        machine(f, &self.machine)?;
        left_out(f, &self.left_out)
    }
}

fn ratios(report: &ChainReport) -> String {
    let header = ["system", "against", "functions", "connections", "bytes", "requests/s", "p50", "CPU per request"];
    let mut table = table(&header, 2);
    for ratio in &report.ratios {
        table.add_row([
            ratio.system.to_owned(),
            ratio.against.to_owned(),
            ratio.functions.to_string(),
            ratio.connections.to_string(),
            ratio.payload_bytes.to_string(),
            spread(&ratio.requests_per_s, 2, "×"),
            spread(&ratio.p50_us, 2, "×"),
            spread(&ratio.cpu_us_per_request, 2, "×"),
        ]);
    }
    table.trim_fmt()
}

fn rows(report: &ChainReport) -> String {
    let header = [
        "system",
        "functions",
        "connections",
        "bytes",
        "requests/s",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "CPU µs per request",
    ];
    let mut table = table(&header, 1);
    for row in &report.rows {
        table.add_row([
            row.system.to_owned(),
            row.functions.to_string(),
            row.connections.to_string(),
            row.payload_bytes.to_string(),
            spread(&row.requests_per_s, 0, ""),
            spread(&row.p50_us, 0, ""),
            spread(&row.p99_us, 0, ""),
            spread(&row.p999_us, 0, ""),
            spread(&row.cpu_us_per_request, 1, ""),
        ]);
    }
    table.trim_fmt()
}

pub(crate) fn spread(spread: &Spread, decimals: usize, unit: &str) -> String {
    format!("{:.decimals$}{unit} ({:.decimals$}–{:.decimals$})", spread.median, spread.min, spread.max)
}

/// A table whose columns from `text_columns` on are numbers.
pub(crate) fn table(header: &[&str], text_columns: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    for column in table.column_iter_mut().skip(text_columns) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

pub(crate) fn machine(f: &mut fmt::Formatter<'_>, machine: &Machine) -> fmt::Result {
    let [one, five, fifteen] = machine.load_average;
    writeln!(
        f,
        "Machine: {}, {} cores, Linux {}, load average at the start {one} {five} {fifteen}",
        machine.cpu_model, machine.cores, machine.kernel
    )?;
    let mitigated = machine.mitigations.iter().filter(|(_, state)| state.starts_with("Mitigation"));
    let names: Vec<_> = mitigated.map(|(name, _)| name.as_str()).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    writeln!(f, "Mitigations: {names}")
}

fn left_out(f: &mut fmt::Formatter<'_>, left_out: &[LeftOut]) -> fmt::Result {
    left_out.iter().try_for_each(|left_out| writeln!(f, "\n{left_out}"))
}
