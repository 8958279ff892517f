//! The conversation with the gateway.

use std::os::fd::OwnedFd;
use std::time::Instant;

use ramet_common::{ABI, InstanceId};
use ramet_control::gateway::{FromGateway, ToGateway};
use ramet_control::socket::ControlError;

use super::{Mode, Node, UNSENT};
use crate::conversation::ANSWER_TIMEOUT;
use crate::event::Word;
use crate::gateway_process::{Gateway, GatewayStage};
use crate::timers::Timer;

impl Gateway {
    /// Says something, and returns its number. A gateway that cannot be spoken to is killed.
    pub(super) fn tell(&mut self, message: ToGateway, fds: Vec<OwnedFd>) -> u64 {
        let said = self.process.conversation.say(message, fds);
        self.check(said, UNSENT)
    }

    fn check<T>(&self, said: Result<T, ControlError>, otherwise: T) -> T {
        said.unwrap_or_else(|error| {
            // One that has just ended needs no other end; its death is an event soon.
            if !matches!(error, ControlError::Closed) {
                tracing::error!(%error, "the gateway cannot be spoken to; it is killed");
                self.process.kill();
            }
            otherwise
        })
    }
}

impl Node {
    /// Says something to the gateway, and returns its number.
    pub(super) fn tell_gateway(&mut self, message: ToGateway, fds: Vec<OwnedFd>) -> u64 {
        let Some(gateway) = &mut self.gateway else { return UNSENT };
        let sequence = gateway.tell(message, fds);
        if !gateway.is_watched
            && let Some(since) = gateway.process.conversation.waiting_since()
        {
            gateway.is_watched = true;
            self.timers.set(since + ANSWER_TIMEOUT, Timer::GatewayAnswer(gateway.epoch));
        }
        sequence
    }

    /// Whether the gateway has applied the message of this number.
    pub(super) fn gateway_applied(&self, sequence: u64) -> bool {
        self.gateway.as_ref().is_some_and(|gateway| gateway.process.conversation.is_applied(sequence))
    }

    pub(super) fn hear_gateway(&mut self, epoch: u32, word: Word<FromGateway>) {
        let Some(gateway) = self.gateway.as_mut().filter(|gateway| gateway.epoch == epoch) else { return };
        match word {
            Word::Said(message) => self.hear_gateway_say(message),
            // The supervisor itself has ended the conversation.
            Word::Silent(_) if self.mode == Mode::Stopping => {}
            Word::Silent(error) => {
                tracing::error!(%error, "the gateway says nothing more; it is killed");
                gateway.process.kill();
            }
            Word::Ended(status) => {
                let pid = gateway.process.pid;
                match self.mode {
                    Mode::Running => tracing::error!(%status, pid, "the gateway has ended"),
                    Mode::TearingDown | Mode::Resting | Mode::Stopping => {
                        tracing::info!(%status, pid, "the gateway has ended")
                    }
                }
                let workers = std::mem::take(&mut gateway.workers);
                self.gateway = None;
                for worker in workers {
                    self.links.remove_member(worker);
                    self.plane.leave(worker);
                    self.ids.free_instance(worker);
                }
            }
        }
    }

    fn hear_gateway_say(&mut self, message: FromGateway) {
        let Some(gateway) = &mut self.gateway else { return };
        self.is_readiness_stale |= !matches!(message, FromGateway::Applied { .. } | FromGateway::AtWork);
        match message {
            FromGateway::Hello { abi } if abi == ABI => gateway.stage = gateway.stage.max(GatewayStage::Greeted),
            FromGateway::Hello { abi } => {
                tracing::error!(abi, expected = ABI, "the gateway is of another release; it is killed");
                gateway.process.kill();
            }
            FromGateway::Applied { sequence } => {
                let flushed = gateway.process.conversation.applied(sequence);
                gateway.check(flushed, ());
                self.advance_lane((InstanceId::NONE, sequence));
                self.touched.extend(self.introductions.remove(&sequence));
            }
            FromGateway::Ready => gateway.stage = gateway.stage.max(GatewayStage::Serving),
            FromGateway::Drained => gateway.stage = GatewayStage::Drained,
            FromGateway::RouteIdle { route } => self.forget_route(route),
            FromGateway::Hung { instance } => {
                self.condemn(instance, "it held a request for longer than its hangGrace after the deadline");
            }
            FromGateway::Probed { instance, health } => self.hear_probed(instance, health),
            FromGateway::Loads(loads) => self.hear_loads(loads),
            FromGateway::Relieved { instance } => self.hear_relieved(instance),
            FromGateway::AtWork => {
                self.keep_awake();
                self.hear_at_work();
            }
            FromGateway::WantMetrics { servers } => {
                let text = self.metrics(&servers);
                self.tell_gateway(ToGateway::Metrics { text }, Vec::new());
            }
        }
    }

    /// The gateway should have answered by now.
    pub(super) fn check_gateway_answers(&mut self, epoch: u32) {
        let Some(gateway) = self.gateway.as_mut().filter(|gateway| gateway.epoch == epoch) else { return };
        match gateway.process.conversation.waiting_since() {
            None => gateway.is_watched = false,
            Some(since) if since + ANSWER_TIMEOUT <= Instant::now() => {
                tracing::error!("the gateway has not answered for {ANSWER_TIMEOUT:?}; it is killed");
                gateway.process.kill();
            }
            Some(since) => self.timers.set(since + ANSWER_TIMEOUT, Timer::GatewayAnswer(epoch)),
        }
    }
}
