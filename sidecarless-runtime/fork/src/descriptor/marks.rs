//! What is written into `/proc/PID`, and what the forks of a process have from it.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

const OOM_SCORE_ADJ: &str = "oom_score_adj";
const COREDUMP_FILTER: &str = "coredump_filter";

/// What becomes of a process when memory runs out, and of its memory when it crashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// How soon it is killed where memory runs out (`oom_score_adj`).
    pub oom_score_adj: Option<i32>,
    /// What of its memory a core dump has (`coredump_filter`). A kernel may have none.
    pub coredump_filter: Option<u32>,
}

impl Marks {
    /// Those of a process.
    pub(crate) fn of(pid: i32) -> Self {
        let read = |name| fs::read_to_string(path(pid, name)).ok();
        Self {
            oom_score_adj: read(OOM_SCORE_ADJ).and_then(|text| text.trim().parse().ok()),
            coredump_filter: read(COREDUMP_FILTER).and_then(|text| u32::from_str_radix(text.trim(), 16).ok()),
        }
    }

    /// Gives them to a process that has others.
    ///
    /// # Errors
    /// It may not be done: `oom_score_adj` is lowered by who has `CAP_SYS_RESOURCE`. The others are given.
    pub(crate) fn give(self, pid: i32, others: Self) -> io::Result<()> {
        let write = |name, text: Option<String>| text.map_or(Ok(()), |text| fs::write(path(pid, name), text));
        let adjusted = self.oom_score_adj.filter(|_| self.oom_score_adj != others.oom_score_adj);
        let filter = self.coredump_filter.filter(|_| self.coredump_filter != others.coredump_filter);
        let given = write(COREDUMP_FILTER, filter.map(|filter| format!("{filter:#x}")));
        write(OOM_SCORE_ADJ, adjusted.map(|score| score.to_string())).and(given)
    }
}

fn path(pid: i32, name: &str) -> String {
    format!("/proc/{pid}/{name}")
}
