//! A child is watched while it is copied from outside, since what the copy lacks is known to who gives it its pages.

use std::io;
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::sync::{Arc, Weak};

use ramet_sys::Range;

use super::{Child, Family, Habitat};
use crate::capture::Lacking;
use crate::lineage::SeedAt;
use crate::missing::Missing;
use crate::pager::News;

/// What it takes to fork on a child that somebody looks after, for as long as its family is there.
#[derive(Clone, Debug)]
pub struct Kin {
    family: Weak<Family>,
    space: u64,
    pid: i32,
    program: Range,
    habitat: Habitat,
}

impl Kin {
    /// A child's.
    #[must_use]
    pub fn of(family: &Arc<Family>, child: &Child) -> Self {
        let Child { space, pid, program, .. } = *child;
        Self { family: Arc::downgrade(family), space, pid, program, habitat: child.habitat.clone() }
    }

    /// Begins to watch the child.
    ///
    /// # Errors
    /// The family's pager has ended.
    pub fn watch(&self) -> io::Result<Watch> {
        let ended = || io::Error::other("the pager has ended");
        let family = self.family.upgrade().ok_or_else(ended)?;
        let (tell, forks) = channel();
        let (ready, is_ready) = sync_channel(1);
        family.tell(News::Watch { space: self.space, forks: tell, ready })?;
        is_ready.recv().map_err(|_| ended())?;
        let Self { space, pid, program, ref habitat, .. } = *self;
        Ok(Watch { family, space, pid, program, habitat: habitat.clone(), forks })
    }
}

/// A child of a family, and its forks from now on.
#[derive(Debug)]
pub struct Watch {
    family: Arc<Family>,
    space: u64,
    pid: i32,
    program: Range,
    habitat: Habitat,
    forks: Receiver<Missing>,
}

impl Watch {
    /// The child's number.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// What it lives in.
    pub(crate) const fn habitat(&self) -> &Habitat {
        &self.habitat
    }

    /// Where it is before it goes on.
    pub(crate) const fn program(&self) -> Range {
        self.program
    }

    /// Whether some of its pages cannot be had any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.family.is_lost()
    }

    /// What the last fork lacks that was made while the child was watched. It must have been made whole by now: its
    /// maker goes on when the pager has heard of it.
    pub(crate) fn lacking(&self) -> Lacking {
        let (done, is_done) = sync_channel(1);
        let told = self.family.tell(News::Tell { space: self.space, done });
        let lineage: Vec<SeedAt> = self.family.lineage().to_vec();
        let is_whole = told.is_ok() && is_done.recv().is_ok();
        let missing = if is_whole { self.forks.try_iter().last() } else { None };
        Lacking { missing, lineage }
    }
}
