//! Where a function is, and what it speaks.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, bail};

/// `IP:PORT` for HTTP, `unix:PATH` and `tcp:IP:PORT` for frames, `grpc:IP:PORT` for calls,
/// `iceoryx2:CHAIN/PLACE/MESSAGES/BYTES` for samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Http(SocketAddr),
    Unix(PathBuf),
    Tcp(SocketAddr),
    Grpc(SocketAddr),
    Samples(Place),
}

/// A place of a chain over iceoryx2, and for how much it has room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) chain: String,
    /// 1 is the first function's.
    pub(super) place: u32,
    /// How many can be under way.
    pub(super) messages: usize,
    /// How long the longest is.
    pub(super) bytes: usize,
}

impl Place {
    /// The name of its services.
    #[cfg(feature = "peers")]
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.chain, self.place)
    }
}

impl FromStr for Place {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let [chain, place, messages, bytes] = text.split('/').collect::<Vec<_>>()[..] else {
            bail!("{text} is not CHAIN/PLACE/MESSAGES/BYTES");
        };
        let number = || format!("{text} has something that is no number");
        Ok(Self {
            chain: chain.to_owned(),
            place: place.parse().with_context(number)?,
            messages: messages.parse().with_context(number)?,
            bytes: bytes.parse().with_context(number)?,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.chain, self.place, self.messages, self.bytes)
    }
}

impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let socket = |address: &str| address.parse().with_context(|| format!("{address} is no address with a port"));
        Ok(match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Self::Unix(path.into()),
            Some(("tcp", address)) => Self::Tcp(socket(address)?),
            Some(("grpc", address)) => Self::Grpc(socket(address)?),
            Some(("iceoryx2", place)) => Self::Samples(place.parse()?),
            Some(("unix", _)) => bail!("unix: without a path"),
            _ => Self::Http(socket(text)?),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Grpc(address) => write!(f, "grpc:{address}"),
            Self::Samples(place) => write!(f, "iceoryx2:{place}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in ["127.0.0.1:80", "unix:/a:b", "tcp:[::1]:1", "grpc:1.2.3.4:5", "iceoryx2:a/2/32/100"] {
            assert_eq!(text.parse::<Address>().expect(text).to_string(), text);
        }
        for text in ["unix:", "tcp:x", "grpc:1.2.3.4", "1.2.3.4", "iceoryx2:a/2/32", "iceoryx2:a/b/32/1", ""] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
