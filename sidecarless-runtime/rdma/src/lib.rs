//! One-sided reads of another process's memory by RDMA: libibverbs, loaded when the program runs, in a layer that can
//! read and do nothing else.
//!
//! Reading order: `library` finds libibverbs, so that a program without it starts and says what is missing; [`device`]
//! opens a device; [`domain`] is what memory is registered in, and [`registration`] how another process, which is
//! stopped, is made to register its own. [`responder`] lets one peer read it. [`reader`] is that peer: it reads into a
//! `buffer` and hears of it by a completion queue. Both ends connect by what an [`endpoint`] says, and try the
//! connection on a [`canary`].
//!
//! A read that fails is an error and brings no byte. Only `ibv_poll_cq` is used: the extended completion queues of
//! rdma-core 44 tell of reads by soft-RoCE before their data is there. `ibv_fork_init` is never called: it would keep
//! registered pages from being forked.
//!
//! What a peer may read is checked by the device, not here. Of soft-RoCE this is known: the one of Linux 6.18, paging
//! on demand, takes a range that ends at the very end of the addresses for one of the region's. It is for trying
//! things out, among peers that trust each other.
//!
//! # Invariants that SAFETY comments name
//!
//! - **V1 one library:** the functions are those of the `libibverbs.so.1` whose headers `bindings` was made from, or a
//!   later one, which keeps their meaning. It is never unloaded.
//! - **V2 alive:** what libibverbs made is destroyed once, by the only value that owns it, after everything that was
//!   made of it: each value holds on to those that it was made of. So a pointer in a value is good.
//! - **V3 arguments:** what a call is given a pointer to is of the type that the call takes and lives, owned or
//!   borrowed by the caller, until the call returns. Nothing keeps the pointer.
//! - **V4 quiet bytes:** nobody but the device writes to a buffer while a read is under way into it, and no reference
//!   to those bytes exists. A read is under way from before it is posted until its completion was polled, or until its
//!   queue pair was destroyed.
//! - **V5 any thread:** objects of libibverbs may be used from any thread, and from one at a time without a thought.

pub mod canary;
pub mod device;
pub mod domain;
pub mod endpoint;
pub mod reader;
pub mod registration;
pub mod responder;

mod buffer;
mod completion;
mod library;
mod queue_pair;

#[allow(
    non_camel_case_types,
    missing_debug_implementations,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "it is as bindgen makes it"
)]
mod bindings;

pub use device::{Device, OpenError};
pub use domain::Domain;
pub use endpoint::Endpoint;
pub use reader::{Piece, ReadError, Reader};
pub use registration::{Paging, Region, Registration};
pub use responder::Responder;

/// A call to libibverbs or the kernel that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed: {source}")]
pub struct VerbsError {
    /// The call, as its manual page names it.
    pub call: &'static str,
    /// The reason.
    pub source: std::io::Error,
}

impl VerbsError {
    /// What the call that has just failed left in `errno`.
    fn last(call: &'static str) -> Self {
        Self { call, source: std::io::Error::last_os_error() }
    }

    /// For calls that return an error number, or -1 with it in `errno`.
    fn check(call: &'static str, result: i32) -> Result<(), Self> {
        match result {
            0 => Ok(()),
            ..0 => Err(Self::last(call)),
            errno => Err(Self { call, source: std::io::Error::from_raw_os_error(errno) }),
        }
    }
}
