//! What can be asked of `ramet bench ingress`.

use clap::{Args, ValueEnum};

use super::{NodeOptions, RateOptions, RoundOptions, connections};
use crate::setting::{Protocol, Role};

/// Measure the gateway alone, which answers by itself where no chain is routed, beside other servers that give the same
/// answer by themselves, in alternating rounds of one run.
#[derive(Clone, Debug, Args)]
pub struct IngressOptions {
    /// What is measured
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',', default_values_t = [Front::RametGateway])]
    pub systems: Vec<Front>,
    /// What it is compared with, in the same run
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',')]
    #[arg(default_values_t = [Front::HyperBare, Front::NginxBare])]
    pub against: Vec<Front>,
    /// How the client speaks
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',')]
    #[arg(default_values_t = [Protocol::Http1, Protocol::H2c])]
    pub protocol: Vec<Protocol>,
    /// How many requests are in flight: over HTTP/1.1 each on a connection of its own, over HTTP/2 up to 32 on each
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [32, 1], value_parser = connections)]
    pub connections: Vec<usize>,
    /// How requests come
    #[command(flatten)]
    pub rate: RateOptions,
    /// How long and how often
    #[command(flatten)]
    pub rounds: RoundOptions,
    /// What is started: a node needs a function to have a chain
    #[command(flatten)]
    pub nodes: NodeOptions,
}

/// A server that answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Front {
    /// ramet's gateway
    RametGateway,
    /// A bare hyper server, a thread for each core
    HyperBare,
    /// nginx, a process for each core
    NginxBare,
}

impl Front {
    /// The name in options and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RametGateway => "ramet-gateway",
            Self::HyperBare => "hyper-bare",
            Self::NginxBare => "nginx-bare",
        }
    }

    pub(crate) const fn is_ours(self) -> bool {
        matches!(self, Self::RametGateway)
    }

    pub(crate) const fn role(self) -> Role {
        if self.is_ours() { Role::Ours } else { Role::Peer }
    }
}

impl std::fmt::Display for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
