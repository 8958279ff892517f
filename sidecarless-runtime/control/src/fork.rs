//! The conversation of the `ramet fork` command and the process that keeps seeds and children, over a unix seqpacket
//! socket: one answer to each question.
//!
//! Who asked to hear of the children's ends is told of each after the answer to [`Question::Resume`], and asks nothing
//! else on that connection but [`Question::End`]; when it closes the connection, its children are killed.
//!
//! The socket's permissions are the access control. Who is neither root nor the keeper's own user, and was let in all
//! the same, may prepare processes of its own and see, renew and revoke their seeds.

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
        /// For how long the seed is kept. `None`: as long as is usual there.
        lease: Option<Duration>,
    },
    /// Fork an instance of this node's into a seed, between two of its requests, so that other nodes can have instances
    /// of it.
    PrepareInstance {
        /// Its id.
        id: u32,
        /// For how long the seed is kept. `None`: as long as is usual there.
        lease: Option<Duration>,
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
    /// End one seed, or all.
    Revoke {
        /// Which seed. `None`: all that the asker may revoke.
        handle: Option<[u8; 16]>,
    },
    /// Ask the children that this connection hears of to end (`SIGTERM`). There is no answer but their ends.
    End,
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
    /// Which pages come.
    pub pages: Pages,
    /// For how long the children live.
    pub life: Life,
}

/// Which pages of a seed come to its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pages {
    /// Those that they touch.
    Touched,
    /// All, in the background, so that they need their seed no more.
    All,
}

/// For how long children live, unless they end by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// As long as the keeper.
    Keepers,
    /// As long as the connection on which they were asked for, which hears of their ends.
    Askers,
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
    /// The lease lasts so long from now, which may be longer than was asked for.
    Renewed(Duration),
    /// So many seeds were ended.
    Revoked(u32),
    /// A child has ended.
    Ended {
        /// Its number.
        pid: i32,
        /// How.
        how: Ending,
    },
    /// It was not done.
    Refused(Problem),
}

/// How a child has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// With this code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// By `SIGBUS`, after its seed was lost.
    SeedLost,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What sort of problem it is.
    pub kind: ProblemKind,
    /// What happened, why and what to do.
    pub detail: String,
}

/// What sort of problem it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProblemKind {
    /// Nothing of that name is there.
    NotFound,
    /// What was asked for makes no sense.
    Invalid,
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
