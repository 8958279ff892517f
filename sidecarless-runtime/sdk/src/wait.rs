//! How the SDK waits. Its own code is written once, as futures: a blocking handler's thread drives them here, receiving
//! for all while it waits; the async runtime polls the same ones.

use std::cell::Cell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use ramet_dataplane::clock;

use crate::instance::Instance;

/// A thread that can be woken, whatever it waits for.
#[derive(Debug)]
pub(crate) struct Parker {
    thread: Thread,
    woken: AtomicBool,
}

impl Parker {
    /// Whether what this thread waited for has come. Set under the inbox's lock, so whoever looks under it misses
    /// nothing.
    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    /// Makes the thread look again, without anything having come for it.
    pub(crate) fn nudge(&self) {
        self.thread.unpark();
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // SYNC: answer there; pairs with the load in `is_woken`.
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// What the last future that was polled on this thread, and was not ready, waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pending {
    /// For a descriptor, so the thread may as well receive.
    Descriptor { until_ns: u64 },
    /// For time to pass.
    Time { until_ns: u64 },
}

thread_local! {
    static HERE: Arc<Parker> =
        Arc::new(Parker { thread: std::thread::current(), woken: AtomicBool::new(false) });
    static PENDING: Cell<Pending> = const { Cell::new(Pending::Time { until_ns: 0 }) };
}

/// This thread.
pub(crate) fn here() -> Arc<Parker> {
    HERE.with(Arc::clone)
}

/// Said by a future of this crate before it returns `Pending`.
pub(crate) fn waits_for(pending: Pending) {
    PENDING.set(pending);
}

/// Runs one of the SDK's futures on this thread.
pub(crate) fn block_on<F: Future>(instance: &Instance, future: F) -> F::Output {
    let mut future = pin!(future);
    let here = here();
    let waker = Waker::from(Arc::clone(&here));
    let mut context = Context::from_waker(&waker);
    loop {
        here.woken.store(false, Ordering::Relaxed);
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        match PENDING.get() {
            Pending::Descriptor { until_ns } => instance.receive_until(&here, until_ns),
            Pending::Time { until_ns } => std::thread::sleep(clock::until(until_ns)),
        }
    }
}

/// A wait for time to pass, for back-offs.
pub(crate) struct Pause<'a> {
    instance: &'a Instance,
    until_ns: u64,
}

impl<'a> Pause<'a> {
    pub(crate) fn until(instance: &'a Instance, until_ns: u64) -> Self {
        Self { instance, until_ns }
    }
}

impl Future for Pause<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if clock::now_ns() >= self.until_ns {
            return Poll::Ready(());
        }
        waits_for(Pending::Time { until_ns: self.until_ns });
        self.instance.inbox.set_alarm(self.until_ns, context.waker());
        Poll::Pending
    }
}
