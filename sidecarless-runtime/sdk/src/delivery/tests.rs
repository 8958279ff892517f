//! What a refused send leads to, with a data plane that refuses on demand.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use ramet_common::descriptor::Failure;
use ramet_common::{DomainId, FunctionId, Generation, InstanceId, Kind, RequestId, SlotIndex};
use ramet_control::Numbered;
use ramet_control::instance::{FromInstance, Join, ToInstance};
use ramet_control::socket::ControlSocket;
use ramet_dataplane::message::Envelope;
use ramet_dataplane::transport::patience::BusyPoll;
use ramet_dataplane::{Ledger, Meter, Pool, PoolLayout, Sender, TransportKind};

use super::*;
use crate::outbox::Parcel;
use crate::wait::block_on;

type Answer = Box<dyn Fn(&[PacketDescriptor]) -> Result<(), SendError> + Send>;

/// Answers the first sends as told and all others with success; remembers what got through.
#[derive(Default)]
struct Moody {
    answers: Mutex<VecDeque<Answer>>,
    sent: Mutex<Vec<Vec<PacketDescriptor>>>,
}

impl std::fmt::Debug for Moody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Moody")
    }
}

impl Sender for Moody {
    fn send(&self, batch: &[PacketDescriptor]) -> Result<(), SendError> {
        if let Some(answer) = self.answers.lock().expect("lock").pop_front() {
            answer(batch)?;
        }
        self.sent.lock().expect("lock").push(batch.to_vec());
        Ok(())
    }
}

/// An instance whose sends meet `answers` first, and its supervisor.
fn instance(answers: Vec<Answer>) -> (Instance, Arc<Moody>, ControlSocket) {
    let layout = PoolLayout { counts: [4, 0, 0, 0, 0] };
    let pool = Pool::create("pool", &layout).expect("pool");
    let ledger_pages = (Ledger::shared_bytes_for(layout.slots()) / 4096) as u32;
    let ledger = Pool::create("ledger", &PoolLayout { counts: [ledger_pages, 0, 0, 0, 0] }).expect("ledger");
    let meter = Meter::create().expect("meter");
    let (supervisor, ours) = ControlSocket::pair().expect("pair");
    let join = Join {
        instance: InstanceId(7),
        function: FunctionId(5),
        name: "default/moody".to_owned(),
        domain: DomainId(0),
        layout,
        transport: TransportKind::Socket,
        busy_poll: BusyPoll::Never,
        concurrency: 1,
        callable: vec![],
        routes: vec![],
    };
    let message = ToInstance::Join(Box::new(join));
    supervisor.send(&Numbered { sequence: 1, message }, &[pool.as_fd(), ledger.as_fd(), meter.as_fd()]).expect("said");
    crate::join::greet(&ours).expect("said");
    let joined = crate::join::join(ours).expect("joined");
    assert!(matches!(supervisor.receive::<FromInstance>().expect("heard").0, FromInstance::Hello { .. }));
    let moody = Arc::new(Moody { answers: Mutex::new(answers.into()), ..Moody::default() });
    let mut instance = Arc::into_inner(joined.instance).expect("only ours");
    instance.sender = Arc::clone(&moody) as Arc<dyn Sender>;
    (instance, moody, supervisor)
}

fn refuse(refusal: Refusal) -> Answer {
    Box::new(move |_| Err(SendError::Refused(refusal)))
}

fn unexplained() -> Answer {
    Box::new(|_| Err(SendError::RefusedUnexplained))
}

fn descriptor(kind: Kind, slot: u32) -> PacketDescriptor {
    PacketDescriptor::new(kind, FunctionId(6), SlotIndex(slot), Generation(0), RequestId(1))
}

fn in_a_second() -> u64 {
    after(clock::now_ns(), Duration::from_secs(1))
}

#[test]
fn a_refusal_that_passes_is_waited_out() {
    let (instance, moody, _) = instance(vec![
        refuse(Refusal::Full),
        refuse(Refusal::NoReplica),
        refuse(Refusal::RateLimited),
        refuse(Refusal::Unreachable),
    ]);
    let delivered = block_on(&instance, instance.deliver(&descriptor(Kind::Request, 0), in_a_second()));
    assert_eq!(delivered, Ok(()));
    assert_eq!(moody.sent.lock().expect("lock").len(), 1);
}

#[test]
fn a_refusal_for_good_is_not_tried_again() {
    let (instance, moody, _) = instance(vec![refuse(Refusal::EdgeDenied)]);
    let delivered = block_on(&instance, instance.deliver(&descriptor(Kind::Request, 0), in_a_second()));
    assert_eq!(delivered, Err(Undelivered::Refused(Refusal::EdgeDenied)));
    assert!(moody.sent.lock().expect("lock").is_empty());
}

#[test]
fn the_supervisor_says_why_the_kernel_refused() {
    for (reason, expected) in
        [(Refusal::EdgeDenied, Err(Undelivered::Refused(Refusal::EdgeDenied))), (Refusal::Full, Err(Undelivered::Full))]
    {
        let (instance, _, supervisor) = instance((0..10_000).map(|_| unexplained()).collect());
        let until_ns = after(clock::now_ns(), Duration::from_millis(300));
        let delivered = std::thread::scope(|scope| {
            let sending =
                scope.spawn(|| block_on(&instance, instance.deliver(&descriptor(Kind::Request, 0), until_ns)));
            while !sending.is_finished() {
                if let Ok(Some((asked, _))) = supervisor.try_receive::<FromInstance>() {
                    assert_eq!(asked, FromInstance::WhyRefused);
                    instance.refusals.answered(Some(reason));
                }
                std::thread::yield_now();
            }
            sending.join().expect("no panic")
        });
        assert_eq!(delivered, expected);
    }
}

#[test]
fn a_silent_supervisor_does_not_hold_a_send_for_ever() {
    let (instance, _, _supervisor) = instance((0..10_000).map(|_| unexplained()).collect());
    let until_ns = after(clock::now_ns(), Duration::from_millis(50));
    let delivered = block_on(&instance, instance.deliver(&descriptor(Kind::Request, 0), until_ns));
    assert_eq!(delivered, Err(Undelivered::Closed));
}

#[test]
fn one_bad_descriptor_does_not_spoil_its_batch() {
    let refuse_slot_1 = || -> Answer {
        Box::new(|batch| {
            let is_bad = batch.iter().any(|descriptor| descriptor.slot == SlotIndex(1) && descriptor.function.0 == 6);
            if is_bad { Err(SendError::Refused(Refusal::EdgeDenied)) } else { Ok(()) }
        })
    };
    let (instance, moody, _) = instance((0..8).map(|_| refuse_slot_1()).collect());
    let envelope = Envelope { gateway: InstanceId(1), deadline_ns: in_a_second(), ..Envelope::default() };
    for slot in 0..3 {
        instance.outbox.push(Parcel::new(descriptor(Kind::Request, slot), &envelope));
    }
    block_on(&instance, instance.flush());
    let sent: Vec<_> =
        moody.sent.lock().expect("lock").iter().flatten().map(|sent| (sent.kind(), sent.slot.0)).collect();
    assert_eq!(sent, [(Some(Kind::Request), 0), (Some(Kind::Request), 2), (Some(Kind::Failed), 1)]);
}

#[test]
fn a_message_that_cannot_go_on_fails_at_whoever_waits() {
    let (instance, moody, _) = instance(
        (0..10_000)
            .map(|_| {
                Box::new(|batch: &[PacketDescriptor]| match batch[0].kind() {
                    Some(Kind::Request) => Err(SendError::Refused(Refusal::Full)),
                    _ => Ok(()),
                }) as Answer
            })
            .collect(),
    );
    let waiter = (FunctionId(9), InstanceId(90));
    let envelope = Envelope { reply_function: waiter.0, reply_instance: waiter.1, ..Envelope::default() };
    instance.outbox.push(Parcel::new(descriptor(Kind::Request, 2), &envelope));
    block_on(&instance, instance.flush());
    let sent = moody.sent.lock().expect("lock").concat();
    let [failed] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((failed.kind(), failed.aux, failed.slot.0), (Some(Kind::Failed), Failure::Full as u32, 2));
    assert_eq!((failed.function, failed.peer), waiter);
}
