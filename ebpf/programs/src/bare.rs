//! A redirect and nothing else, so that the benchmark can tell what SPROXY's checks cost. No node loads it.
//!
//! - **P1**: between the comparison with `data_end` and the return, `data..data_end` is kernel memory.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_F_INGRESS;
use aya_ebpf::bindings::sk_action::SK_DROP;
use aya_ebpf::btf_maps::SockMap;
use aya_ebpf::macros::{btf_map, sk_msg};
use aya_ebpf::programs::SkMsgContext;
use core::ptr;

const PLACES: usize = 128;

#[btf_map]
static BARE_SENDERS: SockMap<PLACES> = SockMap::new();
#[btf_map]
static BARE_RECEIVERS: SockMap<PLACES> = SockMap::new();

/// Sends a message where its first four bytes say.
#[sk_msg]
fn bare(ctx: SkMsgContext) -> u32 {
    let (data, data_end) = (ctx.data(), ctx.data_end());
    if data + size_of::<u32>() > data_end {
        return SK_DROP;
    }
    // SAFETY: P1.
    let place = unsafe { ptr::read_unaligned(data as *const u32) };
    BARE_RECEIVERS.redirect_msg(&ctx, place, u64::from(BPF_F_INGRESS)) as u32
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program in which this is reachable.
    loop {}
}

/// GPL-compatible licence, which several helpers demand.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
