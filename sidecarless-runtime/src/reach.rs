//! How seeds are reached: those of this host as they are, those of others by RDMA or over TCP, and with each the seeds
//! that it descends from.

use std::net::SocketAddr;
use std::sync::Arc;

use ramet_control::fork::SourceKind;
use ramet_fork::descriptor::DecodeError;
use ramet_fork::seeds::Refusal;
use ramet_fork::source::tcp::ConnectError;
use ramet_fork::source::{SourceError, rdma, tcp};
use ramet_fork::{Agent, ForkDescriptor, Lineage, PageSource, SeedAt, Seeds, lineage};
use ramet_rdma::{Device, OpenError};

/// What it takes to reach seeds.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    /// Those of this host.
    pub(crate) seeds: Arc<Seeds>,
    /// Where other hosts read them.
    pub(crate) address: SocketAddr,
    /// Has the RDMA device of this host, if there is one and somebody asks for it.
    pub(crate) agent: Arc<Agent>,
}

/// What was reached.
pub(crate) type Reached = (ForkDescriptor, Box<dyn PageSource>);

/// Why a seed was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreached {
    #[error(transparent)]
    Here(#[from] Refusal),
    #[error("the seed makes no sense: {0}")]
    Descriptor(#[from] DecodeError),
    #[error(transparent)]
    There(#[from] ConnectError),
    /// Who asks for RDMA is not given something else unasked.
    #[error("{0}; or use --source tcp")]
    NoDevice(#[from] OpenError),
    #[error("{0}; or use --source tcp")]
    ByRdma(rdma::ConnectError),
    #[error(transparent)]
    Lineage(#[from] SourceError),
}

impl From<rdma::ConnectError> for Unreached {
    fn from(error: rdma::ConnectError) -> Self {
        match error {
            rdma::ConnectError::Tcp(error) => Self::There(error),
            error => Self::ByRdma(error),
        }
    }
}

impl Unreached {
    /// What the seed's host has against it, if it was that.
    pub(crate) const fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Here(refusal) | Self::There(ConnectError::Refused { refusal, .. }) => Some(*refusal),
            _ => None,
        }
    }
}

impl Reach {
    /// Reaches a seed, and those that it descends from. Without a way that is asked for it is the best that there is.
    pub(crate) fn reach(&self, seed: &SeedAt, source: Option<SourceKind>) -> Result<Reached, Unreached> {
        let (descriptor, first) = self.reach_one(seed, source)?;
        let mut ancestors = Vec::new();
        for seed in lineage::ancestors(&descriptor, seed.handle, &seed.key) {
            let source = match source {
                None | Some(SourceKind::Local) => self.is_here(&seed).then_some(SourceKind::Local),
                other => other,
            };
            let (_, source) = self.reach_one(&seed, source)?;
            ancestors.push((seed, source));
        }
        // Where others find what is here, whatever it was asked for by.
        let address = if source == Some(SourceKind::Local) { self.address } else { seed.address };
        let lineage = Lineage::new(SeedAt { address, ..seed.clone() }, first, ancestors)?;
        Ok((descriptor, Box::new(lineage)))
    }

    /// Whether a seed is one of this host's.
    pub(crate) fn is_here(&self, seed: &SeedAt) -> bool {
        self.seeds.check(seed.handle, &seed.key).is_ok()
    }

    fn reach_one(&self, seed: &SeedAt, source: Option<SourceKind>) -> Result<Reached, Unreached> {
        match source {
            Some(SourceKind::Local) => {
                let (descriptor, source) = self.seeds.open_local(seed.handle, &seed.key)?;
                Ok((ForkDescriptor::decode(&descriptor)?, Box::new(source)))
            }
            Some(SourceKind::Tcp) => by_tcp(seed),
            Some(SourceKind::Rdma) => Ok(by_rdma(self.agent.device()?, seed)?),
            None => match self.agent.device() {
                Ok(device) => by_rdma(device, seed).map_err(Unreached::from).or_else(|error| match error {
                    Unreached::ByRdma(error) => {
                        tracing::info!(%error, "a seed of another host is read over TCP");
                        by_tcp(seed)
                    }
                    error => Err(error),
                }),
                Err(_) => by_tcp(seed),
            },
        }
    }
}

fn by_tcp(SeedAt { address, handle, key }: &SeedAt) -> Result<Reached, Unreached> {
    let (descriptor, source) = tcp::connect(*address, *handle, key)?;
    Ok((descriptor, Box::new(source)))
}

fn by_rdma(device: &Device, SeedAt { address, handle, key }: &SeedAt) -> Result<Reached, rdma::ConnectError> {
    let (descriptor, source) = rdma::connect(device, *address, *handle, key)?;
    Ok((descriptor, Box::new(source)))
}
