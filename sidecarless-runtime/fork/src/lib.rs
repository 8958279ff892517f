//! Remote fork: a running process is forked into new ones, on this host or another, with its memory read as it is
//! touched (MITOSIS, OSDI'23, in user space).
//!
//! Reading order: [`capture`] forks a process from outside and describes it; [`descriptor`] is that description,
//! [`validate`] what must hold of one from a peer, [`machine`] what two hosts must have in common.
#![deny(unsafe_code)]

pub mod capture;
pub mod descriptor;
pub mod machine;
pub mod validate;

pub use capture::{PrepareError, Prepared, Seed, prepare};
pub use descriptor::ForkDescriptor;
