//! The supervisor: it makes everything that the processes of a node share, starts them, and outlives them all.
//!
//! Reading order: [`mod@up`] puts a node together and [`mod@check`] says whether one could be; `node` is the running
//! node, one task that owns everything below and is told of everything by an `event`. `plan` says what a change needs;
//! `domain`, `function`, `instance` and `gateway_process` are what there is and `scale` how much of it; `program` and
//! `process` start it or `brood` forks it, `conversation` speaks to it, `server` is the way to one that serves HTTP,
//! and `shortcut` a shorter one; `placement` says on which cores its `threads` run. `transport` chooses the
//! `dataplane`, whose lanes `links` keeps track of; `route` translates chains. `logs`, `metrics` and `admin` are for
//! people, and so is [`mod@keeper`], which forks any process; both it and broods `reach` seeds, and an instance is on
//! `loan` to who forks it; `ids`, `timers`, `listeners` and `socket_file` are small tools.
//!
//! What is absent: locks, and periodic timers but two: loads are looked at where a function's number of instances
//! follows them, and threads while there are requests. A node without such functions, to which nothing happens, does
//! nothing.
#![forbid(unsafe_code)]

pub mod check;
pub mod keeper;
pub mod up;

mod node;

mod brood;
mod conversation;
mod dataplane;
mod domain;
mod event;
mod function;
mod gateway_process;
mod ids;
mod instance;
mod links;
mod listeners;
mod loan;
mod placement;
mod plan;
mod process;
mod program;
mod reach;
mod route;
mod scale;
mod server;
mod shortcut;
mod socket_file;
mod threads;
mod timers;
mod transport;

mod admin;
mod logs;
mod metrics;

pub use check::{Item, Verdict, check};
pub use keeper::{Keeper, KeeperError, KeeperSettings};
pub use up::{UpError, up};

/// What the errors of [`up()`] are made of.
pub mod errors {
    pub use crate::dataplane::DataPlaneError;
    pub use crate::gateway_process::TlsError;
    pub use crate::ids::NoRoom;
    pub use crate::listeners::ListenError;
    pub use crate::node::{EpochError, Interrupted};
    pub use crate::placement::PlacementError;
    pub use crate::process::StartError;
    pub use crate::shortcut::ShortcutError;
    pub use crate::socket_file::SocketError;
    pub use crate::transport::TransportError;
}
