//! The open connections of a worker, and the notice on which they end.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Counts connections and tells them to end.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Cell<usize>,
    is_draining: Cell<bool>,
    notice: Notify,
    all_closed: Notify,
}

/// A connection's place in the count.
#[derive(Debug)]
pub(super) struct Open(Rc<Connections>);

impl Connections {
    pub(super) fn enter(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        Open(Rc::clone(self))
    }

    /// Tells every connection to end after what it is at, and waits until all have.
    pub(super) async fn drain(&self) {
        self.is_draining.set(true);
        self.notice.notify_waiters();
        while self.open.get() > 0 {
            self.all_closed.notified().await;
        }
    }
}

impl Open {
    /// Whether the connection is to end.
    pub(super) fn is_draining(&self) -> bool {
        self.0.is_draining.get()
    }

    /// Completes when the connection is to end, if it was not to before this call.
    pub(super) fn notice(&self) -> Notified<'_> {
        self.0.notice.notified()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if self.0.open.get() == 0 {
            self.0.all_closed.notify_one();
        }
    }
}
