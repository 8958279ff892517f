//! HTTP on the way in and out: connections, requests, bodies.

mod admin;
mod answer;
mod connection;
mod intake;
mod patient_io;
mod service;

pub(crate) use answer::AnswerBody;
pub(crate) use connection::Listening;
