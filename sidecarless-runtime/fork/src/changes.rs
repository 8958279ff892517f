//! What was done to an address space, in an order that makes sense.
//!
//! The kernel tells of a change after it was made, each thread of its own ones; so two threads' changes may be told in
//! the other order. It matters where one thread's memory is moved to where another's was: that the place was unmapped
//! must then not end what is there now. These tell one from the other:
//!
//! - A move is told twice: first that the memory has moved, then that the place which it has left was unmapped. The
//!   second says nothing new.
//! - When nothing is left untold, what is told next was also done after all that was told before.
//! - Whether something is mapped at a place the kernel can be asked, then.

use ramet_sys::Range;
use ramet_sys::userfault::Userfault;

use crate::missing::Missing;

/// The changes that may be told together with others that were made before.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// The places that were left: it will be told that they were unmapped.
    left: Vec<Range>,
    /// Where memory was moved to.
    taken: Vec<Range>,
    /// What was unmapped, before or after memory was moved there.
    doubtful: Vec<Range>,
}

impl Changes {
    pub(crate) fn moved(&mut self, missing: &mut Missing, from: Range, to: u64) {
        missing.rename(from, to);
        self.left.push(from);
        let to = Range { start: to, bytes: from.bytes };
        if !self.taken.contains(&to) {
            self.taken.push(to);
        }
    }

    pub(crate) fn unmapped(&mut self, missing: &mut Missing, range: Range) {
        let is_taken = |taken: &Range| taken.start < range.end() && range.start < taken.end();
        if let Some(told) = self.left.iter().position(|left| *left == range) {
            self.left.swap_remove(told);
        } else if self.taken.iter().any(is_taken) {
            self.doubtful.push(range);
        } else {
            missing.forget(range);
        }
    }

    /// Comes to know, if it can be known yet, how things are. All that was told must have been looked at.
    pub(crate) fn settle(&mut self, missing: &mut Missing, userfault: &Userfault) {
        if self.taken.is_empty() || userfault.is_changing() {
            return;
        }
        for range in self.doubtful.drain(..) {
            missing.keep_mapped(range, |page| userfault.is_registered(page));
        }
        self.left.clear();
        self.taken.clear();
    }
}
