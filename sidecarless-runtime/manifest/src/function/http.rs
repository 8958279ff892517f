//! How a function that serves HTTP by itself is reached, and how it is seen to be well.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::default;
use crate::quantity::{DurationText, serialize_duration};

/// The lowest port that a function may listen on: those below need a privilege that it does not have.
pub const PORT_MIN: u16 = 1024;
/// The most probes in a row that may have to fail.
pub const FAILURES_MAX: u32 = 100;
/// The longest path of a probe, in bytes.
pub const PATH_BYTES_MAX: usize = 1024;

/// The command serves HTTP by itself, without ramet's SDK: on the port `$PORT` of 127.0.0.1, or on the unix socket
/// `$RAMET_HTTP_SOCKET`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct Http {
    /// What it listens on.
    #[schemars(default)]
    pub listen: Listen,
    /// What `$PORT` is, where it listens on one. Every instance has a network of its own, so it may be the same for
    /// all. Without it, 8080.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = PORT_MIN))]
    pub port: Option<u16>,
    /// A request that an instance has to answer with 200 to 399 before it is given others, and again and again after
    /// that. Without it, it is enough that it accepts a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<ReadinessProbe>")]
    pub readiness: Option<Probe>,
    /// A request that an instance has to answer with 200 to 399, or else is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<LivenessProbe>")]
    pub liveness: Option<Probe>,
    /// How long an instance may take from its start until it is ready. 1s to 1h.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText", default = "default::start_timeout")]
    pub start_timeout: Duration,
}

/// What a function that serves HTTP listens on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Listen {
    /// The port `$PORT` of 127.0.0.1, or of all addresses.
    #[default]
    Tcp,
    /// The unix socket at the path `$RAMET_HTTP_SOCKET`.
    Unix,
}

/// A request that is made again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Path and query.
    pub path: String,
    /// The time between two of them.
    #[serde(serialize_with = "serialize_duration")]
    pub period: Duration,
    /// How long the answer may take.
    #[serde(serialize_with = "serialize_duration")]
    pub timeout: Duration,
    /// How many have to fail in a row.
    pub failure_threshold: u32,
}

/// Both kinds of probe look the same but for their defaults.
macro_rules! probe_schema {
    ($name:ident, $period:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(JsonSchema)]
        #[serde(rename_all = "camelCase")]
        #[schemars(deny_unknown_fields)]
        #[allow(dead_code, reason = "it is only the schema of a probe")]
        struct $name {
            /// Path and query.
            #[schemars(regex(pattern = "^/[!-~]*$"), length(max = PATH_BYTES_MAX))]
            path: String,
            /// The time between two of them. 10ms to 1h.
            #[schemars(with = "DurationText", default = $period)]
            period: Duration,
            /// How long the answer may take. 10ms to 1h.
            #[schemars(with = "DurationText", default = "default::probe_timeout_text")]
            timeout: Duration,
            /// How many have to fail in a row.
            #[schemars(range(min = 1, max = FAILURES_MAX), default = "default::failure_threshold")]
            failure_threshold: u32,
        }
    };
}

probe_schema!(ReadinessProbe, "default::readiness_period_text", "A request that asks whether an instance is ready.");
probe_schema!(LivenessProbe, "default::liveness_period_text", "A request that asks whether an instance is alive.");

impl Http {
    /// What `$PORT` is; none where it listens on a unix socket.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self.listen {
            Listen::Tcp => Some(self.port.unwrap_or(default::HTTP_PORT)),
            Listen::Unix => None,
        }
    }
}
