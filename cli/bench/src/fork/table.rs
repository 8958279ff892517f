//! The report as tables.

use std::fmt;

use super::report::ForkReport;
use crate::report::rounds;
use crate::report::table::{difference, machine, spread, table};

pub(super) fn write(report: &ForkReport, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mib = report.memory_bytes >> 20;
    writeln!(f, "Forks of a Python with numpy and {mib} MiB of data; every answer was checked\n")?;
    if !report.aims.is_empty() {
        writeln!(f, "{}\n", aims(report))?;
    }
    if !report.ratios.is_empty() {
        writeln!(f, "Ratios, round by round: median (least–greatest)\n\n{}\n", ratios(report))?;
    }
    if report.ratios.iter().any(|ratio| ratio.verdict.is_some()) {
        let said = said(report);
        writeln!(f, "Differences between the builds, and how often chance alone would find such\n\n{said}\n")?;
    }
    writeln!(f, "Numbers: median (least–greatest) of {}\n\n{}\n", rounds(report.rounds), rows(report))?;
    if !report.phases.is_empty() {
        writeln!(f, "Where the time goes, in µs\n\n{}\n", phases(report))?;
    }
    machine(f, &report.machine)
}

fn aims(report: &ForkReport) -> String {
    let mut table = table(&["aim", "", "bound", "reached"], 1);
    for aim in &report.aims {
        let bound = if aim.is_at_most { "at most" } else { "at least" };
        let holds = if aim.holds { "holds" } else { "MISSED" };
        table.add_row([
            aim.aim.to_owned(),
            holds.to_owned(),
            format!("{bound} {}", aim.bound),
            format!("{:.2}", aim.reached),
        ]);
    }
    table.trim_fmt()
}

fn ratios(report: &ForkReport) -> String {
    let mut table = table(&["measure", "system", "against", ""], 3);
    for ratio in &report.ratios {
        table.add_row([
            ratio.measure.to_owned(),
            ratio.system.clone(),
            ratio.against.clone(),
            spread(&ratio.value, 3, "×"),
        ]);
    }
    table.trim_fmt()
}

fn said(report: &ForkReport) -> String {
    let mut table = table(&["measure", "system", "against", "difference"], 3);
    for ratio in &report.ratios {
        let Some(verdict) = &ratio.verdict else { continue };
        let (system, against) = (ratio.system.clone(), ratio.against.clone());
        table.add_row([ratio.measure.to_owned(), system, against, difference(verdict)]);
    }
    table.trim_fmt()
}

fn rows(report: &ForkReport) -> String {
    let mut table = table(&["measure", "system", "", "unit"], 2);
    for row in &report.rows {
        table.add_row([row.measure.to_owned(), row.system.clone(), spread(&row.value, 0, ""), row.unit.to_owned()]);
    }
    table.trim_fmt()
}

fn phases(report: &ForkReport) -> String {
    let mut table = table(&["measure", "system", "step", ""], 3);
    for row in &report.phases {
        table.add_row([row.measure.to_owned(), row.system.clone(), row.phase.clone(), spread(&row.us, 0, "")]);
    }
    table.trim_fmt()
}
