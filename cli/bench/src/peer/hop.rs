//! One process of a chain without HTTP: the driver, or a function that passes on what it gets.
//!
//! Between rounds all wait on their control sockets, so that nobody who looks for messages disturbs another system's
//! round. A round ends with a message of its own kind, which every function passes on before it waits again.

mod bare;
mod driver;
#[cfg(feature = "peers")]
mod iceoryx;
pub(crate) mod orders;
mod ramet;
mod stream;
mod word;

use std::os::fd::OwnedFd;

use anyhow::Context;
use ramet_control::socket::{ControlError, ControlSocket};

pub(crate) use ramet::{CAPACITY, SLOTS, function, instance};

use orders::{Order, Outcome, Part, Way};

/// The number of a message. One that is larger than any number in flight ends the round.
pub(super) type Token = u32;
/// The last message of a round.
pub(super) const END: Token = u32::MAX;

/// A way to the next process, and from the one before.
pub(super) trait Carrier {
    /// Sends all of them at once.
    fn send(&mut self, tokens: &[Token]) -> anyhow::Result<()>;

    /// Waits until something has come, and adds it.
    fn receive(&mut self, into: &mut Vec<Token>) -> anyhow::Result<()>;
}

/// Runs until the control socket is closed.
pub(super) fn run() -> anyhow::Result<()> {
    let control = ControlSocket::from_stdin()?;
    let (part, fds): (Part, _) = control.receive()?;
    let mut carrier = carrier(&part, fds)?;
    control.send(&Outcome::Ready, &[])?;
    loop {
        let order: Order = match control.receive() {
            Ok((order, _)) => order,
            Err(ControlError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if part.is_driver() {
            let latencies = driver::drive(carrier.as_mut(), &part, &order, &control)?;
            control.send(&Outcome::Measured(latencies), &[])?;
        } else {
            pass_on(carrier.as_mut(), order.batch)?;
        }
    }
}

/// What a function does for a round.
fn pass_on(carrier: &mut dyn Carrier, batch: usize) -> anyhow::Result<()> {
    let mut tokens = Vec::new();
    loop {
        tokens.clear();
        carrier.receive(&mut tokens)?;
        for tokens in tokens.chunks(batch) {
            carrier.send(tokens)?;
        }
        if tokens.contains(&END) {
            return Ok(());
        }
    }
}

fn carrier(part: &Part, fds: Vec<OwnedFd>) -> anyhow::Result<Box<dyn Carrier>> {
    Ok(match &part.way {
        Way::Lanes { transport, patient } => Box::new(ramet::over_lanes(part, *transport, *patient, fds)?),
        Way::SkMsg => Box::new(ramet::over_skmsg(part, fds)?),
        Way::BareLane => Box::new(bare::Bare::new(fds)?),
        Way::Stream => Box::new(stream::Stream::new(fds, part.next_place())?),
        Way::CacheLine => Box::new(word::Word::new(part, fds, word::Waiting::Spinning)?),
        Way::Futex => Box::new(word::Word::new(part, fds, word::Waiting::Sleeping)?),
        #[cfg(feature = "peers")]
        Way::Iceoryx { name, waiting } => iceoryx::carrier(part, name, *waiting).context("iceoryx2 failed")?,
        #[cfg(not(feature = "peers"))]
        Way::Iceoryx { .. } => return Err(anyhow::anyhow!(super::WITHOUT_PEERS)).context("no iceoryx2"),
    })
}
