//! The short-cut: what gateway and function say to each other on a loopback connection goes from one socket's send
//! straight into the other's receive queue, past TCP.
//!
//! A connection of the gateway's is known by what the supervisor has tied to its socket; the other end is the one that
//! this one connects to. Both are put into a sockhash as they are established, before either can have sent anything.
//! For each direction the first send decides: if the other end is there by then all goes by the short-cut, until
//! [`SHORTCUT_BYTES_MAX`], else all goes by TCP. So nothing overtakes anything.

use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::bindings::{BPF_F_INGRESS, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_ops};
use aya_ebpf::btf_maps::{LruHashMap, PerCpuHashMap, SkStorage, SockHash};
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_map_delete_elem, bpf_sk_storage_get};
use aya_ebpf::macros::{btf_map, sk_msg, sock_ops};
use aya_ebpf::programs::{SkMsgContext, SockOpsContext};
use core::ptr;
use ramet_common::FunctionId;
use ramet_common::map::FUNCTIONS_MAX;
use ramet_common::shortcut::{
    End, Flow, GatewayEnd, Link, SHORTCUT_BYTES_MAX, SHORTCUT_ENDS_MAX, SIDE_GATEWAY, ShortcutCount, WAY_OPEN,
    WAY_SHORT, WAY_TCP,
};

use crate::asm;
use crate::value::field;

#[btf_map]
static GATEWAY_ENDS: SkStorage<GatewayEnd> = SkStorage::new();
// The other end of a connection may never come.
#[btf_map]
static EXPECTED: LruHashMap<End, Link, 4096> = LruHashMap::new();
#[btf_map]
static ENDS: SockHash<Link, { SHORTCUT_ENDS_MAX as usize }> = SockHash::new();
#[btf_map]
static FLOWS: SkStorage<Flow> = SkStorage::new();
#[btf_map]
static SHORTCUT_COUNTS: PerCpuHashMap<
    FunctionId,
    ShortcutCount,
    { FUNCTIONS_MAX as usize },
    { BPF_F_NO_PREALLOC as usize },
> = PerCpuHashMap::new();

/// `BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB` and its passive twin.
const ACTIVE_ESTABLISHED: u32 = 4;
const PASSIVE_ESTABLISHED: u32 = 5;
const AF_INET: u32 = 2;
/// A listener on all addresses of both kinds has sockets of this family for connections over IPv4, too.
const AF_INET6: u32 = 10;

/// Puts both ends of a connection of the gateway's into the sockhash.
#[sock_ops]
fn established(ctx: SockOpsContext) -> u32 {
    let op = ctx.op();
    if ctx.family() == AF_INET || ctx.family() == AF_INET6 {
        if op == ACTIVE_ESTABLISHED {
            active(&ctx);
        } else if op == PASSIVE_ESTABLISHED {
            passive(&ctx);
        }
    }
    0
}

/// The gateway's end. The other one is established only after this, by the acknowledgement that it sends next.
#[inline(always)]
fn active(ctx: &SockOpsContext) -> Option<()> {
    let socket = socket_of(ctx)?;
    let map = ptr::addr_of!(GATEWAY_ENDS).cast_mut().cast();
    // SAFETY: `map` is a socket storage map and `socket` is not null.
    let far = unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), 0) }.cast::<GatewayEnd>();
    if far.is_null() {
        return None;
    }
    // SAFETY: P2.
    let far = unsafe { ptr::read_volatile(far) };
    let flow = flow_of(socket)?;
    // SAFETY: P2; nobody else writes to it before the connection is established.
    let before = unsafe { ptr::read_volatile(flow) }.link;
    if before.connection > 0 {
        // A socket that is disconnected stays in the sockhash, with what was redirected to it and never read.
        // SAFETY: `ENDS` is a sockhash, and `before` a key of it.
        unsafe { bpf_map_delete_elem(ptr::addr_of!(ENDS).cast_mut().cast(), ptr::from_ref(&before).cast()) };
    }
    // SAFETY: the context is the kernel's.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.ops.cast()) };
    let connection = before.connection.wrapping_add(1);
    let link = Link { socket: cookie, connection, side: SIDE_GATEWAY, far };
    begin(flow, link);
    EXPECTED.insert(end_of(ctx).other(), link.other(), 0).ok()?;
    enter(ctx, link)
}

/// The function's end, if it is that of a connection of the gateway's.
#[inline(always)]
fn passive(ctx: &SockOpsContext) -> Option<()> {
    let end = end_of(ctx);
    let expected = EXPECTED.get_ptr(end)?;
    // SAFETY: P2.
    let link = unsafe { ptr::read_volatile(expected) };
    let _ = EXPECTED.remove(end);
    begin(flow_of(socket_of(ctx)?)?, link);
    enter(ctx, link)
}

/// What is kept of a socket, which is nothing at first.
#[inline(always)]
fn flow_of(socket: *mut bpf_sock) -> Option<*mut Flow> {
    let map = ptr::addr_of!(FLOWS).cast_mut().cast();
    let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    // SAFETY: `map` is a socket storage map and `socket` is not null; what is made is all zeros.
    let flow = unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), flags) }.cast::<Flow>();
    (!flow.is_null()).then_some(flow)
}

/// Notes that nothing was sent yet on this connection.
#[inline(always)]
fn begin(flow: *mut Flow, link: Link) {
    let new = Flow { link, redirected: 0, way: WAY_OPEN, reserved: 0 };
    // SAFETY: P2; nothing is sent on this socket before this returns.
    unsafe { ptr::write_volatile(flow, new) };
}

#[inline(always)]
fn enter(ctx: &SockOpsContext, link: Link) -> Option<()> {
    // SAFETY: the kernel passes a valid context, and nobody else has it.
    let ops: &mut bpf_sock_ops = unsafe { &mut *ctx.ops };
    ENDS.update(link, ops, 0).ok()
}

#[inline(always)]
fn socket_of(ctx: &SockOpsContext) -> Option<*mut bpf_sock> {
    // SAFETY: the kernel passes a valid context.
    let field = unsafe { &(*ctx.ops).__bindgen_anon_2 };
    // SAFETY: the union's other members only fill its 8 bytes.
    let socket = unsafe { field.sk };
    (!socket.is_null()).then_some(socket)
}

/// Reads one field of the context by itself: the verifier refuses a load of two at once.
macro_rules! read {
    ($ctx:expr, $field:ident) => {{
        // SAFETY: the kernel passes a valid context.
        let field = unsafe { &raw const (*$ctx.ops).$field };
        // SAFETY: as above.
        unsafe { ptr::read_volatile(field) }
    }};
}

#[inline(always)]
fn end_of(ctx: &SockOpsContext) -> End {
    End {
        // SAFETY: the context is the kernel's.
        network: unsafe { bpf_get_netns_cookie(ctx.ops.cast()) },
        local_address: read!(ctx, local_ip4),
        remote_address: read!(ctx, remote_ip4),
        local_port: read!(ctx, local_port),
        remote_port: read!(ctx, remote_port).swap_bytes(),
    }
}

/// Passes what is sent straight to the other end, or lets TCP have it.
#[sk_msg]
fn shortcut(ctx: SkMsgContext) -> u32 {
    // Whatever is wrong, TCP delivers it.
    let _ = pass_over(&ctx);
    SK_PASS
}

#[inline(always)]
fn pass_over(ctx: &SkMsgContext) -> Option<()> {
    // SAFETY: the kernel passes a valid context.
    let field = unsafe { &(*ctx.msg).__bindgen_anon_3 };
    // SAFETY: the union's other members only fill its 8 bytes.
    let socket = unsafe { field.sk };
    if socket.is_null() {
        return None;
    }
    let map = ptr::addr_of!(FLOWS).cast_mut().cast();
    // SAFETY: `map` is a socket storage map and `socket` was just seen not to be null.
    let flow = unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), 0) }.cast::<Flow>();
    if flow.is_null() {
        return None;
    }
    // SAFETY: P2, P3: only this program uses it once the connection is established.
    let flow = unsafe { &mut *flow };
    let bytes = u64::from(ctx.size());
    if flow.way == WAY_SHORT && flow.redirected + bytes > SHORTCUT_BYTES_MAX {
        flow.way = WAY_TCP;
    }
    if flow.way != WAY_TCP {
        let verdict = ENDS.redirect_msg(ctx, flow.link.other(), u64::from(BPF_F_INGRESS));
        flow.way = if verdict == i64::from(SK_PASS) { WAY_SHORT } else { WAY_TCP };
    }
    let counts = counts_of(flow.link.far.function)?;
    let (sends, sent_bytes) = if flow.way == WAY_SHORT {
        flow.redirected += bytes;
        (field!(counts, redirected), field!(counts, redirected_bytes))
    } else {
        (field!(counts, passed), field!(counts, passed_bytes))
    };
    // SAFETY: P2; atomic because another task may run the program on this CPU in between.
    unsafe { asm::add_u64(sends, 1) };
    // SAFETY: as above.
    unsafe { asm::add_u64(sent_bytes, bytes) };
    Some(())
}

#[inline(always)]
fn counts_of(function: FunctionId) -> Option<*mut ShortcutCount> {
    SHORTCUT_COUNTS.get_ptr_mut(function)
}
