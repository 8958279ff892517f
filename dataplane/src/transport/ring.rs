//! The ring transport's lane: a shared-memory queue and an eventfd, each shared by exactly two processes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use ramet_common::PacketDescriptor;
use ramet_shm::doorbell;
use ramet_shm::lane::{Consumer, LANE_BYTES, LaneError, Producer, SharedLane};
use ramet_shm::segment::{create_sealed, duplicate};

use super::lanes::{Broken, InLane, OutLane, PushError, Stamp};
use crate::endpoint::LinkEnd;

/// Makes a lane: the sender's end and the receiver's.
///
/// # Errors
/// The failing system call.
pub fn link() -> io::Result<(LinkEnd, LinkEnd)> {
    let memory = create_sealed("ramet-lane", LANE_BYTES).map_err(io::Error::other)?;
    let bell = doorbell::create()?;
    let sender = LinkEnd(vec![duplicate(&memory)?, duplicate(&bell)?]);
    Ok((sender, LinkEnd(vec![memory, bell])))
}

fn open(end: LinkEnd) -> io::Result<(SharedLane, OwnedFd)> {
    let [memory, bell] = <[OwnedFd; 2]>::try_from(end.0)
        .map_err(|fds| io::Error::other(format!("a ring lane comes as 2 descriptors, not {}", fds.len())))?;
    Ok((SharedLane::map(memory.as_fd()).map_err(io::Error::other)?, bell))
}

pub(super) fn out_lane(end: LinkEnd) -> io::Result<Box<dyn OutLane>> {
    let (lane, bell) = open(end)?;
    Ok(Box::new(RingOut { producer: Producer::new(lane), bell: Arc::new(bell) }))
}

pub(super) fn in_lane(end: LinkEnd) -> io::Result<(Box<dyn InLane>, OwnedFd)> {
    let (lane, bell) = open(end)?;
    Ok((Box::new(RingIn(Consumer::new(lane))), bell))
}

#[derive(Debug)]
struct RingOut {
    producer: Producer<SharedLane>,
    bell: Arc<OwnedFd>,
}

impl OutLane for RingOut {
    fn push(&mut self, batch: &[PacketDescriptor], stamp: Stamp) -> Result<Option<Arc<OwnedFd>>, PushError> {
        match self.producer.push_with(batch, |descriptor| stamp.on(descriptor)) {
            Ok(is_awaited) => Ok(is_awaited.then(|| Arc::clone(&self.bell))),
            Err(LaneError::Full) => Err(PushError::Full),
            Err(LaneError::Corrupt) => Err(PushError::Broken),
        }
    }
}

#[derive(Debug)]
struct RingIn(Consumer<SharedLane>);

impl InLane for RingIn {
    fn pop(&mut self, most: usize, into: &mut Vec<PacketDescriptor>) -> Result<usize, Broken> {
        self.0.pop(most, |descriptor| into.push(descriptor)).map_err(|_| Broken)
    }

    fn ready(&self) -> bool {
        // A corrupt lane counts as ready, so that `pop` gets to see and report it.
        self.0.is_there() != Ok(false)
    }

    fn announce_wait(&self) {
        self.0.prepare_to_wait();
    }

    fn awake(&self) {
        self.0.awake();
    }
}
