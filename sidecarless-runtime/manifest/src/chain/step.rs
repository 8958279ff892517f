//! A step runs a function, or several side by side, and says where the request goes next.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use crate::chain::{BRANCHES_MAX, RETRIES_MAX, TARGETS_MAX};
use crate::name::Name;
use crate::quantity::{DurationText, serialize_optional_duration};

/// One step of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Step {
    /// The step's name, unique in the chain. Without it, the function's, and `step-N` for the Nth step if it is a
    /// parallel one.
    #[schemars(with = "Option<StepName>")]
    pub name: Name,
    /// What runs.
    #[serde(flatten)]
    pub run: Run,
    /// How long each attempt may take; not longer than the chain's deadline. At least 1ms.
    #[serde(serialize_with = "serialize_optional_duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DurationText>")]
    pub timeout: Option<Duration>,
    /// How often the step is tried again after it failed.
    #[schemars(range(min = 0, max = RETRIES_MAX), default)]
    pub retries: u32,
    /// Where the request goes afterwards. Without it, to the following step, and after the last one the reply.
    #[schemars(with = "Option<Next>")]
    pub next: Next,
}

/// What a step runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Run {
    /// One function of the same namespace.
    Function(Name),
    /// Several functions at the same time, each with the same input. The next step gets all their results.
    Parallel(#[schemars(length(min = 2, max = BRANCHES_MAX))] Vec<Branch>),
}

impl Run {
    /// The functions that run, in the order of the branches.
    pub fn functions(&self) -> impl Iterator<Item = &Name> {
        let (one, branches) = match self {
            Self::Function(name) => (Some(name), [].as_slice()),
            Self::Parallel(branches) => (None, branches.as_slice()),
        };
        one.into_iter().chain(branches.iter().map(|branch| &branch.function))
    }
}

/// One branch of a parallel step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Branch {
    /// The branch's name, under which the next step finds its result. Without it, the function's.
    #[schemars(with = "Option<Name>")]
    pub name: Name,
    /// A function of the same namespace.
    pub function: Name,
}

/// Where a request goes after a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged, rename_all_fields = "camelCase")]
#[schemars(deny_unknown_fields)]
pub enum Next {
    /// Always to the same place: `reply` or a step's name.
    To(Target),
    /// Where a header of the step's result says.
    ByHeader {
        /// The header's name; upper and lower case are the same.
        #[schemars(regex(pattern = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"))]
        by_header: String,
        /// Where to go for each value of the header.
        #[schemars(extend("minProperties" = 1, "maxProperties" = TARGETS_MAX))]
        cases: BTreeMap<String, Target>,
        /// Where to go for every other value, or without the header.
        otherwise: Target,
    },
    /// Where the function says, which names one of these places with its result.
    Choices {
        /// The places that the function may name.
        #[schemars(length(min = 1, max = TARGETS_MAX), extend("uniqueItems" = true))]
        choices: Vec<Target>,
        /// Where to go when the function names none.
        otherwise: Target,
    },
}

impl Next {
    /// Every place that the request may go to, `otherwise` last, repeated where one is.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let (many, cases, last) = match self {
            Self::To(target) => ([].as_slice(), None, target),
            Self::ByHeader { cases, otherwise, .. } => ([].as_slice(), Some(cases.values()), otherwise),
            Self::Choices { choices, otherwise } => (choices.as_slice(), None, otherwise),
        };
        many.iter().chain(cases.into_iter().flatten()).chain(Some(last))
    }
}

/// A place that a request can go to: the reply, or a step of the same chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The client gets the result.
    Reply,
    /// The step of this name.
    Step(Name),
}

/// The word for [`Target::Reply`], which therefore cannot name a step.
pub(crate) const REPLY: &str = "reply";

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply => f.pad(REPLY),
            Self::Step(name) => name.fmt(f),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Target {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Target".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = Name::json_schema(generator);
        schema.insert("description".to_owned(), "`reply`, or the name of a step of this chain.".into());
        schema
    }
}

/// Stands for a step's name in schemas: `reply` is taken.
struct StepName;

impl JsonSchema for StepName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "StepName".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = Name::json_schema(generator);
        schema.insert("not".to_owned(), json_schema!({ "const": REPLY }).into());
        schema
    }
}
