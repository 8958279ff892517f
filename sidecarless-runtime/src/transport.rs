//! Chooses how descriptors travel: the best that kernel and privileges allow, or exactly what was asked for.

use ramet_dataplane::TransportKind;
use ramet_loader::{LoadOptions, LoaderError, Probe, Sproxy, find_object, probe};
use ramet_manifest::Transport;

use crate::dataplane::{DataPlane, LaneKind, Lanes, SkMsg};

/// The transport that was asked for does not work here.
#[derive(Debug, thiserror::Error)]
#[error(
    "transport = \"{wanted}\" does not work here: {reason}; with `transport = \"auto\"` the node takes the next best"
)]
pub struct TransportError {
    wanted: &'static str,
    reason: String,
}

/// Which transport, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The transport.
    pub(crate) kind: TransportKind,
    /// A sentence for people.
    pub(crate) reason: String,
}

/// What a choice is made from.
#[derive(Clone, Debug)]
pub(crate) struct Findings {
    /// Whether S mode works; only tried where it is a candidate.
    pub(crate) skmsg: Option<Probe>,
    /// Whether rings can be made.
    pub(crate) ring: Result<(), String>,
    /// Whether socket pairs can be made.
    pub(crate) socket: Result<(), String>,
}

impl Findings {
    /// Tries the candidates.
    pub(crate) fn gather(wanted: Transport) -> Self {
        let skmsg = matches!(wanted, Transport::Auto | Transport::Skmsg).then(probe);
        let link = |kind: LaneKind| kind.link().map(drop).map_err(|error| error.to_string());
        Self { skmsg, ring: link(LaneKind::Ring), socket: link(LaneKind::Socket) }
    }

    /// Which transport it is to be.
    pub(crate) fn choose(&self, wanted: Transport) -> Result<Choice, TransportError> {
        let asked = || "the node's settings ask for it".to_owned();
        let choice = |kind, reason| Ok(Choice { kind, reason });
        let refuse = |wanted, reason: String| Err(TransportError { wanted, reason });
        match (wanted, self.skmsg_failure(), &self.ring, &self.socket) {
            (Transport::Skmsg, None, ..) => choice(TransportKind::SkMsg, asked()),
            (Transport::Skmsg, Some(why), ..) => refuse("skmsg", why),
            (Transport::Ring, _, Ok(()), _) => choice(TransportKind::Ring, asked()),
            (Transport::Ring, _, Err(why), _) => refuse("ring", why.clone()),
            (Transport::Socket, .., Ok(())) => choice(TransportKind::Socket, asked()),
            (Transport::Socket, .., Err(why)) => refuse("socket", why.clone()),
            (Transport::Auto, None, ..) => {
                choice(TransportKind::SkMsg, "SPROXY loads, and a descriptor passed through it".to_owned())
            }
            (Transport::Auto, Some(why), Ok(()), _) => choice(TransportKind::Ring, format!("no skmsg: {why}")),
            (Transport::Auto, Some(why), Err(ring), Ok(())) => {
                choice(TransportKind::Socket, format!("no skmsg: {why}; no ring: {ring}"))
            }
            (Transport::Auto, Some(why), Err(ring), Err(socket)) => {
                refuse("auto", format!("no skmsg: {why}; no ring: {ring}; no socket: {socket}"))
            }
        }
    }

    fn skmsg_failure(&self) -> Option<String> {
        let Some(probe) = &self.skmsg else { return Some("it was not tried".to_owned()) };
        let step = probe.failure()?;
        Some(format!("the step \"{}\" failed: {}", step.name, step.outcome.as_ref().err().map_or("", |text| text)))
    }
}

/// Sets the chosen transport up.
pub(crate) fn open(choice: &Choice) -> Result<DataPlane, TransportError> {
    let failed = |error: LoaderError| TransportError { wanted: "skmsg", reason: error.to_string() };
    match choice.kind {
        TransportKind::SkMsg => {
            let object = find_object().map_err(failed)?;
            let mut sproxy = Sproxy::load(object, LoadOptions::default()).map_err(failed)?;
            match sproxy.logs() {
                Ok(logs) => drop(tokio::spawn(async move {
                    if let Err(error) = logs.forward().await {
                        tracing::warn!(%error, "SPROXY's log lines are no longer shown");
                    }
                })),
                Err(error) => tracing::warn!(%error, "SPROXY's log lines are not shown"),
            }
            Ok(DataPlane::SkMsg(Box::new(SkMsg::new(sproxy))))
        }
        TransportKind::Ring => Ok(DataPlane::Lanes(Box::new(Lanes::new(LaneKind::Ring)))),
        TransportKind::Socket => Ok(DataPlane::Lanes(Box::new(Lanes::new(LaneKind::Socket)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ramet_loader::Step;

    fn findings(skmsg: Result<(), &str>, ring: Result<(), &str>) -> Findings {
        let step = Step { name: "BPF permitted", outcome: skmsg.map_err(str::to_owned) };
        let skmsg = Some(Probe { steps: vec![step] });
        Findings { skmsg, ring: ring.map_err(str::to_owned), socket: Ok(()) }
    }

    #[test]
    fn auto_takes_the_best_and_says_why_not_a_better_one() {
        let kind = |findings: Findings| findings.choose(Transport::Auto).expect("a choice");
        assert_eq!(kind(findings(Ok(()), Ok(()))).kind, TransportKind::SkMsg);
        let ring = kind(findings(Err("not root"), Ok(())));
        assert_eq!(ring.kind, TransportKind::Ring);
        assert!(ring.reason.contains("BPF permitted") && ring.reason.contains("not root"), "{}", ring.reason);
        assert_eq!(kind(findings(Err("not root"), Err("no memfd"))).kind, TransportKind::Socket);
    }

    #[test]
    fn what_was_asked_for_is_taken_or_refused() {
        let broken = findings(Err("not root"), Ok(()));
        let error = broken.choose(Transport::Skmsg).expect_err("it does not work");
        assert!(error.to_string().contains("not root"), "{error}");
        assert_eq!(broken.choose(Transport::Ring).expect("works").kind, TransportKind::Ring);
        assert_eq!(broken.choose(Transport::Socket).expect("works").kind, TransportKind::Socket);
    }
}
