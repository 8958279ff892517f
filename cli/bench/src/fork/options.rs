//! What can be asked of `ramet bench fork`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::orders::Way;
use super::rounds::{Entrant, Of};
use crate::options::bytes;

/// The most data: sums of it take a while.
const MEMORY_BYTES_MAX: u64 = 16 << 30;
const MEMORY_BYTES_MIN: u64 = 1 << 20;
/// Rounds with many children, unless a number is asked for.
const CROWDS: u32 = 3;
/// The same where two builds are compared: with fewer, no difference could be told from noise.
const CROWDS_OF_TWO_BUILDS: u32 = 10;

/// Measure forks of a running Python with numpy and data: how long it is stopped, and how long until its children
/// answer, beside `os.fork` and beside starting another one.
#[derive(Clone, Debug, Args)]
pub struct ForkOptions {
    /// What is measured
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = ForkSystem::ALL)]
    pub systems: Vec<ForkSystem>,
    /// How much data the process has, such as 16MiB
    #[arg(long, value_name = "BYTES", default_value = "128MiB", value_parser = memory)]
    pub memory: u64,
    /// How many children live at the same time in the end
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub children: u32,
    /// How many rounds each system gets
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// How many of these end with as many children as are asked for [default: 3, and 10 with --base]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub crowds: Option<u32>,
    /// Measure this build's forks beside those of a git revision, in alternating rounds, and say which differences are
    /// larger than the noise. Must be run within ramet's source
    #[arg(long, value_name = "REV")]
    pub base: Option<String>,
    /// A Python that has numpy [default: the first one that is found]
    #[arg(long, value_name = "FILE")]
    pub python: Option<PathBuf>,
}

impl ForkOptions {
    /// How many rounds end with as many children as are asked for.
    #[must_use]
    pub fn crowds(&self) -> u32 {
        self.crowds.unwrap_or(if self.base.is_some() { CROWDS_OF_TWO_BUILDS } else { CROWDS })
    }

    /// The name in the report: behind an `@` the revision, where it is not this build.
    pub(super) fn name(&self, entrant: Entrant) -> String {
        match (entrant.of, &self.base) {
            (Of::Base, Some(base)) => format!("{}@{base}", entrant.system),
            _ => entrant.system.to_string(),
        }
    }
}

/// A way to get one more process that has the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum ForkSystem {
    /// ramet, pages read from the seed on the same host
    RametLocal,
    /// ramet, pages read from the seed's page server over loopback
    RametTcp,
    /// The process forks itself
    OsFork,
    /// Another one is started, and makes its data
    FreshPython,
    /// Faults of its own, answered by a thread that spins on the same core: what a fault costs at least
    SpinningHandler,
}

impl ForkSystem {
    /// All, in the order of their rounds.
    pub const ALL: [Self; 5] =
        [Self::RametLocal, Self::RametTcp, Self::OsFork, Self::FreshPython, Self::SpinningHandler];

    /// How its children come by pages, where it is ramet.
    pub(super) const fn way(self) -> Option<Way> {
        match self {
            Self::RametLocal => Some(Way::Local),
            Self::RametTcp => Some(Way::Tcp),
            Self::OsFork | Self::FreshPython | Self::SpinningHandler => None,
        }
    }

    /// The name in options and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RametLocal => "ramet-local",
            Self::RametTcp => "ramet-tcp",
            Self::OsFork => "os-fork",
            Self::FreshPython => "fresh-python",
            Self::SpinningHandler => "spinning-handler",
        }
    }
}

impl std::fmt::Display for ForkSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

fn memory(text: &str) -> Result<u64, String> {
    bytes(text)
        .filter(|bytes| (MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(bytes))
        .ok_or_else(|| "expected 1MiB to 16384MiB".to_owned())
}
