//! The end of a connection that reads.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::slice;

use crate::VerbsError;
use crate::bindings::{
    SEND_SIGNALED, WC_REM_ACCESS_ERR, WC_REM_INV_REQ_ERR, WC_REM_OP_ERR, WC_RETRY_EXC_ERR, WC_SUCCESS, WR_RDMA_READ,
    ibv_send_wr, ibv_send_wr__bindgen_ty_1, ibv_send_wr__bindgen_ty_2, ibv_send_wr__bindgen_ty_2__bindgen_ty_1,
    ibv_send_wr__bindgen_ty_3, ibv_send_wr__bindgen_ty_3__bindgen_ty_1, ibv_send_wr__bindgen_ty_4,
    ibv_send_wr__bindgen_ty_4__bindgen_ty_2, ibv_sge,
};
use crate::buffer::Buffer;
use crate::completion::Completion;
use crate::device::Device;
use crate::domain::Domain;
use crate::endpoint::{Address, Endpoint};
use crate::queue_pair::{QueuePair, Role};
use crate::responder::random_number;

/// The most pieces that are under way at a time.
pub const PIECES_MAX: usize = 256;

/// What of the peer's memory goes where in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it is in the peer's memory.
    pub from: u64,
    /// What the peer registered it as.
    pub key: u32,
    /// Where it goes.
    pub to: usize,
    /// How long it is. No bytes: the peer is only asked whether it is there.
    pub bytes: u32,
}

impl Piece {
    const fn end(&self) -> usize {
        self.to + self.bytes as usize
    }
}

/// Why a read, and with it the connection, failed. Not one byte of what was under way may be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The peer does not let read that, or not any more.
    #[error("the peer refused a read: its memory may not be read, or not any more")]
    Refused,
    /// The peer does not answer.
    #[error("the peer does not answer reads")]
    NoAnswer,
    /// The connection failed for another reason.
    #[error("a read failed with the completion status {0} (`enum ibv_wc_status`)")]
    Failed(u32),
    /// It is not connected, or has failed before.
    #[error("the connection has ended")]
    Ended,
    /// There is no room for it.
    #[error("{asked} pieces cannot be read while only {room} more may be under way")]
    Full {
        /// How many pieces were asked for.
        asked: usize,
        /// How many may be.
        room: usize,
    },
    /// A call failed.
    #[error(transparent)]
    Call(#[from] VerbsError),
}

/// Reads a peer's memory into a buffer of its own.
///
/// A read is one or more pieces, and is under way until [`poll`](Self::poll) has told of it; its bytes in the buffer
/// are nobody's until then. The first read that fails ends the connection.
#[derive(Debug)]
pub struct Reader {
    pair: Option<QueuePair>,
    local: Endpoint,
    /// The reads that are under way, the oldest first. They are completed in this order.
    under_way: VecDeque<Read>,
    pieces: usize,
    posted: u64,
    /// Whether the channel tells of the next completion, or has told of one since it was last drained.
    is_armed: bool,
    buffer: Buffer,
}

#[derive(Debug)]
struct Read {
    id: u64,
    token: u64,
    pieces: Vec<Piece>,
}

impl Reader {
    /// One end of a connection that is to be, with a buffer of so many bytes, a multiple of a page.
    ///
    /// # Errors
    /// libibverbs'.
    pub fn new(device: &Device, address: Address, buffer_bytes: usize) -> Result<Self, VerbsError> {
        let domain = Domain::new(device)?;
        let buffer = Buffer::new(&domain, buffer_bytes)?;
        let pair = QueuePair::new(&domain, address, Role::Reads(PIECES_MAX as u32), random_number()?)?;
        let local = *pair.local();
        let under_way = VecDeque::new();
        Ok(Self { pair: Some(pair), local, under_way, pieces: 0, posted: 0, is_armed: false, buffer })
    }

    /// What the peer must know.
    #[must_use]
    pub const fn local(&self) -> &Endpoint {
        &self.local
    }

    /// Connects to a peer, which need not have connected yet.
    ///
    /// # Errors
    /// What it says makes no sense.
    pub fn connect(&mut self, peer: &Endpoint) -> Result<(), ReadError> {
        let pair = self.pair.as_mut().ok_or(ReadError::Ended)?;
        Ok(pair.connect(peer)?)
    }

    /// How long the buffer is.
    #[must_use]
    pub const fn buffer_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// How many pieces more may be under way.
    #[must_use]
    pub const fn room(&self) -> usize {
        PIECES_MAX - self.pieces
    }

    /// Begins a read, of which [`poll`](Self::poll) tells by the token.
    ///
    /// # Errors
    /// There is no room for so many pieces; or the connection has ended, as it does by any other error.
    ///
    /// # Panics
    /// If a piece does not go behind the one before it in the buffer, or a read is under way to where it goes.
    pub fn post(&mut self, token: u64, pieces: &[Piece]) -> Result<(), ReadError> {
        if pieces.is_empty() || pieces.len() > self.room() {
            return Err(ReadError::Full { asked: pieces.len(), room: self.room() });
        }
        let mut after = 0;
        for piece in pieces {
            let (to, bytes) = (piece.to, piece.bytes as usize);
            assert!(to >= after, "each piece goes behind the one before");
            assert!(to <= self.buffer.len() && bytes <= self.buffer.len() - to, "a piece goes into the buffer");
            assert!(self.is_quiet(to, bytes), "a read is under way to where a piece goes");
            after = to + bytes;
        }
        // Most reads are of one piece.
        if let [piece] = pieces {
            let mut part = self.part(piece);
            let mut request = request(self.posted, piece);
            request.sg_list = &raw mut part;
            request.send_flags = SEND_SIGNALED;
            return self.post_requests(token, pieces, slice::from_mut(&mut request));
        }
        let mut parts: Vec<ibv_sge> = pieces.iter().map(|piece| self.part(piece)).collect();
        let mut requests: Vec<ibv_send_wr> = pieces.iter().map(|piece| request(self.posted, piece)).collect();
        for (request, part) in requests.iter_mut().zip(&mut parts) {
            request.sg_list = part;
        }
        let first = requests.as_mut_ptr();
        for at in 1..requests.len() {
            // SAFETY: V3, one of the requests.
            requests[at - 1].next = unsafe { first.add(at) };
        }
        if let Some(last) = requests.last_mut() {
            last.send_flags = SEND_SIGNALED;
        }
        self.post_requests(token, pieces, &mut requests)
    }

    /// Notes and posts what each piece became, linked in order.
    fn post_requests(&mut self, token: u64, pieces: &[Piece], requests: &mut [ibv_send_wr]) -> Result<(), ReadError> {
        let pair = self.pair.as_mut().ok_or(ReadError::Ended)?;
        // First noted, then posted: V4.
        self.under_way.push_back(Read { id: self.posted, token, pieces: pieces.to_vec() });
        self.pieces += pieces.len();
        self.posted += 1;
        // SAFETY: V4, `is_quiet` is false for where they go from here on.
        let posted = unsafe { pair.post(requests.as_mut_ptr()) };
        posted.map_err(|error| {
            self.end();
            error.into()
        })
    }

    fn part(&self, piece: &Piece) -> ibv_sge {
        ibv_sge { addr: self.buffer.address(piece.to), length: piece.bytes, lkey: self.buffer.key() }
    }

    /// Tells of some of the reads that are done, in the order in which they were begun, without waiting. How many they
    /// were: if none, there are none.
    ///
    /// # Errors
    /// One failed, and with it all that were not told of, and the connection.
    pub fn poll(&mut self, mut done: impl FnMut(u64)) -> Result<usize, ReadError> {
        let Self { pair, under_way, pieces, .. } = self;
        let pair = pair.as_mut().ok_or(ReadError::Ended)?;
        let mut outcome = Ok(());
        let taken = pair.completions.poll(|Completion { id, status }| {
            if outcome.is_err() {
                return;
            }
            match under_way.pop_front_if(|read| status == WC_SUCCESS && read.id == id) {
                Some(read) => {
                    *pieces -= read.pieces.len();
                    done(read.token);
                }
                None => outcome = Err(failure(status)),
            }
        });
        let outcome = taken.map_err(ReadError::from).and_then(|taken| outcome.map(|()| taken));
        if outcome.is_err() {
            self.end();
        }
        outcome
    }

    /// Tells of all reads that are done, like [`poll`](Self::poll), and lets [`readiness`](Self::readiness) tell of the
    /// next one.
    ///
    /// # Errors
    /// The same.
    pub fn take(&mut self, mut done: impl FnMut(u64)) -> Result<(), ReadError> {
        loop {
            while self.poll(&mut done)? > 0 {}
            let pair = self.pair.as_mut().ok_or(ReadError::Ended)?;
            let told = pair.completions.drain();
            let armed = match told {
                // Nothing was told since, so that the next will be.
                Ok(false) if self.is_armed => return Ok(()),
                Ok(_) => pair.completions.arm(),
                Err(error) => Err(error),
            };
            if let Err(error) = armed {
                self.end();
                return Err(error.into());
            }
            // What came before it was armed is not told of.
            self.is_armed = true;
        }
    }

    /// Readable once a read was completed after [`take`](Self::take). None: the connection has ended.
    #[must_use]
    pub fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.pair.as_ref().map(|pair| pair.completions.as_fd())
    }

    /// How many reads are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Ends the connection, with all reads that are under way.
    pub fn end(&mut self) {
        // The device writes nothing any more once the pair is gone.
        self.pair = None;
        self.under_way.clear();
        self.pieces = 0;
    }

    /// Bytes of the buffer.
    ///
    /// # Panics
    /// If they are not in it, or a read is under way to them.
    #[must_use]
    pub fn bytes(&self, at: usize, bytes: usize) -> &[u8] {
        assert!(self.is_quiet(at, bytes), "a read is under way to these bytes");
        // SAFETY: V4, by the assertion; no read can be posted while this is borrowed.
        unsafe { self.buffer.quiet(at, bytes) }
    }

    /// Bytes of the buffer, to be written to.
    ///
    /// # Panics
    /// If they are not in it, or a read is under way to them.
    pub fn bytes_mut(&mut self, at: usize, bytes: usize) -> &mut [u8] {
        assert!(self.is_quiet(at, bytes), "a read is under way to these bytes");
        // SAFETY: V4, by the assertion; no read can be posted while this is borrowed.
        unsafe { self.buffer.quiet_mut(at, bytes) }
    }

    fn is_quiet(&self, at: usize, bytes: usize) -> bool {
        let end = at.saturating_add(bytes);
        // They ascend, so that most reads are out of question by their two ends.
        let reaches = |read: &&Read| {
            let (first, last) = (read.pieces.first(), read.pieces.last());
            first.is_some_and(|first| first.to < end) && last.is_some_and(|last| at < last.end())
        };
        let overlaps = |piece: &Piece| piece.to < end && at < piece.end();
        !self.under_way.iter().filter(reaches).any(|read| read.pieces.iter().any(overlaps))
    }
}

fn failure(status: u32) -> ReadError {
    match status {
        WC_REM_ACCESS_ERR | WC_REM_INV_REQ_ERR | WC_REM_OP_ERR => ReadError::Refused,
        WC_RETRY_EXC_ERR => ReadError::NoAnswer,
        status => ReadError::Failed(status),
    }
}

fn request(id: u64, piece: &Piece) -> ibv_send_wr {
    let rdma = ibv_send_wr__bindgen_ty_2__bindgen_ty_1 { remote_addr: piece.from, rkey: piece.key };
    let nothing = ibv_send_wr__bindgen_ty_4__bindgen_ty_2 { hdr: std::ptr::null_mut(), hdr_sz: 0, mss: 0 };
    ibv_send_wr {
        wr_id: id,
        next: std::ptr::null_mut(),
        sg_list: std::ptr::null_mut(),
        num_sge: i32::from(piece.bytes > 0),
        opcode: WR_RDMA_READ,
        send_flags: 0,
        __bindgen_anon_1: ibv_send_wr__bindgen_ty_1 { imm_data: 0 },
        wr: ibv_send_wr__bindgen_ty_2 { rdma },
        qp_type: ibv_send_wr__bindgen_ty_3 { xrc: ibv_send_wr__bindgen_ty_3__bindgen_ty_1 { remote_srqn: 0 } },
        __bindgen_anon_2: ibv_send_wr__bindgen_ty_4 { tso: nothing },
    }
}
