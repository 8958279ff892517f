//! The files that areas map: opened again, and what is beneath pages that the forked process had changed.
//!
//! A private mapping's changed pages are the process's own. Those of a program or a library lie in memory over the
//! mapping and come as they are touched; giving one up brings the file's page back. Those of other files are written
//! into the mapping itself, because a process may move it, and the kernel moves one mapping and not several.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ramet_sys::Range;
use ramet_sys::pagemap::PAGE_BYTES;

use crate::capture::identity;
use crate::descriptor::{Area, AreaKind, ForkDescriptor, MappedFile};
use crate::lineage::from_ancestor;
use crate::resume::ResumeError;

/// So much is written into mappings before a child begins; what is beyond lies over them.
const IN_PLACE_BYTES_MAX: u64 = 16 << 20;

/// What is beneath changed pages.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Beneath {
    /// In ascending order.
    places: Vec<Place>,
    files: Vec<MappedFile>,
}

/// Where a run of changed pages is in the seed, and in which file.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    range: Range,
    file: u32,
    offset: u64,
}

/// Opens the files that areas map, if they are the same here.
pub(crate) fn open_all(descriptor: &ForkDescriptor) -> Result<Vec<File>, ResumeError> {
    let shared = |index: usize| {
        let areas = descriptor.areas.iter();
        let mut areas = areas.filter(
            move |area| matches!(area.kind, AreaKind::File { file, shared: true, .. } if file as usize == index),
        );
        let writes = |area: &Area| area.protection & libc::PROT_WRITE.cast_unsigned() != 0;
        areas.next().map(|first| writes(first) || areas.any(writes))
    };
    let open = |(index, mapped)| match shared(index) {
        None => open(mapped, Sharing::None),
        Some(true) => open(mapped, Sharing::Writes),
        // It may come to write, if it may.
        Some(false) => open(mapped, Sharing::Writes).or_else(|_| self::open(mapped, Sharing::Reads)),
    };
    descriptor.mapped_files.iter().enumerate().map(open).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// What is mapped is the process's own, so the file must be what it was.
    None,
    /// What is mapped is the file, whatever it is by now.
    Reads,
    Writes,
}

fn open(mapped: &MappedFile, sharing: Sharing) -> Result<File, ResumeError> {
    let path = PathBuf::from(OsString::from_vec(mapped.path.clone()));
    let different = |reason: String| ResumeError::File { path: path.clone(), reason };
    let opened = OpenOptions::new().read(true).write(sharing == Sharing::Writes).open(&path);
    let file = opened.map_err(|error| different(error.to_string()))?;
    let (now, then) = (identity(&file.metadata()?), mapped.identity);
    let is_same = match sharing {
        Sharing::None => now == then,
        Sharing::Reads | Sharing::Writes => (now.device, now.inode) == (then.device, then.inode),
    };
    if is_same { Ok(file) } else { Err(different("its number, length or time of change differs".to_owned())) }
}

/// Which changed pages are written into the mappings of their files.
pub(crate) fn in_place(descriptor: &ForkDescriptor) -> Vec<Range> {
    let mut is_code = vec![false; descriptor.mapped_files.len()];
    for area in &descriptor.areas {
        if let AreaKind::File { file, .. } = area.kind
            && area.protection & libc::PROT_EXEC.cast_unsigned() != 0
        {
            is_code[file as usize] = true;
        }
    }
    let mut left = IN_PLACE_BYTES_MAX;
    let mut found = Vec::new();
    for area in &descriptor.areas {
        let bytes: u64 = area.own_ranges().map(|own| own.bytes).sum();
        if let AreaKind::File { file, shared: false, .. } = area.kind
            && !is_code[file as usize]
            && bytes <= left
        {
            left -= bytes;
            found.extend(area.own_ranges());
        }
    }
    found
}

impl Beneath {
    pub(crate) fn new(descriptor: &ForkDescriptor) -> Self {
        let place = |area: &Area| {
            let AreaKind::File { file, offset, shared: false } = area.kind else { return Vec::new() };
            let start = area.start;
            let place = |from, range: Range| Place {
                range: Range { start: from, bytes: range.bytes },
                file,
                offset: offset + (range.start - start),
            };
            let own = area.own_ranges().map(|range| place(range.start, range));
            let inherited = descriptor.inherited_in(area.range()).map(|run| place(from_ancestor(run), run.range()));
            own.chain(inherited).collect::<Vec<_>>()
        };
        let mut places: Vec<Place> = descriptor.areas.iter().flat_map(place).collect();
        places.sort_by_key(|place| place.range.start);
        Self { places, files: descriptor.mapped_files.clone() }
    }

    /// A file that it speaks of.
    pub(crate) fn mapped(&self, file: u32) -> Option<&MappedFile> {
        self.files.get(file as usize)
    }

    /// The file, and where in it, that is beneath an address of the seed.
    pub(crate) fn file(&self, address: u64) -> Option<(u32, u64)> {
        let at = self.places.partition_point(|place| place.range.end() <= address);
        let place = self.places.get(at).filter(|place| place.range.contains(address))?;
        Some((place.file, place.offset + (address - place.range.start)))
    }

    /// Reads a page of a file, which ends in zeros where the file does. False: the file has ended before.
    ///
    /// # Errors
    /// It is not the same file any more.
    pub(crate) fn read(
        &self,
        file: u32,
        offset: u64,
        page: &mut [u8; PAGE_BYTES as usize],
    ) -> Result<bool, ResumeError> {
        let mapped = self.files.get(file as usize).ok_or(io::ErrorKind::NotFound).map_err(io::Error::from)?;
        // What a private mapping has not changed is the file's, as it is by now.
        let file = open(mapped, Sharing::Reads)?;
        let mut read = 0;
        while read < page.len() {
            match file.read_at(&mut page[read..], offset + read as u64)? {
                0 => break,
                more => read += more,
            }
        }
        page[read..].fill(0);
        Ok(read > 0)
    }
}
