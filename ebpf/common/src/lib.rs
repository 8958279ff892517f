//! What kernel and user space must agree on to the byte: ids, packet descriptors, map keys and values.
//!
//! Everything here is `no_std`, `repr(C)`, free of padding and of pointers. Reading order:
//! [`id`] names things, [`descriptor`] is the message that travels, [`ledger`] says who owns a slot,
//! [`map`] is what SPROXY looks up, [`refusal`] is why it says no; [`shortcut`] is what the short-cut looks up.
#![no_std]
#![forbid(unsafe_code)]

pub mod descriptor;
pub mod id;
pub mod ledger;
pub mod map;
pub mod refusal;
pub mod shortcut;

pub use descriptor::{BATCH_MAX, DESCRIPTOR_BYTES, Kind, PacketDescriptor};
pub use id::{DomainId, FunctionId, Generation, InstanceId, RequestId, RouteId, SlotIndex};
pub use ledger::LedgerWord;
pub use refusal::Refusal;

/// The version of every layout in this crate; a peer with another one is refused when it joins.
pub const ABI: u8 = 1;
