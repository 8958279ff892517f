//! What a chain is: which requests it takes, through which functions they go, and within which limits.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::QualifiedName;
use crate::object::Metadata;
use crate::pool::PoolOverride;
use crate::quantity::{ByteCount, DurationText, serialize_duration};

mod route;
mod step;

pub use route::{Host, METHODS, Method, PATH_BYTES_MAX, PathPrefix, RouteMatch};
pub(crate) use step::REPLY;
pub use step::{Branch, Next, Run, Step, Target};

/// The most matches of one chain's route.
pub const ROUTE_MAX: usize = 64;
/// The most steps of one chain.
pub const STEPS_MAX: usize = 64;
/// The most branches of one parallel step.
pub const BRANCHES_MAX: usize = 16;
/// The most cases or choices of one step's `next`.
pub const TARGETS_MAX: usize = 64;
/// The most repetitions of a failed step.
pub const RETRIES_MAX: u32 = 10;
/// The most requests that one chain may have in flight.
pub const IN_FLIGHT_MAX: u32 = 65_536;

/// A chain as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name and namespace.
    pub metadata: Metadata,
    /// What it does.
    pub spec: ChainSpec,
}

impl Chain {
    /// Its name across namespaces.
    #[must_use]
    pub fn qualified_name(&self) -> QualifiedName {
        self.metadata.qualified_name()
    }
}

/// What a chain does with which requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct ChainSpec {
    /// The requests that are this chain's: those that match any of these. Without it, those whose path begins with
    /// `/` and the chain's name.
    #[schemars(with = "Option<Vec<RouteMatch>>", length(min = 1, max = ROUTE_MAX))]
    pub route: Vec<RouteMatch>,
    /// The steps; a request begins at the first.
    #[schemars(length(min = 1, max = STEPS_MAX))]
    pub steps: Vec<Step>,
    /// A request that is not answered within this time is answered 504. 1ms to 1h.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText", default = "default::deadline")]
    pub deadline: Duration,
    /// More requests than this at a time are answered 429 at once.
    #[schemars(range(min = 1, max = IN_FLIGHT_MAX), default = "default::max_in_flight")]
    pub max_in_flight: u32,
    /// A longer request body is answered 413. Without it, what the pool holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body: Option<ByteCount>,
    /// What shares memory with this chain.
    #[schemars(default)]
    pub isolation: Isolation,
    /// The size of the chain's own pool; only with `isolation: chain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolOverride>,
}

impl ChainSpec {
    /// The place in `steps` of the step that `target` names; `None` for the reply.
    #[must_use]
    pub fn step_index(&self, target: &Target) -> Option<usize> {
        match target {
            Target::Reply => None,
            Target::Step(name) => self.steps.iter().position(|step| step.name == *name),
        }
    }

    /// The functions of all steps and branches, in the order of the steps, repeated where a function is.
    pub fn functions(&self) -> impl Iterator<Item = &crate::name::Name> {
        self.steps.iter().flat_map(|step| step.run.functions())
    }
}

/// What shares memory with a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// One pool for the namespace: its chains share their functions' instances.
    #[default]
    Namespace,
    /// A pool for this chain alone: its functions run once more, for it only.
    Chain,
}

/// What holds for a field that a manifest leaves out.
pub(crate) mod default {
    use std::time::Duration;

    pub(crate) const fn deadline() -> Duration {
        Duration::from_secs(10)
    }

    pub(crate) const fn max_in_flight() -> u32 {
        512
    }
}
