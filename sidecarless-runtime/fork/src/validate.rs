//! What must hold of a descriptor before anything is done with it. A peer may have made it up.

use ramet_sys::pagemap::PAGE_BYTES;

use crate::descriptor::{
    Area, AreaKind, Clocks, DecodeError, Expiry, ForkDescriptor, OpenFile, OpenFileKind, PageRun, SharedMemory, Time,
    TimerClock, Timers,
};
use crate::lineage::ANCESTORS_MAX;

/// No address of a process is as high (x86-64, four levels of page tables).
pub const ADDRESS_END: u64 = 0x7fff_ffff_f000;
/// No address that may be mapped is lower (`vm.mmap_min_addr`).
pub const ADDRESS_START: u64 = 0x1_0000;
/// No stack pointer is lower: there is room below for what a seed is asked.
pub const STACK_START: u64 = 2 * ADDRESS_START;
/// How many threads a process may have to be forked.
pub const THREADS_MAX: usize = 4096;
/// How many words of 64 cores each: the kernel knows no more cores than they have bits.
pub const CORE_WORDS_MAX: usize = 128;
/// How many areas (`vm.max_map_count`).
pub const AREAS_MAX: usize = 65_530;
/// How many runs of guard pages: a thread's stack has one, and an area may have many.
pub const GUARDS_MAX: usize = 1 << 16;
/// How many open files.
pub const FILES_MAX: usize = 1 << 16;
/// How many seccomp filters: the kernel takes fewer, by their length.
pub const FILTERS_MAX: usize = 1024;
/// How long the kernel lets a filter be (`BPF_MAXINSNS`).
pub const FILTER_INSTRUCTIONS_MAX: usize = 4096;

/// How far the kernel lets clocks be set: half of what it can count.
pub const CLOCK_NS_MAX: i64 = i64::MAX / 2;
/// How many timers.
pub const TIMERS_MAX: usize = 4096;

/// How much shared memory is copied while a process is stopped.
pub const SHARED_BYTES_MAX: u64 = 64 << 20;
/// How long the kernel lets a piece of shared memory be said to be; most of it has nothing in it.
pub const PIECE_BYTES_MAX: u64 = 1 << 44;
/// How much may wait in all pipes.
pub const PIPES_BYTES_MAX: usize = 1 << 20;

/// Says what is wrong first.
pub(crate) fn validate(descriptor: &ForkDescriptor) -> Result<(), DecodeError> {
    let ForkDescriptor { areas, mapped_files, signals, threads, files, filters, shared, .. } = descriptor;
    must(!threads.is_empty() && threads.len() <= THREADS_MAX, "the number of threads")?;
    must(areas.len() <= AREAS_MAX, "the number of areas")?;
    must(files.len() <= FILES_MAX, "the number of open files")?;
    must(filters.len() <= FILTERS_MAX, "the number of seccomp filters")?;
    let lengths = 1..=FILTER_INSTRUCTIONS_MAX;
    must(filters.iter().all(|filter| lengths.contains(&filter.instructions.len())), "a seccomp filter's length")?;
    let mut end = ADDRESS_START;
    for area in areas {
        end = valid_area(area, end, mapped_files.len(), shared.len())?;
    }
    valid_shared(shared, areas)?;
    must(descriptor.left_out.len() <= AREAS_MAX, "the number of areas that forks do not have")?;
    let is_range = |(start, bytes): &(u64, u64)| {
        let end = start.checked_add(*bytes).is_some_and(|end| end <= ADDRESS_END);
        end && start % PAGE_BYTES == 0 && bytes % PAGE_BYTES == 0
    };
    must(descriptor.left_out.iter().all(is_range), "an area that forks do not have")?;
    must(descriptor.guards.len() <= GUARDS_MAX, "the number of guards")?;
    must(descriptor.guards.iter().all(is_range), "a guard")?;
    valid_inheritance(descriptor)?;
    must(signals.iter().all(|action| (1..=64).contains(&action.signal)), "a signal's number")?;
    must(files.windows(2).all(|pair| pair[0].fd < pair[1].fd), "the order of open files")?;
    must(files.iter().all(|file| (0..1 << 20).contains(&file.fd)), "the number of an open file")?;
    valid_files(files, shared.len())?;
    valid_timers(&descriptor.timers, threads.len())?;
    let is_low = |clocks: Clocks| clocks.monotonic_ns.max(clocks.boottime_ns) <= CLOCK_NS_MAX;
    let is_high = |clocks: Clocks, least: i64| clocks.monotonic_ns.min(clocks.boottime_ns) >= least;
    must(is_high(descriptor.clocks, 0) && is_low(descriptor.clocks), "what its clocks showed")?;
    let offsets = descriptor.clock_offsets;
    must(is_high(offsets, -CLOCK_NS_MAX) && is_low(offsets), "how far its clocks were from the machine's")?;
    let stacks = STACK_START..ADDRESS_END;
    must(threads.iter().all(|thread| stacks.contains(&thread.registers.rsp)), "a thread's stack pointer")?;
    must(threads.iter().all(|thread| thread.cores.len() <= CORE_WORDS_MAX), "a thread's cores")?;
    must(descriptor.executable.is_none_or(|file| (file as usize) < mapped_files.len()), "the file that it executes")?;
    must(threads.iter().all(|thread| thread.tid > 0 && thread.extended_state.len() <= 1 << 14), "a thread")?;
    must(threads.iter().all(|thread| thread.extended_state.len() >= 576), "a thread's extended state")
}

/// Pages of ancestors are somewhere where the process may have had pages, and where it has none of its own.
fn valid_inheritance(descriptor: &ForkDescriptor) -> Result<(), DecodeError> {
    let ForkDescriptor { areas, inherited, ancestors, .. } = descriptor;
    must(ancestors.len() <= ANCESTORS_MAX, "the number of ancestors")?;
    let mut at = 0;
    for run in inherited {
        let is_whole = run.pages > 0 && run.start % PAGE_BYTES == 0 && run.from % PAGE_BYTES == 0;
        must(is_whole && usize::from(run.ancestor) < ancestors.len(), "pages of an ancestor")?;
        let is_low = |start: u64| start < ADDRESS_END && start + run.range().bytes <= ADDRESS_END;
        must(is_low(run.start) && is_low(run.from), "pages of an ancestor are out of bounds")?;
        must(run.start >= at, "the order of pages of ancestors")?;
        at = run.range().end();
        let area = &areas.get(areas.partition_point(|area| area.range().end() <= run.start));
        let area = area.ok_or(DecodeError::Senseless("pages of an ancestor are in no area"))?;
        let may_have = matches!(area.kind, AreaKind::Private | AreaKind::Stack | AreaKind::File { shared: false, .. });
        must(may_have && area.start <= run.start && at <= area.range().end(), "pages of an ancestor are in no area")?;
        let after = area.own.partition_point(|own| area.start + u64::from(own.first) * PAGE_BYTES < at);
        let before = after.checked_sub(1).map(|own| &area.own[own]);
        let end = before.map_or(0, |own| area.start + (u64::from(own.first) + u64::from(own.pages)) * PAGE_BYTES);
        must(end <= run.start, "pages are the process's own and an ancestor's")?;
    }
    Ok(())
}

/// Where the area ends.
fn valid_area(area: &Area, after: u64, mapped_files: usize, shared: usize) -> Result<u64, DecodeError> {
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
    if let AreaKind::SharedMemory { piece, offset } = area.kind {
        must((piece as usize) < shared, "an area's shared memory")?;
        must(offset % PAGE_BYTES == 0 && offset <= PIECE_BYTES_MAX, "an area's place in shared memory")?;
    }
    valid_runs(&area.own, area.bytes)?;
    Ok(end)
}

fn valid_runs(runs: &[PageRun], bytes: u64) -> Result<(), DecodeError> {
    let mut page = 0;
    for run in runs {
        must(run.pages > 0 && u64::from(run.first) >= page, "the order of pages")?;
        page = u64::from(run.first) + u64::from(run.pages);
    }
    must(page <= bytes.div_ceil(PAGE_BYTES), "pages outside of what they are of")
}

/// The content of shared memory is where the seed alone has something.
fn valid_shared(shared: &[SharedMemory], areas: &[Area]) -> Result<(), DecodeError> {
    must(shared.len() <= FILES_MAX, "the number of pieces of shared memory")?;
    let mut left = SHARED_BYTES_MAX;
    for piece in shared {
        must(piece.bytes <= PIECE_BYTES_MAX, "the length of shared memory")?;
        valid_runs(&piece.content, piece.bytes)?;
        let bytes = piece.content_bytes();
        left = left.checked_sub(bytes).ok_or(DecodeError::Senseless("the amount of shared memory"))?;
        let holds = |area: &Area| {
            let end = piece.frozen_at.checked_add(bytes);
            let is_in = area.start <= piece.frozen_at && end.is_some_and(|end| end <= area.range().end());
            area.kind == AreaKind::Frozen && is_in
        };
        must(piece.frozen_at % PAGE_BYTES == 0, "the place of shared memory's content")?;
        must(bytes == 0 || areas.iter().any(holds), "the place of shared memory's content")?;
        must(!piece.name.contains(&0), "the name of shared memory")?;
    }
    Ok(())
}

fn valid_files(files: &[OpenFile], shared: usize) -> Result<(), DecodeError> {
    let find = |fd: i32| files.binary_search_by_key(&fd, |file| file.fd).ok().map(|at| &files[at].kind);
    let mut left = PIPES_BYTES_MAX;
    for file in files {
        match &file.kind {
            OpenFileKind::Epoll { watched } => {
                must(watched.len() <= FILES_MAX, "the number of files that an epoll watches")?;
                must(watched.iter().all(|watched| find(watched.fd).is_some()), "a file that an epoll watches")?;
            }
            OpenFileKind::Same { fd } => {
                let is_first = matches!(find(*fd), Some(kind) if !matches!(kind, OpenFileKind::Same { .. }));
                must(*fd < file.fd && is_first, "which open file is another one, too")?;
            }
            OpenFileKind::Memory { piece, .. } => must((*piece as usize) < shared, "memory that is open")?,
            OpenFileKind::Pipe { unread, .. } => {
                let rest = left.checked_sub(unread.len());
                left = rest.ok_or(DecodeError::Senseless("how much waits in pipes"))?;
            }
            OpenFileKind::Timer(timer) => must(is_expiry(timer.expiry), "a timer")?,
            _ => {}
        }
    }
    Ok(())
}

fn valid_timers(timers: &Timers, threads: usize) -> Result<(), DecodeError> {
    let Timers { intervals, made } = timers;
    must(intervals.iter().all(|expiry| is_expiry(*expiry)), "a timer")?;
    must(made.len() <= TIMERS_MAX, "the number of timers")?;
    must(made.windows(2).all(|pair| pair[0].number < pair[1].number), "the order of timers")?;
    let is_thread = |index: u32| (index as usize) < threads;
    for timer in made {
        let is_clock = match timer.clock {
            TimerClock::Machine(clock) => i32::try_from(clock).is_ok(),
            TimerClock::Process(_) => true,
            TimerClock::Thread(index, _) => is_thread(index),
        };
        must(is_clock && timer.thread.is_none_or(is_thread), "whose a timer is")?;
        must(timer.number <= i32::MAX.cast_unsigned() && is_expiry(timer.expiry), "a timer")?;
    }
    Ok(())
}

const fn is_expiry(Expiry { next, interval }: Expiry) -> bool {
    const fn is_time([seconds, nanoseconds]: Time) -> bool {
        seconds < 1 << 40 && nanoseconds < 1_000_000_000
    }
    is_time(next) && is_time(interval)
}

const fn must(holds: bool, what: &'static str) -> Result<(), DecodeError> {
    if holds { Ok(()) } else { Err(DecodeError::Senseless(what)) }
}
