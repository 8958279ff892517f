//! The end of the node: what was accepted is answered, then everything ends.

use std::time::Duration;

use ramet_control::gateway::ToGateway;

use super::change::ChangeError;
use super::{Mode, Node};
use crate::gateway_process::{Gateway, GatewayStage};

/// What the supervisor adds to the time that a child was given.
const MARGIN: Duration = Duration::from_secs(3);

/// How long the pipes of instances that have ended may stay open.
const LAST_WORDS: Duration = Duration::from_millis(200);

impl Node {
    /// Ends everything, gracefully until a second signal.
    pub(super) async fn stop(&mut self) {
        self.mode = Mode::Stopping;
        self.is_readiness_stale = true;
        for change in std::mem::take(&mut self.changes) {
            change.refuse(&ChangeError::Stopping);
        }
        tracing::info!("stopping: requests that were accepted are finished first; a second signal ends everything now");
        if self.drain_everything().await.is_err() {
            tracing::warn!("a second signal: everything ends now");
        }
        self.kill_all();
        self.tear_down().await;
        self.end_logs().await;
    }

    /// Ends what is read by those who follow logs, once they have the last words of every instance.
    async fn end_logs(&mut self) {
        let outputs = std::mem::take(&mut self.outputs);
        let read = async {
            for output in outputs {
                // It has nothing to say but that it has ended.
                let _ = output.await;
            }
        };
        // Something that a function started may have outlived it, and hold its pipes open.
        let _ = tokio::time::timeout(LAST_WORDS, read).await;
        self.logs.end().await;
    }

    async fn drain_everything(&mut self) -> Result<(), super::Interrupted> {
        let timeout = self.settings.gateway.drain_timeout;
        if self.gateway_stage() == Some(GatewayStage::Serving) {
            self.tell_gateway(ToGateway::Drain { timeout }, Vec::new());
            // As long as somebody listens, clients connect, and wait in vain.
            self.listeners.http.clear();
            let drained = |node: &Self| node.gateway_stage().is_none_or(|stage| stage == GatewayStage::Drained);
            self.bounded(timeout + MARGIN, drained).await?;
        }
        for id in self.instances.keys().copied().collect::<Vec<_>>() {
            self.drain(id);
        }
        let graces = self.functions.values().map(|function| function.manifest.spec.shutdown_grace);
        let grace = graces.max().unwrap_or_default();
        self.bounded(grace + MARGIN, |node| node.instances.is_empty()).await?;
        // It could not answer any more once the conversation is closed.
        let is_quiet = |gateway: &Gateway| gateway.process.conversation.is_quiet();
        self.bounded(MARGIN, |node| node.gateway.as_ref().is_none_or(is_quiet)).await?;
        if let Some(gateway) = &self.gateway {
            gateway.process.ask_to_end();
        }
        self.bounded(MARGIN, |node| node.gateway.is_none()).await
    }

    /// Waits, but not for ever: what takes too long is killed in the end.
    async fn bounded(&mut self, timeout: Duration, done: impl Fn(&Self) -> bool) -> Result<(), super::Interrupted> {
        match self.wait_for(timeout, done).await {
            Err(super::Interrupted::TimedOut) => Ok(()),
            other => other,
        }
    }
}
