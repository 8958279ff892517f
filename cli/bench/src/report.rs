//! What a run found: ratios first, because they survive a change of machine better than the numbers.

pub(crate) mod plot;
pub(crate) mod records;
pub(crate) mod table;

use std::fmt;

use serde::Serialize;

use crate::engine::{Measured, Series};
use crate::fork::ForkReport;
use crate::machine::Machine;
use crate::noise::{Verdict, verdict};
use crate::recorder::Percentiles;
use crate::sample::{Cost, Sample};
use crate::setting::{Identity, Setting};
use crate::statistics::Spread;

/// The outcome: `Display` is a table for people, `Serialize` the object for programs.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Report {
    /// Of a run under load.
    Load(LoadReport),
    /// Of idle nodes.
    Idle(IdleReport),
    /// Of forks.
    Fork(ForkReport),
}

impl Report {
    /// The systems that are missing from the report, with the reasons. The JSON form does not name them.
    #[must_use]
    pub fn left_out(&self) -> &[LeftOut] {
        match self {
            Self::Load(report) => &report.left_out,
            Self::Idle(report) => &report.left_out,
            Self::Fork(_) => &[],
        }
    }

    /// Whether a system that had started answered wrongly, or not at all: then the run has failed.
    #[must_use]
    pub fn has_failures(&self) -> bool {
        self.left_out().iter().any(|left_out| left_out.setting.is_some())
    }

    /// One line per row, with a header and the machine in each: RFC 4180.
    ///
    /// # Errors
    /// The report cannot be written as JSON, which is what the columns are made of.
    pub fn csv(&self) -> serde_json::Result<String> {
        Ok(records::csv(&serde_json::to_value(self)?))
    }

    /// The picture of the latencies, as SVG.
    ///
    /// # Errors
    /// There is nothing to draw.
    pub fn svg(&self) -> anyhow::Result<String> {
        plot::svg(self)
    }
}

/// What was found under load.
#[derive(Clone, Debug, Serialize)]
pub struct LoadReport {
    /// Where.
    pub machine: Machine,
    /// How many rounds each median is of.
    pub rounds: u32,
    /// One per system and setting.
    pub rows: Vec<Row>,
    /// One per system of ours, what it is compared with, and setting.
    pub ratios: Vec<Ratio>,
    /// What is missing.
    #[serde(skip)]
    pub left_out: Vec<LeftOut>,
}

/// The numbers of one system in one setting.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The system's name; behind an `@` the revision, where it is not this build.
    pub system: String,
    /// What carries requests from function to function.
    pub transport: String,
    /// The load.
    #[serde(flatten)]
    pub setting: Setting,
    /// Answers in a second.
    pub requests_per_s: Spread,
    /// In a closed loop from when a request was sent, in an open one from when it was due.
    #[serde(flatten)]
    pub latency: Percentiles<Spread>,
    /// From when a request was sent.
    pub raw: Percentiles<Spread>,
    /// Corrected for coordinated omission; in an open loop the latency itself, which is so already.
    pub corrected: Percentiles<Spread>,
    /// What all processes of the system used, without the client.
    #[serde(flatten)]
    pub cost: Option<CostRow>,
    /// The same by the processes' names.
    pub processes: Vec<ProcessRow>,
}

/// What requests cost.
#[derive(Clone, Debug, Serialize)]
pub struct CostRow {
    /// Processor time.
    pub cpu_us_per_request: Spread,
    /// How often a thread was woken.
    pub wakeups_per_request: Spread,
    /// Memory at the end of a round, shared pages counted in part (PSS), if it may be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_kib: Option<Spread>,
}

/// What the processes of one name used, together.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessRow {
    /// What they are.
    pub name: String,
    /// How many there are.
    pub processes: u32,
    /// What requests cost them.
    #[serde(flatten)]
    pub cost: CostRow,
}

/// One system against another in one setting: each value is the one's divided by the other's, round by round.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    /// The system of ours.
    pub system: String,
    /// What it is compared with.
    pub against: String,
    /// The load.
    #[serde(flatten)]
    pub setting: Setting,
    /// Throughput; above 1 ours is better.
    pub requests_per_s: Spread,
    /// Median latency; below 1 ours is better.
    pub p50_us: Spread,
    /// Latency of 99 %; below 1 ours is better.
    pub p99_us: Spread,
    /// Processor time; below 1 ours is better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_request: Option<Spread>,
    /// Whether two builds differ by more than the noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdicts: Option<Verdicts>,
}

/// What can be said of the difference between two builds.
#[derive(Clone, Debug, Serialize)]
pub struct Verdicts {
    /// Of the throughput.
    pub requests_per_s: Verdict,
    /// Of the median latency.
    pub p50_us: Verdict,
    /// Of the latency of 99 %.
    pub p99_us: Verdict,
    /// Of the processor time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_request: Option<Verdict>,
}

/// What idle nodes use.
#[derive(Clone, Debug, Serialize)]
pub struct IdleReport {
    /// Where.
    pub machine: Machine,
    /// One per system.
    pub rows: Vec<IdleRow>,
    /// What is missing.
    #[serde(skip)]
    pub left_out: Vec<LeftOut>,
}

/// What one idle node uses.
#[derive(Clone, Debug, Serialize)]
pub struct IdleRow {
    /// The system's name.
    pub system: String,
    /// What would carry requests from function to function.
    pub transport: String,
    /// How many functions wait.
    pub functions: u32,
    /// How many processes the node is.
    pub processes: usize,
    /// How much of one core they use together.
    pub percent_of_core: f64,
}

/// A system that is missing, and why.
#[derive(Clone, Debug)]
pub struct LeftOut {
    /// The system.
    pub system: String,
    /// In which setting it failed; nothing if it could not be started at all.
    pub setting: Option<Setting>,
    /// Why.
    pub reason: String,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.setting {
            Some(setting) => write!(f, "FAILED: {} ({setting}): {}", self.system, self.reason),
            None => write!(f, "skipped: {}: {}", self.system, self.reason),
        }
    }
}

impl LoadReport {
    pub(crate) fn new(
        machine: Machine,
        rounds: u32,
        measured: &[Measured],
        left_out: Vec<LeftOut>,
        compares: impl Fn(&Identity, &Identity) -> bool,
    ) -> Self {
        let (mut rows, mut ratios) = (Vec::new(), Vec::new());
        for Measured { setting, series } in measured {
            rows.extend(series.iter().filter_map(|series| row(series, setting)));
            for ours in series {
                let others = series.iter().filter(|other| compares(&ours.identity, &other.identity));
                ratios.extend(others.filter_map(|other| ratio(ours, other, setting)));
            }
        }
        Self { machine, rounds, rows, ratios, left_out }
    }
}

fn row(series: &Series, setting: &Setting) -> Option<Row> {
    let samples = &series.samples;
    let costs: Option<Vec<&Cost>> = samples.iter().map(|sample| sample.cost.as_ref()).collect();
    Some(Row {
        system: series.identity.to_string(),
        transport: series.identity.transport.clone(),
        setting: *setting,
        requests_per_s: Spread::of(samples.iter().map(|sample| sample.requests_per_s))?,
        latency: Percentiles::spread(samples.iter().map(|sample| sample.latency(setting)))?,
        raw: Percentiles::spread(samples.iter().map(|sample| &sample.raw))?,
        corrected: Percentiles::spread(samples.iter().map(|sample| &sample.corrected))?,
        cost: costs.and_then(|costs| CostRow::of(&costs)),
        processes: processes(samples),
    })
}

impl CostRow {
    fn of(costs: &[&Cost]) -> Option<Self> {
        let memory: Option<Vec<f64>> = costs.iter().map(|cost| cost.memory_kib).collect();
        Some(Self {
            cpu_us_per_request: Spread::of(costs.iter().map(|cost| cost.cpu_us_per_request))?,
            wakeups_per_request: Spread::of(costs.iter().map(|cost| cost.wakeups_per_request))?,
            memory_kib: memory.and_then(Spread::of),
        })
    }
}

/// By name. A process that was there in some rounds only is of those.
fn processes(samples: &[Sample]) -> Vec<ProcessRow> {
    let mut names: Vec<&String> = samples.iter().flat_map(|sample| sample.processes.keys()).collect();
    names.sort();
    names.dedup();
    let row = |name: &String| {
        let found: Vec<_> = samples.iter().filter_map(|sample| sample.processes.get(name)).collect();
        let costs: Vec<&Cost> = found.iter().map(|(_, cost)| cost).collect();
        let processes = found.iter().map(|(count, _)| *count).max()?;
        Some(ProcessRow { name: name.clone(), processes, cost: CostRow::of(&costs)? })
    };
    names.into_iter().filter_map(row).collect()
}

fn ratio(ours: &Series, other: &Series, setting: &Setting) -> Option<Ratio> {
    let cpu = |sample: &Sample| sample.cost.map(|cost| cost.cpu_us_per_request);
    let pairs = |value: &dyn Fn(&Sample) -> Option<f64>| -> Option<Vec<f64>> {
        let pairs = ours.samples.iter().zip(&other.samples);
        // What used too little to be measured cannot be compared.
        pairs.map(|(ours, other)| Some(value(ours)? / value(other)?).filter(|ratio| ratio.is_finite())).collect()
    };
    let requests = pairs(&|sample| Some(sample.requests_per_s))?;
    let p50 = pairs(&|sample| Some(sample.latency(setting).p50_us))?;
    let p99 = pairs(&|sample| Some(sample.latency(setting).p99_us))?;
    let cpu = pairs(&cpu);
    Some(Ratio {
        system: ours.identity.to_string(),
        against: other.identity.to_string(),
        setting: *setting,
        verdicts: other.identity.build.as_ref().map(|_| Verdicts {
            requests_per_s: verdict(&requests),
            p50_us: verdict(&p50),
            p99_us: verdict(&p99),
            cpu_us_per_request: cpu.as_deref().map(verdict),
        }),
        requests_per_s: Spread::of(requests)?,
        p50_us: Spread::of(p50)?,
        p99_us: Spread::of(p99)?,
        cpu_us_per_request: cpu.and_then(Spread::of),
    })
}

/// So many rounds, in words.
pub(crate) fn rounds(count: u32) -> String {
    counted(count as usize, "round")
}

/// So many things of this name, in words.
pub(crate) fn counted(count: usize, name: &str) -> String {
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
