//! How long a connection may be silent.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Ends a connection on which nothing happens. Its timer is set once per time-out, not once per request, and
/// only where there is something to wait for.
pub(super) struct Idle {
    limit: Duration,
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    pub(super) const fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, since: now, timer: None }
    }

    pub(super) fn restart(self: Pin<&mut Self>, now: Instant) {
        self.get_mut().since = now;
    }

    pub(super) fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Self { limit, since, timer } = self.get_mut();
        let ends = *since + *limit;
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(ends)));
        ready!(timer.as_mut().poll(context));
        if Instant::now() >= ends {
            return Poll::Ready(());
        }
        timer.as_mut().reset(ends);
        timer.as_mut().poll(context)
    }
}
