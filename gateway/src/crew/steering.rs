//! Which workers' listeners the kernel gives new connections to (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)).

use std::os::fd::OwnedFd;

use nix::libc::{
    BPF_A, BPF_ABS, BPF_ALU, BPF_K, BPF_LD, BPF_MOD, BPF_RET, BPF_W, SKF_AD_OFF, SKF_AD_RANDOM, sock_filter, sock_fprog,
};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::AttachReusePortCbpf;

/// A group of listeners that share a port, in the order of the workers.
#[derive(Debug)]
pub(crate) struct Steering(OwnedFd);

impl Steering {
    /// Of the group that a listener is one of.
    pub(crate) const fn new(listener: OwnedFd) -> Self {
        Self(listener)
    }

    /// Spreads the connections that come from now on over the first `workers`.
    pub(crate) fn spread(&self, workers: usize) -> nix::Result<()> {
        let step = |code: u32, k: u32| sock_filter { code: code as u16, jt: 0, jf: 0, k };
        let random = SKF_AD_OFF.wrapping_add(SKF_AD_RANDOM) as u32;
        let mut steps = [
            step(BPF_LD | BPF_W | BPF_ABS, random),
            step(BPF_ALU | BPF_MOD | BPF_K, u32::try_from(workers.max(1)).unwrap_or(u32::MAX)),
            step(BPF_RET | BPF_A, 0),
        ];
        // The kernel copies it.
        let program = sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
        setsockopt(&self.0, AttachReusePortCbpf, &program)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};

    use super::*;

    /// Listeners that share a port.
    fn group(listeners: usize) -> Vec<TcpListener> {
        let mut address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let of_group = |_| {
            let fd = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
            sockopt::set_socket_reuseport(&fd, true).expect("shared");
            bind(&fd, &address).expect("bound");
            listen(&fd, 128).expect("listens");
            let listener = TcpListener::from(fd);
            address = listener.local_addr().expect("an address");
            listener.set_nonblocking(true).expect("set");
            listener
        };
        (0..listeners).map(of_group).collect()
    }

    #[test]
    fn connections_go_to_the_first_workers_alone() {
        let listeners = group(3);
        let address = listeners[0].local_addr().expect("an address");
        let steering = Steering::new(listeners[2].as_fd().try_clone_to_owned().expect("a descriptor"));
        for (spread, connections) in [(1, 32), (2, 64), (3, 96), (1, 32)] {
            steering.spread(spread).expect("steered");
            let clients: Vec<_> = (0..connections).map(|_| TcpStream::connect(address).expect("connected")).collect();
            let came: Vec<_> =
                listeners.iter().map(|listener| std::iter::from_fn(|| listener.accept().ok()).count()).collect();
            assert_eq!(came.iter().sum::<usize>(), clients.len());
            for (place, came) in came.iter().enumerate() {
                assert_eq!(*came > 0, place < spread, "worker {place} of {spread}: {came}");
            }
        }
    }
}
