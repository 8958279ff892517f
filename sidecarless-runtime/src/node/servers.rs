//! Instances that serve HTTP by themselves: nobody speaks to them but the gateway, which is given the way to them as
//! soon as they are started, probes them, and says how they are. The supervisor reads nothing that they write.

use std::os::fd::OwnedFd;
use std::time::Instant;

use ramet_common::InstanceId;
use ramet_control::gateway::{self, Health, ToGateway};
use ramet_control::socket::FDS_MAX;

use super::Node;
use super::instances::END_TIMEOUT;
use super::load::BUSY_TICK;
use crate::instance::Stage;
use crate::route::Speaks;
use crate::server::Way;
use crate::timers::Timer;

impl Node {
    /// Shows the gateway the way to an instance that has just been started.
    pub(super) fn introduce_server(&mut self, id: InstanceId, way: &Way, mut sockets: Vec<OwnedFd>) {
        let Some(instance) = self.instances.get(&id) else { return };
        let Some(function) = self.functions.get(&instance.function) else { return };
        let spec = &function.manifest.spec;
        let Some(http) = &spec.http else { return };
        if matches!(way, Way::Port(_)) {
            self.shortcut.adopt(function.id, id, &sockets);
        }
        let introduction = gateway::Instance {
            instance: id,
            function: function.id,
            name: function.name().to_string(),
            domain: function.domain,
            hang_grace: spec.hang_grace,
            capacity: function.capacity(),
            http: Some(gateway::Http {
                address: way.address(),
                concurrency: spec.concurrency,
                queue: spec.queue,
                readiness: http.readiness.as_ref().map(probe),
                liveness: http.liveness.as_ref().map(probe),
                load_period: spec.replicas.is_elastic().then_some(BUSY_TICK),
            }),
        };
        let mut introduced = self.tell_gateway(ToGateway::Instance(introduction), Vec::new());
        while !sockets.is_empty() {
            let rest = sockets.split_off(sockets.len().min(FDS_MAX));
            introduced = self.tell_gateway(ToGateway::Sockets { instance: id }, sockets);
            sockets = rest;
        }
        self.introductions.insert(introduced, id);
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.stage = Stage::Joining;
            instance.introduced = Some(introduced);
        }
    }

    /// The gateway says how an instance is.
    pub(super) fn hear_probed(&mut self, id: InstanceId, health: Health) {
        let Some(instance) = self.instances.get_mut(&id).filter(|instance| instance.speaks == Speaks::Http) else {
            return;
        };
        self.is_readiness_stale = true;
        match health {
            Health::Ready => {
                instance.is_willing = true;
                instance.unready = None;
                self.touched.insert(id);
            }
            Health::Unready(why) => {
                tracing::info!(function = %instance.name, instance = %id, "not ready: {why}");
                instance.unready = Some(why);
            }
            Health::Dead(why) => self.condemn(id, &why),
        }
    }

    /// How many requests instances have; the next look at the loads takes it in.
    pub(super) fn hear_loads(&mut self, loads: Vec<(InstanceId, u32)>) {
        for (id, held) in loads {
            if let Some(instance) = self.instances.get_mut(&id) {
                instance.held = held;
            }
        }
    }

    /// An instance that was to get no more requests has answered its last one.
    pub(super) fn hear_relieved(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        if instance.speaks == Speaks::Http && instance.stage == Stage::Unpublishing {
            instance.stage = Stage::Ending;
            instance.process.ask_to_end();
            self.timers.set(Instant::now() + END_TIMEOUT, Timer::Grace(id));
        }
    }
}

fn probe(probe: &ramet_manifest::Probe) -> gateway::Probe {
    let ramet_manifest::Probe { path, period, timeout, failure_threshold } = probe;
    gateway::Probe { path: path.clone(), period: *period, timeout: *timeout, failure_threshold: *failure_threshold }
}
