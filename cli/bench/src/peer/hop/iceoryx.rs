//! iceoryx2's publish-subscribe: a service for each hop, with one publisher and one subscriber.

use anyhow::Context;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::{NodeBuilder, SignalHandlingMode, ipc};

use super::orders::{Part, Patient};
use super::{Carrier, Token};

/// As long as a descriptor.
type Message = [u64; 4];

/// As many as can be under way, and one more.
const MESSAGES_MAX: usize = 256;
/// How often a poller looks between two yields, as ramet's rings do.
const LOOKS: u32 = 20;

struct Iceoryx {
    publisher: Publisher<ipc::Service, Message, ()>,
    subscriber: Subscriber<ipc::Service, Message, ()>,
    /// Where who waits sleeps.
    events: Option<(Notifier<ipc::Service>, Listener<ipc::Service>)>,
}

/// Joins the services of the hops to this process and from it.
pub(super) fn carrier(part: &Part, name: &str, waiting: Patient) -> anyhow::Result<Box<dyn Carrier>> {
    let node = NodeBuilder::new()
        .signal_handling_mode(SignalHandlingMode::Disabled)
        .create::<ipc::Service>()
        .context("cannot make a node")?;
    let hop = |place: u32| -> anyhow::Result<_> {
        let name = format!("{name}/{place}").as_str().try_into().context("no name of a service")?;
        let service = node.service_builder(&name).publish_subscribe::<Message>();
        let service = service
            .max_publishers(1)
            .max_subscribers(1)
            .history_size(0)
            .subscriber_max_buffer_size(MESSAGES_MAX)
            .enable_safe_overflow(false)
            .open_or_create()
            .context("cannot make a service")?;
        let event = match waiting {
            Patient::Looking => None,
            Patient::Sleeping => {
                Some(node.service_builder(&name).event().open_or_create().context("cannot make an event")?)
            }
        };
        Ok((service, event))
    };
    let (service_in, event_in) = hop(part.number)?;
    let (service_out, event_out) = hop(part.next_place())?;
    let subscriber = service_in.subscriber_builder().buffer_size(MESSAGES_MAX).create();
    let events = match (event_out, event_in) {
        (Some(out), Some(own)) => {
            let notifier = out.notifier_builder().create().context("cannot make a notifier")?;
            Some((notifier, own.listener_builder().create().context("cannot make a listener")?))
        }
        _ => None,
    };
    Ok(Box::new(Iceoryx {
        publisher: service_out.publisher_builder().create().context("cannot make a publisher")?,
        subscriber: subscriber.context("cannot make a subscriber")?,
        events,
    }))
}

impl Iceoryx {
    fn take(&self, into: &mut Vec<Token>) -> anyhow::Result<()> {
        while let Some(sample) = self.subscriber.receive().context("cannot receive")? {
            into.push(sample[0] as Token);
        }
        Ok(())
    }
}

impl Carrier for Iceoryx {
    fn send(&mut self, tokens: &[Token]) -> anyhow::Result<()> {
        for &token in tokens {
            let sample = self.publisher.loan_uninit().context("cannot loan a sample")?;
            sample.write_payload([token.into(), 0, 0, 0]).send().context("cannot send")?;
        }
        if let Some((notifier, _)) = &self.events {
            notifier.notify().context("cannot notify")?;
        }
        Ok(())
    }

    fn receive(&mut self, into: &mut Vec<Token>) -> anyhow::Result<()> {
        loop {
            for _ in 0..LOOKS {
                self.take(into)?;
                if !into.is_empty() {
                    return Ok(());
                }
                if self.events.is_some() {
                    break;
                }
                std::hint::spin_loop();
            }
            match &self.events {
                Some((_, listener)) => drop(listener.blocking_wait(|_| ()).context("cannot wait")?),
                None => std::thread::yield_now(),
            }
        }
    }
}
