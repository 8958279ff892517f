//! Manifests and node settings: text in, validated types or every error out.
//!
//! Nothing here touches a file system, a process or another crate of ramet, so the same checks run in the command line,
//! the supervisor and an editor. Reading order: [`name`] and [`quantity`] are the words; [`function`], [`chain`],
//! [`pool`], [`placement`] and [`settings`] are what can be asked for; [`object`] wraps functions and chains as a file
//! writes them; [`desired`] is the validated whole; [`errors`] is what comes out instead. Below them, private: `source`
//! knows lines and columns, `tree` is text with places, `decode` turns trees into types. [`mod@schema`] says the same
//! to editors, and [`yaml`] prints.
#![forbid(unsafe_code)]

pub mod chain;
pub mod desired;
pub mod errors;
pub mod function;
pub mod name;
pub mod object;
pub mod placement;
pub mod pool;
pub mod quantity;
pub mod schema;
pub mod settings;
pub mod yaml;

mod decode;
mod source;
mod tree;

pub use chain::{Branch, Chain, ChainSpec, Host, Isolation, Method, Next, PathPrefix, RouteMatch, Run, Step, Target};
pub use desired::{Desired, Domain, DomainName, RemoveError};
pub use errors::{Errors, Problem};
pub use function::{
    Function, FunctionSpec, Http, Listen, Probe, RemoteFork, Replicas, RequestBody, Resources, Restart, Start,
};
pub use name::{Name, NameError, QualifiedName};
pub use object::{API_VERSION, Kind, Manifests, Metadata, Object, Resource};
pub use placement::{Cores, Placement};
pub use pool::{PoolOverride, PoolSizes};
pub use quantity::ByteCount;
pub use schema::{SchemaOf, schema};
pub use settings::{
    ForkSettings, GatewaySettings, LogFormat, LogLevel, LogSettings, NodeSettings, Shortcut, Surroundings, TlsSettings,
    Transport,
};
pub use source::Source;
pub use yaml::to_yaml;
