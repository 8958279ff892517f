//! Plain stream sockets: messages of as many bytes as a descriptor has, with no checks.

use std::os::fd::OwnedFd;

use anyhow::{Context, ensure};
use ramet_common::{BATCH_MAX, DESCRIPTOR_BYTES};
use rustix::io::{Errno, read, retry_on_intr, write};

use super::{Carrier, Token};

/// Where in a message its number is. In front of it is where it goes, which a bare redirect reads.
const TOKEN_AT: usize = 4;

pub(super) struct Stream {
    receiver: OwnedFd,
    sender: OwnedFd,
    /// The process that messages go to.
    next: u32,
    buffer: Box<[u8; BATCH_MAX * DESCRIPTOR_BYTES]>,
    /// So many bytes of a message that has not come whole are in front.
    kept_bytes: usize,
    batch: Vec<u8>,
}

impl Stream {
    pub(super) fn new(fds: Vec<OwnedFd>, next: u32) -> anyhow::Result<Self> {
        let [receiver, sender] = <[OwnedFd; 2]>::try_from(fds).ok().context("two sockets are needed")?;
        let buffer = Box::new([0; BATCH_MAX * DESCRIPTOR_BYTES]);
        Ok(Self { receiver, sender, next, buffer, kept_bytes: 0, batch: Vec::new() })
    }
}

impl Carrier for Stream {
    fn send(&mut self, tokens: &[Token]) -> anyhow::Result<()> {
        self.batch.clear();
        for token in tokens {
            self.batch.extend(self.next.to_ne_bytes());
            self.batch.extend(token.to_ne_bytes());
            self.batch.extend([0; DESCRIPTOR_BYTES - 2 * TOKEN_AT]);
        }
        let mut rest = self.batch.as_slice();
        while !rest.is_empty() {
            let written = retry_on_intr(|| write(&self.sender, rest)).context("cannot send")?;
            rest = &rest[written..];
        }
        Ok(())
    }

    fn receive(&mut self, into: &mut Vec<Token>) -> anyhow::Result<()> {
        while into.is_empty() {
            let room = &mut self.buffer[self.kept_bytes..];
            let got = match read(&self.receiver, &mut *room) {
                Ok(got) => got,
                // A socket that is redirected to is woken now and then for what another wait has taken already.
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(errno) => return Err(errno).context("cannot receive"),
            };
            ensure!(got > 0, "the process before has ended");
            let filled_bytes = self.kept_bytes + got;
            let whole_bytes = filled_bytes - filled_bytes % DESCRIPTOR_BYTES;
            for message in self.buffer[..whole_bytes].chunks_exact(DESCRIPTOR_BYTES) {
                let mut token = [0; size_of::<Token>()];
                token.copy_from_slice(&message[TOKEN_AT..TOKEN_AT + size_of::<Token>()]);
                into.push(Token::from_ne_bytes(token));
            }
            self.buffer.copy_within(whole_bytes..filled_bytes, 0);
            self.kept_bytes = filled_bytes - whole_bytes;
        }
        Ok(())
    }
}
