//! What is measured, and under which load: together they are a row of the report.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::report::counted;

/// The load of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// How many functions a request passes, if that is known; 0 where the front answers by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub functions: Option<u32>,
    /// How many requests can be in flight.
    pub connections: usize,
    /// How many bytes each request brings.
    pub payload_bytes: usize,
    /// Requests due in a second; in a closed loop there is no such number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_per_s: Option<u32>,
    /// On which cores the processes run, where that is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// How many messages are sent at once at the most, where that is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// How the client speaks, where that is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

impl Setting {
    /// A closed loop with nothing special about it.
    pub(crate) const fn new(functions: u32, connections: usize, payload_bytes: usize) -> Self {
        let (rate_per_s, placement, batch, protocol) = (None, None, None, None);
        let functions = Some(functions);
        Self { functions, connections, payload_bytes, rate_per_s, placement, batch, protocol }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.functions {
            None => {}
            Some(0) => f.write_str("no functions, ")?,
            Some(functions) => write!(f, "{}, ", counted(functions as usize, "function"))?,
        }
        write!(f, "{}, {}", counted(self.connections, "connection"), counted(self.payload_bytes, "byte"))?;
        if let Some(rate) = self.rate_per_s {
            write!(f, ", {rate} requests/s")?;
        }
        if let Some(placement) = self.placement {
            write!(f, ", {}", placement.name())?;
        }
        if let Some(batch) = self.batch {
            write!(f, ", batches of {batch}")?;
        }
        if let Some(protocol) = self.protocol {
            write!(f, ", {}", protocol.name())?;
        }
        Ok(())
    }
}

/// On which cores processes that talk to each other run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// All on one core
    SameCore,
    /// In turns on two cores
    TwoCores,
    /// Where the kernel puts them
    Free,
}

impl Placement {
    /// The name in options and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SameCore => "same-core",
            Self::TwoCores => "two-cores",
            Self::Free => "free",
        }
    }
}

/// How a client speaks to a front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// HTTP/1.1, a request after the other on each connection
    Http1,
    /// HTTP/1.1, each request on a new connection
    Http1Close,
    /// HTTP/2 without TLS, prior knowledge; all requests share few connections
    H2c,
}

impl Protocol {
    /// The name in options and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http1Close => "http1-close",
            Self::H2c => "h2c",
        }
    }
}

/// How long a round lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Before the measurement.
    pub(crate) warm_up: Duration,
    /// Of the measurement.
    pub(crate) duration: Duration,
}

/// What part a system has in a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// It is ramet, or a part of it.
    Ours,
    /// It is compared with.
    Peer,
}

/// Which system, in which build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) system: String,
    pub(crate) transport: String,
    pub(crate) role: Role,
    /// The revision, where it is not this build.
    pub(crate) build: Option<String>,
}

impl Identity {
    pub(crate) fn new(system: &str, transport: &str, role: Role) -> Self {
        Self { system: system.to_owned(), transport: transport.to_owned(), role, build: None }
    }

    pub(crate) fn of_build(self, build: Option<&str>) -> Self {
        Self { build: build.map(str::to_owned), ..self }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.build {
            Some(build) => write!(f, "{}@{build}", self.system),
            None => f.write_str(&self.system),
        }
    }
}
