//! Processes that can do little: spawn with a sandbox, and a descriptor that names the process for as long as we care.
//!
//! Reading order: [`sandbox`] says what a child is kept from, [`seccomp`] which system calls that means, [`report`]
//! what of it was obtained; [`mod@spawn`] starts a child; `entry` is what runs in the child between fork and exec, and
//! `namespace` what the parent does for it; [`pidfd`] ends and reaps it.
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

pub mod pidfd;
pub mod report;
pub mod sandbox;
pub mod seccomp;
pub mod spawn;

mod entry;
mod namespace;

pub use pidfd::{End, Pidfd};
pub use report::{Outcome, Part, SandboxReport};
pub use sandbox::{Limits, Network, Sandbox, User};
pub use spawn::{Captured, Child, Output, Program, SpawnError, probe, spawn};
