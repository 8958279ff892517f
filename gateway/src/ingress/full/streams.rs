//! What happens on the streams of an HTTP/2 connection, and what does not: pings keep it open for ever, and its flow
//! control can leave one answer unread while the others go on.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;
use tokio::time::{Instant, sleep_until};

/// The requests of a connection that are not answered to the end.
#[derive(Debug)]
pub(in crate::ingress) struct Streams {
    /// For each, since when its answer waits for the client, if it does.
    unread_since: RefCell<Slab<Option<Instant>>>,
    idle_since: Cell<Instant>,
}

/// Why a connection should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing was asked for a while.
    Idle,
    /// An answer was left unread for a while.
    Stalled,
}

/// One request.
#[derive(Debug)]
pub(in crate::ingress) struct Stream {
    streams: Rc<Streams>,
    key: usize,
}

impl Default for Streams {
    fn default() -> Self {
        Self { unread_since: RefCell::default(), idle_since: Cell::new(Instant::now()) }
    }
}

impl Streams {
    /// A request has come.
    pub(in crate::ingress) fn begin(self: &Rc<Self>) -> Stream {
        let key = self.unread_since.borrow_mut().insert(None);
        Stream { streams: Rc::clone(self), key }
    }

    /// Completes when the connection should end.
    pub(super) async fn watch(&self, idle_max: Duration, unread_max: Duration) -> Verdict {
        loop {
            let now = Instant::now();
            let (at, verdict) = self.next(now, idle_max, unread_max);
            match verdict {
                Some(verdict) if at <= now => return verdict,
                Some(_) | None => sleep_until(at).await,
            }
        }
    }

    /// When to look again, and what it is then if nothing changes.
    fn next(&self, now: Instant, idle_max: Duration, unread_max: Duration) -> (Instant, Option<Verdict>) {
        let unread_since = self.unread_since.borrow();
        if unread_since.is_empty() {
            return (self.idle_since.get() + idle_max, Some(Verdict::Idle));
        }
        match unread_since.iter().filter_map(|(_, since)| *since).min() {
            Some(since) => (since + unread_max, Some(Verdict::Stalled)),
            None => (now + unread_max, None),
        }
    }
}

impl Stream {
    /// The next piece of the answer is the client's to take.
    pub(in crate::ingress) fn waits_for_client(&self) {
        self.set(Some(Instant::now()));
    }

    /// The next piece is not there yet.
    pub(in crate::ingress) fn waits_for_function(&self) {
        self.set(None);
    }

    fn set(&self, since: Option<Instant>) {
        if let Some(place) = self.streams.unread_since.borrow_mut().get_mut(self.key) {
            *place = since;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.streams.unread_since.borrow_mut().remove(self.key);
        self.streams.idle_since.set(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unread_answer_decides_and_else_how_long_nothing_was_asked() {
        let (idle, unread) = (Duration::from_secs(60), Duration::from_secs(30));
        let streams = Rc::new(Streams::default());
        let now = Instant::now();
        let next = || streams.next(now, idle, unread);
        assert_eq!(next(), (streams.idle_since.get() + idle, Some(Verdict::Idle)));
        let (one, other) = (streams.begin(), streams.begin());
        assert_eq!(next(), (now + unread, None), "both are being worked on");
        other.waits_for_client();
        let since = streams.unread_since.borrow()[other.key].expect("it waits");
        one.waits_for_client();
        assert_eq!(next(), (since + unread, Some(Verdict::Stalled)));
        other.waits_for_function();
        drop(one);
        assert_eq!(next(), (now + unread, None));
        drop(other);
        assert_eq!(next().1, Some(Verdict::Idle));
    }
}
