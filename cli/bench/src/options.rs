//! What can be asked of the benchmark: what its commands have in common, and the forms of numbers.

pub mod chain;
pub mod hop;
pub mod ingress;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ramet_manifest::ByteCount;

/// The most connections: as many as one ramet function may have waiting.
const CONNECTIONS_MAX: u64 = 4096;
/// The longest payload: what the default pool holds of it at one connection.
const PAYLOAD_BYTES_MAX: u64 = 32 << 20;
/// The most functions of a chain: as many as a chain may have steps.
const FUNCTIONS_MAX: u64 = 64;
/// The most rounds, and the highest rate.
const ROUNDS_MAX: u64 = 1000;
const RATE_MAX: u64 = 10_000_000;
/// Rounds, unless a number is asked for.
const ROUNDS: u32 = 5;
/// The same where two builds are compared: with fewer, no difference could be told from noise.
const ROUNDS_OF_TWO_BUILDS: u32 = 10;

/// How long everything is measured, and how often.
#[derive(Clone, Debug, Args)]
pub struct RoundOptions {
    /// How long each round measures
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub duration: Duration,
    /// How long each round runs before it measures
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = duration)]
    pub warm_up: Duration,
    /// How many rounds each system gets [default: 5, and 10 with --base]
    #[arg(long, value_name = "N", value_parser = rounds, allow_negative_numbers = true)]
    pub rounds: Option<u32>,
    /// Measure this build beside the one of a git revision, in alternating rounds, and say which differences are larger
    /// than the noise. Must be run within ramet's source
    #[arg(long, value_name = "REV")]
    pub base: Option<String>,
}

impl RoundOptions {
    /// How many rounds there are.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.base.is_some() { ROUNDS_OF_TWO_BUILDS } else { ROUNDS })
    }
}

/// Requests at a fixed rate instead of one after the other.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct RateOptions {
    /// Requests that are due in a second, whether or not the ones before are answered (an open loop). Latency is then
    /// counted from when a request was due [default: a closed loop: each connection sends when it has its answer]
    #[arg(long = "rate", value_name = "N", value_parser = rate, allow_negative_numbers = true)]
    pub per_s: Option<u32>,
}

/// The nodes that the benchmark starts.
#[derive(Clone, Debug, Default, Args)]
pub struct NodeOptions {
    /// The echo function's program [default: `echo` beside this one]
    #[arg(long, value_name = "FILE", value_parser = program)]
    pub function: Option<PathBuf>,
    /// Their settings file, as for any node.
    #[arg(skip)]
    pub config: Option<PathBuf>,
}

pub(crate) fn connections(text: &str) -> Result<usize, String> {
    bounded(text.parse().ok(), 1..=CONNECTIONS_MAX)
}

pub(crate) fn payload_bytes(text: &str) -> Result<usize, String> {
    let expected = |_| format!("expected at most {}MiB, such as 100, 64KiB or 1MiB", PAYLOAD_BYTES_MAX >> 20);
    bounded(bytes(text), 0..=PAYLOAD_BYTES_MAX).map_err(expected)
}

fn rounds(text: &str) -> Result<u32, String> {
    bounded(text.parse().ok(), 1..=ROUNDS_MAX).map(|rounds| rounds as u32)
}

fn rate(text: &str) -> Result<u32, String> {
    bounded(text.parse().ok(), 1..=RATE_MAX).map(|per_s| per_s as u32)
}

fn program(text: &str) -> Result<PathBuf, String> {
    let file = std::path::absolute(text).map_err(|error| error.to_string())?;
    let found = file.metadata().map_err(|error| error.to_string())?;
    let is_program = found.is_file() && found.permissions().mode() & 0o111 != 0;
    if is_program { Ok(file) } else { Err("it is no program: expected a file that may be executed".to_owned()) }
}

pub(crate) fn functions(text: &str) -> Result<u32, String> {
    bounded(text.parse().ok(), 1..=FUNCTIONS_MAX).map(|functions| functions as u32)
}

fn bounded(number: Option<u64>, range: std::ops::RangeInclusive<u64>) -> Result<usize, String> {
    let expected = || format!("expected a whole number from {} to {}", range.start(), range.end());
    let number = number.filter(|number| range.contains(number)).ok_or_else(expected)?;
    usize::try_from(number).map_err(|_| expected())
}

/// A number, alone or with a unit: `100`, `64Ki`, `1MiB`.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    ByteCount::from_text(text).map(ByteCount::bytes)
}

/// A number with a unit: `500ms`, `2s`, `1m`; more than nothing and at most an hour.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let factor_ms = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err("expected a number with `ms`, `s` or `m`".to_owned()),
    };
    let millis = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor_ms));
    let millis = millis.filter(|millis| (1..=3_600_000).contains(millis)).ok_or("expected 1ms to 60m")?;
    Ok(Duration::from_millis(millis))
}

/// What is asked for, each once and in order.
pub(crate) fn each_once<T: Ord + Copy>(wanted: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut wanted: Vec<T> = wanted.into_iter().collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

#[cfg(test)]
mod tests;
