//! What all threads of this instance share: its place on the data plane, its routes, its open work.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use nix::sys::eventfd::EventFd;
use ramet_common::{FunctionId, InstanceId, Refusal, RequestId, RouteId};
use ramet_control::instance::FromInstance;
use ramet_control::socket::ControlSocket;
use ramet_dataplane::endpoint::Links;
use ramet_dataplane::{Ledger, Pool, Route, Sender};

use crate::inbox::Inbox;
use crate::outbox::Outbox;

/// This process's place on the node.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) function: FunctionId,
    /// `namespace/name`.
    pub(crate) name: String,
    pub(crate) concurrency: usize,
    pub(crate) pool: Pool,
    /// Where the lane transports account for the domain's slots; in S mode functions cannot see it.
    pub(crate) ledger: Option<Ledger>,
    pub(crate) sender: Arc<dyn Sender>,
    pub(crate) links: Option<Arc<dyn Links>>,
    pub(crate) inbox: Inbox,
    pub(crate) outbox: Outbox,
    pub(crate) control: ControlSocket,
    /// Wakes the control thread.
    pub(crate) bell: EventFd,
    pub(crate) refusals: Refusals,
    pub(crate) callable: Vec<(String, FunctionId)>,
    pub(crate) routes: RwLock<HashMap<RouteId, Arc<Route>>>,
    pub(crate) calls: AtomicU32,
}

impl Instance {
    /// The chain version of that id.
    pub(crate) fn route(&self, id: RouteId) -> Option<Arc<Route>> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Learns and forgets chain versions.
    pub(crate) fn change_routes(&self, added: Vec<Route>, retired: &[RouteId]) {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        routes.retain(|id, _| !retired.contains(id));
        routes.extend(added.into_iter().map(|route| (route.id, Arc::new(route))));
    }

    /// The function that a handler names: as the manifest does, or without the namespace if it is this one's.
    pub(crate) fn callable(&self, name: &str) -> Option<FunctionId> {
        let namespace = self.name.split_once('/').map_or("", |(namespace, _)| namespace);
        let is_meant = |known: &str| {
            known == name || known.split_once('/').is_some_and(|(place, known)| place == namespace && known == name)
        };
        self.callable.iter().find(|(known, _)| is_meant(known)).map(|(_, function)| *function)
    }

    /// An id for a call: no other instance of the node makes the same.
    pub(crate) fn next_call(&self) -> RequestId {
        let count = self.calls.fetch_add(1, Ordering::Relaxed);
        RequestId(u64::from(self.id.0) << 32 | u64::from(count))
    }

    /// Writes a line to standard error, which the supervisor collects.
    pub(crate) fn log(&self, line: fmt::Arguments<'_>) {
        eprintln!("ramet: {} ({}): {line}", self.name, self.id);
    }

    /// Wakes the control thread.
    pub(crate) fn ring(&self) {
        // An eventfd that cannot be written is at its limit, so it rings already.
        let _ = self.bell.write(1);
    }
}

/// Why sends were refused, where only the supervisor knows.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    asked: AtomicU64,
    answers: Mutex<(u64, Option<Refusal>)>,
    logged: AtomicU32,
}

impl Refusals {
    /// Asks the supervisor; the number finds the answer.
    pub(crate) fn ask(&self, control: &ControlSocket) -> u64 {
        let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        // A supervisor that cannot be asked does not answer, and the sender's patience ends by itself.
        let _ = control.send(&FromInstance::WhyRefused, &[]);
        number
    }

    /// The supervisor's next answer.
    pub(crate) fn answered(&self, reason: Option<Refusal>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers = (answers.0 + 1, reason);
    }

    /// The answer to that question, or to a later one, once it is there.
    pub(crate) fn answer(&self, number: u64) -> Option<Refusal> {
        let (answered, reason) = *self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        reason.filter(|_| answered >= number)
    }

    /// Whether this reason shows for the first time.
    pub(crate) fn is_new(&self, refusal: Option<Refusal>) -> bool {
        let bit = 1 << refusal.map_or(31, |refusal| refusal as u32 % 31);
        self.logged.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}
