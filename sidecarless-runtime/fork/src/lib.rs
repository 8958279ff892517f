//! Remote fork: a running process is forked into new ones, on this host or another, with its memory read as it is
//! touched (MITOSIS, OSDI'23, in user space).
//!
//! Reading order: [`capture`] forks a process from outside and describes it; [`descriptor`] is that description,
//! [`validate`] what must hold of one from a peer, [`machine`] what two hosts must have in common. [`mod@resume`] makes
//! a process of it: a copy of the [`zygote`] runs a `program` in the `interpreter` and goes on from a signal `frame`;
//! its files are `mapped` again; the `pager` gives it what is `missing`, after all `changes`, from a [`source`] or the
//! [`cache`], and a child's child from its whole [`mod@lineage`]; its template is `shown` what it had of files; a
//! `guard` sees that the end of all this is no zeros; its `clocks` go on. What cannot be `carried` is refused at both
//! ends. [`seeds`] are kept for others, whom a [`server`] lets read them; `wire` is how they speak. What must not take
//! long is done `beside` whom it is for.
#![deny(unsafe_code)]

pub mod cache;
pub mod capture;
pub mod descriptor;
pub mod lineage;
pub mod machine;
pub mod nursery;
pub mod resume;
pub mod seeds;
pub mod server;
pub mod source;
pub mod validate;
pub mod zygote;

mod beside;
mod carried;
mod changes;
mod clocks;
mod frame;
mod guard;
mod interpreter;
mod mapped;
mod missing;
mod pager;
mod program;
mod shown;
mod wire;

pub use cache::PullError;
pub use capture::{PrepareError, Prepared, Seed, prepare};
pub use carried::Uncarried;
pub use descriptor::ForkDescriptor;
pub use lineage::{Lineage, SeedAt};
pub use nursery::{Hosts, Nursery};
pub use resume::{Child, Family, Given, Habitat, Host, Kin, Phases, ResumeError, Watch};
pub use seeds::{Handle, Held, Key, Seeds, Terms};
pub use server::{Agent, PageServer};
pub use source::{LocalSource, PageSource, RdmaSource, TcpSource};
