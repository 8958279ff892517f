//! Reports as tables.

use std::fmt;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::{IdleReport, LeftOut, LoadReport, Ratio, Report, Row, rounds};
use crate::machine::Machine;
use crate::noise::{Difference, Verdict};
use crate::setting::{Placement, Protocol, Setting};
use crate::statistics::Spread;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(report) => report.fmt(f),
            Self::Idle(report) => report.fmt(f),
            Self::Fork(report) => report.fmt(f),
        }
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.ratios.is_empty() {
            writeln!(f, "Ratios, ours divided by the other, round by round: median (least–greatest)\n")?;
            writeln!(f, "{}\n", ratios(self))?;
        }
        if self.ratios.iter().any(|ratio| ratio.verdicts.is_some()) {
            writeln!(f, "Differences between the builds, and how often chance alone would find such\n")?;
            writeln!(f, "{}\n", verdicts(self))?;
        }
        writeln!(f, "Numbers: median (least–greatest) of {}; every answer was checked\n", rounds(self.rounds))?;
        writeln!(f, "{}\n", rows(self))?;
        writeln!(f, "The tails, and what coordinated omission hides: medians\n\n{}\n", tails(self))?;
        if self.rows.iter().any(|row| !row.processes.is_empty()) {
            writeln!(f, "Where the cost is, by process: medians\n\n{}\n", costs(self))?;
        }
        machine(f, &self.machine)?;
        left_out(f, &self.left_out)
    }
}

impl fmt::Display for IdleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = table(&["system", "functions", "processes", "% of a core"], 1);
        for row in &self.rows {
            table.add_row([
                row.system.clone(),
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

/// The columns that tell settings apart. Those that no row has are left out.
struct SettingColumns {
    rates: bool,
    placements: bool,
    batches: bool,
    protocols: bool,
}

impl SettingColumns {
    fn of<'s>(settings: impl Iterator<Item = &'s Setting> + Clone) -> Self {
        let any = |has: fn(&Setting) -> bool| settings.clone().any(has);
        Self {
            rates: any(|setting| setting.rate_per_s.is_some()),
            placements: any(|setting| setting.placement.is_some()),
            batches: any(|setting| setting.batch.is_some()),
            protocols: any(|setting| setting.protocol.is_some()),
        }
    }

    fn header<'h>(&self, before: &[&'h str], after: &[&'h str]) -> Vec<&'h str> {
        let mut header = [before, &["functions", "connections", "bytes"]].concat();
        let optional = [
            (self.rates, "rate"),
            (self.placements, "placement"),
            (self.batches, "batch"),
            (self.protocols, "protocol"),
        ];
        header.extend(optional.iter().filter(|(shown, _)| *shown).map(|(_, name)| *name));
        [&header, after].concat()
    }

    fn cells(&self, before: &[&str], setting: &Setting, after: Vec<String>) -> Vec<String> {
        let mut cells: Vec<String> = before.iter().map(|&cell| cell.to_owned()).collect();
        cells.push(setting.functions.map_or_else(|| "–".to_owned(), |functions| functions.to_string()));
        cells.extend([setting.connections.to_string(), setting.payload_bytes.to_string()]);
        let optional = [
            (self.rates, setting.rate_per_s.map(|rate| rate.to_string())),
            (self.placements, setting.placement.map(Placement::name).map(str::to_owned)),
            (self.batches, setting.batch.map(|batch| batch.to_string())),
            (self.protocols, setting.protocol.map(Protocol::name).map(str::to_owned)),
        ];
        cells.extend(optional.into_iter().filter(|(shown, _)| *shown).map(|(_, cell)| cell.unwrap_or_default()));
        cells.extend(after);
        cells
    }
}

fn of_ratios(report: &LoadReport) -> SettingColumns {
    SettingColumns::of(report.ratios.iter().map(|ratio| &ratio.setting))
}

fn of_rows(report: &LoadReport) -> SettingColumns {
    SettingColumns::of(report.rows.iter().map(|row| &row.setting))
}

fn ratios(report: &LoadReport) -> String {
    let columns = of_ratios(report);
    let header = columns.header(&["system", "against"], &["requests/s", "p50", "p99", "CPU per request"]);
    let mut table = table(&header, 2);
    for ratio in &report.ratios {
        let cpu = ratio.cpu_us_per_request.as_ref().map_or_else(String::new, |cpu| spread(cpu, 2, "×"));
        let values = [&ratio.requests_per_s, &ratio.p50_us, &ratio.p99_us].map(|value| spread(value, 2, "×"));
        let values = values.into_iter().chain([cpu]).collect();
        table.add_row(columns.cells(&[&ratio.system, &ratio.against], &ratio.setting, values));
    }
    table.trim_fmt()
}

fn verdicts(report: &LoadReport) -> String {
    let columns = of_ratios(report);
    let header = columns.header(&["system", "against"], &["requests/s", "p50", "p99", "CPU per request"]);
    let mut table = table(&header, 2);
    for Ratio { system, against, setting, verdicts, .. } in &report.ratios {
        let Some(verdicts) = verdicts else { continue };
        let cells = vec![
            difference(&verdicts.requests_per_s),
            difference(&verdicts.p50_us),
            difference(&verdicts.p99_us),
            verdicts.cpu_us_per_request.as_ref().map_or_else(String::new, difference),
        ];
        table.add_row(columns.cells(&[system, against], setting, cells));
    }
    table.trim_fmt()
}

/// What is said of the difference between two builds.
pub(crate) fn difference(verdict: &Verdict) -> String {
    let difference = match verdict.difference {
        Difference::Greater => "greater",
        Difference::Smaller => "smaller",
        Difference::WithinNoise => "within noise",
        Difference::TooFewRounds => return "too few rounds".to_owned(),
    };
    format!("{difference} ({:.3})", verdict.chance)
}

fn rows(report: &LoadReport) -> String {
    let columns = of_rows(report);
    let values = ["requests/s", "p50 µs", "p99 µs", "CPU µs", "wake-ups", "PSS MiB"];
    let mut table = table(&columns.header(&["system"], &values), 1);
    for row in &report.rows {
        let decimals = if row.latency.p50_us.median < 100.0 { 2 } else { 0 };
        let cost = |value: fn(&super::CostRow) -> Option<String>| {
            row.cost.as_ref().and_then(value).unwrap_or_else(|| "–".to_owned())
        };
        let cells = vec![
            spread(&row.requests_per_s, 0, ""),
            spread(&row.latency.p50_us, decimals, ""),
            spread(&row.latency.p99_us, decimals, ""),
            cost(|cost| Some(spread(&cost.cpu_us_per_request, 2, ""))),
            cost(|cost| Some(format!("{:.2}", cost.wakeups_per_request.median))),
            cost(|cost| cost.memory_kib.map(|kib| format!("{:.1}", kib.median / 1024.0))),
        ];
        table.add_row(columns.cells(&[&row.system], &row.setting, cells));
    }
    table.trim_fmt()
}

fn tails(report: &LoadReport) -> String {
    let columns = of_rows(report);
    // In an open loop latency is counted from when a request was due, so what hides there is in the raw times.
    let beside = if columns.rates {
        ["raw p50 µs", "raw p99 µs", "raw p99.99 µs"]
    } else {
        ["corrected p50 µs", "corrected p99 µs", "corrected p99.99 µs"]
    };
    let values = [["p90 µs", "p99.9 µs", "p99.99 µs"], beside].concat();
    let mut table = table(&columns.header(&["system"], &values), 1);
    for row in &report.rows {
        let (latency, other) = (&row.latency, if columns.rates { &row.raw } else { &row.corrected });
        let shown = [latency.p90_us, latency.p999_us, latency.p9999_us, other.p50_us, other.p99_us, other.p9999_us];
        let cells = shown.map(|value| format!("{:.1}", value.median)).into();
        table.add_row(columns.cells(&[&row.system], &row.setting, cells));
    }
    table.trim_fmt()
}

fn costs(report: &LoadReport) -> String {
    let columns = of_rows(report);
    let values = ["processes", "CPU µs", "wake-ups", "PSS MiB"];
    let mut table = table(&columns.header(&["system", "process"], &values), 2);
    for Row { system, setting, processes, .. } in &report.rows {
        for process in processes {
            let memory =
                process.cost.memory_kib.map_or_else(|| "–".to_owned(), |kib| format!("{:.1}", kib.median / 1024.0));
            let cells = vec![
                process.processes.to_string(),
                format!("{:.2}", process.cost.cpu_us_per_request.median),
                format!("{:.2}", process.cost.wakeups_per_request.median),
                memory,
            ];
            table.add_row(columns.cells(&[system, &process.name], setting, cells));
        }
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
    writeln!(f, "{}", mitigations(machine))
}

/// What the kernel does about the processor's vulnerabilities, by name.
pub(super) fn mitigations(machine: &Machine) -> String {
    let mitigated = machine.mitigations.iter().filter(|(_, state)| state.starts_with("Mitigation"));
    let names: Vec<_> = mitigated.map(|(name, _)| name.as_str()).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!("Mitigations: {names}")
}

fn left_out(f: &mut fmt::Formatter<'_>, left_out: &[LeftOut]) -> fmt::Result {
    left_out.iter().try_for_each(|left_out| writeln!(f, "\n{left_out}"))
}
