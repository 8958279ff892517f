//! What the processes of a tested node are.

pub(crate) mod function;
pub(crate) mod gateway;
pub(crate) mod supervisor;
