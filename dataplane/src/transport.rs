//! The three ways a descriptor travels. They differ in cost and in who enforces the rules, not in what callers see.

pub mod lanes;
pub mod patience;
pub mod ring;
pub mod skmsg;
pub mod socket;
