//! A lane alone: the queue of the ring transport, with no routing, no ledger and no checks.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::Context;
use ramet_common::{FunctionId, Generation, Kind, PacketDescriptor, RequestId, SlotIndex};
use ramet_dataplane::clock;
use ramet_dataplane::transport::patience::{Looked, Patience};
use ramet_shm::doorbell;
use ramet_shm::lane::{Consumer, Producer, SharedLane};
use rustix::event::{PollFd, PollFlags, poll};

use super::{Carrier, Token};

/// Looks as patiently as the transport does.
pub(super) struct Bare {
    consumer: Consumer<SharedLane>,
    bell_in: OwnedFd,
    producer: Producer<SharedLane>,
    bell_out: OwnedFd,
    patience: Patience,
    batch: Vec<PacketDescriptor>,
}

impl Bare {
    pub(super) fn new(fds: Vec<OwnedFd>) -> anyhow::Result<Self> {
        let [lane_in, bell_in, lane_out, bell_out] =
            <[OwnedFd; 4]>::try_from(fds).ok().context("two lanes with their bells are needed")?;
        Ok(Self {
            consumer: Consumer::new(SharedLane::map(lane_in.as_fd())?),
            bell_in,
            producer: Producer::new(SharedLane::map(lane_out.as_fd())?),
            bell_out,
            patience: Patience::adaptive(),
            batch: Vec::new(),
        })
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        // A corrupt lane counts as one that has something, so that whoever takes it reports that.
        let consumer = &self.consumer;
        let is_there = || consumer.is_there() != Ok(false);
        if is_there() {
            return Ok(());
        }
        let Looked::InVain { since_ns, .. } = self.patience.look(u64::MAX, is_there) else { return Ok(()) };
        loop {
            // Each time: a bell that rings late, for a message that was taken, takes the announcement with it.
            consumer.prepare_to_wait();
            if consumer.is_there()? {
                break;
            }
            poll(&mut [PollFd::new(&self.bell_in, PollFlags::IN)], None)?;
            doorbell::silence(&self.bell_in);
        }
        consumer.awake();
        self.patience.slept(Duration::from_nanos(clock::now_ns().saturating_sub(since_ns)));
        Ok(())
    }
}

impl Carrier for Bare {
    fn send(&mut self, tokens: &[Token]) -> anyhow::Result<()> {
        self.batch.clear();
        self.batch.extend(tokens.iter().map(|&token| {
            PacketDescriptor::new(Kind::Request, FunctionId(1), SlotIndex(0), Generation(0), RequestId(token.into()))
        }));
        if self.producer.push(&self.batch)? {
            doorbell::ring(self.bell_out.as_fd())?;
        }
        Ok(())
    }

    fn receive(&mut self, into: &mut Vec<Token>) -> anyhow::Result<()> {
        self.wait()?;
        self.consumer.pop(usize::MAX, |descriptor| into.push(descriptor.request.0 as Token))?;
        Ok(())
    }
}
