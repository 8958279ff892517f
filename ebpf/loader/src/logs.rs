//! SPROXY's log lines as `tracing` events, so that a refusal shows up where everything else is logged.

use crate::LoaderError;
use aya::Ebpf;
use aya_log::EbpfLogger;
use std::fmt;
use std::io;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing_log::log;

/// The target of the events.
pub const TARGET: &str = "ramet::sproxy";

/// The program's log lines, not yet read.
pub struct SproxyLogs {
    logger: EbpfLogger<Bridge>,
}

impl fmt::Debug for SproxyLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SproxyLogs").finish_non_exhaustive()
    }
}

impl SproxyLogs {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, LoaderError> {
        EbpfLogger::init_with_logger(ebpf, Bridge)
            .map(|logger| Self { logger })
            .map_err(|error| LoaderError::Logs { reason: error.to_string() })
    }

    /// Turns every line that is there into an event now.
    pub fn flush(&mut self) {
        self.logger.flush();
    }

    /// Turns every line into an event as it comes. Runs until it is dropped or fails; to be spawned as a task.
    ///
    /// # Errors
    ///
    /// When the runtime cannot watch the ring's descriptor.
    pub async fn forward(self) -> io::Result<()> {
        #[allow(
            deprecated,
            reason = "its successor is unsafe because a type may change its descriptor; this one keeps its ring's"
        )]
        let mut logger = AsyncFd::with_interest(self.logger, Interest::READABLE)?;
        loop {
            let mut guard = logger.readable_mut().await?;
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }
}

/// Receives what aya-log decodes.
struct Bridge;

impl log::Log for Bridge {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // The kernel side pads a refusal's name to a fixed length.
        let line = record.args().to_string();
        let line = line.trim_end();
        match record.level() {
            log::Level::Error => tracing::error!(target: TARGET, "{line}"),
            log::Level::Warn => tracing::warn!(target: TARGET, "{line}"),
            log::Level::Info => tracing::info!(target: TARGET, "{line}"),
            log::Level::Debug => tracing::debug!(target: TARGET, "{line}"),
            log::Level::Trace => tracing::trace!(target: TARGET, "{line}"),
        }
    }

    fn flush(&self) {}
}
