//! The end of a connection that lets its peer read.

use std::io;

use crate::VerbsError;
use crate::domain::Domain;
use crate::endpoint::{Address, Endpoint};
use crate::queue_pair::{QueuePair, Role};

/// Lets one peer read what is registered in a domain, for as long as it lives. It does nothing itself.
#[derive(Debug)]
pub struct Responder(QueuePair);

impl Responder {
    /// One end of a connection that is to be.
    ///
    /// # Errors
    /// libibverbs'.
    pub fn new(domain: &Domain, address: Address) -> Result<Self, VerbsError> {
        Ok(Self(QueuePair::new(domain, address, Role::LetsRead, random_number()?)?))
    }

    /// What the peer must know.
    #[must_use]
    pub const fn local(&self) -> &Endpoint {
        self.0.local()
    }

    /// From now on the peer may read.
    ///
    /// # Errors
    /// What it says makes no sense.
    pub fn connect(&mut self, peer: &Endpoint) -> Result<(), VerbsError> {
        self.0.connect(peer)
    }
}

/// Which nobody guesses, so that nobody sends packets in the name of a peer.
pub(crate) fn random_number() -> Result<u32, VerbsError> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| VerbsError { call: "getrandom", source: io::Error::other(error) })?;
    Ok(u32::from_ne_bytes(bytes))
}
