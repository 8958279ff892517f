//! Everything that can happen to a node, in one queue that one task reads.

use std::process::ExitStatus;

use ramet_common::{FunctionId, InstanceId};
use ramet_control::gateway::FromGateway;
use ramet_control::instance::FromInstance;
use ramet_control::socket::ControlError;
use tokio::sync::mpsc;

use crate::admin::Request;
use crate::brood::News;
use crate::loan::LoanRequest;

/// How many events may wait. Whoever has one to tell waits when it is full; the node itself never sends.
const QUEUE: usize = 1024;

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// To an instance's process.
    Instance(InstanceId, Word<FromInstance>),
    /// To the gateway's process of this epoch.
    Gateway(u32, Word<FromGateway>),
    /// To the brood of this number, of a function.
    Brood(FunctionId, u64, News),
    /// Somebody wants to prepare an instance, or has.
    Loan(LoanRequest),
    /// Somebody asks something on the admin socket.
    Admin(Request),
    /// The supervisor was told to end.
    Signal,
}

/// What comes from a child.
#[derive(Debug)]
pub(crate) enum Word<M> {
    /// It said something.
    Said(M),
    /// It will say nothing more, though it may still run.
    Silent(ControlError),
    /// It has ended and is reaped.
    Ended(ExitStatus),
}

pub(crate) type Events = mpsc::Sender<Event>;

pub(crate) fn queue() -> (Events, mpsc::Receiver<Event>) {
    mpsc::channel(QUEUE)
}
