//! Where a function is, and what it speaks.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, bail};

/// `IP:PORT` for HTTP, `unix:PATH` and `tcp:IP:PORT` for frames, `grpc:IP:PORT` for calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Http(SocketAddr),
    Unix(PathBuf),
    Tcp(SocketAddr),
    Grpc(SocketAddr),
}

impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let socket = |address: &str| address.parse().with_context(|| format!("{address} is no address with a port"));
        Ok(match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Self::Unix(path.into()),
            Some(("tcp", address)) => Self::Tcp(socket(address)?),
            Some(("grpc", address)) => Self::Grpc(socket(address)?),
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in ["127.0.0.1:80", "unix:/a:b", "tcp:[::1]:1", "grpc:1.2.3.4:5"] {
            assert_eq!(text.parse::<Address>().expect(text).to_string(), text);
        }
        for text in ["unix:", "tcp:x", "grpc:1.2.3.4", "1.2.3.4", ""] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
