//! What a fault costs at least: a page is put there by who looks for faults without sleeping, on the core of who
//! touches it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ramet_sys::arena::Arena;
use ramet_sys::userfault::{Event, Placed, Userfault};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::data::{PAGE_BYTES, Walk};

/// How long it may take to hear of a fault.
const PATIENCE: Duration = Duration::from_secs(20);
const FILLING: u8 = 7;

/// How long each of these pages takes.
pub(super) fn fault(walk: &Walk) -> anyhow::Result<Duration> {
    let (arena, userfault) = Arena::new((walk.end() * 8 / PAGE_BYTES) as usize).context("cannot serve faults")?;
    let allowed = sched_getaffinity(None)?;
    let core = (0..CpuSet::MAX_CPU).find(|core| allowed.is_set(*core)).context("there is no core to run on")?;
    let mut alone = CpuSet::new();
    alone.set(core);
    let is_over = AtomicBool::new(false);
    let start = arena.range().start;
    thread::scope(|scope| {
        let touching = scope.spawn(|| -> anyhow::Result<Duration> {
            let pinned = sched_setaffinity(None, &alone);
            let begun = Instant::now();
            let is_filled = walk.words().all(|word| arena.touch(word * 8 / PAGE_BYTES) == FILLING);
            let took = begun.elapsed();
            is_over.store(true, Ordering::Relaxed);
            pinned?;
            if is_filled { Ok(took / walk.count()) } else { bail!("a page is not what was put there") }
        });
        let (alone, is_over) = (&alone, &is_over);
        // When it ends, who still waits has zeros, and ends.
        let serving = scope.spawn(move || {
            let pinned = sched_setaffinity(None, alone).map_err(anyhow::Error::from);
            pinned.and_then(|()| serve(&userfault, start, is_over))
        });
        let served = serving.join().unwrap_or_else(|_| bail!("who serves the faults has failed"));
        let took = touching.join().unwrap_or_else(|_| bail!("who touches the pages has failed"));
        served.and(took)
    })
}

fn serve(userfault: &Userfault, start: u64, is_over: &AtomicBool) -> anyhow::Result<()> {
    let page = [FILLING; PAGE_BYTES as usize];
    let mut events = Vec::new();
    let mut heard = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        if !userfault.events(&mut events)? {
            if heard.elapsed() > PATIENCE {
                bail!("no fault is heard of");
            }
            thread::yield_now();
            continue;
        }
        heard = Instant::now();
        for event in events.drain(..) {
            if let Event::Fault { address, .. } = event {
                let placed = userfault.copy(start + (address - start) / PAGE_BYTES * PAGE_BYTES, &page)?;
                if placed != Placed::All {
                    bail!("a page was not put where it is missing: {placed:?}");
                }
            }
        }
    }
    Ok(())
}
