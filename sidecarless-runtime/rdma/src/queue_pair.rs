//! A reliable connection's queue pair, which reads, or lets read, and does nothing else.

use std::fmt;
use std::io;
use std::mem;
use std::ptr::{self, NonNull};

use crate::VerbsError;
use crate::bindings::{
    __BindgenOpaqueArray8, ACCESS_REMOTE_READ, QP_FOR_INIT, QP_FOR_RTR, QP_FOR_RTS, QPS_INIT, QPS_RTR, QPS_RTS, QPT_RC,
    ibv_gid, ibv_qp, ibv_qp_attr, ibv_qp_cap, ibv_qp_init_attr, ibv_send_wr,
};
use crate::completion::CompletionQueue;
use crate::domain::Domain;
use crate::endpoint::{Address, Endpoint};

/// How long an answer may take: 4.096 µs shifted by so much, 67 ms.
const TIMEOUT_SHIFT: u8 = 14;
/// How often a packet is sent again. Soft-RoCE takes 7 for ever.
const RETRIES: u8 = 3;
/// Routers on the way at the most.
const HOPS_MAX: u8 = 64;
/// What a peer that is not ready would ask us to wait: 0.64 ms. None is ever not ready for a read.
const NOT_READY_TIMER: u8 = 12;
/// Of numbers of packets and of queue pairs.
const NUMBER_BITS: u32 = 0x00ff_ffff;

/// What a queue pair is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It reads, with so many requests posted at a time.
    Reads(u32),
    /// Its peer reads.
    LetsRead,
}

/// A queue pair and what its completions come to.
pub(crate) struct QueuePair {
    pair: NonNull<ibv_qp>,
    role: Role,
    address: Address,
    local: Endpoint,
    pub(crate) completions: CompletionQueue,
    domain: Domain,
}

// SAFETY: V5.
unsafe impl Send for QueuePair {}
// SAFETY: V5, what changes it takes it exclusively.
unsafe impl Sync for QueuePair {}

impl QueuePair {
    /// Makes one that is not connected, at an address of the device, whose first packet has a number that nobody
    /// guesses.
    pub(crate) fn new(domain: &Domain, address: Address, role: Role, first_packet: u32) -> Result<Self, VerbsError> {
        let opened = &domain.device().0;
        let requests_max = match role {
            Role::Reads(requests_max) => requests_max,
            Role::LetsRead => 1,
        };
        let completions = CompletionQueue::new(domain.device(), requests_max as i32 + 1)?;
        let mut attributes = ibv_qp_init_attr {
            qp_context: ptr::null_mut(),
            send_cq: completions.as_ptr(),
            recv_cq: completions.as_ptr(),
            srq: ptr::null_mut(),
            cap: ibv_qp_cap {
                max_send_wr: requests_max,
                max_recv_wr: 1,
                max_send_sge: 1,
                max_recv_sge: 1,
                max_inline_data: 0,
            },
            qp_type: QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: V2 the domain and the queue, V3 the attributes.
        let pair = unsafe { (opened.library.create_qp)(domain.as_ptr(), &raw mut attributes) };
        let pair = NonNull::new(pair).ok_or_else(|| VerbsError::last("ibv_create_qp"))?;
        // SAFETY: V2.
        let number = unsafe { pair.as_ref() }.qp_num;
        let local = Endpoint {
            number,
            first_packet: first_packet & NUMBER_BITS,
            gid: address.gid,
            lid: address.lid,
            mtu: address.mtu,
            reads_max: opened.answers_max,
        };
        let mut made = Self { pair, role, address, local, completions, domain: domain.clone() };
        let access = if role == Role::LetsRead { ACCESS_REMOTE_READ } else { 0 };
        made.modify("ibv_modify_qp(INIT)", QP_FOR_INIT, |to| {
            to.qp_state = QPS_INIT;
            to.port_num = address.port;
            to.qp_access_flags = access;
        })?;
        Ok(made)
    }

    /// What the peer must know.
    pub(crate) const fn local(&self) -> &Endpoint {
        &self.local
    }

    /// Connects to a peer, whatever it says: what makes no sense the kernel refuses.
    pub(crate) fn connect(&mut self, peer: &Endpoint) -> Result<(), VerbsError> {
        let (address, local) = (self.address, self.local);
        let answers = self.domain.device().0.answers_max;
        self.modify("ibv_modify_qp(RTR)", QP_FOR_RTR, |to| {
            to.qp_state = QPS_RTR;
            to.path_mtu = local.mtu.min(peer.mtu).into();
            to.dest_qp_num = peer.number & NUMBER_BITS;
            to.rq_psn = peer.first_packet & NUMBER_BITS;
            to.max_dest_rd_atomic = answers;
            to.min_rnr_timer = NOT_READY_TIMER;
            to.ah_attr.is_global = 1;
            to.ah_attr.grh.dgid = ibv_gid { _bindgen_opaque_blob: __BindgenOpaqueArray8(peer.gid) };
            to.ah_attr.grh.sgid_index = address.index;
            to.ah_attr.grh.hop_limit = HOPS_MAX;
            to.ah_attr.dlid = peer.lid;
            to.ah_attr.port_num = address.port;
        })?;
        // Who only lets read sends nothing of its own.
        if self.role == Role::LetsRead {
            return Ok(());
        }
        let asks = self.domain.device().0.asks_max.min(peer.reads_max.max(1));
        self.modify("ibv_modify_qp(RTS)", QP_FOR_RTS, |to| {
            to.qp_state = QPS_RTS;
            to.sq_psn = local.first_packet;
            to.timeout = TIMEOUT_SHIFT;
            to.retry_cnt = RETRIES;
            to.rnr_retry = RETRIES;
            to.max_rd_atomic = asks;
        })
    }

    fn modify(&mut self, call: &'static str, mask: u32, set: impl FnOnce(&mut ibv_qp_attr)) -> Result<(), VerbsError> {
        // SAFETY: V3, all of its fields may be zero.
        let mut attributes: ibv_qp_attr = unsafe { mem::zeroed() };
        set(&mut attributes);
        let modify = self.domain.device().0.library.modify_qp;
        // SAFETY: V2, V3.
        let result = unsafe { modify(self.pair.as_ptr(), &raw mut attributes, mask as i32) };
        VerbsError::check(call, result)
    }

    /// Posts requests, of which each but the last names the next one.
    ///
    /// # Safety
    /// V4 holds for what the requests write to, until the last of them is known to be completed or this is dropped.
    pub(crate) unsafe fn post(&mut self, first: *mut ibv_send_wr) -> Result<(), VerbsError> {
        // SAFETY: V2.
        let context = unsafe { self.domain.device().0.context.as_ref() };
        let Some(post) = context.post_send else {
            return Err(VerbsError { call: "ibv_post_send", source: io::ErrorKind::Unsupported.into() });
        };
        let mut bad = ptr::null_mut();
        // SAFETY: V2, V3; V4 is the caller's.
        let result = unsafe { post(self.pair.as_ptr(), first, &raw mut bad) };
        VerbsError::check("ibv_post_send", result)
    }
}

impl fmt::Debug for QueuePair {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("QueuePair").field("role", &self.role).field("local", &self.local).finish_non_exhaustive()
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: V2; from here on the device does nothing for it any more.
        let _ = unsafe { (self.domain.device().0.library.destroy_qp)(self.pair.as_ptr()) };
    }
}
