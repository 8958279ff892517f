//! What is said to set up reads by RDMA, over the connection that knows the key.

use std::net::IpAddr;

use ramet_rdma::{Endpoint, Paging, Region};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::WireError;

/// What a reader asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// To be let read by itself.
    Connect {
        /// Its end.
        endpoint: Endpoint,
        /// Where it has reached the seed's host: what can be reached there is best.
        host: IpAddr,
        /// How memory is to be registered; paging on demand may not be had.
        paging: Paging,
    },
    /// To have the piece pinned that begins at an address.
    Pin(u64),
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Connected(Connected),
    /// Why it may not.
    Unable(String),
    /// What is pinned now of the piece; nothing if it is to be read over the connection.
    Pinned(Option<Region>),
}

/// Everything that it takes to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Connected {
    /// The other end.
    pub(crate) endpoint: Endpoint,
    /// How memory is registered.
    pub(crate) paging: Paging,
    /// What is to be tried first.
    pub(crate) canary: Region,
    pub(crate) regions: Vec<Region>,
    /// Where more can be pinned: beginnings and lengths.
    pub(crate) pinnable: Vec<(u64, u64)>,
}

pub(crate) fn encode(message: &impl Serialize) -> Vec<u8> {
    // Writing into a vector does not fail, and all messages have a representation.
    postcard::to_allocvec(message).unwrap_or_default()
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    postcard::from_bytes(bytes).map_err(|_| WireError::Senseless("how to read by RDMA"))
}
