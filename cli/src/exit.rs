//! How the command fails: one message and one documented exit code.

use std::fmt;
use std::process::ExitCode;

/// Why the command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something else failed.
    Failed(String),
    /// Arguments, manifests or settings are wrong; nothing was changed.
    Invalid(String),
    /// There is no such object.
    NotFound(String),
    /// No node answers.
    NoNode(String),
    /// The machine lacks what the node would need.
    Unfit(String),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Invalid(_) => 2,
            Self::NotFound(_) => 3,
            Self::NoNode(_) => 4,
            Self::Unfit(_) => 5,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(message)
            | Self::Invalid(message)
            | Self::NotFound(message)
            | Self::NoNode(message)
            | Self::Unfit(message) => f.write_str(message),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
