//! HTTP on the way in and out: connections, requests, bodies.

mod admin;
mod answer;
mod connection;
mod express;
mod full;
mod intake;
mod open;
mod patient_io;
mod request;
mod service;
mod socket;
mod tunnel;

pub(crate) use answer::{AnswerBody, pieces_of};
pub(crate) use connection::{Listening, take_over};
pub(crate) use express::Shared;
pub use express::head_for_head;
pub(crate) use intake::{BodyLimits, Source, take_in};
pub(crate) use open::{Connections, Room};
