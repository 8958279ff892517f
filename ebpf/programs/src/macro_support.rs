//! What the log macros expect, with the ring declared through BTF so that libbpf can load the object too.

pub use aya_log_common::{Argument, DefaultFormatter, DisplayHint, Field, Header, Level, LogValueLength};

use aya_ebpf::Global;
use aya_ebpf::btf_maps::RingBuf;
use aya_ebpf::macros::btf_map;

/// How many bytes of unread log lines the kernel keeps; further ones are dropped.
const LOG_BYTES: usize = 64 << 10;

/// The log lines; the name is the one that aya-log reads.
#[btf_map]
pub static AYA_LOGS: RingBuf<(), LOG_BYTES> = RingBuf::new();

/// The highest level that is logged; the loader may set it before it loads.
#[unsafe(no_mangle)]
pub static AYA_LOG_LEVEL: Global<u8> = Global::new(0xff);

/// Whether lines of `level` are wanted.
#[inline(always)]
pub fn level_enabled(level: Level) -> bool {
    level as u8 <= AYA_LOG_LEVEL.load()
}
