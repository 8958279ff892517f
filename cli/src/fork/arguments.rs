//! What can be asked of `ramet fork`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use ramet_control::fork::{CHILDREN_MAX, SourceKind};
use ramet_fork::Handle;
use ramet_manifest::ByteCount;
use ramet_manifest::quantity::duration_from_text;
use ramet_manifest::settings::{SEEDS_BYTES, SEEDS_MAX};

use super::key::KeyText;
use crate::arguments::{OutputArgument, address};

#[derive(Debug, Subcommand)]
pub(crate) enum ForkCommand {
    /// Freeze a copy of a running process, which goes on
    ///
    /// The copy, a seed, is kept by the node, or by `ramet fork serve`, until its lease ends. Who knows its handle and
    /// its key can make children of it on any host that reaches the address.
    Prepare(Prepare),
    /// Make children of a seed
    ///
    /// They go on where the forked process was, with the same memory, which comes as they touch it. Terminals and pipes
    /// that it had as standard streams are this command's. The children belong to the node, or to `ramet fork serve`,
    /// and live on when this command ends; with --wait they belong to the command.
    Resume(Resume),
    /// List the seeds of this host
    List(OutputArgument),
    /// End seeds: nobody reads them from then on, and children that still need their memory end with SIGBUS
    Revoke(Revoke),
    /// Let a seed's lease last longer
    Renew(Renew),
    /// Keep seeds and children in the foreground where no node runs, until SIGTERM or Ctrl-C
    ///
    /// All seeds and children end with it. It answers beside where a node would: --socket PATH means PATH.fork.
    Serve(Serve),
}

#[derive(Debug, Args)]
pub(crate) struct Prepare {
    /// The process: its number, or `instance/ID` for an instance of a function
    #[arg(value_name = "PID|INSTANCE")]
    pub(crate) process: Target,
    /// For how long the seed is kept [default: 10m, or `fork.lease_max` if that is shorter]
    #[arg(long, value_name = "TIME", value_parser = lease)]
    pub(crate) lease: Option<Duration>,
    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

/// A process that is to be prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Any process.
    Process(i32),
    /// The process of an instance.
    Instance(u32),
}

impl FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a process number, or `instance/` and the ID that `ramet get instances` shows";
        match text.strip_prefix("instance/") {
            Some(id) => id.parse().map(Self::Instance).map_err(|_| EXPECTED),
            None => text.parse().ok().filter(|pid| *pid > 0).map(Self::Process).ok_or(EXPECTED),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// Where the seed is read, as `prepare` has printed it
    #[arg(value_name = "ADDR", value_parser = address)]
    pub(crate) address: SocketAddr,
    /// The seed
    #[arg(long)]
    pub(crate) handle: Handle,
    /// The seed's key. Everybody on this host sees a command's arguments, so rather set RAMET_FORK_KEY, which is asked
    /// where there is no option, or use --key-file
    #[arg(long)]
    pub(crate) key: Option<KeyText>,
    /// A file with the seed's key; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    pub(crate) key_file: Option<PathBuf>,
    /// How many children
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(CHILDREN_MAX)))]
    pub(crate) children: u32,
    /// How their memory comes [default: the best that works]
    #[arg(long, value_enum)]
    pub(crate) source: Option<SourceArgument>,
    /// Bring all of the memory in the background, so that they come to need the seed no more
    #[arg(long)]
    pub(crate) pull: bool,
    /// Stay until all children have ended; Ctrl-C asks them to end, a second one kills them
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SourceArgument {
    /// Read from the seed, which is on this host
    Local,
    /// Sent by the seed's host
    Tcp,
    /// Read out of the seed's memory by this host's RDMA adapter
    Rdma,
}

impl From<SourceArgument> for SourceKind {
    fn from(argument: SourceArgument) -> Self {
        match argument {
            SourceArgument::Local => Self::Local,
            SourceArgument::Tcp => Self::Tcp,
            SourceArgument::Rdma => Self::Rdma,
        }
    }
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["handle", "all"]))]
pub(crate) struct Revoke {
    /// The seed
    pub(crate) handle: Option<Handle>,
    /// All seeds
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
pub(crate) struct Renew {
    /// The seed
    pub(crate) handle: Handle,
    /// For how long it is kept from now on, if that is longer than it would be
    #[arg(long, value_name = "TIME", value_parser = lease)]
    pub(crate) lease: Duration,
    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where other hosts read the seeds [default: 127.0.0.1 and any port]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) listen: Option<SocketAddr>,
    /// The memory that all seeds together may hold on to [default: 4Gi]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) memory: Option<u64>,
    /// The most seeds [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(SEEDS_MAX)))]
    pub(crate) seeds: Option<u32>,
}

fn lease(text: &str) -> Result<Duration, &'static str> {
    match duration_from_text(text) {
        None => Err("expected numbers with units, such as 90s, 10m or 1h30m"),
        Some(Duration::ZERO) => Err("a lease is longer than nothing"),
        Some(lease) => Ok(lease),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let count = ByteCount::from_text(text).map(ByteCount::bytes).filter(|bytes| SEEDS_BYTES.contains(bytes));
    count.ok_or_else(|| "expected a number of bytes, at least 1Mi, such as 512Mi or 4Gi".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_a_number_or_an_instance() {
        assert_eq!("17".parse(), Ok(Target::Process(17)));
        assert_eq!("instance/3".parse(), Ok(Target::Instance(3)));
        for bad in ["", "0", "-1", "instance/", "instance/x", "python3", "99999999999"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
