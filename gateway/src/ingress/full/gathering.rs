//! Answers of an HTTP/2 connection on their way to the socket, a few in each system call.
//!
//! Of the requests that come together many are answered together, and HTTP/2's state machine flushes after each. One
//! write for each would cost more than the answer; a single one for all would leave the client idle until the last is
//! made. So small writes are gathered up to [`WRITES_MAX`], and what is left goes when the connection has nothing more
//! to do.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

/// How many writes go to the socket at once.
const WRITES_MAX: usize = 8;

/// What is longer is written from where it is.
const COPY_BYTES_MAX: usize = 2 << 10;

/// How much is gathered at the most.
const GATHERED_BYTES_MAX: usize = 16 << 10;

/// After how many writes the connection reads no more until the worker's other tasks have run.
const TURN_WRITES_MAX: usize = 64;

/// The connection's socket; hyper has one end and [`Flushing`] the other.
pub(super) struct Gathering<T>(Rc<RefCell<Gathered<T>>>);

struct Gathered<T> {
    io: T,
    bytes: Vec<u8>,
    /// How many of `bytes` have been written.
    written: usize,
    /// How many writes `bytes` are.
    writes: usize,
    writes_this_turn: usize,
}

/// A connection that leaves nothing behind in its [`Gathering`].
pub(super) struct Flushing<C, T> {
    connection: C,
    gathered: Rc<RefCell<Gathered<T>>>,
}

impl<T> Gathering<T> {
    pub(super) fn new(io: T) -> Self {
        let gathered = Gathered { io, bytes: Vec::new(), written: 0, writes: 0, writes_this_turn: 0 };
        Self(Rc::new(RefCell::new(gathered)))
    }
}

impl<T: Write + Unpin> Gathering<T> {
    /// Flushes after each time that what `serve` returns has run.
    pub(super) fn flushing<C>(self, serve: impl FnOnce(Self) -> C) -> Flushing<C, T> {
        let gathered = Rc::clone(&self.0);
        Flushing { connection: serve(self), gathered }
    }
}

impl<C, T> Flushing<C, T> {
    pub(super) fn connection(&mut self) -> &mut C {
        &mut self.connection
    }
}

impl<T: Write + Unpin> Gathered<T> {
    fn poll_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.bytes.len() {
            match ready!(Pin::new(&mut self.io).poll_write(context, &self.bytes[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.bytes.clear();
        (self.written, self.writes) = (0, 0);
        Pin::new(&mut self.io).poll_flush(context)
    }

    /// Takes `bytes`, all together that long, if they are few. `None`: they are to be written from where they are.
    fn poll_take<'b>(
        &mut self,
        context: &mut Context<'_>,
        total: usize,
        bytes: impl Iterator<Item = &'b [u8]>,
    ) -> Poll<io::Result<Option<usize>>> {
        self.writes_this_turn += 1;
        let is_small = total <= COPY_BYTES_MAX;
        if !is_small || self.writes == WRITES_MAX || self.bytes.len() + total > GATHERED_BYTES_MAX {
            ready!(self.poll_out(context))?;
        }
        if !is_small {
            return Poll::Ready(Ok(None));
        }
        bytes.for_each(|bytes| self.bytes.extend_from_slice(bytes));
        self.writes += 1;
        Poll::Ready(Ok(Some(total)))
    }
}

impl<T: Read + Unpin> Read for Gathering<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.borrow_mut();
        if gathered.writes_this_turn >= TURN_WRITES_MAX {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut gathered.io).poll_read(context, into)
    }
}

impl<T: Write + Unpin> Write for Gathering<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut gathered = self.0.borrow_mut();
        match ready!(gathered.poll_take(context, bytes.len(), std::iter::once(bytes)))? {
            Some(taken) => Poll::Ready(Ok(taken)),
            None => Pin::new(&mut gathered.io).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gathered = self.0.borrow_mut();
        let total = slices.iter().map(|slice| slice.len()).sum();
        match ready!(gathered.poll_take(context, total, slices.iter().map(|slice| &**slice)))? {
            Some(taken) => Poll::Ready(Ok(taken)),
            None => Pin::new(&mut gathered.io).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().io.is_write_vectored()
    }

    /// Flushes what was not gathered; the rest is [`Flushing`]'s.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.borrow_mut();
        if gathered.bytes.is_empty() { Pin::new(&mut gathered.io).poll_flush(context) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.borrow_mut();
        ready!(gathered.poll_out(context))?;
        Pin::new(&mut gathered.io).poll_shutdown(context)
    }
}

impl<C, T, E> Future for Flushing<C, T>
where
    C: Future<Output = Result<(), E>> + Unpin,
    T: Write + Unpin,
{
    type Output = Result<(), E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.gathered.borrow_mut().writes_this_turn = 0;
        let ended = Pin::new(&mut self.connection).poll(context);
        match self.gathered.borrow_mut().poll_out(context) {
            Poll::Ready(Err(error)) if ended.is_pending() => {
                tracing::debug!(%error, "a connection ended with an error");
                Poll::Ready(Ok(()))
            }
            Poll::Ready(_) | Poll::Pending => ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    use hyper::rt::ReadBuf;

    /// Takes so many bytes, and keeps each write apart.
    #[derive(Default)]
    struct Sink {
        room: usize,
        writes: Vec<Vec<u8>>,
    }

    impl Write for Sink {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Poll::Pending;
            }
            self.room -= taken;
            self.writes.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    type Connection = Pin<Box<dyn Future<Output = Result<(), ()>>>>;

    impl Read for Sink {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
            into.put_slice(b"?");
            Poll::Ready(Ok(()))
        }
    }

    /// A connection that writes `pieces`, flushes after each, and then waits for ever.
    fn writing(room: usize, pieces: Vec<Vec<u8>>) -> Flushing<Connection, Sink> {
        Gathering::new(Sink { room, ..Sink::default() }).flushing(|mut io| {
            let work: Connection = Box::pin(async move {
                for piece in pieces {
                    let mut left = &piece[..];
                    while !left.is_empty() {
                        let written = poll_fn(|context| Pin::new(&mut io).poll_write(context, left)).await;
                        left = &left[written.expect("taken")..];
                        poll_fn(|context| Pin::new(&mut io).poll_flush(context)).await.expect("flushed");
                    }
                }
                std::future::pending().await
            });
            work
        })
    }

    fn run(flushing: &mut Flushing<Connection, Sink>) -> Vec<Vec<u8>> {
        let context = &mut Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut *flushing).poll(context).is_pending());
        std::mem::take(&mut flushing.gathered.borrow_mut().io.writes)
    }

    #[test]
    fn small_writes_go_in_groups_and_the_last_ones_without_being_asked_for() {
        let pieces: Vec<_> = (0..WRITES_MAX as u8 + 3).map(|piece| vec![piece; 3]).collect();
        let written = run(&mut writing(usize::MAX, pieces.clone()));
        assert_eq!(written, [pieces[..WRITES_MAX].concat(), pieces[WRITES_MAX..].concat()]);
    }

    #[test]
    fn a_large_write_comes_after_the_small_ones_before_it() {
        let pieces = vec![vec![1; 5], vec![2; COPY_BYTES_MAX + 1], vec![3; 5]];
        assert_eq!(run(&mut writing(usize::MAX, pieces.clone())), pieces);
    }

    #[test]
    fn what_the_socket_does_not_take_is_kept_and_goes_later() {
        let pieces: Vec<_> = (0..3 * WRITES_MAX as u8).map(|piece| vec![piece; 4]).collect();
        let mut flushing = writing(10, pieces.clone());
        let mut written = run(&mut flushing).concat();
        for room in [1, 30, usize::MAX] {
            flushing.gathered.borrow_mut().io.room = room;
            written.extend(run(&mut flushing).concat());
        }
        assert_eq!(written, pieces.concat());
    }

    #[test]
    fn a_client_that_always_asks_for_more_leaves_the_thread_to_others() {
        let mut flushing = Gathering::new(Sink { room: usize::MAX, ..Sink::default() }).flushing(|mut io| {
            let work: Connection = Box::pin(async move {
                loop {
                    let mut question = [0; 1];
                    let mut into = ReadBuf::new(&mut question);
                    poll_fn(|context| Pin::new(&mut io).poll_read(context, into.unfilled())).await.expect("a question");
                    poll_fn(|context| Pin::new(&mut io).poll_write(context, b"!")).await.expect("taken");
                }
            });
            work
        });
        for _ in 0..2 {
            assert_eq!(run(&mut flushing).concat(), [b'!'; TURN_WRITES_MAX]);
        }
    }
}
