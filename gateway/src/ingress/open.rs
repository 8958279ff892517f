//! The open connections of a worker: whether there may be more, and the notice on which they end.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// For so long a connection that is to end takes one request more: the client may have sent it before it could know.
pub(super) const LAST_REQUEST: Duration = Duration::from_millis(250);

/// Counts connections and tells them to end.
#[derive(Debug)]
pub(crate) struct Connections {
    room: Arc<Semaphore>,
    open: Cell<usize>,
    is_draining: Cell<bool>,
    notice: Notify,
    all_closed: Notify,
}

/// A connection's place in the count of its worker.
#[derive(Debug)]
pub(super) struct Open(Rc<Connections>);

/// A connection's place among all that there may be, whichever worker has it.
#[derive(Debug)]
pub(crate) struct Room {
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    /// Each takes of that room.
    pub(crate) fn new(room: Arc<Semaphore>) -> Rc<Self> {
        Rc::new(Self {
            room,
            open: Cell::default(),
            is_draining: Cell::default(),
            notice: Notify::default(),
            all_closed: Notify::default(),
        })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.open.get()
    }

    /// Waits until there is room for one more.
    pub(super) async fn room(&self) -> Option<Room> {
        let permit = Arc::clone(&self.room).acquire_owned().await;
        permit.ok().map(|permit| Room { _permit: permit })
    }

    pub(super) fn enter(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        Open(Rc::clone(self))
    }

    /// Tells every connection to end after what it is at.
    pub(super) fn drain(&self) {
        self.is_draining.set(true);
        self.notice.notify_waiters();
    }

    /// Whether all are to end.
    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// Completes when all are to end.
    pub(super) async fn drains(&self) {
        let notice = self.notice.notified();
        if !self.is_draining() {
            notice.await;
        }
    }

    /// Waits until all have ended.
    pub(super) async fn all_closed(&self) {
        while self.open.get() > 0 {
            self.all_closed.notified().await;
        }
    }
}

impl Open {
    /// Whether the connection is to end.
    pub(super) fn is_draining(&self) -> bool {
        self.0.is_draining()
    }

    /// What counts it, which outlives it.
    pub(super) fn connections(&self) -> Rc<Connections> {
        Rc::clone(&self.0)
    }

    /// Completes when the connection is to end.
    pub(super) async fn drains(&self) {
        self.0.drains().await;
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
