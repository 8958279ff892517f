//! `ramet bench fork`: a running process is forked, and its children answer; beside `os.fork` and a fresh process.
//!
//! Reading order: `rounds` is the run; `python` the process, with its `data`; `remote` a process that makes forks and
//! gets `orders`: in it are `host`, the children's side, and `keeper`, the seeds'; `floor` is what a fault costs at
//! least; [`report`] what comes out.

pub mod options;
pub mod report;

pub(crate) mod keeper;
pub(crate) mod remote;

mod data;
mod floor;
mod host;
mod line;
mod orders;
mod python;
mod rounds;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::anyhow;

pub use self::options::ForkOptions;
pub use self::report::ForkReport;

/// Measures what `options` ask for, as [`crate::chain`] does.
///
/// # Errors
/// The run was interrupted, or something that was started answered wrongly or not at all.
pub fn fork(options: &ForkOptions) -> anyhow::Result<ForkReport> {
    let base = crate::base(options.base.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let (options, seen) = (options.clone(), Arc::clone(&interrupted));
    // What is started ends with the thread that starts it, and tokio's own come and go.
    let (tell, told) = tokio::sync::oneshot::channel();
    let run = std::thread::Builder::new().name("ramet-bench-fork".to_owned()).spawn(move || {
        let _ = tell.send(rounds::measure(&options, base.as_ref(), &seen));
    })?;
    let gone = || anyhow!("the measurement has failed; the reason is above");
    let outcome = runtime.block_on(async {
        tokio::pin!(told);
        tokio::select! {
            biased;
            interrupted_by = crate::interruption() => {
                interrupted.store(true, Ordering::Relaxed);
                let _ = told.await;
                Err(interrupted_by)
            }
            outcome = &mut told => outcome.unwrap_or_else(|_| Err(gone())),
        }
    });
    let _ = run.join();
    outcome
}
