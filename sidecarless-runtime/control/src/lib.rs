//! What the processes of a node say to each other besides packet descriptors.
//!
//! Reading order: [`socket`] carries a message and descriptors over a unix seqpacket socket, [`instance`] is the
//! conversation of supervisor and function, [`gateway`] that of supervisor and gateway, [`admin`] that of the `ramet`
//! command and the supervisor (JSON over HTTP on a unix socket), [`fork`] that of the `ramet fork` command and whoever
//! keeps seeds.
#![forbid(unsafe_code)]

pub mod admin;
pub mod fork;
pub mod gateway;
pub mod instance;
pub mod socket;

use serde::{Deserialize, Serialize};

/// The version of every control message. Both sides of a conversation must have the same.
pub const PROTOCOL: u8 = 3;

/// A message with its place in the conversation; the receiver answers `Applied` with that number once it has taken
/// full effect, so that the supervisor can order changes across processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Numbered<M> {
    /// Counts up from 1 in each conversation.
    pub sequence: u64,
    /// What is said.
    pub message: M,
}
