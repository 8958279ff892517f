//! How instances of a function are started.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

/// How an instance is started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Start {
    /// The command is executed.
    #[default]
    Exec,
    /// The command is executed once; further instances are copies of the first one between two of its requests, with
    /// all of its memory. Where that is not possible, the command is executed.
    Fork,
    /// Instances are copies of a process that was prepared on another node. Where that is not possible, the command is
    /// executed.
    RemoteFork(RemoteFork),
}

/// A process that was prepared on another node, as `ramet fork prepare` there printed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct RemoteFork {
    /// Where its memory is read.
    #[schemars(with = "crate::schema::Address")]
    pub address: SocketAddr,
    /// Its name: 32 hexadecimal digits.
    #[schemars(regex(pattern = "^[0-9A-Fa-f]{32}$"))]
    pub handle: String,
    /// A file with the key, which only the supervisor needs to read. A relative path is relative to the manifest's
    /// folder.
    #[schemars(with = "crate::schema::FilePath")]
    pub key_file: PathBuf,
}

impl Start {
    /// Its name, for people and metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Fork => "fork",
            Self::RemoteFork(_) => "remote-fork",
        }
    }
}
