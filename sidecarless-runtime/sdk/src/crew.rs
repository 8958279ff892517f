//! The threads that serve. They end for a recess, and others take their seats after it.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::context::Context;
use crate::error::Result;
use crate::inbox::Seat;
use crate::incoming::StreamedRequest;
use crate::instance::Instance;
use crate::response::Response;
use crate::worker;

/// Who serves an instance's requests.
pub(crate) trait Crew {
    /// The seats that it takes at an instance.
    fn seats(&self, instance: &Instance) -> Vec<Seat>;

    /// Starts a thread at each of these seats, which nobody has.
    fn start(&mut self, instance: &Arc<Instance>, seats: &[Seat]) -> io::Result<()>;

    /// Waits for the ends of the threads that have left these seats.
    fn part(&mut self, seats: &[Seat]) -> io::Result<()>;
}

/// A thread for each seat.
pub(crate) struct Threads<H> {
    handler: Arc<H>,
    running: Vec<(Seat, JoinHandle<()>)>,
}

impl<H> Threads<H> {
    pub(crate) fn new(handler: H) -> Self {
        Self { handler: Arc::new(handler), running: Vec::new() }
    }
}

impl<H> Crew for Threads<H>
where
    H: Fn(StreamedRequest, &Context) -> Result<Response> + Send + Sync + 'static,
{
    fn seats(&self, instance: &Instance) -> Vec<Seat> {
        (0..instance.concurrency).map(Seat).collect()
    }

    fn start(&mut self, instance: &Arc<Instance>, seats: &[Seat]) -> io::Result<()> {
        for &seat in seats {
            let (mine, handler) = (Arc::clone(instance), Arc::clone(&self.handler));
            let work = move || worker::work(&mine, seat, &*handler);
            let thread = spawn(format!("serve-{}", seat.0), work).map_err(|error| {
                let (number, of) = (seat.0 + 1, instance.concurrency);
                let why =
                    format!("thread {number} of {of} (`concurrency`; `resources.processes` bounds them): {error}");
                io::Error::new(error.kind(), why)
            })?;
            self.running.push((seat, thread));
        }
        Ok(())
    }

    fn part(&mut self, seats: &[Seat]) -> io::Result<()> {
        for (_, thread) in self.running.extract_if(.., |(seat, _)| seats.contains(seat)) {
            thread.join().map_err(|_| io::Error::other("a thread that serves has panicked"))?;
        }
        Ok(())
    }
}

pub(crate) fn spawn<T: Send + 'static>(
    name: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name).spawn(work)
}
