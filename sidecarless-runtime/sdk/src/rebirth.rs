//! What has to be done anew in a copy of an instance, before its first request.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use ramet_common::InstanceId;

/// What a copy does first.
type Hook = Box<dyn Fn(&Rebirth) -> crate::Result<()> + Send>;

static HOOKS: Mutex<Vec<Hook>> = Mutex::new(Vec::new());

/// Registers what is to be done in each copy of this process before its first request, after what was registered
/// before. It is not called in the process that is copied.
///
/// A node whose manifest says so makes new instances as copies of a running one, between two of its requests, with all
/// of its memory. So each copy has the same state of random number generators, the same ids and the same numbers of
/// sockets, which lead nowhere: this is the place to seed, to number and to connect anew. The SDK looks after what is
/// its own. Threads that serve are new ones in a copy, so what is thread-local in them is new, too.
///
/// A copy whose hook fails or panics serves nothing and ends.
///
/// ```
/// use std::sync::Mutex;
///
/// static TOKENS: Mutex<[u8; 32]> = Mutex::new([0; 32]);
///
/// ramet_sdk::after_fork(|copy| {
///     *TOKENS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = copy.random()?;
///     Ok(())
/// });
/// ```
pub fn after_fork(hook: impl Fn(&Rebirth) -> crate::Result<()> + Send + 'static) {
    HOOKS.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
}

/// The circumstances of a copy's first moments.
pub struct Rebirth {
    instance: InstanceId,
    function: String,
}

impl Rebirth {
    /// This process's own id on the node.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// The name of the function that it is an instance of, with its namespace.
    #[must_use]
    pub fn function_name(&self) -> &str {
        &self.function
    }

    /// Bytes from the operating system that no other process has got: a seed for a generator, or an id.
    ///
    /// # Errors
    /// The operating system's.
    pub fn random<const BYTES: usize>(&self) -> io::Result<[u8; BYTES]> {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(bytes)
    }
}

impl fmt::Debug for Rebirth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rebirth").field("instance", &self.instance).field("function", &self.function).finish()
    }
}

/// Calls all hooks. The error says which failed and why.
pub(crate) fn run_hooks(instance: InstanceId, function: &str) -> Result<(), String> {
    let rebirth = Rebirth { instance, function: function.to_owned() };
    let hooks = HOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    for (hook, number) in hooks.iter().zip(1..) {
        match catch_unwind(AssertUnwindSafe(|| hook(&rebirth))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("hook {number} of {}: {error}", hooks.len())),
            Err(_) => return Err(format!("hook {number} of {} panicked", hooks.len())),
        }
    }
    Ok(())
}
