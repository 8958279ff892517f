//! A lane alone: the queue of the ring transport, with no routing, no ledger and no checks.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use anyhow::Context;
use ramet_common::{FunctionId, Generation, Kind, PacketDescriptor, RequestId, SlotIndex};
use ramet_dataplane::transport::patience::Patience;
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
        if self.consumer.is_there()? {
            return Ok(());
        }
        let start = Instant::now();
        let budget = self.patience.budget();
        while start.elapsed() < budget {
            for _ in 0..Patience::LOOKS {
                if self.consumer.is_there()? {
                    self.patience.waited(start.elapsed());
                    return Ok(());
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now();
        }
        self.consumer.prepare_to_wait();
        while !self.consumer.is_there()? {
            poll(&mut [PollFd::new(&self.bell_in, PollFlags::IN)], None)?;
            doorbell::silence(&self.bell_in);
        }
        self.consumer.awake();
        self.patience.waited(start.elapsed());
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
