//! Which pages a process has (`PAGEMAP_SCAN` and `/proc/PID/pagemap`, see Linux's admin-guide/mm/pagemap).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::call::CallError;
use crate::memory::Range;

/// The size of a page. Linux on x86-64 has no other.
pub const PAGE_BYTES: u64 = 4096;

/// How many entries of the old interface are read at once.
const ENTRIES_READ: usize = 8192;

/// What a process has to itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Runs of pages that hold bytes of its own: they are in no file that it could map again.
    pub pages: Vec<Range>,
    /// Runs of pages that nobody may touch (`MADV_GUARD_INSTALL`), as far as the kernel tells (Linux 6.15).
    pub guards: Vec<Range>,
}

/// The page tables of a process.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
}

/// Which pages are looked for.
#[derive(Clone, Copy)]
enum Wanted {
    Own,
    OfFiles,
    Unshared,
    Guards,
}

/// What a scan looks for: pages that are not any of the first, and are any of the second.
#[derive(Clone, Copy)]
struct Categories {
    inverted: u64,
    there: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_max: u64,
    pages_max: u64,
    category_inverted: u64,
    category_mask: u64,
    category_any: u64,
    category_return: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_ZERO: u64 = 1 << 5;

impl Pagemap {
    /// Opens the page tables of a process that the caller may trace.
    ///
    /// # Errors
    /// `open`'s.
    pub fn open(pid: i32) -> Result<Self, CallError> {
        let file = File::open(format!("/proc/{pid}/pagemap")).map_err(CallError::of("open(/proc/PID/pagemap)"))?;
        Ok(Self { file })
    }

    /// What the process has to itself within `ranges`, which ascend. Neighbours come as one run.
    ///
    /// # Errors
    /// The calls'.
    pub fn own(&self, ranges: &[Range]) -> Result<Own, CallError> {
        let Some(categories) = Wanted::Own.categories() else { return self.read_own(ranges) };
        let mut own = Own::default();
        // What is not there may be a guard, which only the old way tells.
        let found = self.scan(ranges, categories, |run, is_there| {
            if is_there {
                push(&mut own.pages, run);
                return Ok(());
            }
            let Own { pages, guards } = self.read_own(&[run])?;
            pages.into_iter().for_each(|run| push(&mut own.pages, run));
            guards.into_iter().for_each(|run| push(&mut own.guards, run));
            Ok(())
        });
        match found {
            // Linux before 6.7 does not know the call.
            Err(error) if error.source.raw_os_error() == Some(libc::ENOTTY) => self.read_own(ranges),
            found => found.map(|()| own),
        }
    }

    fn read_own(&self, ranges: &[Range]) -> Result<Own, CallError> {
        Ok(Own { pages: self.read(ranges, Wanted::Own)?, guards: self.read(ranges, Wanted::Guards)? })
    }

    /// The pages of files that are there within `ranges`, which ascend. Neighbours come as one run.
    ///
    /// # Errors
    /// The calls'.
    pub fn file_pages(&self, ranges: &[Range]) -> Result<Vec<Range>, CallError> {
        self.pages(ranges, Wanted::OfFiles)
    }

    /// The process's own pages within `ranges`, which ascend, that no other process has: those that it has written to
    /// since it was forked are among them. Neighbours come as one run.
    ///
    /// # Errors
    /// The call's.
    pub fn unshared_pages(&self, ranges: &[Range]) -> Result<Vec<Range>, CallError> {
        self.pages(ranges, Wanted::Unshared)
    }

    fn pages(&self, ranges: &[Range], wanted: Wanted) -> Result<Vec<Range>, CallError> {
        let Some(categories) = wanted.categories() else { return self.read(ranges, wanted) };
        let mut runs = Vec::new();
        let found = self.scan(ranges, categories, |run, _| {
            push(&mut runs, run);
            Ok(())
        });
        match found {
            // Linux before 6.7 does not know the call.
            Err(error) if error.source.raw_os_error() == Some(libc::ENOTTY) => self.read(ranges, wanted),
            found => found.map(|()| runs),
        }
    }

    /// Gives runs of pages, and whether they are in memory.
    fn scan(
        &self,
        ranges: &[Range],
        Categories { inverted, there }: Categories,
        mut found_one: impl FnMut(Range, bool) -> Result<(), CallError>,
    ) -> Result<(), CallError> {
        let mut regions = [Region::default(); 512];
        for range in ranges {
            let mut start = range.start;
            while start < range.end() {
                let mut argument = ScanArgument {
                    size: size_of::<ScanArgument>() as u64,
                    flags: 0,
                    start,
                    end: range.end(),
                    walk_end: 0,
                    regions: regions.as_mut_ptr().expose_provenance() as u64,
                    regions_max: regions.len() as u64,
                    pages_max: 0,
                    category_inverted: inverted,
                    category_mask: IS_FILE | IS_ZERO,
                    // And there.
                    category_any: there,
                    category_return: there,
                };
                // SAFETY: O1, the kernel writes the argument and at most the regions it names, which live long enough.
                let found = unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
                let Ok(found) = usize::try_from(found) else { return Err(CallError::last("ioctl(PAGEMAP_SCAN)")) };
                for region in &regions[..found] {
                    let run = Range::new(region.start, region.end);
                    found_one(run, region.categories & IS_PRESENT != 0)?;
                }
                start = argument.walk_end.max(start + PAGE_BYTES);
            }
        }
        Ok(())
    }

    /// The old way. It cannot tell the page of zeros; who sends pages finds out.
    fn read(&self, ranges: &[Range], wanted: Wanted) -> Result<Vec<Range>, CallError> {
        const ENTRY_BYTES: usize = size_of::<u64>();
        let mut runs = Vec::new();
        let mut entries = vec![0_u8; ENTRIES_READ * ENTRY_BYTES];
        for range in ranges {
            let mut page = range.start / PAGE_BYTES;
            while page < range.end() / PAGE_BYTES {
                let count = (range.end() / PAGE_BYTES - page).min(ENTRIES_READ as u64) as usize;
                let part = &mut entries[..count * ENTRY_BYTES];
                match self.file.read_exact_at(part, page * ENTRY_BYTES as u64) {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                    result => result.map_err(CallError::of("read(/proc/PID/pagemap)"))?,
                }
                for (entry, at) in part.as_chunks().0.iter().zip(page..) {
                    if wanted.is(u64::from_ne_bytes(*entry)) {
                        push(&mut runs, Range { start: at * PAGE_BYTES, bytes: PAGE_BYTES });
                    }
                }
                page += count as u64;
            }
        }
        Ok(runs)
    }
}

impl Wanted {
    /// `None`: a scan cannot tell.
    const fn categories(self) -> Option<Categories> {
        match self {
            // Neither of a file nor the shared page of zeros.
            Self::Own => Some(Categories { inverted: IS_FILE | IS_ZERO, there: IS_PRESENT | IS_SWAPPED }),
            Self::OfFiles => Some(Categories { inverted: IS_ZERO, there: IS_PRESENT }),
            Self::Unshared | Self::Guards => None,
        }
    }

    const fn is(self, entry: u64) -> bool {
        const PRESENT: u64 = 1 << 63;
        const SWAPPED: u64 = 1 << 62;
        const FILE: u64 = 1 << 61;
        const GUARD: u64 = 1 << 58;
        const EXCLUSIVE: u64 = 1 << 56;
        match self {
            Self::Own => entry & (PRESENT | SWAPPED) != 0 && entry & (FILE | GUARD) == 0,
            Self::Guards => entry & GUARD != 0,
            Self::OfFiles => entry & PRESENT != 0 && entry & FILE != 0,
            Self::Unshared => entry & (PRESENT | EXCLUSIVE | FILE) == PRESENT | EXCLUSIVE,
        }
    }
}

fn push(runs: &mut Vec<Range>, more: Range) {
    match runs.last_mut() {
        Some(last) if last.end() == more.start => last.bytes += more.bytes,
        _ => runs.push(more),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways find the pages that were written, and none far from them: the kernel may give neighbours with a page.
    #[test]
    fn finds_what_was_written() {
        const MIB: usize = 1 << 20;
        let mut memory = vec![0_u8; 64 * MIB];
        let start = memory.as_ptr().expose_provenance() as u64;
        for written in [8, 9, 40] {
            memory[written * MIB] = 1;
        }
        let whole = [Range::new(start & !(PAGE_BYTES - 1), start + memory.len() as u64)];
        let pagemap = Pagemap::open(std::process::id().cast_signed()).expect("our own page tables");
        let by_read = pagemap.read(&whole, Wanted::Own).expect("the table");
        let mut by_scan = Vec::new();
        let scanned = pagemap.scan(&whole, Wanted::Own.categories().expect("a scan can tell"), |run, _| {
            push(&mut by_scan, run);
            Ok(())
        });
        match scanned {
            Err(error) if error.source.raw_os_error() == Some(libc::ENOTTY) => {
                eprintln!("skipped: this kernel has no PAGEMAP_SCAN");
                by_scan.clone_from(&by_read);
            }
            scanned => scanned.expect("a scan"),
        }
        for found in [by_scan, by_read] {
            let has = |mib: usize| found.iter().any(|run| run.contains(start + (mib * MIB) as u64));
            assert_eq!([8, 9, 40].map(has), [true; 3], "what was written");
            assert_eq!([4, 24, 60].map(has), [false; 3], "what was not");
        }
    }
}
