//! Hands out ids: each as late as possible after it was last used, so that a late message finds nobody, not somebody.

use std::collections::BTreeSet;

use ramet_common::map::{DOMAINS_MAX, FUNCTIONS_MAX, INSTANCES_MAX};
use ramet_common::{DomainId, FunctionId, InstanceId, RouteId};

/// A table of the node is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the node has no room for another {what}: its tables hold {limit}, and a change needs old and new side by side; \
     apply the change in smaller parts"
)]
pub struct NoRoom {
    /// What there are too many of.
    pub what: &'static str,
    /// How many there can be.
    pub limit: u32,
}

/// The ids of everything on the node.
#[derive(Debug)]
pub(crate) struct Ids {
    instances: Numbers,
    incarnations: Vec<u16>,
    functions: Numbers,
    domains: Numbers,
    last_route: u32,
}

impl Ids {
    pub(crate) fn new() -> Self {
        Self {
            instances: Numbers::new("instance", INSTANCES_MAX),
            incarnations: vec![0; INSTANCES_MAX as usize],
            functions: Numbers::new("version of a function", FUNCTIONS_MAX),
            domains: Numbers::new("security domain", DOMAINS_MAX),
            last_route: 0,
        }
    }

    /// An index that nobody lives at, with the next incarnation there.
    pub(crate) fn instance(&mut self) -> Result<InstanceId, NoRoom> {
        let index = self.instances.take()?;
        let incarnation = &mut self.incarnations[index as usize];
        *incarnation = incarnation.wrapping_add(1).max(1);
        // The table has fewer than 2^16 places.
        Ok(InstanceId::new(index as u16, *incarnation))
    }

    pub(crate) fn free_instance(&mut self, instance: InstanceId) {
        self.instances.free(instance.index());
    }

    pub(crate) fn function(&mut self) -> Result<FunctionId, NoRoom> {
        self.functions.take().map(FunctionId)
    }

    pub(crate) fn free_function(&mut self, function: FunctionId) {
        self.functions.free(function.0);
    }

    pub(crate) fn domain(&mut self) -> Result<DomainId, NoRoom> {
        self.domains.take().map(DomainId)
    }

    pub(crate) fn free_domain(&mut self, domain: DomainId) {
        self.domains.free(domain.0);
    }

    /// Never used again.
    pub(crate) fn route(&mut self) -> RouteId {
        self.last_route += 1;
        RouteId(self.last_route)
    }
}

/// Numbers from 1 to a limit, taken in turn.
#[derive(Debug)]
struct Numbers {
    what: &'static str,
    end: u32,
    last: u32,
    used: BTreeSet<u32>,
}

impl Numbers {
    /// Numbers below `end`. Zero is never one: it is the gateway, or nobody.
    fn new(what: &'static str, end: u32) -> Self {
        Self { what, end, last: 0, used: BTreeSet::new() }
    }

    fn take(&mut self) -> Result<u32, NoRoom> {
        let mut in_turn = (self.last + 1..self.end).chain(1..=self.last);
        let number = in_turn.find(|number| !self.used.contains(number));
        let number = number.ok_or(NoRoom { what: self.what, limit: self.end - 1 })?;
        self.used.insert(number);
        self.last = number;
        Ok(number)
    }

    fn free(&mut self, number: u32) {
        self.used.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_comes_back_late_and_as_another_incarnation() {
        let mut ids = Ids::new();
        let first = ids.instance().expect("room");
        assert_eq!(first, InstanceId::new(1, 1));
        ids.free_instance(first);
        for _ in 2..INSTANCES_MAX {
            let id = ids.instance().expect("room");
            ids.free_instance(id);
        }
        assert_eq!(ids.instance(), Ok(InstanceId::new(1, 2)));
    }

    #[test]
    fn a_full_table_says_so() {
        let mut ids = Ids::new();
        for _ in 1..DOMAINS_MAX {
            ids.domain().expect("room");
        }
        assert_eq!(ids.domain(), Err(NoRoom { what: "security domain", limit: DOMAINS_MAX - 1 }));
        ids.free_domain(DomainId(7));
        assert_eq!(ids.domain(), Ok(DomainId(7)));
    }
}
