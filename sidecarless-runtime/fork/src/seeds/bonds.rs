//! A seed of a child is of use for as long as those are there that its process descends from, so it holds on to them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::kept::Reader;
use super::{Registry, SeedError};
use crate::lineage::SeedAt;
use crate::source::{PageSource, TcpSource, tcp};

/// What keeps an ancestor from making room for another seed, and its lease from ending too soon.
#[derive(Debug)]
pub(super) struct Bond {
    seed: SeedAt,
    hold: Hold,
}

#[derive(Debug)]
enum Hold {
    Here(Reader),
    There(Box<Mutex<TcpSource>>),
}

impl Bond {
    /// Holds on to a seed.
    pub(super) fn to(seed: &SeedAt, registry: &Registry) -> Result<Self, SeedError> {
        let lost = |source: &dyn std::fmt::Display| SeedError::Ancestor(seed.handle, source.to_string());
        let hold = match registry.verify(seed.handle, &seed.key) {
            Ok(kept) => Hold::Here(Reader::open(&kept, registry.limits.readers_max).map_err(|error| lost(&error))?),
            Err(_) => {
                let connected = tcp::connect(seed.address, seed.handle, &seed.key);
                let (_, mut source) = connected.map_err(|error| lost(&error))?;
                // It is not here to be read.
                drop(source.take_learned().map_err(|error| lost(&error))?);
                Hold::There(Box::new(Mutex::new(source)))
            }
        };
        Ok(Self { seed: seed.clone(), hold })
    }

    /// Lets its lease last so long from now, if it would not.
    pub(super) fn renew(&self, lease: Duration) -> Result<(), SeedError> {
        let renewed = match &self.hold {
            Hold::Here(reader) => {
                reader.seed().renew(Instant::now() + lease).map(drop).map_err(|error| error.to_string())
            }
            Hold::There(source) => {
                let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
                source.renew(lease).map_err(|error| error.to_string())
            }
        };
        renewed.map_err(|why| SeedError::Ancestor(self.seed.handle, why))
    }
}

/// Holds on to all of them.
pub(super) fn all(lineage: &[SeedAt], registry: &Arc<Registry>, lease: Duration) -> Result<Vec<Bond>, SeedError> {
    let bond = |seed| {
        let bond = Bond::to(seed, registry)?;
        bond.renew(lease)?;
        Ok(bond)
    };
    lineage.iter().map(bond).collect()
}
