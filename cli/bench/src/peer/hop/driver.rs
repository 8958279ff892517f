//! The driver: it keeps messages under way and takes their times.

use std::time::Instant;

use anyhow::{Context, ensure};
use ramet_control::socket::ControlSocket;

use super::orders::{Order, Outcome, Part};
use super::{Carrier, END, Token};
use crate::recorder::{Latencies, Recorder};

/// With a single message under way only every so manieth is timed: a look at the clock costs as much as half a hop.
const TIMED_OF: u64 = 8;

/// One round. Every message must come back, once.
pub(super) fn drive(
    carrier: &mut dyn Carrier,
    part: &Part,
    order: &Order,
    control: &ControlSocket,
) -> anyhow::Result<Latencies> {
    let mut flight = Flight { sent: vec![None; order.in_flight as usize], batch: order.batch, carrier };
    let tokens: Vec<Token> = (0..order.in_flight).collect();
    flight.send(&tokens, Instant::now())?;
    let begin = Instant::now();
    let mut tokens = flight.receive()?;
    while begin.elapsed() < order.warm_up {
        flight.send(&tokens, Instant::now())?;
        tokens = flight.receive()?;
    }
    control.send(&Outcome::Measuring, &[])?;
    let mut recorder = Recorder::closed_loop()?;
    let start = Instant::now();
    let mut requests = 0;
    let mut now = start;
    while now - start < order.duration {
        if order.in_flight == 1 {
            for _ in 1..TIMED_OF {
                flight.carrier.send(&tokens)?;
                tokens = flight.receive_untimed()?;
            }
            requests += TIMED_OF - 1;
            now = Instant::now();
        }
        flight.send(&tokens, now)?;
        tokens = flight.receive()?;
        now = Instant::now();
        requests += tokens.len() as u64;
        for token in &tokens {
            let sent = flight.take(*token)?;
            // What was sent before the measurement does not count for it.
            if sent >= start {
                recorder.record(sent, sent, now)?;
            }
        }
    }
    let elapsed = start.elapsed();
    flight.land(tokens)?;
    let latencies = recorder.latencies(elapsed, part.processes())?;
    Ok(Latencies { requests, ..latencies })
}

/// The messages under way.
struct Flight<'c> {
    carrier: &'c mut dyn Carrier,
    batch: usize,
    /// When each was sent; nothing while it is here.
    sent: Vec<Option<Instant>>,
}

impl Flight<'_> {
    fn send(&mut self, tokens: &[Token], now: Instant) -> anyhow::Result<()> {
        for token in tokens {
            // Those of the warm-up were not taken.
            self.sent[*token as usize] = Some(now);
        }
        tokens.chunks(self.batch).try_for_each(|tokens| self.carrier.send(tokens))
    }

    /// What has come. Each is one that is under way.
    fn receive(&mut self) -> anyhow::Result<Vec<Token>> {
        let tokens = self.receive_untimed()?;
        for token in &tokens {
            let sent = self.sent.get(*token as usize).context("a message came that was never sent")?;
            ensure!(sent.is_some(), "message {token} came twice");
        }
        Ok(tokens)
    }

    fn receive_untimed(&mut self) -> anyhow::Result<Vec<Token>> {
        let mut tokens = Vec::new();
        self.carrier.receive(&mut tokens)?;
        Ok(tokens)
    }

    fn take(&mut self, token: Token) -> anyhow::Result<Instant> {
        self.sent[token as usize].take().with_context(|| format!("message {token} came twice"))
    }

    /// Waits until all have come back, and tells the functions that the round is over.
    fn land(&mut self, here: Vec<Token>) -> anyhow::Result<()> {
        let mut missing = self.sent.iter().flatten().count();
        // Those that are here were taken when they came.
        drop(here);
        while missing > 0 {
            for token in self.receive()? {
                self.take(token)?;
                missing -= 1;
            }
        }
        self.carrier.send(&[END])?;
        let end = self.receive_untimed()?;
        ensure!(end == [END], "the round ended with {end:?}");
        Ok(())
    }
}
