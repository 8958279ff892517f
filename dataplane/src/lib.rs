//! How a message gets from one process to another while its payload stays where it is.
//!
//! Reading order: [`pool`] is the memory, [`allocator`] hands out its slots (gateway only), [`message`] is what a head
//! slot holds, [`route`] says which function comes next, [`endpoint`] is how descriptors travel, with one module per
//! transport under [`transport`]. The crate owns no threads and no async runtime; a receiver is an `AsFd`.
#![forbid(unsafe_code)]

pub mod allocator;
pub mod clock;
pub mod endpoint;
pub mod message;
pub mod pool;
pub mod route;
pub mod transport;

pub use allocator::SlotAllocator;
pub use endpoint::{Endpoint, ReceiveError, Receiver, SendError, Sender, TransportKind, Wait};
pub use pool::{Pool, PoolLayout, Slot, SlotRef};
pub use ramet_common as ids;
pub use ramet_shm::ledger::Ledger;
pub use ramet_shm::meter::{Meter, MeterReader};
pub use ramet_shm::segment::begin_new_life;
pub use route::Route;
