//! Building an epoch up and tearing it down.

use std::time::Duration;

use ramet_common::map::Edge;
use ramet_common::{DomainId, FunctionId};
use ramet_control::gateway::{Protocol, Tls, ToGateway};

use super::placement::Placing;
use super::{Interrupted, Mode, Node};
use crate::dataplane::{DataPlaneError, Member, copy};
use crate::gateway_process::{self, Gateway, GatewayStage, TlsError};
use crate::ids::NoRoom;
use crate::links::LinkTable;
use crate::node::change::ChangeError;
use crate::process::StartError;

/// How long the gateway may take for each of its first steps.
const GATEWAY_START_TIMEOUT: Duration = Duration::from_secs(10);

/// How long connections wait for the functions before they are accepted anyway and answered 503.
const FUNCTIONS_HEAD_START: Duration = Duration::from_secs(2);

/// How long killed processes may take to be gone.
const DEATH_TIMEOUT: Duration = Duration::from_secs(5);

/// Why an epoch ended, or could not begin.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// The gateway's process could not be started.
    #[error("cannot start the gateway: {0}")]
    Start(#[from] StartError),
    /// Its certificate could not be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its place on the data plane could not be made.
    #[error("cannot put the gateway on the data plane: {0}")]
    DataPlane(#[from] DataPlaneError),
    /// There is no place.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// What the manifests ask for could not be set up.
    #[error("cannot set up what the manifests ask for: {0}")]
    Setup(String),
    /// The gateway did not do its part in time.
    #[error("the gateway did not {0} within {GATEWAY_START_TIMEOUT:?}")]
    Slow(&'static str),
    /// Something happened that ends the epoch.
    #[error("{}", match .0 {
        Interrupted::TimedOut => "it took too long",
        Interrupted::GatewayGone => "the gateway ended; its last lines say why",
        Interrupted::Signal => "the supervisor was told to end",
    })]
    Interrupted(Interrupted),
}

impl From<Interrupted> for EpochError {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted(interrupted)
    }
}

impl Node {
    /// One epoch, from the start of a gateway to its end or the supervisor's.
    pub(super) async fn live(&mut self) -> Result<(), EpochError> {
        self.mode = Mode::Running;
        self.epoch += 1;
        // Before anything happens, so that nobody who asks for the certificate is told that there is none.
        let tls = gateway_process::read_tls(&self.settings)?;
        self.certificate = tls.as_ref().map(|tls| String::from_utf8_lossy(&tls.certificate_pem).into_owned());
        self.gateway = Some(Gateway::start(self.epoch, &self.settings, self.events.clone())?);
        self.reach(GatewayStage::Greeted, "say hello").await?;
        self.equip_gateway(tls)?;
        self.install().map_err(|error| EpochError::Setup(error.to_string()))?;
        match self.wait_for(FUNCTIONS_HEAD_START, Self::every_function_had_its_chance).await {
            Ok(()) | Err(Interrupted::TimedOut) => {}
            Err(interrupted) => return Err(interrupted.into()),
        }
        self.tell_gateway(ToGateway::Serve, Vec::new());
        self.reach(GatewayStage::Serving, "accept connections").await?;
        self.has_served = true;
        tracing::info!(listen = %self.listeners.http_address, transport = self.choice.kind.as_str(),
            reason = self.choice.reason, "the gateway accepts connections");
        loop {
            match self.changes.pop_front() {
                Some(change) => self.make(change).await?,
                None => self.next(None).await?,
            }
        }
    }

    /// Ends everything that shares memory with a gateway that is gone, and forgets it.
    pub(super) async fn tear_down(&mut self) {
        self.mode = Mode::TearingDown;
        self.kill_all();
        let gone = |node: &Self| node.instances.is_empty() && node.gateway.is_none();
        if self.wait_for(DEATH_TIMEOUT, gone).await.is_err() {
            tracing::error!("some children do not die of SIGKILL within {DEATH_TIMEOUT:?}; they are left behind");
        }
        self.gateway = None;
        self.instances.clear();
        // What is born of them meanwhile finds no place, and ends.
        self.births.clear();
        self.loans.clear();
        self.touched.clear();
        self.introductions.clear();
        self.links = LinkTable::default();
        self.timers.clear();
        self.is_looking = false;
        self.placing = Placing::default();
        self.routes.clear();
        self.chains.clear();
        for edge in std::mem::take(&mut self.edges) {
            self.plane.deny(edge);
        }
        for (id, function) in std::mem::take(&mut self.functions) {
            self.plane.set_replicas(id, function.domain, &[]);
            self.shortcut.forget(id);
            self.plane.forget_flow(id);
            self.ids.free_function(id);
        }
        for id in std::mem::take(&mut self.domains).into_keys() {
            self.plane.remove_domain(id);
            self.ids.free_domain(id);
        }
        self.waiting_for.clear();
    }

    async fn reach(&mut self, stage: GatewayStage, what: &'static str) -> Result<(), EpochError> {
        match self.wait_for(GATEWAY_START_TIMEOUT, |node| node.gateway_stage() >= Some(stage)).await {
            Ok(()) => Ok(()),
            Err(Interrupted::TimedOut) => Err(EpochError::Slow(what)),
            Err(interrupted) => Err(interrupted.into()),
        }
    }

    /// Gives a new gateway its settings, its places on the data plane and its sockets.
    fn equip_gateway(&mut self, tls: Option<Tls>) -> Result<(), EpochError> {
        let protocol = if tls.is_some() { Protocol::Https } else { Protocol::Http };
        let settings = gateway_process::told(&self.settings, self.plane.kind(), tls);
        self.tell_gateway(ToGateway::Settings(settings), Vec::new());
        for index in 0..self.settings.gateway.workers {
            let instance = self.ids.instance()?;
            if let Some(gateway) = &mut self.gateway {
                gateway.workers.push(instance);
            }
            let member =
                Member { instance, function: FunctionId::GATEWAY, domain: DomainId::default(), capacity: u32::MAX };
            let mut fds = self.plane.join(member)?;
            fds.extend(self.plane.reasons()?);
            self.tell_gateway(ToGateway::Worker { index, instance }, fds);
        }
        for (worker, listener) in (0..).zip(&self.listeners.http) {
            let fd = copy(listener)?;
            if let Some(gateway) = &mut self.gateway {
                gateway.tell(ToGateway::Listener { worker, protocol }, vec![fd]);
            }
        }
        let fd = copy(&self.listeners.admin)?;
        self.tell_gateway(ToGateway::Listener { worker: 0, protocol: Protocol::Admin }, vec![fd]);
        Ok(())
    }

    /// Starts what the manifests ask for, all at once: nothing runs yet that could be kept from requests.
    fn install(&mut self) -> Result<(), ChangeError> {
        let draft = self.draft(self.desired.clone())?;
        let chains = self.chains_for_gateway(&draft)?;
        self.tell_gateway(ToGateway::Chains(chains), Vec::new());
        self.commit(draft);
        self.tell_readiness();
        Ok(())
    }

    /// Whether every function is ready or has failed at least once.
    fn every_function_had_its_chance(&self) -> bool {
        self.functions.values().all(|function| function.failure.is_some() || self.ready_instances(function) > 0)
    }

    /// The edges to and from the gateway that a function needs: it is started, supervised and answered by it.
    pub(super) fn gateway_edges(function: FunctionId) -> [Edge; 2] {
        let gateway = FunctionId::GATEWAY;
        [Edge { from: gateway, to: function }, Edge { from: function, to: gateway }]
    }
}
