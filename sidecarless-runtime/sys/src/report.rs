//! What of a sandbox a child really got: a kernel or a container may refuse some of it, and then we say so.

use std::fmt;

use rustix::io::Errno;

/// A part of a sandbox, in the order in which a child enters it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Part {
    /// A session of its own, so that a terminal's signals do not reach it.
    Session = 1,
    /// No descriptor but the three standard ones.
    Descriptors = 2,
    /// A user namespace, which an unprivileged supervisor needs for the namespaces below.
    UserNamespace = 3,
    /// Own mounts: nothing mounted later on the host shows up.
    MountNamespace = 4,
    /// Own processes: it sees no others, and all of them die with the first.
    ProcessNamespace = 14,
    /// Own System V IPC and message queues.
    IpcNamespace = 5,
    /// No network at all: the data plane's descriptors are all it has.
    NetworkNamespace = 6,
    /// Limits of memory, files, processes and core dumps.
    Limits = 7,
    /// No more processes than allowed.
    ProcessLimit = 8,
    /// No capability, now or by executing a file that grants some.
    Capabilities = 9,
    /// A user of its own.
    User = 10,
    /// Dies with the supervisor.
    DeathSignal = 11,
    /// No privilege through set-user-id programs.
    NoNewPrivileges = 12,
    /// The system calls of [`crate::seccomp`] are denied.
    Seccomp = 13,
}

impl Part {
    /// Every part.
    pub const ALL: [Part; 14] = [
        Self::Session,
        Self::Descriptors,
        Self::UserNamespace,
        Self::MountNamespace,
        Self::ProcessNamespace,
        Self::IpcNamespace,
        Self::NetworkNamespace,
        Self::Limits,
        Self::ProcessLimit,
        Self::Capabilities,
        Self::User,
        Self::DeathSignal,
        Self::NoNewPrivileges,
        Self::Seccomp,
    ];

    /// The part that a byte of the child's report names.
    #[must_use]
    pub(crate) fn from_u8(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|part| *part as u8 == byte)
    }

    /// The name in reports and errors.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "own session",
            Self::Descriptors => "no inherited descriptors",
            Self::UserNamespace => "user namespace",
            Self::MountNamespace => "mount namespace",
            Self::ProcessNamespace => "process namespace",
            Self::IpcNamespace => "IPC namespace",
            Self::NetworkNamespace => "network namespace",
            Self::Limits => "resource limits",
            Self::ProcessLimit => "process limit",
            Self::Capabilities => "no capabilities",
            Self::User => "own user",
            Self::DeathSignal => "death with the supervisor",
            Self::NoNewPrivileges => "no new privileges",
            Self::Seccomp => "seccomp filter",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What became of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The child has it.
    Applied,
    /// It was not asked for, or is of no use here.
    NotWanted,
    /// The kernel said no, and the child runs without it.
    Refused(Errno),
}

/// What became of every part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxReport {
    outcomes: Vec<(Part, Outcome)>,
}

impl SandboxReport {
    pub(crate) fn new(outcomes: Vec<(Part, Outcome)>) -> Self {
        Self { outcomes }
    }

    /// What became of `part`.
    #[must_use]
    pub fn outcome(&self, part: Part) -> Outcome {
        let found = self.outcomes.iter().find(|(known, _)| *known == part);
        found.map_or(Outcome::NotWanted, |(_, outcome)| *outcome)
    }

    /// Every part with its outcome.
    pub fn iter(&self) -> impl Iterator<Item = (Part, Outcome)> {
        Part::ALL.into_iter().map(|part| (part, self.outcome(part)))
    }

    /// What the kernel refused.
    pub fn refused(&self) -> impl Iterator<Item = (Part, Errno)> {
        self.outcomes.iter().filter_map(|(part, outcome)| match outcome {
            Outcome::Refused(errno) => Some((*part, *errno)),
            Outcome::Applied | Outcome::NotWanted => None,
        })
    }
}
