//! What must hold of a descriptor before anything is done with it. A peer may have made it up.

use ramet_sys::pagemap::PAGE_BYTES;

use crate::descriptor::{Area, AreaKind, DecodeError, ForkDescriptor, OpenFileKind};

/// No address of a process is as high (x86-64, four levels of page tables).
pub const ADDRESS_END: u64 = 0x7fff_ffff_f000;
/// No address that may be mapped is lower (`vm.mmap_min_addr`).
pub const ADDRESS_START: u64 = 0x1_0000;
/// No stack pointer is lower: there is room for a signal frame below.
pub const STACK_START: u64 = 2 * ADDRESS_START;
/// How many threads a process may have to be forked.
pub const THREADS_MAX: usize = 4096;
/// How many areas (`vm.max_map_count`).
pub const AREAS_MAX: usize = 65_530;
/// How many open files.
pub const FILES_MAX: usize = 1 << 16;
/// How many seccomp filters: the kernel takes fewer, by their length.
pub const FILTERS_MAX: usize = 1024;
/// How long the kernel lets a filter be (`BPF_MAXINSNS`).
pub const FILTER_INSTRUCTIONS_MAX: usize = 4096;

/// Says what is wrong first.
pub(crate) fn validate(descriptor: &ForkDescriptor) -> Result<(), DecodeError> {
    let ForkDescriptor { areas, mapped_files, signals, threads, files, filters, .. } = descriptor;
    must(!threads.is_empty() && threads.len() <= THREADS_MAX, "the number of threads")?;
    must(areas.len() <= AREAS_MAX, "the number of areas")?;
    must(files.len() <= FILES_MAX, "the number of open files")?;
    must(filters.len() <= FILTERS_MAX, "the number of seccomp filters")?;
    let lengths = 1..=FILTER_INSTRUCTIONS_MAX;
    must(filters.iter().all(|filter| lengths.contains(&filter.instructions.len())), "a seccomp filter's length")?;
    let mut end = ADDRESS_START;
    for area in areas {
        end = valid_area(area, end, mapped_files.len())?;
    }
    must(signals.iter().all(|action| (1..=64).contains(&action.signal)), "a signal's number")?;
    must(files.windows(2).all(|pair| pair[0].fd < pair[1].fd), "the order of open files")?;
    must(files.iter().all(|file| (0..1 << 20).contains(&file.fd)), "the number of an open file")?;
    for file in files {
        if let OpenFileKind::Epoll { watched } = &file.kind {
            must(watched.len() <= FILES_MAX, "the number of files that an epoll watches")?;
            let is_open = |fd: i32| files.binary_search_by_key(&fd, |file| file.fd).is_ok();
            must(watched.iter().all(|watched| is_open(watched.fd)), "a file that an epoll watches")?;
        }
    }
    let stacks = STACK_START..ADDRESS_END;
    must(threads.iter().all(|thread| stacks.contains(&thread.registers.rsp)), "a thread's stack pointer")?;
    must(threads.iter().all(|thread| thread.tid > 0 && thread.extended_state.len() <= 1 << 14), "a thread")?;
    must(threads.iter().all(|thread| thread.extended_state.len() >= 576), "a thread's extended state")
}

/// Where the area ends.
fn valid_area(area: &Area, after: u64, mapped_files: usize) -> Result<u64, DecodeError> {
    must(
        area.start.is_multiple_of(PAGE_BYTES) && area.bytes.is_multiple_of(PAGE_BYTES) && area.bytes > 0,
        "an area is not whole pages",
    )?;
    let end = area.start.checked_add(area.bytes).filter(|end| *end <= ADDRESS_END);
    let end = end.ok_or(DecodeError::Senseless("an area is out of bounds"))?;
    must(area.start >= after, "areas overlap")?;
    if let AreaKind::File { file, offset, .. } = area.kind {
        must((file as usize) < mapped_files, "an area's file")?;
        must(offset % PAGE_BYTES == 0, "an area's place in its file")?;
    }
    let mut page = 0;
    for run in &area.own {
        must(run.pages > 0 && u64::from(run.first) >= page, "the order of pages")?;
        page = u64::from(run.first) + u64::from(run.pages);
    }
    must(page <= area.bytes / PAGE_BYTES, "pages outside their area")?;
    Ok(end)
}

const fn must(holds: bool, what: &'static str) -> Result<(), DecodeError> {
    if holds { Ok(()) } else { Err(DecodeError::Senseless(what)) }
}
