//! S mode without the kernel's help: what SPROXY does, done by threads between the same sockets.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ramet_common::{DESCRIPTOR_BYTES, FunctionId, InstanceId, PacketDescriptor};
use ramet_dataplane::Ledger;

pub(crate) struct Switch {
    ledger: Ledger,
    gateway: InstanceId,
    receivers: Arc<Mutex<HashMap<InstanceId, (FunctionId, UnixStream)>>>,
    to_gateway: Sender<PacketDescriptor>,
    at_gateway: Mutex<Receiver<PacketDescriptor>>,
}

impl Switch {
    pub(crate) fn new(ledger: Ledger, gateway: InstanceId) -> Self {
        let (to_gateway, at_gateway) = channel();
        Self { ledger, gateway, receivers: Arc::default(), to_gateway, at_gateway: Mutex::new(at_gateway) }
    }

    /// The two sockets of a new instance.
    pub(crate) fn plug(self: &Arc<Self>, id: InstanceId, function: FunctionId) -> (OwnedFd, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let tcp = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (mut far, _) = listener.accept().expect("accepted");
        let (ours, unix) = UnixStream::pair().expect("pair");
        self.receivers.lock().expect("lock").insert(id, (function, ours));
        let switch = Arc::clone(self);
        std::thread::spawn(move || {
            let mut bytes = [0; DESCRIPTOR_BYTES];
            while far.read_exact(&mut bytes).is_ok() {
                let descriptor = zerocopy_read(&bytes);
                switch.send(id, &[descriptor]).expect("an honest instance");
            }
        });
        (tcp.into(), unix.into())
    }

    /// Checks, moves ownership, stamps and delivers.
    pub(crate) fn send(&self, from: InstanceId, batch: &[PacketDescriptor]) -> Result<(), &'static str> {
        for descriptor in batch {
            let receivers = self.receivers.lock().expect("lock");
            let to_gateway = descriptor.function == FunctionId::GATEWAY;
            let replica = receivers.iter().find(|(id, (function, _))| {
                *function == descriptor.function && [InstanceId::NONE, **id].contains(&descriptor.peer)
            });
            let owner = match replica {
                _ if to_gateway => InstanceId::NONE,
                Some((id, _)) => *id,
                None => return Err("no replica"),
            };
            let sender = if from == InstanceId::NONE { self.gateway } else { from };
            let stamped = descriptor.to_instance(sender);
            if descriptor.moves_slot() && !self.ledger.hand_over(descriptor.slot, descriptor.generation, from, owner) {
                return Err("not the owner");
            }
            match replica {
                Some((_, (_, unix))) if !to_gateway => {
                    let mut unix: &UnixStream = unix;
                    unix.write_all(zerocopy::IntoBytes::as_bytes(&stamped)).expect("room in the socket");
                }
                _ => self.to_gateway.send(stamped).expect("the gateway lives"),
            }
        }
        Ok(())
    }

    pub(crate) fn receive(&self, time: Duration) -> Vec<PacketDescriptor> {
        let at_gateway = self.at_gateway.lock().expect("lock");
        at_gateway.recv_timeout(time).into_iter().collect()
    }
}

fn zerocopy_read(bytes: &[u8; DESCRIPTOR_BYTES]) -> PacketDescriptor {
    zerocopy::transmute!(*bytes)
}
