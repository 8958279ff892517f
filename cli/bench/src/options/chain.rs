//! What can be asked of `ramet bench chain`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{NodeOptions, RateOptions, RoundOptions, connections, duration, functions, payload_bytes};
use crate::setting::Role;

/// Measure chains of functions: ramet beside other ways from function to function, in alternating rounds of one run.
///
/// Without --url and without --socket each system runs a chain of echo functions of its own.
#[derive(Clone, Debug, Args)]
pub struct ChainOptions {
    /// What is measured [default: ramet-skmsg,ramet-ring,ramet-socket]
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',')]
    pub systems: Option<Vec<System>>,
    /// What it is compared with, in the same run [default: http-hops,nginx-sidecars]
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',')]
    pub against: Option<Vec<System>>,
    /// How many functions each request passes
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "3", value_parser = functions)]
    pub functions: Vec<u32>,
    /// How many connections there are, each with a request in flight
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [32, 1], value_parser = connections)]
    pub connections: Vec<usize>,
    /// How long the posted bodies are, such as 100, 64KiB or 1MiB
    #[arg(long, value_name = "BYTES,…", value_delimiter = ',', default_value = "100", value_parser = payload_bytes)]
    pub payload: Vec<usize>,
    /// Each request comes on a new connection
    #[arg(long)]
    pub reconnect: bool,
    /// How requests come
    #[command(flatten)]
    pub rate: RateOptions,
    /// How long and how often
    #[command(flatten)]
    pub rounds: RoundOptions,
    /// Measure what answers here, whatever it is: every answer must have a status of success
    #[arg(long, value_name = "URL", conflicts_with_all = ["idle", "base", "systems", "against", "functions"])]
    pub url: Option<String>,
    /// With --socket: only this chain of the node [default: all]
    #[arg(long, value_name = "NAME", conflicts_with = "url")]
    pub chain: Option<String>,
    /// Measure instead what the ramet systems use of the processor while nothing is asked of them
    #[arg(long, conflicts_with_all = ["base", "against", "connections", "payload", "reconnect", "per_s", "duration"])]
    pub idle: bool,
    /// How long --idle measures
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration, requires = "idle")]
    pub idle_duration: Duration,
    /// What is started
    #[command(flatten)]
    pub nodes: NodeOptions,
}

impl ChainOptions {
    /// What is measured.
    #[must_use]
    pub fn systems(&self) -> &[System] {
        self.systems.as_deref().unwrap_or(&System::OURS)
    }

    /// What it is compared with.
    #[must_use]
    pub fn against(&self) -> &[System] {
        self.against.as_deref().unwrap_or(&[System::HttpHops, System::NginxSidecars])
    }
}

/// A chain of a node that runs already.
#[derive(Clone, Debug)]
pub struct Target {
    /// The chain's name, or the address.
    pub name: String,
    /// What carries requests from function to function, if that is known.
    pub transport: String,
    /// How many functions requests pass, if that is known.
    pub functions: Option<u32>,
    /// Where the gateway listens.
    pub address: SocketAddr,
    /// What requests say in `Host`.
    pub host: String,
    /// The path with its query.
    pub path: String,
    /// The node's process, if that is known: what it and its descendants use is measured.
    pub process: Option<i32>,
}

/// A way to run a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum System {
    /// ramet, descriptors redirected by the kernel
    RametSkmsg,
    /// ramet, descriptors in shared-memory rings
    RametRing,
    /// ramet, descriptors over unix sockets
    RametSocket,
    /// ramet, each function the HTTP server of http-hops, unmodified, and reached past TCP
    RametHttp,
    /// The same over plain TCP, to be compared with
    RametHttpPlain,
    /// Each function an HTTP server that calls the next one
    HttpHops,
    /// The same with an nginx in front of each function
    NginxSidecars,
    /// HTTP to the first function, gRPC (tonic) from function to function
    Grpc,
    /// HTTP to the first function, publish-subscribe and events of iceoryx2 from function to function
    Iceoryx2,
    /// HTTP to the first function, plain unix sockets from function to function, with no checks
    Unix,
    /// The same over TCP
    Tcp,
}

impl System {
    /// ramet's own, with functions that link its SDK.
    pub const OURS: [Self; 3] = [Self::RametSkmsg, Self::RametRing, Self::RametSocket];

    /// The name in options and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RametSkmsg => "ramet-skmsg",
            Self::RametRing => "ramet-ring",
            Self::RametSocket => "ramet-socket",
            Self::RametHttp => "ramet-http",
            Self::RametHttpPlain => "ramet-http-plain",
            Self::HttpHops => "http-hops",
            Self::NginxSidecars => "nginx-sidecars",
            Self::Grpc => "grpc",
            Self::Iceoryx2 => "iceoryx2",
            Self::Unix => "unix",
            Self::Tcp => "tcp",
        }
    }

    /// What carries a request from function to function.
    #[must_use]
    pub const fn transport(self) -> &'static str {
        match self {
            Self::RametSkmsg => "skmsg",
            Self::RametRing => "ring",
            Self::RametSocket => "socket",
            Self::RametHttp => "http-shortcut",
            Self::RametHttpPlain | Self::HttpHops | Self::NginxSidecars => "http",
            Self::Grpc => "grpc",
            Self::Iceoryx2 => "iceoryx2",
            Self::Unix => "unix",
            Self::Tcp => "tcp",
        }
    }

    /// Whether this is ramet running a chain as well as it can.
    #[must_use]
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::RametSkmsg | Self::RametRing | Self::RametSocket | Self::RametHttp)
    }

    pub(crate) const fn role(self) -> Role {
        if self.is_ours() { Role::Ours } else { Role::Peer }
    }
}

impl std::fmt::Display for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
