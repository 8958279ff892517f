//! A body on its way from the socket into slots.

use std::io;

use ramet_dataplane::Slot;
use tokio::time::timeout_at;

use super::Lane;
use crate::ingress::intake::{BodyLimits, Source};
use crate::problem::Problem;

/// A body that follows its head on the socket: what has been read with the head, then straight into the slot.
pub(super) struct SocketBody<'l, 'w> {
    pub(super) lane: &'l mut Lane<'w>,
    pub(super) left: u64,
}

impl Source for SocketBody<'_, '_> {
    async fn fill(
        &mut self,
        slot: &mut Slot,
        offset: usize,
        bytes_max: usize,
        limits: BodyLimits,
    ) -> Result<usize, Problem> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes_max);
        let bytes = match self.lane.unread() {
            [] => self.receive(slot.slice_mut(offset, wanted).map_err(|_| Problem::BadBody)?, limits).await?,
            unread => {
                let bytes = unread.len().min(wanted);
                slot.copy_in(offset, &unread[..bytes]).map_err(|_| Problem::BadBody)?;
                self.lane.consume(bytes);
                bytes
            }
        };
        self.left -= bytes as u64;
        Ok(bytes)
    }
}

impl SocketBody<'_, '_> {
    async fn receive(&mut self, into: &mut [u8], limits: BodyLimits) -> Result<usize, Problem> {
        loop {
            match self.lane.socket.try_read(into) {
                Ok(0) if !into.is_empty() => return Err(Problem::BadBody),
                Ok(bytes) => return Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let readable = timeout_at(limits.next_pause_ends(), self.lane.socket.readable()).await;
                    readable.map_err(|_| Problem::BodyTimeout)?.map_err(|_| Problem::BadBody)?;
                }
                Err(_) => return Err(Problem::BadBody),
            }
        }
    }
}
