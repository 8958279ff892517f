//! Loads SPROXY, attaches it, fills its maps and reads its statistics, so that one crate alone needs the privilege.
//!
//! [`object::find_object`] says where the compiled program is, [`Sproxy`] loads it and is the typed face of its maps,
//! [`sockets::socket_pairs`] makes the sockets of one instance, [`logs`] turns the program's log lines into `tracing`
//! events, and [`probe::probe`] tells an operator step by step whether all of it works here. [`Shortcut`] is a
//! second pair of programs, for functions that are on no data plane; `cgroup` is what it is attached to. [`Bare`] is a
//! redirect without SPROXY's checks, to measure what those cost.
//!
//! Everything is held by file descriptors and nothing is pinned: when the [`Sproxy`] is dropped, or its process dies,
//! the kernel takes program and maps away.
#![forbid(unsafe_code)]

pub mod bare;
mod cgroup;
pub mod error;
pub mod logs;
mod maps;
pub mod object;
pub mod probe;
pub mod shortcut;
pub mod sockets;
pub mod sproxy;

pub use bare::Bare;
pub use error::LoaderError;
pub use logs::SproxyLogs;
pub use object::find_object;
pub use probe::{Probe, Step, probe};
pub use shortcut::Shortcut;
pub use sockets::{SocketPairs, socket_pairs};
pub use sproxy::{LoadOptions, Sproxy};
