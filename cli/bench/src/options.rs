//! What can be asked of the benchmark.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

/// The most functions of a chain: as many as a chain may have steps.
const FUNCTIONS_MAX: i64 = 64;
/// The most connections: as many as one ramet function may have waiting.
const CONNECTIONS_MAX: u64 = 4096;
/// The longest payload: what the default pool holds of it at one connection.
const PAYLOAD_BYTES_MAX: u64 = 32 << 20;

/// Measure chains of functions: ramet beside HTTP from function to function, in alternating rounds of one run.
#[derive(Clone, Debug, Args)]
pub struct ChainOptions {
    /// What is measured
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = System::ALL)]
    pub systems: Vec<System>,
    /// How many functions each request passes
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=FUNCTIONS_MAX))]
    pub functions: u32,
    /// How many requests are in flight, each on its own connection
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [32, 1], value_parser = connections)]
    pub connections: Vec<usize>,
    /// How long the posted bodies are, such as 100, 64KiB or 1MiB
    #[arg(long, value_name = "BYTES,…", value_delimiter = ',', default_value = "100", value_parser = payload_bytes)]
    pub payload: Vec<usize>,
    /// How long each round measures
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub duration: Duration,
    /// How long each round runs before it measures
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = duration)]
    pub warm_up: Duration,
    /// How many rounds each system gets
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Measure instead what the ramet systems use of the processor while nothing is asked of them
    #[arg(long)]
    pub idle: bool,
    /// How long --idle measures
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration, requires = "idle")]
    pub idle_duration: Duration,
    /// The echo function's program [default: `echo` beside this one]
    #[arg(long, value_name = "FILE")]
    pub function: Option<PathBuf>,
}

/// A way to run a chain, or one of the two servers that answer by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum System {
    /// ramet, descriptors redirected by the kernel
    RametSkmsg,
    /// ramet, descriptors in shared-memory rings
    RametRing,
    /// ramet, descriptors over unix sockets
    RametSocket,
    /// Each function an HTTP server that calls the next one
    HttpHops,
    /// The same with an nginx in front of each function
    NginxSidecars,
    /// hyper answering 404 by itself
    HyperBare,
    /// ramet's gateway answering 404 by itself
    RametGateway,
}

impl System {
    /// All, in the order of their rounds.
    pub const ALL: [Self; 7] = [
        Self::RametSkmsg,
        Self::RametRing,
        Self::RametSocket,
        Self::HttpHops,
        Self::NginxSidecars,
        Self::HyperBare,
        Self::RametGateway,
    ];

    /// The name in options and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RametSkmsg => "ramet-skmsg",
            Self::RametRing => "ramet-ring",
            Self::RametSocket => "ramet-socket",
            Self::HttpHops => "http-hops",
            Self::NginxSidecars => "nginx-sidecars",
            Self::HyperBare => "hyper-bare",
            Self::RametGateway => "ramet-gateway",
        }
    }

    /// What carries a request from function to function.
    #[must_use]
    pub const fn transport(self) -> &'static str {
        match self {
            Self::RametSkmsg => "skmsg",
            Self::RametRing => "ring",
            Self::RametSocket => "socket",
            Self::HttpHops | Self::NginxSidecars => "http",
            Self::HyperBare | Self::RametGateway => "none",
        }
    }

    /// Whether requests pass functions; if not, the front answers by itself.
    #[must_use]
    pub const fn is_chain(self) -> bool {
        !matches!(self, Self::HyperBare | Self::RametGateway)
    }

    /// Whether this is ramet running a chain.
    #[must_use]
    pub const fn is_ramet_chain(self) -> bool {
        matches!(self, Self::RametSkmsg | Self::RametRing | Self::RametSocket)
    }

    /// What this one is to be compared with.
    #[must_use]
    pub const fn rivals(self) -> &'static [Self] {
        match self {
            Self::RametSkmsg | Self::RametRing | Self::RametSocket => &[Self::HttpHops, Self::NginxSidecars],
            Self::RametGateway => &[Self::HyperBare],
            Self::HttpHops | Self::NginxSidecars | Self::HyperBare => &[],
        }
    }
}

impl std::fmt::Display for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

fn connections(text: &str) -> Result<usize, String> {
    bounded(text.parse().ok(), 1..=CONNECTIONS_MAX)
}

fn payload_bytes(text: &str) -> Result<usize, String> {
    bounded(bytes(text), 0..=PAYLOAD_BYTES_MAX)
}

fn bounded(number: Option<u64>, range: std::ops::RangeInclusive<u64>) -> Result<usize, String> {
    let expected = || format!("expected {} to {}", range.start(), range.end());
    let number = number.filter(|number| range.contains(number)).ok_or_else(expected)?;
    usize::try_from(number).map_err(|_| expected())
}

/// A number, alone or with a unit: `100`, `64Ki`, `64KiB`, `1Mi`, `1MiB`.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let factor = match &text[digits.len()..] {
        "" | "B" => 1,
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// A number with a unit: `500ms`, `2s`, `1m`; more than nothing and at most an hour.
fn duration(text: &str) -> Result<Duration, String> {
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        options: ChainOptions,
    }

    fn parse(arguments: &[&str]) -> Result<ChainOptions, clap::Error> {
        Command::try_parse_from([&["bench"], arguments].concat()).map(|command| command.options)
    }

    #[test]
    fn without_arguments_everything_is_measured() {
        let options = parse(&[]).expect("defaults");
        assert_eq!(options.systems, System::ALL);
        assert_eq!((options.functions, options.rounds), (3, 5));
        assert_eq!((options.connections, options.payload), (vec![32, 1], vec![100]));
        assert_eq!((options.duration, options.warm_up), (Duration::from_secs(2), Duration::from_millis(300)));
    }

    #[test]
    fn names_are_those_of_the_report() {
        for system in System::ALL {
            let options = parse(&["--systems", system.name()]).expect("known");
            assert_eq!(options.systems, [system]);
        }
    }

    #[test]
    fn lists_and_units_are_understood_and_nonsense_is_not() {
        let options = parse(&["--payload", "0,64Ki,1MiB", "--connections", "8", "--duration", "500ms"]).expect("fine");
        assert_eq!(options.payload, [0, 65_536, 1 << 20]);
        assert_eq!((options.connections, options.duration), (vec![8], Duration::from_millis(500)));
        for wrong in [
            ["--payload", "1MB"],
            ["--payload", "99999999999999999999Mi"],
            ["--payload", "Ki"],
            ["--payload", "ä"],
            ["--connections", "0"],
            ["--duration", "2"],
            ["--duration", "0s"],
            ["--duration", "61m"],
            ["--functions", "0"],
            ["--rounds", "0"],
            ["--systems", "envoy"],
        ] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }
}
