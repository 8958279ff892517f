//! What a run found: ratios first, because they survive a change of machine better than the numbers.

pub(crate) mod table;

use std::fmt;

use serde::Serialize;

use crate::load::Sample;
use crate::machine::Machine;
use crate::options::System;
use crate::rounds::Samples;
use crate::statistics::Spread;

/// The outcome: `Display` is a table for people, `Serialize` the object for programs.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Report {
    /// Of a run under load.
    Chain(ChainReport),
    /// Of idle nodes.
    Idle(IdleReport),
}

impl Report {
    /// The systems that are missing from the report, with the reasons. The JSON form does not name them.
    #[must_use]
    pub fn left_out(&self) -> &[LeftOut] {
        match self {
            Self::Chain(report) => &report.left_out,
            Self::Idle(report) => &report.left_out,
        }
    }

    /// Whether a system that had started answered wrongly, or not at all: then the run has failed.
    #[must_use]
    pub fn has_failures(&self) -> bool {
        self.left_out().iter().any(|left_out| left_out.setting.is_some())
    }
}

/// What was found under load.
#[derive(Clone, Debug, Serialize)]
pub struct ChainReport {
    /// Where.
    pub machine: Machine,
    /// How many rounds each median is of.
    pub rounds: u32,
    /// One per system and setting.
    pub rows: Vec<Row>,
    /// One per ramet system, rival and setting.
    pub ratios: Vec<Ratio>,
    /// What is missing.
    #[serde(skip)]
    pub left_out: Vec<LeftOut>,
}

/// The numbers of one system in one setting.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The system's name.
    pub system: &'static str,
    /// What carries requests from function to function.
    pub transport: &'static str,
    /// How many functions a request passes; 0 where the front answers by itself.
    pub functions: u32,
    /// How many requests are in flight.
    pub connections: usize,
    /// The length of the posted bodies.
    pub payload_bytes: usize,
    /// Answers in a second.
    pub requests_per_s: Spread,
    /// Half of the answers came within this time.
    pub p50_us: Spread,
    /// 99 % of the answers came within this time.
    pub p99_us: Spread,
    /// 99.9 % of the answers came within this time.
    #[serde(skip)]
    pub p999_us: Spread,
    /// Processor time of all processes of the system, without the client.
    pub cpu_us_per_request: Spread,
}

/// A ramet system against a rival in one setting: each value is ramet's divided by the rival's, round by round.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    /// The ramet system.
    pub system: &'static str,
    /// The rival.
    pub against: &'static str,
    /// How many functions a request passes.
    pub functions: u32,
    /// How many requests are in flight.
    pub connections: usize,
    /// The length of the posted bodies.
    pub payload_bytes: usize,
    /// Throughput; above 1 ramet is better.
    pub requests_per_s: Spread,
    /// Median latency; below 1 ramet is better.
    pub p50_us: Spread,
    /// Processor time; below 1 ramet is better.
    pub cpu_us_per_request: Spread,
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
    pub system: &'static str,
    /// What carries requests from function to function.
    pub transport: &'static str,
    /// How many functions run.
    pub functions: u32,
    /// How many processes the node has.
    pub processes: usize,
    /// Processor time of all of them, as a share of one core's.
    pub percent_of_core: f64,
}

/// A system that is not in the report, or not in one setting of it.
#[derive(Clone, Debug)]
pub struct LeftOut {
    /// The system.
    pub system: System,
    /// The setting in which it failed; `None` if it did not start.
    pub setting: Option<Setting>,
    /// Why.
    pub reason: String,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.setting {
            None => write!(f, "skipped: {}: {}", self.system, self.reason),
            Some(setting) => write!(f, "FAILED: {} ({setting}): {}", self.system, self.reason),
        }
    }
}

/// What is the same for all systems in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// How many functions a request passes; 0 where the front answers by itself.
    pub functions: u32,
    /// How many requests are in flight.
    pub connections: usize,
    /// The length of the posted bodies.
    pub payload_bytes: usize,
}

impl Setting {
    /// Whether `system` can be measured in it.
    pub(crate) fn suits(&self, system: System) -> bool {
        system.is_chain() == (self.functions > 0)
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { functions, connections, payload_bytes } = self;
        match functions {
            0 => write!(f, "no functions, {connections} connections"),
            _ => write!(f, "{functions} functions, {connections} connections, {payload_bytes} bytes"),
        }
    }
}

impl ChainReport {
    pub(crate) fn new(machine: Machine, rounds: u32, measured: &[(Setting, Samples)], left_out: Vec<LeftOut>) -> Self {
        let (mut rows, mut ratios) = (Vec::new(), Vec::new());
        for (setting, samples) in measured {
            for (&system, found) in samples {
                rows.extend(row(system, setting, found));
                let rivals = system.rivals().iter().filter_map(|rival| Some((*rival, samples.get(rival)?)));
                ratios.extend(rivals.filter_map(|(rival, others)| ratio(system, rival, setting, found, others)));
            }
        }
        Self { machine, rounds, rows, ratios, left_out }
    }
}

fn row(system: System, setting: &Setting, samples: &[Sample]) -> Option<Row> {
    let spread = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(value));
    Some(Row {
        system: system.name(),
        transport: system.transport(),
        functions: setting.functions,
        connections: setting.connections,
        payload_bytes: setting.payload_bytes,
        requests_per_s: spread(|sample| sample.requests_per_s)?,
        p50_us: spread(|sample| sample.p50_us)?,
        p99_us: spread(|sample| sample.p99_us)?,
        p999_us: spread(|sample| sample.p999_us)?,
        cpu_us_per_request: spread(|sample| sample.cpu_us_per_request)?,
    })
}

fn ratio(system: System, rival: System, setting: &Setting, ours: &[Sample], theirs: &[Sample]) -> Option<Ratio> {
    let spread = |value: fn(&Sample) -> f64| Spread::of_quotients(ours.iter().map(value), theirs.iter().map(value));
    Some(Ratio {
        system: system.name(),
        against: rival.name(),
        functions: setting.functions,
        connections: setting.connections,
        payload_bytes: setting.payload_bytes,
        requests_per_s: spread(|sample| sample.requests_per_s)?,
        p50_us: spread(|sample| sample.p50_us)?,
        cpu_us_per_request: spread(|sample| sample.cpu_us_per_request)?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
