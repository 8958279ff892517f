//! Sealed memfds and their mappings, so that no peer can make a mapped page disappear.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memfd::{FileSeal, MemfdOptions};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// What went wrong with a segment.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// A system call failed.
    #[error("{call} failed for shared memory of {bytes} bytes: {source}")]
    System {
        /// The call.
        call: &'static str,
        /// The size that was asked for.
        bytes: usize,
        /// The reason.
        source: io::Error,
    },
    /// A peer handed over a file that could change its size under us.
    #[error("shared memory from a peer is not sealed against shrinking; the peer is not a ramet of this version")]
    NotSealed,
    /// A peer handed over a file of another size than it said.
    #[error("shared memory from a peer has {actual} bytes where {expected} were announced")]
    WrongSize {
        /// What was announced.
        expected: usize,
        /// What it is.
        actual: u64,
    },
}

fn system(call: &'static str, bytes: usize) -> impl FnOnce(io::Error) -> SegmentError {
    move |source| SegmentError::System { call, bytes, source }
}

/// Whether a mapping may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads only.
    ReadOnly,
    /// Loads and stores.
    ReadWrite,
}

/// Makes a zeroed memfd of `bytes` that can neither shrink nor grow, and whose seals are final.
///
/// # Errors
/// The failing system call.
pub fn create_sealed(name: &str, bytes: usize) -> Result<OwnedFd, SegmentError> {
    let memfd = MemfdOptions::default()
        .allow_sealing(true)
        .close_on_exec(true)
        .create(name)
        .map_err(|error| system("memfd_create", bytes)(io::Error::other(error)))?;
    memfd.as_file().set_len(bytes as u64).map_err(system("ftruncate", bytes))?;
    memfd
        .add_seals(&[FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal])
        .map_err(|error| system("fcntl(F_ADD_SEALS)", bytes)(io::Error::other(error)))?;
    Ok(memfd.into_file().into())
}

/// Checks that a file from a peer has the announced size and can never lose it.
///
/// # Errors
/// [`SegmentError::NotSealed`] or [`SegmentError::WrongSize`].
pub fn check_sealed(fd: BorrowedFd<'_>, expected: usize) -> Result<(), SegmentError> {
    let stat = nix::sys::stat::fstat(fd).map_err(|errno| system("fstat", expected)(errno.into()))?;
    if stat.st_size as u64 != expected as u64 {
        return Err(SegmentError::WrongSize { expected, actual: stat.st_size as u64 });
    }
    let seals = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GET_SEALS)
        .map_err(|errno| system("fcntl(F_GET_SEALS)", expected)(errno.into()))?;
    if seals & libc::F_SEAL_SHRINK == 0 {
        return Err(SegmentError::NotSealed);
    }
    Ok(())
}

/// Counts the lives of this process: one for itself, and one more in each copy of it.
static LIFE: AtomicU32 = AtomicU32::new(0);

/// Says that this process is a copy of another one, in which nothing is mapped that was mapped there. From now on what
/// that had mapped gives out no bytes and is not unmapped: its addresses may be something else's by then.
///
/// The caller is the only thread that has to do with any mapping.
pub fn begin_new_life() {
    LIFE.fetch_add(1, Ordering::Relaxed);
}

/// What one entry of a page table can map at a time, where file and address are multiples of it.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A mapped range of a file, unmapped when the last clone of its `Arc` goes. A copy of this process does not have it.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    access: Access,
    life: u32,
}

// SAFETY: S1 and S4: the mapping is process-wide memory, not tied to a thread, and shared words are atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives out only atomics and byte copies.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of a sealed memfd or BPF array from `offset` (a multiple of the page size) on.
    ///
    /// The caller vouches for the file: [`create_sealed`], [`check_sealed`], or a BPF array from the supervisor.
    ///
    /// # Errors
    /// `mmap`'s error.
    pub fn new(fd: BorrowedFd<'_>, offset: usize, bytes: usize, access: Access) -> Result<Arc<Self>, SegmentError> {
        let length = NonZeroUsize::new(bytes)
            .ok_or_else(|| system("mmap", bytes)(io::Error::from(io::ErrorKind::InvalidInput)))?;
        let protection = match access {
            Access::ReadOnly => ProtFlags::PROT_READ,
            Access::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        let failed = |errno: nix::errno::Errno| system("mmap", bytes)(errno.into());
        let (place, flags) = if bytes < HUGE_PAGE_BYTES || !offset.is_multiple_of(HUGE_PAGE_BYTES) {
            (None, MapFlags::MAP_SHARED)
        } else {
            (Some(reserve(length).map_err(failed)?), MapFlags::MAP_SHARED | MapFlags::MAP_FIXED)
        };
        // SAFETY: the new mapping is at an address of the kernel's choice or replaces what was reserved for it.
        let base = unsafe { mmap(place, length, protection, flags, fd, offset as libc::off_t) }.map_err(failed)?;
        let life = LIFE.load(Ordering::Relaxed);
        let mapping = Self { base: base.cast(), bytes, access, life };
        // A copy of this process is somebody else, and what is shared with this one is none of its business.
        // SAFETY: S1: the range is ours, and what a copy has changes no byte of ours.
        unsafe { madvise(base, bytes, MmapAdvise::MADV_DONTFORK) }
            .map_err(|errno| system("madvise(MADV_DONTFORK)", bytes)(errno.into()))?;
        Ok(Arc::new(mapping))
    }

    /// The length in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Backs a range with pages now, so that no request pays for the faults. Best effort: an old kernel ignores it.
    pub fn populate(&self, offset: usize, bytes: usize) {
        let Ok(start) = self.pointer(offset, bytes) else { return };
        let advice = match self.access {
            Access::ReadOnly => MmapAdvise::MADV_POPULATE_READ,
            Access::ReadWrite => MmapAdvise::MADV_POPULATE_WRITE,
        };
        // SAFETY: S1, S2: the range is ours, and populating changes no byte.
        let _ = unsafe { madvise(start.cast(), bytes, advice) };
    }

    /// Puts what has been populated into huge pages. Best effort: it takes Linux 6.1, and memory in such pieces.
    pub fn collapse(&self) {
        /// Of Linux 6.1; nix does not name it.
        const MADV_COLLAPSE: libc::c_int = 25;
        let whole = self.bytes - self.bytes % HUGE_PAGE_BYTES;
        // SAFETY: S1, S2: the range is ours, and collapsing changes no byte.
        let _ = unsafe { libc::madvise(self.base.as_ptr().cast(), whole, MADV_COLLAPSE) };
    }

    /// Copies `into.len()` bytes out of shared memory, once.
    ///
    /// # Errors
    /// [`OutOfBounds`].
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfBounds> {
        let from = self.pointer(offset, into.len())?;
        // SAFETY: S2 checked the source; `into` is ours and cannot overlap a fresh kernel mapping.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// Copies `from` into shared memory.
    ///
    /// # Errors
    /// [`OutOfBounds`], also when the mapping is read-only.
    pub fn copy_in(&self, offset: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        let into = self.writable(offset, from.len())?;
        // SAFETY: S2 checked the destination; `from` is ours and cannot overlap a fresh kernel mapping.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_ptr(), from.len()) };
        Ok(())
    }

    /// The bytes of a slot that this process owns, in place.
    ///
    /// By S4 only the owner touches them. A hostile function of the same domain can still change them at any moment,
    /// so decide nothing from a byte that is read twice.
    ///
    /// # Errors
    /// [`OutOfBounds`].
    pub fn slice(&self, offset: usize, bytes: usize) -> Result<&[u8], OutOfBounds> {
        let start = self.pointer(offset, bytes)?;
        // SAFETY: S1, S2, S3 (bytes), S4 (owned slot).
        Ok(unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) })
    }

    /// The bytes of a slot that this process owns, to write in place. The caller holds the slot's only handle.
    ///
    /// # Errors
    /// [`OutOfBounds`], also when the mapping is read-only.
    #[allow(clippy::mut_from_ref, reason = "exclusive by the slot's handle (S4), which the borrow checker cannot see")]
    pub fn slice_mut(&self, offset: usize, bytes: usize) -> Result<&mut [u8], OutOfBounds> {
        let start = self.writable(offset, bytes)?;
        // SAFETY: S1, S2, S3 (bytes), S4 (owned slot, one handle).
        Ok(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), bytes) })
    }

    /// A pointer to a `T` made of atomics only, for the types of this crate.
    #[inline]
    pub(crate) fn typed<T>(&self, offset: usize) -> Result<NonNull<T>, OutOfBounds> {
        if self.access == Access::ReadOnly {
            return Err(OutOfBounds);
        }
        self.typed_to_read(offset)
    }

    /// The same for loads alone, where the mapping may be read-only.
    #[inline]
    pub(crate) fn typed_to_read<T>(&self, offset: usize) -> Result<NonNull<T>, OutOfBounds> {
        let pointer = self.pointer(offset, size_of::<T>())?.cast::<T>();
        if pointer.is_aligned() { Ok(pointer) } else { Err(OutOfBounds) }
    }

    /// The first words of a mapping that is only ever accessed as atomics.
    #[inline]
    pub(crate) fn atomics(&self, count: usize) -> Result<&[AtomicU64], OutOfBounds> {
        let start = self.writable(0, count.checked_mul(size_of::<AtomicU64>()).ok_or(OutOfBounds)?)?;
        // SAFETY: S1, S2, S4: a mapping starts a page, so its words are aligned, and any bits are an atomic's.
        Ok(unsafe { std::slice::from_raw_parts(start.cast().as_ptr(), count) })
    }

    #[inline]
    fn pointer(&self, offset: usize, bytes: usize) -> Result<NonNull<u8>, OutOfBounds> {
        let end = offset.checked_add(bytes).ok_or(OutOfBounds)?;
        if end > self.bytes || self.is_of_another_life() {
            return Err(OutOfBounds);
        }
        // SAFETY: S1, S2: `offset` is inside the mapping or one past its end.
        Ok(unsafe { self.base.add(offset) })
    }

    #[inline]
    fn is_of_another_life(&self) -> bool {
        self.life != LIFE.load(Ordering::Relaxed)
    }

    #[inline]
    fn writable(&self, offset: usize, bytes: usize) -> Result<NonNull<u8>, OutOfBounds> {
        if self.access == Access::ReadOnly {
            return Err(OutOfBounds);
        }
        self.pointer(offset, bytes)
    }
}

/// Reserves addresses for `bytes` where huge pages can be mapped.
fn reserve(bytes: NonZeroUsize) -> nix::Result<NonZeroUsize> {
    let all = bytes.checked_add(HUGE_PAGE_BYTES).ok_or(nix::errno::Errno::ENOMEM)?;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice aliases nothing of ours.
    let start = unsafe { mmap_anonymous(None, all, ProtFlags::PROT_NONE, flags) }?;
    let before = start.as_ptr().cast::<u8>().align_offset(HUGE_PAGE_BYTES);
    let after = before + bytes.get().next_multiple_of(4096);
    for surplus in [0..before, after..all.get().next_multiple_of(4096)].into_iter().filter(|range| !range.is_empty()) {
        // SAFETY: inside of what was reserved.
        let from = unsafe { start.byte_add(surplus.start) };
        // SAFETY: it was reserved just now, and nobody knows of it. At worst it stays reserved.
        let _ = unsafe { munmap(from, surplus.len()) };
    }
    Ok(start.addr().saturating_add(before))
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.is_of_another_life() {
            return;
        }
        // SAFETY: S1: the mapping is ours and nothing borrows from it any more.
        let _ = unsafe { munmap(self.base.cast(), self.bytes) };
    }
}

/// A peer named bytes that are not there, or that are not ours to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("offset and length lie outside the shared memory")]
pub struct OutOfBounds;

/// Duplicates a descriptor for a message that passes it on.
///
/// # Errors
/// `fcntl`'s error.
pub fn duplicate(fd: &impl AsFd) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}

/// The raw number, for messages that speak of descriptors.
#[must_use]
pub fn number(fd: &impl AsFd) -> i32 {
    fd.as_fd().as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_segment_cannot_change_its_size() {
        let fd = create_sealed("test", 8192).expect("memfd");
        check_sealed(fd.as_fd(), 8192).expect("sealed and of that size");
        assert!(nix::unistd::ftruncate(&fd, 4096).is_err());
        assert!(nix::unistd::ftruncate(&fd, 16384).is_err());
        assert!(matches!(check_sealed(fd.as_fd(), 4096), Err(SegmentError::WrongSize { .. })));
    }

    #[test]
    fn an_unsealed_file_is_refused() {
        let memfd = MemfdOptions::default().allow_sealing(true).create("test").expect("memfd");
        memfd.as_file().set_len(4096).expect("size");
        let fd: OwnedFd = memfd.into_file().into();
        assert!(matches!(check_sealed(fd.as_fd(), 4096), Err(SegmentError::NotSealed)));
    }

    #[test]
    fn large_segments_are_mapped_where_huge_pages_can_be_and_nothing_more_is() {
        const BYTES: usize = 3 * HUGE_PAGE_BYTES + 5000;
        let fd = create_sealed("test", BYTES).expect("memfd");
        let mapping = Mapping::new(fd.as_fd(), 0, BYTES, Access::ReadWrite).expect("map");
        mapping.populate(0, BYTES);
        mapping.copy_in(BYTES - 1, &[7]).expect("in bounds");
        mapping.collapse();
        assert_eq!(mapping.slice(BYTES - 1, 1), Ok(&[7][..]));
        let start = mapping.base.addr().get();
        assert_eq!(start % HUGE_PAGE_BYTES, 0);
        // A range in which something is not mapped cannot be asked about (mincore(2)).
        let is_mapped = |at: usize| {
            let mut answer = 0;
            // SAFETY: the call looks at page tables only, and writes one byte of ours.
            let asked = unsafe { libc::mincore(std::ptr::without_provenance_mut(at), 1, &raw mut answer) };
            asked == 0
        };
        let end = start + BYTES.next_multiple_of(4096);
        assert_eq!([start, end - 4096].map(is_mapped), [true, true]);
        drop(mapping);
        assert_eq!([start, end - 4096].map(is_mapped), [false, false]);
    }

    #[test]
    fn bounds_hold_for_every_overflow() {
        let fd = create_sealed("test", 4096).expect("memfd");
        let mapping = Mapping::new(fd.as_fd(), 0, 4096, Access::ReadWrite).expect("map");
        assert!(mapping.slice(4096, 0).is_ok());
        assert_eq!(mapping.slice(4096, 1), Err(OutOfBounds));
        assert_eq!(mapping.slice(usize::MAX, 2), Err(OutOfBounds));
        assert_eq!(mapping.copy_in(4090, &[0; 7]), Err(OutOfBounds));
        let read_only = Mapping::new(fd.as_fd(), 0, 4096, Access::ReadOnly).expect("map");
        assert_eq!(read_only.copy_in(0, &[1]), Err(OutOfBounds));
    }
}
