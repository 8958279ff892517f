//! ramet's own transports: a message is a descriptor whose slot moves in the ledger with it, as between functions.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, ensure};
use ramet_common::{FunctionId, Generation, InstanceId, Kind, PacketDescriptor, RequestId, SlotIndex};
use ramet_dataplane::endpoint::{LinkEnd, Receiver, Sender, Wait};
use ramet_dataplane::transport::lanes::{self, Member};
use ramet_dataplane::transport::patience::Patience;
use ramet_dataplane::transport::skmsg;
use ramet_dataplane::{Endpoint, Ledger, Meter, TransportKind};

use super::orders::{Part, Patient};
use super::{Carrier, END, Token};

/// How many slots there are: one for each message that can be under way, and one for the last of a round.
pub(crate) const SLOTS: u32 = 512;
/// More than are ever under way.
pub(crate) const CAPACITY: u32 = SLOTS;

/// The instance that a process is.
pub(crate) fn instance(number: u32) -> InstanceId {
    InstanceId::new(number as u16 + 1, 1)
}

/// The function that it is an instance of; the driver is the gateway.
pub(crate) fn function(number: u32) -> FunctionId {
    FunctionId(number)
}

/// A place on the data plane.
pub(super) struct Ramet {
    sender: Arc<dyn Sender>,
    receiver: Box<dyn Receiver>,
    /// What this process says to the next one.
    kind: Kind,
    next: FunctionId,
    /// A certain instance for an answer, any for a request.
    peer: InstanceId,
    batch: Vec<PacketDescriptor>,
}

/// Joins with lanes.
pub(super) fn over_lanes(
    part: &Part,
    transport: TransportKind,
    patient: Patient,
    fds: Vec<OwnedFd>,
) -> anyhow::Result<Ramet> {
    let mut fds = fds.into_iter();
    let ledger = fds.next().context("the ledger is missing")?;
    let ledger = Ledger::map_shared(ledger.as_fd(), SLOTS)?;
    let meter = Meter::map(Meter::create()?.as_fd())?;
    let mut ends: Vec<OwnedFd> = fds.collect();
    let out = ends.split_off(ends.len() / 2);
    let owner = if part.is_driver() { InstanceId::NONE } else { instance(part.number) };
    let me = Member { instance: instance(part.number), owner };
    let patience = match patient {
        Patient::Looking => Patience::adaptive(),
        Patient::Sleeping => Patience::none(),
    };
    let endpoint = lanes::endpoint(transport, me, Arc::new(ledger), patience, Some(meter))?;
    let links = endpoint.links.as_ref().context("lanes have links")?;
    let before = (part.number + part.functions) % part.processes();
    links.add_incoming(instance(before), function(before), LinkEnd(ends))?;
    let next = part.next_place();
    links.add_outgoing(instance(next), function(next), CAPACITY, LinkEnd(out))?;
    Ok(Ramet::new(part, endpoint))
}

/// Joins with the sockets that SPROXY knows.
pub(super) fn over_skmsg(part: &Part, fds: Vec<OwnedFd>) -> anyhow::Result<Ramet> {
    let [tcp, unix] = <[OwnedFd; 2]>::try_from(fds).ok().context("two sockets are needed")?;
    Ok(Ramet::new(part, skmsg::endpoint(tcp, unix, None)))
}

impl Ramet {
    fn new(part: &Part, endpoint: Endpoint) -> Self {
        let next = part.next_place();
        let (kind, peer) = if next == 0 { (Kind::Reply, instance(0)) } else { (Kind::Request, InstanceId::NONE) };
        let Endpoint { sender, receiver, .. } = endpoint;
        Self { sender, receiver, kind, next: function(next), peer, batch: Vec::new() }
    }
}

impl Carrier for Ramet {
    fn send(&mut self, tokens: &[Token]) -> anyhow::Result<()> {
        self.batch.clear();
        let (kind, next, peer) = (self.kind, self.next, self.peer);
        self.batch.extend(tokens.iter().map(|&token| {
            let slot = SlotIndex(if token == END { SLOTS - 1 } else { token });
            PacketDescriptor::new(kind, next, slot, Generation(0), RequestId(token.into())).to_instance(peer)
        }));
        Ok(self.sender.send(&self.batch)?)
    }

    fn receive(&mut self, into: &mut Vec<Token>) -> anyhow::Result<()> {
        let mut received = 0;
        // A wait may end with nothing having come.
        while received == 0 {
            let take = &mut |descriptor: PacketDescriptor| into.push(descriptor.request.0 as Token);
            received = self.receiver.receive(Wait::Forever, take)?;
        }
        ensure!(self.receiver.rejected() == 0, "the transport rejects what came");
        ensure!(received == into.len(), "{received} messages came, and {} are here", into.len());
        Ok(())
    }
}
