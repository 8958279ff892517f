//! How long a connection may be silent.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Ends a connection on which nothing happens. Its timer is set once per time-out, not once per request.
pub(super) struct Idle {
    limit: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Idle {
    pub(super) fn new(limit: Duration) -> Self {
        let since = Instant::now();
        Self { limit, since, timer: Box::pin(sleep_until(since + limit)) }
    }

    pub(super) fn restart(self: Pin<&mut Self>, now: Instant) {
        self.get_mut().since = now;
    }

    pub(super) fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        ready!(this.timer.as_mut().poll(context));
        let ends = this.since + this.limit;
        if Instant::now() >= ends {
            return Poll::Ready(());
        }
        this.timer.as_mut().reset(ends);
        this.timer.as_mut().poll(context)
    }
}
