//! What every transport offers: send a batch to one destination, receive what has arrived, wait for more.

use std::fmt::Debug;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use ramet_common::{FunctionId, InstanceId, PacketDescriptor, Refusal};
use serde::{Deserialize, Serialize};

/// Which implementation carries the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransportKind {
    /// S mode: SPROXY redirects in the kernel.
    SkMsg,
    /// Shared-memory lanes.
    Ring,
    /// Unix socket lanes.
    Socket,
}

impl TransportKind {
    /// The name in settings and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SkMsg => "skmsg",
            Self::Ring => "ring",
            Self::Socket => "socket",
        }
    }
}

/// Why a batch was not sent. Nothing of it was: the sender still owns every slot.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Policy, ownership or capacity says no.
    #[error("the send was refused: {}", .0.as_str())]
    Refused(Refusal),
    /// The kernel refused and this process may not read why; the supervisor knows.
    #[error("the kernel refused the send; the supervisor knows why")]
    RefusedUnexplained,
    /// This endpoint has been taken off the data plane.
    #[error("this instance is no longer part of the data plane")]
    Closed,
    /// Another system call error.
    #[error("sending on the data plane failed: {0}")]
    System(#[from] io::Error),
}

/// Why nothing can be received any more.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The supervisor has closed this endpoint, or is gone.
    #[error("this instance is no longer part of the data plane")]
    Closed,
    /// Another system call error.
    #[error("receiving from the data plane failed: {0}")]
    System(#[from] io::Error),
}

/// How long [`Receiver::receive`] may wait when nothing is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Up to this long.
    For(Duration),
    /// Until something arrives.
    Forever,
}

/// The sending half; shared by all threads of an instance.
pub trait Sender: Debug + Send + Sync {
    /// Sends the whole batch (1 to [`ramet_common::BATCH_MAX`]) or nothing. All descriptors name the same function and
    /// `peer`; with `peer` [`InstanceId::NONE`] the transport picks the replica with the most residual capacity.
    ///
    /// # Errors
    /// [`SendError`]; ownership of every slot is as before.
    fn send(&self, batch: &[PacketDescriptor]) -> Result<(), SendError>;
}

/// The receiving half; one thread at a time.
pub trait Receiver: Debug + Send + AsFd {
    /// Gives what has arrived to `take`, about [`ramet_common::BATCH_MAX`] descriptors at most, each checked as far as
    /// the transport can and with `peer` the true sender. Returns how many; zero when the wait is over.
    ///
    /// # Errors
    /// [`ReceiveError`]; the endpoint is of no more use.
    fn receive(&mut self, wait: Wait, take: &mut dyn FnMut(PacketDescriptor)) -> Result<usize, ReceiveError>;

    /// For event loops: asks that the descriptor of `AsFd` become readable at the next arrival. False: something is
    /// there already.
    ///
    /// # Errors
    /// [`ReceiveError`].
    fn arm(&mut self) -> Result<bool, ReceiveError>;

    /// Takes that back, for who goes on to look: senders need not announce what they send.
    fn disarm(&mut self);

    /// How many descriptors were dropped because the sender had no right to send them.
    fn rejected(&self) -> u64;
}

/// One instance's place on the data plane.
#[derive(Debug)]
pub struct Endpoint {
    /// Sends.
    pub sender: Arc<dyn Sender>,
    /// Receives.
    pub receiver: Box<dyn Receiver>,
    /// Where links to peers come and go; `None` in S mode, where the kernel knows the peers.
    pub links: Option<Arc<dyn Links>>,
}

/// One end of a lane between two instances, as descriptors to pass to a process.
#[derive(Debug)]
pub struct LinkEnd(pub Vec<std::os::fd::OwnedFd>);

/// The peers of a lane transport. Links are made by the supervisor; no link, no edge.
pub trait Links: Debug + Send + Sync {
    /// Lets this instance send to `peer`, an instance of `function` that holds at most `capacity` messages.
    ///
    /// # Errors
    /// The link's descriptors are not what they should be.
    fn add_outgoing(&self, peer: InstanceId, function: FunctionId, capacity: u32, end: LinkEnd) -> io::Result<()>;

    /// Lets this instance receive from `peer`, an instance of `function`.
    ///
    /// # Errors
    /// The link's descriptors are not what they should be.
    fn add_incoming(&self, peer: InstanceId, function: FunctionId, end: LinkEnd) -> io::Result<()>;

    /// Chooses `peer` no more: it finishes what it has and leaves. What names it still goes to it, because it may wait
    /// for that.
    fn retire(&self, peer: InstanceId);

    /// Sends nothing to `peer` any more, because policy says so. What it sends is still received.
    fn close(&self, peer: InstanceId);

    /// Forgets `peer`: nothing is sent to it any more. What it has sent is still received.
    fn remove(&self, peer: InstanceId);

    /// Makes the thread that waits in `receive`, or the next one that does, return without anything having come.
    fn wake(&self);
}
