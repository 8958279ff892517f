//! Waiting on conditions with a deadline, which is the only way these tests wait.

use std::time::{Duration, Instant};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How many times as long it may take in a guest, which is emulated.
const GUEST_FACTOR: u32 = 4;

/// Waits until `condition` gives something; `what` says in the failure what was waited for.
///
/// # Panics
/// When it takes longer than anything may.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let is_guest = std::env::var_os("XTASK_VM_KERNEL").is_some();
    let patience = if is_guest { PATIENCE * GUEST_FACTOR } else { PATIENCE };
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain for {what}");
        // tidy: the pause between two looks at a condition, not a wait for it
        std::thread::sleep(Duration::from_millis(5));
    }
}
