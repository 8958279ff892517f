//! A template's memory: what the zygote had is given up, and what the forked process had is mapped.

use libc::{
    SYS_arch_prctl, SYS_close_range, SYS_fcntl, SYS_madvise, SYS_mmap, SYS_msync, SYS_munmap, SYS_rt_sigaction,
    SYS_sendmsg, SYS_userfaultfd,
};
use ramet_sys::Range;

use super::Planner;
use crate::descriptor::{Area, AreaKind};
use crate::lineage::from_ancestor;
use crate::missing::Origin;
use crate::program::Program;
use crate::resume::shared::seals_in_child;
use crate::validate::ADDRESS_END;
use crate::zygote::OWN_FDS;

const ARCH_MAP_VDSO_64: u64 = 0x2003;

/// Of Linux 6.13.
const MADV_GUARD_INSTALL: u64 = 102;

impl Planner<'_> {
    /// Makes the descriptor for faults and passes it to the host.
    pub(super) fn say_userfault(&self, main: &mut Program, control: u64) {
        let byte = main.data(&[0]);
        let part = main.data(&[byte, 1].map(u64::to_ne_bytes).concat());
        // `struct cmsghdr` with one descriptor, which is filled in.
        const LEVEL_AND_TYPE: u64 = libc::SOL_SOCKET as u64 | (libc::SCM_RIGHTS as u64) << 32;
        let rights = main.data(&[20, LEVEL_AND_TYPE, 0].map(u64::to_ne_bytes).concat());
        let message = main.data(&[0, 0, part, 1, rights, 24, 0].map(u64::to_ne_bytes).concat());
        let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
        main.call("making a userfaultfd", SYS_userfaultfd, &[flags]).stored_at(rights + 16);
        main.call("passing its userfaultfd", SYS_sendmsg, &[control, message, 0]);
    }

    /// Gives up what the zygote had.
    pub(super) fn clear(&self, main: &mut Program) {
        let low = Range::new(0, self.place.start);
        let high = Range::new(self.place.start + self.place.main_bytes, ADDRESS_END);
        for range in [low, high] {
            main.call("giving up the zygote's memory", SYS_munmap, &[range.start, range.bytes]);
        }
        main.call("closing the zygote's files", SYS_close_range, &[0, self.first_fd as u64 - 1, 0]);
        for signal in [libc::SIGPIPE, libc::SIGSEGV, libc::SIGBUS] {
            let nothing = main.data(&[0; 32]);
            main.call("resetting a signal", SYS_rt_sigaction, &[signal as u64, nothing, 0, 8]);
        }
    }

    pub(super) fn map(&mut self, main: &mut Program) {
        let areas = &self.descriptor.areas;
        let kernels = |area: &&Area| matches!(area.kind, AreaKind::Vdso | AreaKind::Vvar);
        if let Some(first) = areas.iter().find(kernels) {
            main.call("mapping the vdso", SYS_arch_prctl, &[ARCH_MAP_VDSO_64, first.start]);
            // The kernel may have put it elsewhere.
            for area in areas.iter().filter(kernels) {
                let arguments = [area.start, area.bytes, libc::MS_ASYNC as u64];
                main.call("finding the vdso", SYS_msync, &arguments);
            }
        }
        for area in areas {
            self.map_area(main, area);
        }
        for (start, bytes) in &self.descriptor.guards {
            main.call("guarding memory", SYS_madvise, &[*start, *bytes, MADV_GUARD_INSTALL]);
        }
    }

    fn map_area(&mut self, main: &mut Program, area: &Area) {
        const MEMORY: i32 = libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        const NOWHERE: u64 = u64::MAX;
        let map = |main: &mut Program, meaning, range: Range, flags: i32, fd: u64, offset: u64| {
            let protection = u64::from(area.protection);
            let arguments = [range.start, range.bytes, protection, flags as u64, fd, offset];
            main.call(meaning, SYS_mmap, &arguments).gives(range.start);
        };
        let new = libc::MAP_FIXED_NOREPLACE;
        match area.kind {
            AreaKind::Private | AreaKind::Stack => {
                let grows = if area.kind == AreaKind::Stack { libc::MAP_GROWSDOWN | libc::MAP_STACK } else { 0 };
                let flags = libc::MAP_PRIVATE | MEMORY | grows | new;
                map(main, "mapping memory", area.range(), flags, NOWHERE, 0);
                self.register_own(area);
            }
            AreaKind::File { file, offset, shared } => {
                let sharing = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
                let fd = self.number(OWN_FDS + file as usize);
                let map_file = |main: &mut Program, range: Range| {
                    if range.bytes > 0 {
                        map(main, "mapping a file", range, sharing | new, fd, offset + (range.start - area.start));
                    }
                };
                let is_in_place = |own: &Range| self.in_place.binary_search_by_key(&own.start, |it| it.start).is_ok();
                let over: Vec<_> = area.own_ranges().filter(|own| !is_in_place(own)).collect();
                let own = over.into_iter().map(|own| (own, own.start));
                let inherited = self.descriptor.inherited_in(area.range());
                let mut over: Vec<_> = own.chain(inherited.map(|run| (run.range(), from_ancestor(run)))).collect();
                over.sort_unstable_by_key(|(changed, _)| changed.start);
                // The file only where it shows: what is mapped over a mapping takes it apart, which takes longer.
                let mut rest = area.range();
                for (changed, from) in over {
                    map_file(main, Range::new(rest.start, changed.start));
                    let flags = libc::MAP_PRIVATE | MEMORY | new;
                    map(main, "mapping changed pages of a file", changed, flags, NOWHERE, 0);
                    self.missing.set(changed, Origin::Seed(from));
                    self.registered.push(changed);
                    rest = Range::new(changed.end(), rest.end());
                }
                map_file(main, rest);
            }
            AreaKind::Wiped => {
                map(main, "mapping memory", area.range(), libc::MAP_PRIVATE | MEMORY | new, NOWHERE, 0);
                let arguments = [area.start, area.bytes, libc::MADV_WIPEONFORK as u64];
                main.call("having memory wiped at a fork", SYS_madvise, &arguments);
            }
            // Each child has its own.
            AreaKind::SharedMemory { .. } | AreaKind::Frozen | AreaKind::Vdso | AreaKind::Vvar => {}
        }
    }

    /// Says which memory a child's own forks do not have. The child is a fork itself, and has it.
    pub(super) fn leave_out(&self, main: &mut Program) {
        for (start, bytes) in &self.descriptor.left_out {
            let arguments = [*start, *bytes, libc::MADV_DONTFORK as u64];
            main.call("leaving memory out of its forks", SYS_madvise, &arguments);
        }
    }

    /// Maps a child's shared memory, which has come as its last files.
    pub(super) fn map_shared(&self, main: &mut Program) {
        let number = |piece: u32| self.number(OWN_FDS + piece as usize);
        for area in &self.descriptor.areas {
            let AreaKind::SharedMemory { piece, offset } = area.kind else { continue };
            let flags = (libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE) as u64;
            let arguments = [area.start, area.bytes, u64::from(area.protection), flags, number(piece), offset];
            main.call("mapping shared memory", SYS_mmap, &arguments).gives(area.start);
        }
        let seals = libc::F_ADD_SEALS as u64;
        for (piece, index) in self.descriptor.shared.iter().zip(0..) {
            if piece.seals != 0 && seals_in_child(piece) {
                main.call("sealing shared memory", SYS_fcntl, &[number(index), seals, u64::from(piece.seals)]);
            }
        }
        if !self.descriptor.shared.is_empty() {
            main.call("closing shared memory", SYS_close_range, &[number(0), u64::from(u32::MAX), 0]);
        }
    }

    /// Registers the whole of an area that has pages of its own or an ancestor's; the others are zeros. A part alone
    /// would be a mapping of its own in the kernel's eyes, and mremap(2) does not take two.
    fn register_own(&mut self, area: &Area) {
        for run in self.descriptor.inherited_in(area.range()) {
            self.missing.set(run.range(), Origin::Seed(from_ancestor(run)));
        }
        if area.own.is_empty() && self.descriptor.inherited_in(area.range()).next().is_none() {
            return;
        }
        for own in area.own_ranges() {
            self.missing.set(own, Origin::Seed(own.start));
        }
        match self.registered.last_mut() {
            Some(last) if last.end() == area.start => last.bytes += area.bytes,
            _ => self.registered.push(area.range()),
        }
    }
}
