//! What can be asked of `ramet`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::fork::ForkCommand;

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed; the message says why
  2  wrong arguments, or a manifest or settings file with errors: nothing was changed
  3  no such function, chain, instance, process or seed
  4  neither a node nor, for `fork`, `ramet fork serve` answers on the socket
  5  `check`: the node would not run, or not with the transport that was asked for";

/// Function chains over shared memory and eBPF, without sidecars.
#[derive(Debug, Parser)]
#[command(name = "ramet", version, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) node: NodeArguments,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which node is meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct NodeArguments {
    /// The node's admin socket [default: from the settings]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The node's settings file (TOML); `RAMET_…` variables are put over it
    #[arg(long, global = true, value_name = "FILE", env = "RAMET_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node in the foreground until SIGTERM or Ctrl-C
    Up(Up),
    /// Create or change functions and chains while requests run, losing none
    Apply(Files),
    /// List functions, chains or instances
    Get(Get),
    /// Show everything about a function or chain
    Describe(Named),
    /// Remove functions and chains
    ///
    /// With `-f` everything that the manifests name goes as one change, or nothing: not where something is missing or a
    /// function is used by what would stay.
    Delete(Delete),
    /// Send a request through a chain and print its answer
    ///
    /// Where the node speaks TLS, so does this. It trusts the one certificate that the node itself names on its admin
    /// socket, whoever issued it and for whatever host.
    Invoke(Invoke),
    /// Print what a function's instances wrote
    ///
    /// With `-o json` each line is an object of its own, on one line; with `-o yaml` a document of its own.
    Logs(Logs),
    /// Say what this machine offers, which transport would be used, and why
    Check(Check),
    /// Fork a running process into new ones, here or on another host
    Fork {
        #[command(subcommand)]
        what: ForkCommand,
    },
    /// Measure chains beside other ways to run them
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Print a JSON Schema
    Schema {
        /// Of what
        #[arg(value_enum, default_value = "manifest")]
        of: SchemaKind,
    },
    /// Print a completion script
    Completion {
        /// For which shell
        shell: Shell,
    },
}

/// What `ramet` itself starts under its own name, and nobody by hand. Completion scripts and clap's errors list hidden
/// commands with the others, so these are a command line of their own.
#[derive(Debug, Parser)]
#[command(name = "ramet")]
pub(crate) struct InternalArguments {
    #[command(flatten)]
    pub(crate) node: NodeArguments,
    #[command(subcommand)]
    pub(crate) command: InternalCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InternalCommand {
    /// The gateway process; started by the supervisor
    Gateway,
    /// What the processes of forks are copies of; started by whoever keeps seeds
    #[command(name = ramet_runtime::keeper::ZYGOTE_COMMAND)]
    Zygote,
    /// A server that a benchmark compares with; started by `bench`
    #[command(name = ramet_bench::PEER_COMMAND)]
    BenchPeer(ramet_bench::PeerOptions),
}

impl InternalArguments {
    /// The arguments of this process, if they begin with an internal command.
    pub(crate) fn of_process() -> Option<Self> {
        let first = std::env::args_os().nth(1)?;
        InternalCommand::has_subcommand(first.to_str()?).then(Self::parse)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// A chain of functions under load, or idle; with --socket the chains of that node
    Chain {
        #[command(flatten)]
        options: Box<ramet_bench::ChainOptions>,
        #[command(flatten)]
        output: BenchOutput,
    },
    /// Hops from process to process, beside what the machine can do at best
    Hop {
        #[command(flatten)]
        options: ramet_bench::HopOptions,
        #[command(flatten)]
        output: BenchOutput,
    },
    /// What takes requests in, alone, beside other servers
    Ingress {
        #[command(flatten)]
        options: ramet_bench::IngressOptions,
        #[command(flatten)]
        output: BenchOutput,
    },
    /// Forks of a running process, beside `os.fork` and a fresh process
    Fork {
        #[command(flatten)]
        options: ramet_bench::ForkOptions,
        #[command(flatten)]
        output: BenchOutput,
    },
}

/// How a benchmark reports.
#[derive(Clone, Debug, Args)]
pub(crate) struct BenchOutput {
    /// The form of the report
    #[arg(short, long, value_enum, default_value = "table")]
    pub(crate) output: BenchFormat,
    /// Draw the latencies, too, as an SVG picture
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchFormat {
    Table,
    Json,
    Yaml,
    Csv,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Manifest files to apply at the start
    #[arg(short = 'f', long = "filename", value_name = "MANIFEST")]
    pub(crate) files: Vec<PathBuf>,
    /// Where requests are taken [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) listen: Option<SocketAddr>,
    /// Where /healthz, /readyz and /metrics are [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) admin: Option<SocketAddr>,
    /// How descriptors travel [default: auto]
    #[arg(long, value_enum, value_name = "TRANSPORT")]
    pub(crate) transport: Option<TransportArgument>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportArgument {
    /// The best that works
    Auto,
    /// In the kernel, by eBPF
    Skmsg,
    /// Rings in shared memory
    Ring,
    /// Unix sockets
    Socket,
}

#[derive(Debug, Args)]
pub(crate) struct Files {
    /// Manifest files; `-` is standard input
    #[arg(short = 'f', long = "filename", value_name = "MANIFEST", required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputArgument {
    /// The form of the answer
    #[arg(short, long, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Listed {
    #[value(alias = "function", alias = "fn")]
    Functions,
    #[value(alias = "chain")]
    Chains,
    #[value(alias = "instance")]
    Instances,
    #[value(alias = "nodes")]
    Node,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ObjectKind {
    #[value(alias = "functions", alias = "fn")]
    Function,
    #[value(alias = "chains")]
    Chain,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// What to list
    #[arg(value_enum)]
    pub(crate) what: Listed,
    /// Only this one (for instances: of this function; not for the node)
    pub(crate) name: Option<String>,
    /// Only in this namespace [default: all]
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Which kind of object
    #[arg(value_enum)]
    pub(crate) kind: ObjectKind,
    /// Its name
    pub(crate) name: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["kind", "files"]))]
pub(crate) struct Delete {
    /// Which kind of object
    #[arg(value_enum, requires = "name")]
    pub(crate) kind: Option<ObjectKind>,
    /// Its name
    pub(crate) name: Option<String>,
    /// Everything that these manifests name
    #[arg(short = 'f', long = "filename", value_name = "MANIFEST", conflicts_with = "kind")]
    pub(crate) files: Vec<PathBuf>,
    /// Its namespace; manifests name their own
    #[arg(short, long, default_value = "default", conflicts_with = "files")]
    pub(crate) namespace: String,
    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
pub(crate) struct Invoke {
    /// The chain
    pub(crate) chain: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// The body; `@FILE` is a file's content, `@-` standard input
    #[arg(short, long, value_name = "BODY")]
    pub(crate) data: Option<String>,
    /// The method [default: POST with a body, else GET]
    #[arg(short = 'X', long, value_name = "METHOD")]
    pub(crate) method: Option<String>,
    /// A header, `name: value`; may be given again
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// What to add to the chain's path, such as `/more?width=64`
    #[arg(long, value_name = "SUFFIX", default_value = "")]
    pub(crate) path: String,
    /// Write the body here instead of to standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The function [default: all]
    pub(crate) function: Option<String>,
    /// Only in this namespace [default: all]
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Go on with what is written from now on
    #[arg(short = 'F', long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The transport to check for [default: from the settings]
    #[arg(long, value_enum, value_name = "TRANSPORT")]
    pub(crate) transport: Option<TransportArgument>,
    #[command(flatten)]
    pub(crate) output: OutputArgument,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaKind {
    /// A Function document
    Function,
    /// A Chain document
    Chain,
    /// Either
    Manifest,
    /// The node's settings file
    Node,
}

/// An address without its port, or a name, is the usual mistake.
pub(crate) fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "expected an IP address and a port, such as 192.0.2.7:7070 or [2001:db8::7]:7070")
}
