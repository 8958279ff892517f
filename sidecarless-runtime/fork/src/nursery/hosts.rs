//! Where a host comes from: it is made when there is first need of one, and made anew should its zygote be killed.

use std::io;
use std::process::Command;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::resume::Host;

/// Makes hosts. The children of all of them end with this, because the kernel ends them with the thread that made
/// their host, which is a thread of this.
#[derive(Debug)]
pub struct Hosts {
    current: Mutex<Option<Arc<Host>>>,
    orders: Option<SyncSender<Order>>,
    maker: Option<JoinHandle<()>>,
}

/// Where the next host goes.
type Order = SyncSender<io::Result<Host>>;

impl Hosts {
    /// Hosts whose zygote is what `command` gives: a program that calls [`crate::zygote::run`].
    ///
    /// # Errors
    /// The operating system's.
    pub fn new(command: impl Fn() -> Command + Send + 'static) -> io::Result<Self> {
        let (orders, taken) = sync_channel::<Order>(0);
        let make = move || make(&taken, command);
        let maker = thread::Builder::new().name("ramet-hosts".to_owned()).spawn(make)?;
        Ok(Self { current: Mutex::default(), orders: Some(orders), maker: Some(maker) })
    }

    /// The host that there is.
    ///
    /// # Errors
    /// There is none yet, or not any more, and it cannot be made.
    pub fn host(&self) -> io::Result<Arc<Host>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = current.as_ref().filter(|host| host.is_alive()) {
            return Ok(Arc::clone(host));
        }
        if current.take().is_some() {
            tracing::warn!("the zygote was killed; it is started anew");
        }
        let gone = || io::Error::other("the thread that makes hosts has ended");
        let (give, given) = sync_channel(1);
        self.orders.as_ref().ok_or_else(gone)?.send(give).map_err(|_| gone())?;
        let host = Arc::new(given.recv().map_err(|_| gone())??);
        Ok(Arc::clone(current.insert(host)))
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(maker) = self.maker.take() {
            let _ = maker.join();
        }
    }
}

fn make(taken: &Receiver<Order>, command: impl Fn() -> Command) {
    while let Ok(give) = taken.recv() {
        // Who asked waits for it.
        let _ = give.send(Host::start(command()));
    }
}
