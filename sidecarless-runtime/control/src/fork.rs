//! The conversation of the `ramet fork` command and the process that keeps seeds and children, over a unix seqpacket
//! socket: one answer to each question. The socket's permissions are the access control.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The most children that one question asks for.
pub const CHILDREN_MAX: u32 = 10_000;

/// Where the keeper answers, beside a node's admin socket: its name with `.fork` behind it.
#[must_use]
pub fn socket_beside(admin: &Path) -> PathBuf {
    let mut name = admin.as_os_str().to_owned();
    name.push(".fork");
    name.into()
}

/// What proves the right to a seed. It is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key(pub [u8; 16]);

impl fmt::Debug for Key {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Key(..)")
    }
}

/// What is asked of the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Fork a process of this host into a seed.
    Prepare {
        /// Its number.
        pid: i32,
        /// For how long the seed is kept.
        lease: Duration,
    },
    /// Make children of a seed. Comes with three descriptors: their standard streams.
    Resume(Resume),
    /// Which seeds are there?
    List,
    /// Let a seed's lease last so long from now.
    Renew {
        /// The seed.
        handle: [u8; 16],
        /// For how long.
        lease: Duration,
    },
    /// End a seed.
    Revoke {
        /// The seed.
        handle: [u8; 16],
    },
}

/// Which children are to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Who keeps the seed.
    pub address: SocketAddr,
    /// Which seed.
    pub handle: [u8; 16],
    /// What proves the right to it.
    pub key: Key,
    /// How many, at most [`CHILDREN_MAX`].
    pub children: u32,
    /// How its pages come. `None`: the best way there is.
    pub source: Option<SourceKind>,
}

/// How the pages of a seed come to its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// Read from the seed, which is on this host.
    Local,
    /// Sent by the seed's host.
    Tcp,
    /// Read out of the seed's memory by this host's adapter.
    Rdma,
}

/// What the keeper answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// There is a seed.
    Prepared(Prepared),
    /// One for each child that was made, and why there are no more.
    Resumed(Vec<Child>, Option<Problem>),
    /// All seeds, the oldest first.
    Seeds(Vec<Seed>),
    /// It is done.
    Done,
    /// It was not done.
    Refused(Problem),
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Whether what was named is not there.
    pub kind: ProblemKind,
    /// What happened, why and what to do.
    pub detail: String,
}

/// What sort of problem it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProblemKind {
    /// Nothing of that name is there.
    NotFound,
    /// Anything else.
    Failed,
}

/// A new seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Where its pages are read.
    pub address: SocketAddr,
    /// Its name.
    pub handle: [u8; 16],
    /// Who knows this may read it.
    pub key: Key,
    /// For how long it is kept.
    pub lease: Duration,
    /// For how long the process was stopped.
    pub pause: Duration,
    /// How long it took in all.
    pub prepare: Duration,
    /// How long its descriptor is.
    pub descriptor_bytes: u64,
}

/// A new child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Its number.
    pub pid: i32,
    /// What was only done because it is the first of its seed on this host.
    pub first: Option<First>,
    /// Opening its files.
    pub open: Duration,
    /// Forking it.
    pub fork: Duration,
    /// The rest, until it is itself.
    pub start: Duration,
}

/// How long the steps took that only the first child needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// Reaching the seed and reading its descriptor.
    pub connect: Duration,
    /// Writing the template's program.
    pub plan: Duration,
    /// Copying the zygote.
    pub copy: Duration,
    /// The template making its address space.
    pub map: Duration,
    /// Registering what is missing.
    pub register: Duration,
    /// Putting in what every child touches first.
    pub push: Duration,
}

/// A seed as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// Its name.
    pub handle: [u8; 16],
    /// The process that was forked.
    pub parent: i32,
    /// That one's name.
    pub name: String,
    /// The process that is the seed.
    pub pid: i32,
    /// Since when there is a seed.
    pub age: Duration,
    /// For how long there will be one.
    pub lease_left: Duration,
    /// The memory that it may come to hold on to.
    pub bytes: u64,
    /// Who may be reading it.
    pub readers: u32,
}
