//! One version of a function in one domain: who runs it, and when to start another one.

use std::sync::Arc;
use std::time::Duration;

use ramet_common::{DomainId, FunctionId, InstanceId};
use ramet_control::instance::START_TIMEOUT;
use ramet_manifest::{self as manifest, DomainName, QualifiedName, Replicas, Restart, Start};
use tokio::task::JoinHandle;

use crate::brood::Brood;
use crate::route::Speaks;
use crate::scale::Scale;

/// An instance that lived this long was no failed start, so the next wait is short again.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Where a version is in its life.
///
/// Incoming → Current when the change that brings it is through, or gone when the change fails; Current → Retired when
/// a change replaces or removes it; Retired → gone when its last instance has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Started, but no request is for it yet.
    Incoming,
    /// Requests are for it.
    Current,
    /// Only requests that have begun are for it.
    Retired,
}

/// A version of a function. Any change but that of the number of replicas or of how it ends and restarts makes a new
/// one.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) id: FunctionId,
    pub(crate) domain: DomainId,
    pub(crate) domain_name: DomainName,
    pub(crate) manifest: Arc<manifest::Function>,
    /// The versions of the functions that it may call, by name.
    pub(crate) calls: Vec<(String, FunctionId)>,
    pub(crate) role: Role,
    pub(crate) places: Vec<Place>,
    /// How many instances the load asks for.
    pub(crate) scale: Scale,
    pub(crate) ancestry: Ancestry,
    /// How many copies in a row could not be made.
    pub(crate) fruitless: u32,
    /// Why instances are not started in the way that was asked for.
    pub(crate) start_problem: Option<String>,
    /// Why an instance was lost last.
    pub(crate) failure: Option<String>,
    /// The incoming version's instance that failed last, and the task that still reads what it wrote.
    pub(crate) failed: Option<(InstanceId, JoinHandle<()>)>,
}

/// A place in the replica set.
///
/// Empty → Taken when an instance starts, → Empty when it is gone; Empty → Waiting when it has failed before, → Taken
/// when the wait is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) occupant: Occupant,
    /// How many instances failed here in a row.
    failures: u32,
}

/// Who is at a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Occupant {
    /// Nobody.
    #[default]
    Nobody,
    /// Nobody until a timer.
    Waiting,
    /// An instance that is being forked.
    Expected,
    /// This instance.
    Instance(InstanceId),
}

/// Where the process is that new instances are copies of.
///
/// Sought → Freezing when an instance can be the parent → Preparing when it is frozen → Ready when there is a seed;
/// Sought → Preparing where the parent is on another node. Back to Sought when the seed is lost. From anywhere to
/// Barren when something fails, and after a while to Sought.
#[derive(Debug)]
pub(crate) enum Ancestry {
    /// Instances execute the command, as was asked for.
    None,
    /// Nobody yet.
    Sought,
    /// This instance was asked to freeze.
    Freezing(InstanceId),
    /// A seed is prepared, of this frozen instance or of a process of another node.
    Preparing(Option<InstanceId>, Arc<Brood>),
    /// Copies can be asked for.
    Ready(Arc<Brood>),
    /// Nobody for now: instances execute the command.
    Barren,
}

impl Ancestry {
    /// The beginning, for a function that starts like this.
    pub(crate) fn of(start: &Start) -> Self {
        if *start == Start::Exec { Self::None } else { Self::Sought }
    }
}

impl Place {
    /// How long to leave the place empty now that its instance, which lived for `lived`, is gone.
    pub(crate) fn wait_after(&mut self, lived: Duration, restart: &Restart) -> Duration {
        if lived >= STABLE_AFTER {
            self.failures = 0;
        }
        let wait = match self.failures {
            0 => Duration::ZERO,
            failures => {
                let doublings = (failures - 1).min(31);
                restart.initial_backoff.saturating_mul(1 << doublings).min(restart.max_backoff)
            }
        };
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

impl Function {
    /// `namespace/name`.
    pub(crate) fn name(&self) -> QualifiedName {
        self.manifest.qualified_name()
    }

    /// What its instances speak.
    pub(crate) fn speaks(&self) -> Speaks {
        Speaks::of(&self.manifest)
    }

    /// How long an instance may take to get ready.
    pub(crate) fn start_timeout(&self) -> Duration {
        self.manifest.spec.http.as_ref().map_or(START_TIMEOUT, |http| http.start_timeout)
    }

    /// How many messages an instance may hold, in service and queued.
    pub(crate) fn capacity(&self) -> u32 {
        self.manifest.spec.concurrency.saturating_add(self.manifest.spec.queue)
    }

    /// How many instances there should be.
    pub(crate) fn wanted(&self) -> u32 {
        match self.role {
            Role::Incoming | Role::Current => self.scale.wanted(&self.manifest.spec.replicas),
            Role::Retired => 0,
        }
    }

    /// The instances, starting and ending ones included.
    pub(crate) fn instances(&self) -> impl Iterator<Item = InstanceId> {
        self.places.iter().filter_map(|place| match place.occupant {
            Occupant::Instance(instance) => Some(instance),
            Occupant::Nobody | Occupant::Waiting | Occupant::Expected => None,
        })
    }

    /// The places that are to be filled now; adds places for replicas that were added.
    pub(crate) fn vacancies(&mut self) -> Vec<u32> {
        let wanted = self.wanted();
        if self.places.len() < wanted as usize {
            self.places.resize_with(wanted as usize, Place::default);
        }
        let places = (0..wanted).zip(&self.places);
        places.filter(|(_, place)| place.occupant == Occupant::Nobody).map(|(index, _)| index).collect()
    }

    /// The instances at places that are no longer wanted.
    pub(crate) fn surplus(&self) -> Vec<InstanceId> {
        let extra = self.places.iter().skip(self.wanted() as usize);
        extra
            .filter_map(|place| match place.occupant {
                Occupant::Instance(instance) => Some(instance),
                Occupant::Nobody | Occupant::Waiting | Occupant::Expected => None,
            })
            .collect()
    }

    /// The place of an instance.
    pub(crate) fn place_of(&mut self, instance: InstanceId) -> Option<(u32, &mut Place)> {
        (0..).zip(&mut self.places).find(|(_, place)| place.occupant == Occupant::Instance(instance))
    }
}

/// Whether two manifests are the same version: they differ in nothing that a running instance would notice.
pub(crate) fn is_same_version(one: &manifest::Function, other: &manifest::Function) -> bool {
    let comparable = |function: &manifest::Function| {
        let mut spec = function.spec.clone();
        spec.replicas = Replicas::default();
        spec.restart = Restart::default();
        spec.shutdown_grace = Duration::ZERO;
        spec
    };
    one.metadata == other.metadata && comparable(one) == comparable(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_replacement_is_immediate_and_the_next_ones_wait_ever_longer() {
        let restart = Restart { initial_backoff: Duration::from_millis(100), max_backoff: Duration::from_millis(350) };
        let mut place = Place::default();
        let waits: Vec<_> = (0..5).map(|_| place.wait_after(Duration::ZERO, &restart).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 350, 350]);
        assert_eq!(place.wait_after(STABLE_AFTER, &restart), Duration::ZERO, "it was stable");
        assert_eq!(place.wait_after(Duration::ZERO, &restart).as_millis(), 100);
        place.failures = u32::MAX;
        assert_eq!(place.wait_after(Duration::ZERO, &restart).as_millis(), 350);
    }
}
