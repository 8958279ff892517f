//! What the operating system has for processes: started with a sandbox and named by a descriptor for as long as we
//! care; stopped and looked into; their memory read, their page faults answered.
//!
//! Reading order: [`sandbox`] says what a child is kept from, [`seccomp`] which system calls that means, [`report`]
//! what of it was obtained; [`mod@spawn`] starts a child; `entry` is what runs in the child between fork and exec,
//! `loopback` the part of it about the network, and `namespace` what the parent does for it; [`pidfd`] ends and reaps
//! it. [`ptrace`] stops threads of other processes, [`memory`] and [`pagemap`] look into them, [`userfault`] gives them
//! their pages, which an [`arena`] misses here; [`copy`] makes new ones, and [`events`] what tells them of signals and
//! times; [`latency`] has cores ready when they are needed; [`call`] is how these fail.
//!
//! # Invariants that SAFETY comments name
//!
//! - **C1 quiet child:** between fork and exec the child only makes system calls and touches what was prepared before
//!   the fork. It allocates nothing, takes no lock and does not panic: another thread may have held any lock.
//! - **C2 owned strings:** an `entry::Image` owns the strings that its arrays of pointers point to, never changes them
//!   after it was built, and ends each array with a null pointer.
//! - **C3 own table:** after the fork the child's descriptor table is a copy. Changing flags in it changes nothing of
//!   the parent's.
//! - **C4 own files:** `unshare` is never asked for `CLONE_FILES`, so all threads go on sharing one descriptor table.
//! - **O1 arguments:** what a system call is given a pointer to is of the type that this request takes and lives, owned
//!   or borrowed by the caller, until the call returns. The kernel keeps no pointer.
//! - **O2 written:** a request that succeeded has written the whole of its result.
//! - **O4 alone:** a process is copied only by its only thread: no lock in the copy is held by nobody.
//! - **M1 mapped:** an arena's pages are mapped from when it is made until it is dropped, and nobody writes to them but
//!   the kernel.
//! - **O3 new descriptor:** a descriptor that a call has just made is nobody else's.

pub mod arena;
pub mod call;
pub mod copy;
pub mod events;
pub mod latency;
pub mod memory;
pub mod pagemap;
pub mod pidfd;
pub mod ptrace;
pub mod report;
pub mod sandbox;
pub mod seccomp;
pub mod spawn;
pub mod thread;
pub mod userfault;

mod entry;
mod loopback;
mod namespace;

pub use call::CallError;
pub use memory::{ProcessMemory, Range};
pub use pidfd::{End, Pidfd};
pub use report::{Outcome, Part, SandboxReport};
pub use sandbox::{Limits, Network, Sandbox, User};
pub use spawn::{Captured, Child, Output, Program, SpawnError, probe, spawn, spawn_beside};
