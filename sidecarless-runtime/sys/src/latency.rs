//! How soon the machine's cores are there when something is to run on them.
//!
//! An idle core sleeps, and takes tens of microseconds to wake: in a virtual machine it is even given away. Where one
//! process waits for another again and again that is most of the time. The kernel keeps idle cores awake for as long as
//! somebody asks for it (`/dev/cpu_dma_latency`, its "PM quality of service"), which costs the power that it saves and
//! no time of other processes: so it is asked for a few milliseconds at a time.
//!
//! It takes the right to write to that file, root's as a rule. Without, everything works as well, and later.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

const REQUESTS: &str = "/dev/cpu_dma_latency";
/// How long after the last call cores are kept awake, where nobody says so.
const LASTING: Duration = Duration::from_millis(5);
/// Microseconds until a core is there; and that nobody cares.
const AT_ONCE: i32 = 0;
const WHENEVER: i32 = -1;

/// One request for all of this process.
static KEEPER: OnceLock<Option<Keeper>> = OnceLock::new();

#[derive(Debug)]
struct Keeper {
    start: Instant,
    /// Until when, in nanoseconds from `start`. 0: they are not kept awake.
    until: AtomicU64,
    request: Mutex<File>,
    thread: Thread,
}

/// Keeps the machine's cores awake for some milliseconds from now on. Called again and again it costs a look at the
/// clock.
pub fn keep_awake() {
    keep_awake_for(LASTING);
}

/// The same for so long from now on.
pub fn keep_awake_for(lasting: Duration) {
    if let Some(keeper) = KEEPER.get_or_init(Keeper::start) {
        keeper.keep_awake(lasting);
    }
}

/// Whether this process may ask for it.
pub fn may_keep_awake() -> bool {
    KEEPER.get_or_init(Keeper::start).is_some()
}

impl Keeper {
    fn start() -> Option<Self> {
        let request = Mutex::new(File::options().write(true).open(REQUESTS).ok()?);
        let let_go = || {
            loop {
                thread::park();
                KEEPER.wait().iter().for_each(Keeper::let_go);
            }
        };
        let thread = thread::Builder::new().name("ramet-latency".to_owned()).spawn(let_go).ok()?.thread().clone();
        Some(Self { start: Instant::now(), until: AtomicU64::new(0), request, thread })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn keep_awake(&self, lasting: Duration) {
        let until = self.now() + lasting.as_nanos() as u64;
        if self.until.fetch_max(until, Ordering::Relaxed) == 0 {
            self.ask(AT_ONCE);
            self.thread.unpark();
        }
    }

    /// Waits until nobody has called for long enough.
    fn let_go(&self) {
        loop {
            let until = self.until.load(Ordering::Relaxed);
            match until.saturating_sub(self.now()) {
                // Whoever calls after this asks anew, and after what is asked for here.
                0 => {
                    let mut request = self.request.lock().unwrap_or_else(PoisonError::into_inner);
                    if self.until.compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                        write(&mut request, WHENEVER);
                        return;
                    }
                }
                left => thread::park_timeout(Duration::from_nanos(left)),
            }
        }
    }

    fn ask(&self, latency_us: i32) {
        write(&mut self.request.lock().unwrap_or_else(PoisonError::into_inner), latency_us);
    }
}

/// What is refused leaves cores as they are.
fn write(request: &mut File, latency_us: i32) {
    let _ = request.write_all(&latency_us.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// What all who ask for it together get: microseconds.
    fn granted() -> Option<i32> {
        let mut latency = [0; 4];
        File::open(REQUESTS).ok()?.read_exact(&mut latency).ok()?;
        Some(i32::from_ne_bytes(latency))
    }

    #[test]
    fn cores_are_kept_awake_for_a_while() {
        let Some(before) = granted() else {
            eprintln!("skipped: {REQUESTS} cannot be read here");
            return;
        };
        if File::options().write(true).open(REQUESTS).is_err() {
            eprintln!("skipped: {REQUESTS} cannot be written here");
            return;
        }
        assert!(may_keep_awake());
        for lasting in [LASTING, 20 * LASTING, LASTING] {
            let start = Instant::now();
            keep_awake_for(lasting);
            // It lasts no shorter for that.
            keep_awake();
            assert_eq!(granted(), Some(AT_ONCE));
            let deadline = Instant::now() + Duration::from_secs(60);
            // Others may ask for it, too, meanwhile.
            while before != AT_ONCE && granted() == Some(AT_ONCE) {
                assert!(Instant::now() < deadline, "they are kept awake for ever");
                thread::yield_now();
            }
            assert!(before == AT_ONCE || start.elapsed() >= lasting, "for {:?} only", start.elapsed());
        }
    }
}
