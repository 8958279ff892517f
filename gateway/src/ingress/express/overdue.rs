//! Requests that have been out for a while. From then on somebody looks whether their clients have left; most are
//! answered before.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::sleep;

/// A request has been out for a while after one to two of these.
const PERIOD: Duration = Duration::from_millis(5);

/// Who waits for that. One timer serves all.
#[derive(Debug, Default)]
pub(super) struct Overdue {
    /// Those of this period, and those of the one before.
    waiting: [Notify; 2],
    now: Cell<usize>,
    /// Somebody has come in this period.
    came: Cell<bool>,
    begins: Notify,
}

impl Overdue {
    /// Completes when whoever calls now has waited for a while.
    pub(super) fn wait(&self) -> Notified<'_> {
        if !self.came.replace(true) {
            self.begins.notify_one();
        }
        self.waiting[self.now.get()].notified()
    }

    /// Wakes those who have waited, period by period for as long as there are any.
    pub(super) async fn wake_always(&self) {
        loop {
            self.begins.notified().await;
            let mut empty = 0;
            while empty < self.waiting.len() {
                sleep(PERIOD).await;
                empty = if self.came.replace(false) { 0 } else { empty + 1 };
                self.end_period();
            }
        }
    }

    /// Wakes those of the period before, whose place those of the next period take.
    fn end_period(&self) {
        let before = 1 - self.now.get();
        self.waiting[before].notify_waiters();
        self.now.set(before);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn whoever_waits_is_woken_with_the_second_end_of_a_period() {
        let overdue = Overdue::default();
        let mut first = pin!(overdue.wait());
        assert_eq!(first.as_mut().now_or_never(), None);
        overdue.end_period();
        let mut second = pin!(overdue.wait());
        assert_eq!((first.as_mut().now_or_never(), second.as_mut().now_or_never()), (None, None));
        overdue.end_period();
        assert_eq!((first.now_or_never(), second.as_mut().now_or_never()), (Some(()), None));
        overdue.end_period();
        assert_eq!(second.now_or_never(), Some(()));
    }

    #[test]
    fn whoever_comes_is_woken_whether_others_wait_or_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let overdue = Overdue::default();
            let waiting = async {
                overdue.wait().await;
                tokio::join!(overdue.wait(), async {
                    overdue.wait().await;
                    overdue.wait().await;
                });
            };
            tokio::select! {
                () = overdue.wake_always() => {}
                () = waiting => {}
            }
        });
    }
}
