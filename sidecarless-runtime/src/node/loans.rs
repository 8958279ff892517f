//! Instances that somebody prepares who is not the node: the keeper, for other nodes' instances.

use std::sync::mpsc::SyncSender;

use ramet_common::InstanceId;

use super::Node;
use crate::function::Ancestry;
use crate::instance::{Instance, Stage};
use crate::loan::{Frozen, LoanRequest, NoLoan};

/// Asked → frozen when the instance says so; gone when it does not freeze, ends, or whoever has it gives it back.
#[derive(Debug)]
pub(super) enum Loan {
    /// The instance was asked to freeze; this one waits.
    Asked(SyncSender<Result<Frozen, NoLoan>>),
    /// It is frozen.
    Frozen,
}

impl Node {
    pub(super) fn hear_loan(&mut self, request: LoanRequest) {
        match request {
            LoanRequest::Begin(id, borrower) => match self.may_lend(id).and_then(|()| self.ask_for_loan(id)) {
                Ok(()) => _ = self.loans.insert(id, Loan::Asked(borrower)),
                Err(error) => drop(borrower.try_send(Err(error))),
            },
            LoanRequest::Which(pid, asker) => {
                let is_it = |instance: &Instance| instance.process.pid == pid.cast_unsigned();
                let id = self.instances.iter().find(|(_, instance)| is_it(instance)).map(|(id, _)| *id);
                // Who does not wait any more does not mind.
                let _ = asker.try_send(id);
            }
            LoanRequest::End(id) => {
                if self.loans.remove(&id).is_some() {
                    self.thaw(Some(id));
                    if let Some(function) = self.instances.get(&id).map(|instance| instance.function) {
                        self.seek_parent(function);
                    }
                }
            }
        }
    }

    fn may_lend(&self, id: InstanceId) -> Result<(), NoLoan> {
        let instance = self.instances.get(&id).ok_or(NoLoan::Unknown(id))?;
        if instance.stage != Stage::Ready {
            return Err(NoLoan::NotReady(id, self.state_of(instance)));
        }
        if instance.process.habitat.first().is_none() {
            return Err(NoLoan::Alone(id));
        }
        let is_parent = self.functions.get(&instance.function).is_some_and(|function| match &function.ancestry {
            Ancestry::Freezing(parent) | Ancestry::Preparing(Some(parent), _) => *parent == id,
            _ => false,
        });
        if is_parent || self.is_lent(id) { Err(NoLoan::Taken(id)) } else { Ok(()) }
    }

    fn ask_for_loan(&mut self, id: InstanceId) -> Result<(), NoLoan> {
        self.ask_to_freeze(id).map_err(|error| NoLoan::Awake(id, error.to_string()))
    }

    /// Whether somebody prepares an instance.
    pub(super) fn is_lent(&self, id: InstanceId) -> bool {
        self.loans.contains_key(&id)
    }

    /// An instance is frozen. True: for a loan.
    pub(super) fn lend(&mut self, id: InstanceId) -> bool {
        let Some(loan) = self.loans.get_mut(&id) else { return false };
        let Some(instance) = self.instances.get(&id) else { return false };
        if let Loan::Asked(borrower) = std::mem::replace(loan, Loan::Frozen) {
            let pid = instance.process.pid.cast_signed();
            let (habitat, kin) = (instance.process.habitat.clone(), instance.kin.clone());
            let frozen = Frozen { pid, kin, habitat };
            if borrower.try_send(Ok(frozen)).is_err() {
                self.loans.remove(&id);
                self.thaw(Some(id));
            }
        }
        true
    }

    /// An instance does not freeze, or has ended. True: it was asked for a loan.
    pub(super) fn lose_loan(&mut self, id: InstanceId, why: &str) -> bool {
        match self.loans.remove(&id) {
            Some(Loan::Asked(borrower)) => {
                // Who does not wait any more does not mind.
                let _ = borrower.try_send(Err(NoLoan::Awake(id, why.to_owned())));
                true
            }
            Some(Loan::Frozen) | None => false,
        }
    }

    /// Whether an instance that was asked to freeze for a loan has not done so yet.
    pub(super) fn is_loan_asked(&self, id: InstanceId) -> bool {
        matches!(self.loans.get(&id), Some(Loan::Asked(_)))
    }
}
