//! Receives, serves and sends on one thread. The receiver lies on the desk between turns, so a handler that blocks
//! after all (a plain [`crate::Response::stream`]) can receive for itself.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ramet_common::PacketDescriptor;
use ramet_common::descriptor::Failure;
use ramet_dataplane::clock;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

use super::{AsyncContext, Handler, guarded};
use crate::context::Context;
use crate::inbox::{Hooks, Seat};
use crate::incoming::StreamedRequest;
use crate::instance::Instance;
use crate::outcome::conclude;
use crate::worker::open;

/// Wakes the loop if it sleeps.
#[derive(Debug, Default)]
struct Turn {
    is_asleep: AtomicBool,
    notify: Notify,
}

impl Turn {
    fn wake(&self) {
        if self.is_asleep.swap(false, Ordering::Relaxed) {
            self.notify.notify_one();
        }
    }
}

/// Serves until there is a recess or the data plane is closed, and gives the handler back, if no task has kept it.
pub(super) fn run<H: Handler>(instance: &Arc<Instance>, handler: H) -> Option<H> {
    let handler = Rc::new(handler);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.and_then(|runtime| {
        let served = LocalSet::new().block_on(&runtime, serve(Arc::clone(instance), Rc::clone(&handler)));
        // What a handler lets block elsewhere is not waited for.
        runtime.shutdown_background();
        served
    });
    if let Err(error) = served {
        // Without its loop this instance would never answer: better that it is replaced.
        instance.log(format_args!("the event loop failed: {error}"));
        instance.close();
    }
    Rc::into_inner(handler)
}

async fn serve<H: Handler>(instance: Arc<Instance>, handler: Rc<H>) -> io::Result<()> {
    let (turn, time) = (Arc::new(Turn::default()), Arc::new(Notify::new()));
    let (turn_hook, time_hook) = (Arc::clone(&turn), Arc::clone(&time));
    instance.inbox.hook(Hooks {
        time_changed: Box::new(move || time_hook.notify_one()),
        work_came: Box::new(move || turn_hook.wake()),
    });
    spawn_local(keep_time(Arc::clone(&instance), time));
    let arrivals = instance.inbox.arrivals().try_clone_to_owned()?;
    #[allow(deprecated, reason = "its successor is unsafe, for types that may close early; an `OwnedFd` does not")]
    let readiness = AsyncFd::with_interest(arrivals, Interest::READABLE)?;
    let mut settling: Vec<JoinHandle<()>> = Vec::new();
    while !instance.is_closed() {
        let has_come = instance.take_arrivals();
        settling.retain(|task| !task.is_finished());
        if instance.is_recess() && settling.is_empty() && instance.may_leave() {
            return Ok(());
        }
        while let Some((seat, descriptor)) = instance.begin() {
            spawn_local(serve_one(Arc::clone(&instance), seat, descriptor, Rc::clone(&handler), Arc::clone(&turn)));
        }
        // Whoever is ready runs now, and what they finish goes out together.
        yield_now().await;
        let refused = instance.flush_now();
        if !refused.is_empty() {
            let instance = Arc::clone(&instance);
            let turn = Arc::clone(&turn);
            settling.push(spawn_local(async move {
                instance.settle_all(refused).await;
                turn.wake();
            }));
        }
        if has_come || !instance.arm() {
            continue;
        }
        turn.is_asleep.store(true, Ordering::Relaxed);
        tokio::select! {
            ready = readiness.readable() => ready?.clear_ready(),
            () = turn.notify.notified() => {}
        }
        turn.is_asleep.store(false, Ordering::Relaxed);
    }
    Ok(())
}

/// Wakes what waits for a time. A task of its own, because the loop itself may be what waits.
async fn keep_time(instance: Arc<Instance>, changed: Arc<Notify>) {
    loop {
        let first = instance.inbox.first_alarm();
        let at = tokio::time::Instant::from_std(Instant::now() + first.map_or_else(Default::default, clock::until));
        tokio::select! {
            () = tokio::time::sleep_until(at), if first.is_some() => instance.inbox.ring_alarms(),
            () = changed.notified() => {}
        }
    }
}

async fn serve_one<H: Handler>(
    instance: Arc<Instance>,
    seat: Seat,
    descriptor: PacketDescriptor,
    handler: Rc<H>,
    turn: Arc<Turn>,
) {
    if let Some((service, body)) = open(&instance, seat, &descriptor) {
        let request = StreamedRequest::new(Rc::clone(&service), body);
        let context = AsyncContext::new(Context::new(Rc::clone(&service)));
        match guarded(handler.answer(request, context)).await {
            Ok(result) => conclude(service, result).await,
            // The panic's message is on standard error already.
            Err(_) => service.fail_with(Failure::Panicked),
        }
    }
    instance.finish(seat);
    turn.wake();
}
