//! Functions and chains as documents of a file: `apiVersion`, `kind`, `metadata`, `spec`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::chain::Chain;
use crate::decode;
use crate::errors::Errors;
use crate::function::Function;
use crate::name::{Name, QualifiedName};
use crate::source::{Origin, Source};

/// The `apiVersion` of every document.
pub const API_VERSION: &str = "ramet.dev/v1alpha1";

/// What a document describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A command that the node keeps running.
    Function,
    /// A sequence of functions that answers requests.
    Chain,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::Function, Self::Chain];

    /// The kind as documents write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Function => "Function",
            Self::Chain => "Chain",
        }
    }
}

/// In lower case, as it stands in a sentence.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Function => "function",
            Self::Chain => "chain",
        })
    }
}

/// What a document is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Metadata {
    /// The name, unique among its kind in the namespace.
    pub name: Name,
    /// The namespace, which is the security domain: functions of different namespaces share nothing.
    #[schemars(default = "Name::default_namespace")]
    pub namespace: Name,
}

impl Metadata {
    /// The name across namespaces.
    #[must_use]
    pub fn qualified_name(&self) -> QualifiedName {
        QualifiedName::new(self.namespace.clone(), self.name.clone())
    }
}

/// What a document asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A function.
    Function(Function),
    /// A chain.
    Chain(Chain),
}

impl Resource {
    /// Which of the two it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Function(_) => Kind::Function,
            Self::Chain(_) => Kind::Chain,
        }
    }

    /// Its name and namespace.
    #[must_use]
    pub const fn metadata(&self) -> &Metadata {
        match self {
            Self::Function(function) => &function.metadata,
            Self::Chain(chain) => &chain.metadata,
        }
    }
}

/// A document that is right by itself, with the place it came from: what [`Manifests::parse`] makes and
/// [`crate::Desired::merge`] takes. It can be made in no other way.
#[derive(Clone, Debug)]
pub struct Object {
    pub(crate) resource: Resource,
    pub(crate) origin: Origin,
}

impl Object {
    /// What the document asks for.
    #[must_use]
    pub const fn resource(&self) -> &Resource {
        &self.resource
    }

    /// The same, taken out.
    #[must_use]
    pub fn into_resource(self) -> Resource {
        self.resource
    }
}

/// Reads manifests.
#[derive(Clone, Copy, Debug)]
pub struct Manifests;

impl Manifests {
    /// Reads all documents of all sources and checks each document by itself. What they leave out is filled in: a
    /// route is never empty, every step has a name and a `next`, and names of headers and hosts are in lower
    /// case. Whether the functions that they name exist is for [`crate::Desired::merge`] to say;
    /// [`crate::Desired::apply`] does both and reports both.
    ///
    /// # Errors
    /// Everything that is wrong in any of the sources.
    pub fn parse(sources: &[Source]) -> Result<Vec<Object>, Errors> {
        let decoded = decode::sources(sources);
        match Errors::new(decoded.problems) {
            Some(errors) => Err(errors),
            None => Ok(decoded.objects),
        }
    }
}

/// How a document is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a, Spec> {
    api_version: &'static str,
    kind: Kind,
    metadata: &'a Metadata,
    spec: &'a Spec,
}

impl Serialize for Function {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { metadata, spec } = self;
        Document { api_version: API_VERSION, kind: Kind::Function, metadata, spec }.serialize(serializer)
    }
}

impl Serialize for Chain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { metadata, spec } = self;
        Document { api_version: API_VERSION, kind: Kind::Chain, metadata, spec }.serialize(serializer)
    }
}

impl Serialize for Resource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Function(function) => function.serialize(serializer),
            Self::Chain(chain) => chain.serialize(serializer),
        }
    }
}
