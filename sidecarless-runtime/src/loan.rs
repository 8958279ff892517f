//! An instance that is lent to somebody who prepares it: frozen between two requests, until the loan is dropped.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use ramet_common::InstanceId;
use ramet_fork::{Habitat, Kin, Watch};

use crate::event::{Event, Events};

/// What the node is asked about a loan.
#[derive(Debug)]
pub(crate) enum LoanRequest {
    /// To freeze an instance. The answer is that it is frozen, or why not.
    Begin(InstanceId, SyncSender<Result<Frozen, NoLoan>>),
    /// To let it go on.
    End(InstanceId),
    /// Which instance a process is, if it is one.
    Which(i32, SyncSender<Option<InstanceId>>),
}

/// An instance that is frozen.
#[derive(Debug)]
pub(crate) struct Frozen {
    /// Its process.
    pub(crate) pid: i32,
    /// Where it has its memory from, if it is a copy.
    pub(crate) kin: Option<Kin>,
    /// What it lives in.
    pub(crate) habitat: Habitat,
}

/// Why an instance is not lent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoLoan {
    #[error("there is no instance {0}; `ramet get instances` lists those there are")]
    Unknown(InstanceId),
    #[error("instance {0} is {1}; prepare one that is ready")]
    NotReady(InstanceId, &'static str),
    #[error("instance {0} is being forked already; try again")]
    Taken(InstanceId),
    #[error(
        "instance {0} executes its command in a process namespace of its own, which cannot be forked; `start: fork` in \
         its function's manifest gives it a place where it can be"
    )]
    Alone(InstanceId),
    #[error("instance {0} does not freeze: {1}; try again")]
    Awake(InstanceId, String),
    #[error("the node is stopping, or starting anew; try again")]
    Stopping,
}

/// Which instance of a node a process is, if it is one.
pub(crate) fn instance_of(events: &Events, pid: i32) -> Option<InstanceId> {
    let (sender, answer) = sync_channel(1);
    events.blocking_send(Event::Loan(LoanRequest::Which(pid, sender))).ok()?;
    // A node that is gone has none.
    answer.recv().ok()?
}

/// A loan. The instance goes on when it is dropped.
#[derive(Debug)]
pub(crate) struct Loan {
    instance: InstanceId,
    events: Events,
    frozen: Frozen,
}

impl Loan {
    /// Waits until an instance is frozen. Not for tasks of the node, who would wait for themselves.
    pub(crate) fn begin(events: &Events, instance: InstanceId) -> Result<Self, NoLoan> {
        let (sender, answer): (_, Receiver<_>) = sync_channel(1);
        events.blocking_send(Event::Loan(LoanRequest::Begin(instance, sender))).map_err(|_| NoLoan::Stopping)?;
        // The node answers in bounded time, or is gone and has dropped the sender.
        let frozen = answer.recv().map_err(|_| NoLoan::Stopping)??;
        Ok(Self { instance, events: events.clone(), frozen })
    }

    /// The frozen process.
    pub(crate) fn pid(&self) -> i32 {
        self.frozen.pid
    }

    /// What it lives in.
    pub(crate) const fn habitat(&self) -> &Habitat {
        &self.frozen.habitat
    }

    /// Begins to watch a copy: what it has not touched comes from the seed that it was forked from.
    pub(crate) fn watch(&self) -> io::Result<Option<Watch>> {
        self.frozen.kin.as_ref().map(Kin::watch).transpose()
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // A node that is gone has no instances.
        let _ = self.events.blocking_send(Event::Loan(LoanRequest::End(self.instance)));
    }
}
