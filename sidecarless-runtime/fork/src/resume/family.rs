//! The children of one seed on this host: where their pages come from, and the template that they are forked from.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, eventfd};

use super::template::Template;
use super::{Child, Host, ResumeError, Streams};
use crate::descriptor::ForkDescriptor;
use crate::pager::{Pager, Space};
use crate::source::PageSource;

/// Children of one seed. When it is dropped, those that still need pages wait for ever: end them first.
#[derive(Debug)]
pub struct Family {
    host: Arc<Host>,
    descriptor: ForkDescriptor,
    /// Made for the first child.
    template: Mutex<Option<Template>>,
    spaces: Option<Sender<Space>>,
    news: OwnedFd,
    pager: Option<JoinHandle<()>>,
}

impl Family {
    /// Starts the pager of a seed's children.
    ///
    /// # Errors
    /// The machines differ, or the operating system's.
    pub fn start(
        host: Arc<Host>,
        descriptor: ForkDescriptor,
        source: Box<dyn PageSource>,
    ) -> Result<Self, ResumeError> {
        host.machine.can_take(&descriptor.machine)?;
        let news = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        let theirs = news.try_clone()?;
        let pager = Pager::new(source, &news)?;
        let (spaces, receiver) = channel();
        let serve = move || {
            if let Err(error) = pager.run(&receiver, &theirs) {
                tracing::error!(%error, "the pager has ended; its children wait until they are killed");
            }
        };
        let pager = thread::Builder::new().name("ramet-pager".to_owned()).spawn(serve)?;
        let template = Mutex::default();
        Ok(Self { host, descriptor, template, spaces: Some(spaces), news, pager: Some(pager) })
    }

    /// Forks a child.
    ///
    /// # Errors
    /// Why not. No process is left behind.
    pub fn child(&self, streams: &Streams) -> Result<Child, ResumeError> {
        let mut template = self.template.lock().unwrap_or_else(PoisonError::into_inner);
        let (made, phases) = match template.take() {
            Some(template) => (template, None),
            None => {
                let template = Template::make(&self.host, &self.descriptor)?;
                let phases = template.phases;
                (template, Some(phases))
            }
        };
        let serve = |userfault| self.add(Space::new(userfault, made.missing().clone()));
        // After an error nobody knows what the template still does, so the next child gets another one.
        let mut child = made.fork(&self.host, &self.descriptor, streams, serve)?;
        child.phases.template = phases;
        *template = Some(made);
        Ok(child)
    }

    fn add(&self, space: Space) -> io::Result<()> {
        let gone = || io::Error::other("the pager has ended");
        self.spaces.as_ref().ok_or_else(gone)?.send(space).map_err(|_| gone())?;
        self.wake()
    }

    fn wake(&self) -> io::Result<()> {
        rustix::io::write(&self.news, &1_u64.to_ne_bytes())?;
        Ok(())
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.spaces = None;
        if self.wake().is_ok()
            && let Some(pager) = self.pager.take()
        {
            let _ = pager.join();
        }
    }
}
