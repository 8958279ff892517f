//! What a function is: a command that the node keeps running in so many instances.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

pub use self::http::{Http, Listen, Probe};
pub use self::replicas::{REPLICAS_MAX, Replicas};
pub use self::start::{RemoteFork, Start};
use crate::name::{Name, QualifiedName};
use crate::object::Metadata;
use crate::quantity::{ByteCount, DurationText, serialize_duration};

pub mod http;
mod replicas;
mod start;

/// The most requests that one instance may have in service.
pub const CONCURRENCY_MAX: u32 = 1024;
/// The most requests that may wait at one instance.
pub const QUEUE_MAX: u32 = 4096;
/// The most functions that one function may call.
pub const CALLS_MAX: usize = 64;
/// The most elements of a command.
pub const COMMAND_MAX: usize = 256;
/// The most environment variables of one function.
pub const ENV_MAX: usize = 256;
/// The most open files that a function may be allowed.
pub const OPEN_FILES_MAX: u32 = 1 << 20;
/// The most processes and threads that a function may be allowed.
pub const PROCESSES_MAX: u32 = 32_768;

/// A function as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name and namespace.
    pub metadata: Metadata,
    /// What it runs and how.
    pub spec: FunctionSpec,
}

impl Function {
    /// Its name across namespaces.
    #[must_use]
    pub fn qualified_name(&self) -> QualifiedName {
        self.metadata.qualified_name()
    }
}

/// What a function runs and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct FunctionSpec {
    /// Program and arguments. A relative program with a `/` in it is relative to the manifest's folder; one without
    /// a `/` is looked up in PATH.
    #[schemars(with = "Vec<crate::schema::Argument>", length(min = 1, max = COMMAND_MAX))]
    pub command: Vec<String>,
    /// How the command serves HTTP, where it does so by itself; without it, it links ramet's SDK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Box<Http>>,
    /// When a request is given to the function.
    #[schemars(default)]
    pub request_body: RequestBody,
    /// Environment variables, added to the few that the node sets. Names that begin with RAMET_ are the node's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "crate::schema::Environment", default)]
    pub env: BTreeMap<String, String>,
    /// How many instances run: a number, or limits between which the load decides.
    #[schemars(default)]
    pub replicas: Replicas,
    /// How many requests one instance serves at a time.
    #[schemars(range(min = 1, max = CONCURRENCY_MAX), default = "default::concurrency")]
    pub concurrency: u32,
    /// How many further requests may wait at one instance.
    #[schemars(range(min = 0, max = QUEUE_MAX), default = "default::queue")]
    pub queue: u32,
    /// The functions of the same namespace that this one may call and get an answer from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = CALLS_MAX), extend("uniqueItems" = true), default)]
    pub calls: Vec<Name>,
    /// An instance that holds a request for this long after its deadline is replaced. 100ms to 1h.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText", default = "default::hang_grace")]
    pub hang_grace: Duration,
    /// How long an instance that is asked to end may take before it is killed. 0s to 1h.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText", default = "default::shutdown_grace")]
    pub shutdown_grace: Duration,
    /// Limits of one instance.
    #[schemars(default)]
    pub resources: Resources,
    /// How an instance that ended is started again.
    #[schemars(default)]
    pub restart: Restart,
    /// How an instance is started.
    #[schemars(default)]
    pub start: Start,
}

/// When a request is given to a function that links the SDK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RequestBody {
    /// When all of its body is there.
    #[default]
    Whole,
    /// As soon as its head is there, where the function is its chain's first and its body is long; the body comes in
    /// pieces, as the function asks for them.
    Streamed,
}

/// Limits of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct Resources {
    /// Private memory, beside the pool. At least 1Mi; without it there is no limit but the node's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteCount>,
    /// Open files.
    #[schemars(range(min = 16, max = OPEN_FILES_MAX), default = "default::open_files")]
    pub open_files: u32,
    /// Processes and threads together. By default 64, and one more for each request beyond the first that an instance
    /// takes at a time (`concurrency`).
    #[schemars(range(min = 1, max = PROCESSES_MAX), default = "default::processes")]
    pub processes: u32,
}

impl Default for Resources {
    fn default() -> Self {
        Self::of(default::concurrency())
    }
}

impl Resources {
    /// What holds where a manifest says nothing, for an instance that takes so many requests at a time.
    pub(crate) fn of(concurrency: u32) -> Self {
        let for_threads = concurrency.saturating_sub(default::concurrency());
        Self { memory: None, open_files: default::open_files(), processes: default::processes() + for_threads }
    }
}

/// How an instance that ended is started again: after `initialBackoff`, then twice as long each time up to
/// `maxBackoff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct Restart {
    /// The wait before the first restart. 1ms to 1h.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText", default = "default::initial_backoff")]
    pub initial_backoff: Duration,
    /// The longest wait; not shorter than `initialBackoff`. 1ms to 1h.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText", default = "default::max_backoff")]
    pub max_backoff: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self { initial_backoff: default::initial_backoff(), max_backoff: default::max_backoff() }
    }
}

/// What holds for a field that a manifest leaves out.
pub(crate) mod default {
    use std::time::Duration;

    use crate::quantity::duration_text;

    pub(crate) const fn concurrency() -> u32 {
        1
    }

    pub(crate) const fn queue() -> u32 {
        64
    }

    pub(crate) const fn hang_grace() -> Duration {
        Duration::from_secs(10)
    }

    pub(crate) const fn shutdown_grace() -> Duration {
        Duration::from_secs(10)
    }

    pub(crate) const fn idle() -> Duration {
        Duration::from_secs(30)
    }

    pub(crate) const HTTP_PORT: u16 = 8080;
    pub(crate) const READINESS_PERIOD: Duration = Duration::from_secs(1);
    pub(crate) const LIVENESS_PERIOD: Duration = Duration::from_secs(10);
    pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

    pub(crate) fn readiness_period_text() -> String {
        duration_text(READINESS_PERIOD)
    }

    pub(crate) fn liveness_period_text() -> String {
        duration_text(LIVENESS_PERIOD)
    }

    pub(crate) fn probe_timeout_text() -> String {
        duration_text(PROBE_TIMEOUT)
    }

    pub(crate) const fn failure_threshold() -> u32 {
        3
    }

    pub(crate) const fn start_timeout() -> Duration {
        Duration::from_secs(30)
    }

    pub(crate) const fn open_files() -> u32 {
        1024
    }

    pub(crate) const fn processes() -> u32 {
        64
    }

    pub(crate) const fn initial_backoff() -> Duration {
        Duration::from_millis(100)
    }

    pub(crate) const fn max_backoff() -> Duration {
        Duration::from_secs(30)
    }
}
