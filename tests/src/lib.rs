//! What whole-system tests share: a node that is started, asked and stopped, and the plainest of HTTP clients.
#![forbid(unsafe_code)]

pub mod guest;
pub mod http;
pub mod node;
pub mod queue;
pub mod wait;

pub use http::{Answer, Client};
pub use node::{Node, Start, TRANSPORTS};
pub use wait::eventually;
