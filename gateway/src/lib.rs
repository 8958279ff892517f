//! HTTP ingress to function chains: bodies go into slots, descriptors go out, answers come back from slots.
//!
//! The gateway is a process of its own. It starts with nothing, is handed sockets, pools and chains by the supervisor,
//! runs one current-thread runtime per core, and never trusts a byte that a function could have written.
//!
//! Reading order: `process` is the conversation with the supervisor; `worker` is one core's loop; `ingress` turns
//! HTTP into an `exchange` and back; `conduct` takes an exchange through the steps of its chain; `flight` is one
//! message out at the functions, and `incoming` a body on its way to one; `visit` is a step at a function that serves
//! HTTP by itself, and `servers` are those functions' instances; `http1` is what both sides of the gateway read and
//! write of HTTP/1.1 themselves; `exchange` owns every slot of a request; `domain` is a pool with its allocator;
//! `chains` finds the chain of a request; `crew` is how workers share connections; `metrics` counts.
#![forbid(unsafe_code)]

mod chains;
mod conduct;
mod crew;
mod domain;
mod exchange;
mod flight;
mod http1;
mod incoming;
mod ingress;
mod lending;
mod metrics;
mod problem;
mod process;
mod room;
mod servers;
mod tls;
mod visit;
mod worker;

pub use ingress::head_for_head;
pub use process::{GatewayError, run};
