//! Functions that pass bodies on by iceoryx2's publish-subscribe: a service for each place of the chain, with an event
//! to sleep on. The last function publishes to the first one, which waits for what it has sent.
//!
//! Each hop copies the body, because memory that a function was lent belongs to who published it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use iceoryx2::node::Node;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::{FileDescriptorBased, NodeBuilder, SignalHandlingMode, ipc_threadsafe};
use iceoryx2::service::port_factory::{PortFactory, event, publish_subscribe};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::address::Place;
use super::pieces::Pieces;

type Service = ipc_threadsafe::Service;
/// The number of the request that a body is of.
type Number = u64;

/// How long who comes next may take until it is there.
const START_PATIENCE: Duration = Duration::from_secs(30);
const POLL_PAUSE: Duration = Duration::from_millis(5);
/// How often who waits looks whether it is to end, should that come just before it waits.
const END_LOOK: Duration = Duration::from_secs(1);

/// The first function's place.
const FRONT: u32 = 1;

/// Passes on until SIGTERM, so that nothing is left behind.
pub(super) fn serve(listen: &Place, next: &Place) -> anyhow::Result<()> {
    let node = node(SignalHandlingMode::HandleTerminationRequests)?;
    let outgoing = Outgoing::to(&node, next)?;
    // Who is here can be reached to the end of the chain.
    let deadline = Instant::now() + START_PATIENCE;
    while !outgoing.is_heard() {
        ensure!(Instant::now() < deadline, "{} is not there", next.name());
        std::thread::sleep(POLL_PAUSE);
    }
    let incoming = Incoming::at(&node, listen)?;
    loop {
        let mut passed = 0;
        while let Some(sample) = incoming.subscriber.receive().context("cannot receive")? {
            let body = sample.payload();
            let lent = outgoing.publisher.loan_slice_uninit(body.len()).context("cannot loan a sample")?;
            let mut lent = lent.write_from_slice(body);
            *lent.user_header_mut() = *sample.user_header();
            lent.send().context("cannot send")?;
            passed += 1;
        }
        if passed > 0 {
            outgoing.notifier.notify().context("cannot notify")?;
            continue;
        }
        // A signal ends the wait, and is seen below.
        let _ = incoming.listener.timed_wait(|_| (), END_LOOK);
        if node.wait(Duration::ZERO).is_err() {
            return Ok(());
        }
    }
}

fn node(signals: SignalHandlingMode) -> anyhow::Result<Node<Service>> {
    NodeBuilder::new().signal_handling_mode(signals).create::<Service>().context("iceoryx2 cannot make a node")
}

type Services = (publish_subscribe::PortFactory<Service, [u8], Number>, event::PortFactory<Service>);

fn services(node: &Node<Service>, place: &Place) -> anyhow::Result<Services> {
    let name = place.name().as_str().try_into().context("no name of a service")?;
    let samples = node
        .service_builder(&name)
        .publish_subscribe::<[u8]>()
        .user_header::<Number>()
        .max_publishers(1)
        .max_subscribers(1)
        .history_size(0)
        .subscriber_max_buffer_size(place.messages)
        .enable_safe_overflow(false)
        .open_or_create()
        .context("iceoryx2 cannot make a service")?;
    let events = node.service_builder(&name).event().open_or_create().context("iceoryx2 cannot make an event")?;
    Ok((samples, events))
}

#[derive(Debug)]
struct Incoming {
    subscriber: Subscriber<Service, [u8], Number>,
    listener: Listener<Service>,
}

impl Incoming {
    fn at(node: &Node<Service>, place: &Place) -> anyhow::Result<Self> {
        let (samples, events) = services(node, place)?;
        let listener = events.listener_builder().create().context("iceoryx2 cannot make a listener")?;
        let subscriber = samples.subscriber_builder().buffer_size(place.messages).create();
        Ok(Self { subscriber: subscriber.context("iceoryx2 cannot make a subscriber")?, listener })
    }

    /// What says that the listener has something.
    fn bell(&self) -> anyhow::Result<AsyncFd<OwnedFd>> {
        // Its number is to be had by unsafe means, or as people read it.
        let descriptor = format!("{:?}", self.listener.file_descriptor());
        let number = descriptor.split_once("value: ").and_then(|(_, rest)| rest.split([',', ' ']).next()?.parse().ok());
        let number = number.with_context(|| format!("{descriptor} has no number"))?;
        let this = pidfd_open(getpid(), PidfdFlags::empty()).context("pidfd_open failed")?;
        let bell = pidfd_getfd(this, number, PidfdGetfdFlags::empty()).context("pidfd_getfd failed")?;
        #[allow(deprecated, reason = "sound for an OwnedFd; its replacement is unsafe, which this crate forbids")]
        Ok(AsyncFd::with_interest(bell, Interest::READABLE)?)
    }
}

#[derive(Debug)]
struct Outgoing {
    services: Services,
    publisher: Publisher<Service, [u8], Number>,
    notifier: Notifier<Service>,
}

impl Outgoing {
    fn to(node: &Node<Service>, place: &Place) -> anyhow::Result<Self> {
        let services = services(node, place)?;
        let publisher = services.0.publisher_builder().initial_max_slice_len(place.bytes.max(1)).create();
        let notifier = services.1.notifier_builder().create().context("iceoryx2 cannot make a notifier")?;
        Ok(Self { publisher: publisher.context("iceoryx2 cannot make a publisher")?, notifier, services })
    }

    fn is_heard(&self) -> bool {
        let (samples, events) = &self.services;
        samples.dynamic_config().number_of_subscribers() > 0 && events.dynamic_config().number_of_listeners() > 0
    }
}

/// Who is reached by publish-subscribe, and the place where answers come.
#[derive(Debug)]
pub(super) struct NextSamples {
    outgoing: Outgoing,
    answers: Arc<Answers>,
    listens: Mutex<bool>,
    _node: Node<Service>,
}

#[derive(Debug)]
struct Answers {
    incoming: Incoming,
    waiting: Mutex<(Number, HashMap<Number, oneshot::Sender<Bytes>>)>,
}

impl NextSamples {
    pub(super) fn new(next: &Place) -> anyhow::Result<Self> {
        let node = node(SignalHandlingMode::Disabled)?;
        let incoming = Incoming::at(&node, &Place { place: FRONT, ..next.clone() })?;
        let answers = Arc::new(Answers { incoming, waiting: Mutex::default() });
        Ok(Self { outgoing: Outgoing::to(&node, next)?, answers, listens: Mutex::new(false), _node: node })
    }

    pub(super) async fn call(&self, body: &Pieces) -> anyhow::Result<Bytes> {
        self.listen()?;
        ensure!(self.outgoing.is_heard(), "the next function is not there");
        let (answer, answered) = oneshot::channel();
        let number = self.answers.expect(answer);
        self.publish(number, body)?;
        answered.await.context("the answers are not heard any more")
    }

    /// Once, within the runtime.
    fn listen(&self) -> anyhow::Result<()> {
        let mut listens = self.listens.lock().unwrap_or_else(PoisonError::into_inner);
        if !*listens {
            let (bell, answers) = (self.answers.incoming.bell()?, Arc::clone(&self.answers));
            tokio::spawn(async move {
                while let Ok(mut rung) = bell.readable().await {
                    rung.clear_ready();
                    if answers.give().is_err() {
                        break;
                    }
                }
            });
            *listens = true;
        }
        Ok(())
    }

    fn publish(&self, number: Number, body: &Pieces) -> anyhow::Result<()> {
        let bytes = usize::try_from(body.bytes())?;
        let mut pieces = body.iter();
        let mut lent = match (pieces.next(), pieces.len()) {
            (Some(whole), 0) => {
                let lent = self.outgoing.publisher.loan_slice_uninit(bytes).context("cannot loan a sample")?;
                lent.write_from_slice(whole)
            }
            _ => {
                let mut lent = self.outgoing.publisher.loan_slice(bytes).context("cannot loan a sample")?;
                let mut rest = lent.payload_mut();
                for piece in body.iter() {
                    let (here, after) = rest.split_at_mut(piece.len());
                    here.copy_from_slice(piece);
                    rest = after;
                }
                lent
            }
        };
        *lent.user_header_mut() = number;
        if lent.send().context("cannot send")? == 0 {
            bail!("the next function is gone");
        }
        self.outgoing.notifier.notify().context("cannot notify")?;
        Ok(())
    }
}

impl Answers {
    fn expect(&self, answer: oneshot::Sender<Bytes>) -> Number {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.0 += 1;
        let number = waiting.0;
        waiting.1.insert(number, answer);
        number
    }

    /// Gives what has come to who waits for it.
    fn give(&self) -> anyhow::Result<()> {
        self.incoming.listener.try_wait(|_| ()).context("cannot listen")?;
        while let Some(sample) = self.incoming.subscriber.receive().context("cannot receive")? {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(answer) = waiting.1.remove(sample.user_header()) {
                // Who gave up does not wait any more.
                let _ = answer.send(Bytes::copy_from_slice(sample.payload()));
            }
        }
        Ok(())
    }
}
