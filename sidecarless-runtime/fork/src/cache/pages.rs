//! What is known of each page of a seed, and the bytes of those that are kept.
//!
//! Bytes lie in *frames*, which are filled one after the other and, when there are as many as may be, from the first
//! on anew: what came first goes first. So what came together lies together, and is had without being put together.

use ramet_sys::Range;
use ramet_sys::pagemap::PAGE_BYTES;

use crate::seeds::Granted;
use crate::wire::is_zeros;

const PAGE: usize = PAGE_BYTES as usize;
/// A seed that says that it has more pages (256 GiB) is read without keeping any.
const PAGES_MAX: usize = 1 << 26;
/// Frames are allocated in blocks of so many.
const BLOCK_FRAMES: usize = 64;
static ZEROS: [u8; PAGE] = [0; PAGE];

/// What is known of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// Nobody has asked for it, or it has gone again.
    Nowhere,
    /// The read with this number brings it.
    Coming(u32),
    Zeros,
    /// In this frame.
    Kept(u32),
}

/// The number that a page of a seed has here.
type Index = usize;

/// The pages of a seed.
#[derive(Debug)]
pub(super) struct Pages {
    granted: Granted,
    /// The number of the first page of each granted run.
    firsts: Vec<Index>,
    /// A [`Page`] each. Memory that nobody has looked at yet costs nothing as long as nowhere is 0.
    known: Vec<u32>,
    blocks: Vec<Box<[u8]>>,
    /// Which page is in each frame that was ever filled.
    owners: Vec<u32>,
    frame_next: usize,
    frames_max: usize,
    coming: usize,
}

impl Pages {
    pub(super) fn new(granted: Granted, bytes_max: u64) -> Self {
        let mut firsts = Vec::with_capacity(granted.runs().len());
        let mut count = 0;
        for run in granted.runs() {
            firsts.push(count);
            count += (run.bytes / PAGE_BYTES) as usize;
        }
        let known = vec![0; if count <= PAGES_MAX { count } else { 0 }];
        Self {
            granted,
            firsts,
            known,
            blocks: Vec::new(),
            owners: Vec::new(),
            frame_next: 0,
            frames_max: (bytes_max / PAGE_BYTES) as usize,
            coming: 0,
        }
    }

    /// How many bytes all of them have.
    pub(super) fn bytes(&self) -> u64 {
        self.granted.bytes()
    }

    /// How many bytes are kept at most.
    pub(super) const fn bytes_max(&self) -> u64 {
        self.frames_max as u64 * PAGE_BYTES
    }

    /// How many frames are filled.
    #[cfg(test)]
    pub(super) const fn kept(&self) -> usize {
        self.owners.len()
    }

    /// How many pages are under way.
    pub(super) const fn coming(&self) -> usize {
        self.coming
    }

    /// The number of the first page of a range, whose others follow. None: the range is not the seed's, or too much is.
    fn index(&self, range: Range) -> Option<Index> {
        if self.known.is_empty() || !self.granted.allows(range) {
            return None;
        }
        let run = self.granted.runs().partition_point(|run| run.start <= range.start).checked_sub(1)?;
        Some(self.firsts[run] + ((range.start - self.granted.runs()[run].start) / PAGE_BYTES) as usize)
    }

    /// What is known of a page.
    pub(super) fn get(&self, page: Range) -> Page {
        self.index(page).map_or(Page::Nowhere, |index| self.at(index))
    }

    /// Whether its bytes are here.
    pub(super) fn is_here(&self, page: Range) -> bool {
        matches!(self.get(page), Page::Zeros | Page::Kept(_))
    }

    fn at(&self, index: Index) -> Page {
        decoded(self.known[index])
    }

    fn set(&mut self, index: Index, page: Page) {
        let before = decoded(std::mem::replace(&mut self.known[index], encoded(page)));
        self.coming -= usize::from(matches!(before, Page::Coming(_)));
        self.coming += usize::from(matches!(page, Page::Coming(_)));
    }

    /// A read was begun that brings a range.
    pub(super) fn note_coming(&mut self, range: Range, read: u32) {
        for index in self.indices(range) {
            self.set(index, Page::Coming(read));
        }
    }

    /// Keeps the pages of ranges, whose bytes follow each other.
    pub(super) fn keep_all(&mut self, ranges: &[Range], mut bytes: &[u8]) {
        for range in ranges {
            let Some((these, rest)) = bytes.split_at_checked(range.bytes as usize) else { return };
            self.keep(*range, these);
            bytes = rest;
        }
    }

    fn keep(&mut self, range: Range, bytes: &[u8]) {
        for (index, page) in self.indices(range).zip(bytes.chunks_exact(PAGE)) {
            match self.at(index) {
                Page::Zeros | Page::Kept(_) => {}
                Page::Nowhere | Page::Coming(_) if is_zeros(page) => self.set(index, Page::Zeros),
                Page::Nowhere | Page::Coming(_) => {
                    let frame = self.fill_next(page, index);
                    self.set(index, Page::Kept(frame));
                }
            }
        }
    }

    /// What lies together of a range's bytes from its beginning on. None: nothing.
    pub(super) fn beginning(&self, range: Range) -> Option<&[u8]> {
        let first = self.index(range)?;
        match self.at(first) {
            Page::Nowhere | Page::Coming(_) => None,
            Page::Zeros => Some(&ZEROS),
            Page::Kept(frame) => {
                let (block, at) = (frame as usize / BLOCK_FRAMES, frame as usize % BLOCK_FRAMES);
                let most = (BLOCK_FRAMES - at).min((range.bytes / PAGE_BYTES) as usize);
                let follows = |count: &usize| self.at(first + count) == Page::Kept(frame + *count as u32);
                let count = (1..most).take_while(follows).count() + 1;
                Some(&self.blocks[block][at * PAGE..(at + count) * PAGE])
            }
        }
    }

    /// Ranges of pages of which nobody has asked for, of so many bytes at most, from a page on; and where to look on.
    pub(super) fn nowhere_from(&self, at: Index, bytes_max: u64) -> (Vec<Range>, Index) {
        let mut found: Vec<Range> = Vec::new();
        let mut bytes = 0;
        let first = self.firsts.partition_point(|first| *first <= at).saturating_sub(1);
        for (run, start) in self.granted.runs().iter().zip(&self.firsts).skip(first) {
            let count = (run.bytes / PAGE_BYTES) as usize;
            for index in at.max(*start)..start + count {
                if self.at(index) != Page::Nowhere {
                    continue;
                }
                if bytes == bytes_max {
                    return (found, index);
                }
                bytes += PAGE_BYTES;
                let page = Range { start: run.start + (index - start) as u64 * PAGE_BYTES, bytes: PAGE_BYTES };
                match found.last_mut() {
                    Some(last) if last.end() == page.start => last.bytes += PAGE_BYTES,
                    _ => found.push(page),
                }
            }
        }
        (found, self.known.len())
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::new(std::mem::take(&mut self.granted), self.bytes_max());
    }

    fn indices(&self, range: Range) -> std::ops::Range<Index> {
        self.index(range).map_or(0..0, |first| first..first + (range.bytes / PAGE_BYTES) as usize)
    }

    /// Fills the next frame, in place of what was there.
    fn fill_next(&mut self, page: &[u8], owner: Index) -> u32 {
        let frame = self.frame_next;
        self.frame_next = (frame + 1) % self.frames_max.max(1);
        if frame == self.owners.len() {
            self.owners.push(owner as u32);
        } else {
            let before = std::mem::replace(&mut self.owners[frame], owner as u32);
            self.set(before as Index, Page::Nowhere);
        }
        let (block, at) = (frame / BLOCK_FRAMES, frame % BLOCK_FRAMES * PAGE);
        if block == self.blocks.len() {
            self.blocks.push(vec![0; BLOCK_FRAMES * PAGE].into());
        }
        self.blocks[block][at..at + PAGE].copy_from_slice(page);
        frame as u32
    }
}

const NOWHERE: u32 = 0;
const ALL_ZEROS: u32 = 1;
const KEPT: u32 = 1 << 31;
const COMING: u32 = 1 << 30;

const fn encoded(page: Page) -> u32 {
    match page {
        Page::Nowhere => NOWHERE,
        Page::Zeros => ALL_ZEROS,
        Page::Coming(read) => COMING | read,
        Page::Kept(frame) => KEPT | frame,
    }
}

const fn decoded(word: u32) -> Page {
    match word {
        NOWHERE => Page::Nowhere,
        ALL_ZEROS => Page::Zeros,
        word if word & KEPT != 0 => Page::Kept(word & !KEPT),
        word => Page::Coming(word & !COMING),
    }
}
