//! Shared memory with a hostile far side: the only unsafe code over memory that another process can write.
//!
//! Reading order: [`segment`] makes and maps memory, [`ledger`] holds one owner word per slot and one load per
//! instance, [`lane`] is a single-producer single-consumer queue of packet descriptors, [`doorbell`] wakes its reader,
//! [`meter`] is what a member counts, [`words`] are single words to measure with.
//!
//! # Invariants that SAFETY comments name
//!
//! - **S1 mapped:** a [`segment::Mapping`] owns `bytes` mapped bytes from its base until it is dropped, and its file
//!   cannot shrink: every file that is mapped carries `F_SEAL_SHRINK`, or is a BPF array, whose size is fixed. A copy
//!   of the process has nothing of it mapped, and it gives out no pointer there once [`segment::begin_new_life`] was
//!   called.
//! - **S2 in bounds:** every offset is checked against `bytes`, with checked arithmetic, before a pointer is made.
//! - **S3 plain bytes:** nothing is read from shared memory as a type for which some bit patterns are invalid.
//! - **S4 atomics or leases:** words that two processes may touch at once are accessed as atomics; all other bytes are
//!   accessed only by the process that the ledger names as the slot's owner. A function that breaks this can change
//!   bytes under a reader of its own domain. The reader is written for that: it copies what it decides upon first.

pub mod doorbell;
pub mod lane;
pub mod ledger;
pub mod meter;
pub mod segment;
pub mod words;
