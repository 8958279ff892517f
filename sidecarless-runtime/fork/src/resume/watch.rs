//! A child is watched while it is copied from outside, since what the copy lacks is known to who gives it its pages.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel, sync_channel};

use ramet_sys::Range;

use super::{Child, Family};
use crate::capture::Lacking;
use crate::lineage::SeedAt;
use crate::missing::Missing;
use crate::pager::News;

/// A child of a family, and its forks from now on.
#[derive(Debug)]
pub struct Watch {
    family: Arc<Family>,
    space: u64,
    pid: i32,
    program: Range,
    forks: Receiver<Missing>,
}

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// The family's pager has ended.
    pub fn begin(family: &Arc<Family>, child: &Child) -> io::Result<Self> {
        let (tell, forks) = channel();
        let (ready, is_ready) = sync_channel(1);
        family.tell(News::Watch { space: child.space, forks: tell, ready })?;
        is_ready.recv().map_err(|_| io::Error::other("the pager has ended"))?;
        Ok(Self { family: Arc::clone(family), space: child.space, pid: child.pid, program: child.program, forks })
    }

    /// The child's number.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
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
