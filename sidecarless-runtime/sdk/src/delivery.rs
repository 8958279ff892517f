//! Getting one descriptor to its destination: what is worth another try, for how long, and what is not.

use std::time::Duration;

use ramet_common::{PacketDescriptor, Refusal};
use ramet_dataplane::{SendError, clock};

use crate::instance::Instance;
use crate::wait::Pause;

/// The first pause after a refusal that may pass.
const BACKOFF_MIN: Duration = Duration::from_micros(50);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_millis(5);
/// How long a destination may be without a living instance: it may be being replaced.
pub(crate) const ABSENCE_MAX: Duration = Duration::from_secs(1);

/// Why a descriptor could not be delivered. Its slot is still this instance's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undelivered {
    /// The destination had no room until the deadline.
    Full,
    /// There is no destination.
    Unreachable,
    /// The data plane does not allow it.
    Refused(Refusal),
    /// This instance has no data plane any more, or the supervisor does not say why it was refused.
    Closed,
}

/// What a failed send calls for.
enum Verdict {
    /// Another try until the deadline.
    Busy,
    /// Another try for [`ABSENCE_MAX`].
    Absent,
    /// Another try until the supervisor has said why.
    Unexplained,
    Final(Undelivered),
}

impl Instance {
    /// Sends one descriptor, again and again while that may help.
    pub(crate) async fn deliver(&self, descriptor: &PacketDescriptor, deadline_ns: u64) -> Result<(), Undelivered> {
        match self.sender.send(std::slice::from_ref(descriptor)) {
            Ok(()) => Ok(()),
            Err(error) => self.deliver_after(error, descriptor, deadline_ns).await,
        }
    }

    /// Goes on after a first send has failed with `error`.
    pub(crate) async fn deliver_after(
        &self,
        error: SendError,
        descriptor: &PacketDescriptor,
        deadline_ns: u64,
    ) -> Result<(), Undelivered> {
        let start_ns = clock::now_ns();
        let absence_ends_ns = deadline_ns.min(after(start_ns, ABSENCE_MAX));
        let (mut error, mut pause) = (error, BACKOFF_MIN);
        let mut why = Why::default();
        loop {
            let verdict = match judge(&error) {
                Verdict::Unexplained => {
                    why.ask(self).map_or(Verdict::Unexplained, |refusal| judge(&SendError::Refused(refusal)))
                }
                verdict => verdict,
            };
            let (until_ns, in_the_end) = match verdict {
                Verdict::Busy => (deadline_ns, Undelivered::Full),
                Verdict::Absent => (absence_ends_ns, Undelivered::Unreachable),
                Verdict::Unexplained => (absence_ends_ns, Undelivered::Closed),
                Verdict::Final(undelivered) => return Err(undelivered),
            };
            if clock::now_ns() >= until_ns {
                return Err(in_the_end);
            }
            Pause::until(self, after(clock::now_ns(), pause).min(until_ns)).await;
            pause = (pause * 2).min(BACKOFF_MAX);
            match self.sender.send(std::slice::from_ref(descriptor)) {
                Ok(()) => return Ok(()),
                Err(again) => error = again,
            }
        }
    }
}

/// What the supervisor has said about refusals that the kernel does not explain.
#[derive(Default)]
struct Why {
    question: Option<u64>,
    known: Option<Refusal>,
}

impl Why {
    /// The reason as far as it is known; asks for it unless an answer is on its way.
    fn ask(&mut self, instance: &Instance) -> Option<Refusal> {
        let number = *self.question.get_or_insert_with(|| instance.refusals.ask(&instance.control));
        if let Some(refusal) = instance.refusals.answer(number) {
            (self.question, self.known) = (None, Some(refusal));
        }
        self.known
    }
}

fn judge(error: &SendError) -> Verdict {
    match error {
        SendError::Refused(Refusal::Full | Refusal::RateLimited) => Verdict::Busy,
        SendError::Refused(Refusal::NoReplica | Refusal::Unreachable) => Verdict::Absent,
        SendError::Refused(refusal) => Verdict::Final(Undelivered::Refused(*refusal)),
        SendError::RefusedUnexplained => Verdict::Unexplained,
        SendError::Closed | SendError::System(_) => Verdict::Final(Undelivered::Closed),
    }
}

/// A time in nanoseconds of the monotonic clock, later by `pause`.
pub(crate) fn after(time_ns: u64, pause: Duration) -> u64 {
    time_ns.saturating_add(u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
