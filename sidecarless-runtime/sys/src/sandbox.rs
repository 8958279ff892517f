//! What a child is kept from.

/// The sandbox of a child.
///
/// Always: a session of its own, no inherited descriptors, no capabilities, no new privileges, the seccomp filter, no
/// core dumps, death with the supervisor. Mount, process and IPC namespaces, and the network namespace where asked for,
/// are taken where the kernel grants them; the report says so. A process is dumpable again after every exec, so that
/// flag is the child's own to clear.
///
/// In a process namespace of its own the child is number 1: whatever it started dies with it, even with a supervisor
/// that was killed, and signals for which it has no handler do not end it, except `SIGKILL`. Without the namespace,
/// what it started is killed by its process group when the child is reaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Whom it runs as; only root can give one. `None`: as the supervisor.
    pub user: Option<User>,
    /// Whether it sees the host's network.
    pub network: Network,
    /// What it may use.
    pub limits: Limits,
}

/// A user of a child's own. It belongs to no other group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}

/// Which network a child sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// None. Descriptors of sockets that it is given still work.
    None,
    /// One of its own, in which there is nothing but itself: it can listen on 127.0.0.1, and only who has one of these
    /// sockets can connect to it. A child that cannot have this network is not started.
    Own {
        /// How many unconnected TCP sockets of that network the caller gets ([`crate::Child::sockets`]).
        sockets: u32,
    },
    /// The host's.
    Host,
}

/// What a child may use. Core dumps are always off: they would write other people's requests to disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Private memory in bytes, as `RLIMIT_DATA`: heap, stacks of threads and private writable mappings. Not
    /// `RLIMIT_AS`, which would count the pool, program text and reserved addresses that cost nothing.
    pub memory_bytes: Option<u64>,
    /// Open files.
    pub open_files: Option<u64>,
    /// Processes and threads. The kernel counts them by user (and user namespace), so a child that shares both with
    /// the supervisor goes without this limit.
    pub processes: Option<u64>,
}
