//! A completion queue, and the channel that tells of it.

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};

use crate::VerbsError;
use crate::bindings::{ibv_comp_channel, ibv_cq, ibv_wc};
use crate::device::Device;

/// How many completions one poll takes.
const BATCH: usize = 16;

/// What became of something that was posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    /// Its number.
    pub(crate) id: u64,
    /// `IBV_WC_…`
    pub(crate) status: u32,
}

/// A completion queue with a channel of its own.
pub(crate) struct CompletionQueue {
    queue: NonNull<ibv_cq>,
    channel: NonNull<ibv_comp_channel>,
    device: Device,
}

// SAFETY: V5.
unsafe impl Send for CompletionQueue {}
// SAFETY: V5, what changes it takes it exclusively.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    pub(crate) fn new(device: &Device, depth: i32) -> Result<Self, VerbsError> {
        let opened = &device.0;
        // SAFETY: V2.
        let channel = unsafe { (opened.library.create_comp_channel)(opened.context.as_ptr()) };
        let channel = NonNull::new(channel).ok_or_else(|| VerbsError::last("ibv_create_comp_channel"))?;
        let none = ptr::null_mut();
        // SAFETY: V2.
        let queue = unsafe { (opened.library.create_cq)(opened.context.as_ptr(), depth, none, channel.as_ptr(), 0) };
        let Some(queue) = NonNull::new(queue) else {
            let error = VerbsError::last("ibv_create_cq");
            // SAFETY: V2, nothing was made of it.
            let _ = unsafe { (opened.library.destroy_comp_channel)(channel.as_ptr()) };
            return Err(error);
        };
        let made = Self { queue, channel, device: device.clone() };
        made.never_block().map_err(|source| VerbsError { call: "fcntl(O_NONBLOCK)", source })?;
        Ok(made)
    }

    fn never_block(&self) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let channel = self.as_fd().as_raw_fd();
        // SAFETY: V3, the call takes no memory.
        let flags = unsafe { libc::fcntl(channel, libc::F_GETFL) };
        // SAFETY: V3, the call takes no memory.
        let set = unsafe { libc::fcntl(channel, libc::F_SETFL, flags | libc::O_NONBLOCK) };
        if flags == -1 || set == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(crate) const fn as_ptr(&self) -> *mut ibv_cq {
        self.queue.as_ptr()
    }

    /// Takes some of the completions that are there. Fewer than it might: those were all.
    pub(crate) fn poll(&mut self, mut each: impl FnMut(Completion)) -> Result<usize, VerbsError> {
        // SAFETY: V2.
        let context = unsafe { self.device.0.context.as_ref() };
        let Some(poll) = context.poll_cq else { return Err(unsupported("ibv_poll_cq")) };
        let mut completions = [const { mem::MaybeUninit::<ibv_wc>::uninit() }; BATCH];
        // SAFETY: V3.
        let count = unsafe { poll(self.queue.as_ptr(), BATCH as i32, completions.as_mut_ptr().cast()) };
        let count = usize::try_from(count).map_err(|_| VerbsError::last("ibv_poll_cq"))?;
        for completion in &completions[..count] {
            // SAFETY: V1, so many were written; fields that are not of use may not have been, and are not read.
            let (id, status) = unsafe { (&*completion.as_ptr()).told() };
            each(Completion { id, status });
        }
        Ok(count)
    }

    /// Asks to be told of the next completion. One that came before is not told of: poll once more.
    pub(crate) fn arm(&mut self) -> Result<(), VerbsError> {
        // SAFETY: V2.
        let context = unsafe { self.device.0.context.as_ref() };
        let Some(arm) = context.req_notify_cq else { return Err(unsupported("ibv_req_notify_cq")) };
        // SAFETY: V2.
        let result = unsafe { arm(self.queue.as_ptr(), 0) };
        VerbsError::check("ibv_req_notify_cq", result)
    }

    /// Takes what the channel has told. True: it had something to tell.
    pub(crate) fn drain(&mut self) -> Result<bool, VerbsError> {
        let library = self.device.0.library;
        let mut told = 0;
        loop {
            let (mut queue, mut context) = (ptr::null_mut(), ptr::null_mut());
            // SAFETY: V3.
            let result = unsafe { (library.get_cq_event)(self.channel.as_ptr(), &raw mut queue, &raw mut context) };
            if result != 0 {
                let error = VerbsError::last("ibv_get_cq_event");
                if told > 0 {
                    // SAFETY: V2, so many of this queue's own were told of.
                    unsafe { (library.ack_cq_events)(self.queue.as_ptr(), told) };
                }
                return match error.source.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(told > 0),
                    _ => Err(error),
                };
            }
            told += 1;
        }
    }
}

fn unsupported(call: &'static str) -> VerbsError {
    VerbsError { call, source: io::ErrorKind::Unsupported.into() }
}

impl ibv_wc {
    const fn told(&self) -> (u64, u32) {
        (self.wr_id, self.status)
    }
}

impl AsFd for CompletionQueue {
    /// Readable when there is something to [`drain`](Self::drain).
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: V2.
        let channel = unsafe { self.channel.as_ref() };
        // SAFETY: V2, the channel owns it.
        unsafe { BorrowedFd::borrow_raw(channel.fd) }
    }
}

impl fmt::Debug for CompletionQueue {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("CompletionQueue").field("device", &self.device.name()).finish_non_exhaustive()
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        let library = self.device.0.library;
        // SAFETY: V2, the queue pairs that use it are gone, and all that was told was acknowledged.
        let _ = unsafe { (library.destroy_cq)(self.queue.as_ptr()) };
        // SAFETY: V2.
        let _ = unsafe { (library.destroy_comp_channel)(self.channel.as_ptr()) };
    }
}
