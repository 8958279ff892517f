//! Waiting on conditions with a deadline, which is the only way these tests wait.

use std::time::{Duration, Instant};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives something; `what` says in the failure what was waited for.
///
/// # Panics
/// When [`PATIENCE`] is over.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        // tidy: the pause between two looks at a condition, not a wait for it
        std::thread::sleep(Duration::from_millis(5));
    }
}
