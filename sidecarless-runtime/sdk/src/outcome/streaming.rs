//! Outcomes whose body is written after the handler has returned.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use ramet_common::Kind;
use ramet_common::descriptor::FLAG_MORE;
use ramet_dataplane::message::{self, BodyPlace, ENVELOPE_BYTES, MessageError};
use ramet_dataplane::route::Hop;

use super::{OutcomeError, head_block, log, next_envelope};
use crate::body::Body;
use crate::error::Result;
use crate::lending::BodyError;
use crate::response::Response;
use crate::service::Service;
use crate::stream::{Source, StreamWriter};

/// Sends the head now and the body as it is written.
pub(super) async fn stream(service: &Rc<Service>, response: &Response, source: Source) -> Result<(), OutcomeError> {
    let block = head_block(service, response, Hop::Reply, false)?;
    // The source may still read the request's body, so the new head must not reach into it.
    let (needed, available) = (ENVELOPE_BYTES + block.len(service), service.block_end_max());
    if needed > available {
        return Err(MessageError::TooLarge { needed, available }.into());
    }
    let envelope = next_envelope(service, response.status, Hop::Reply, false);
    message::write(&service.slot, envelope, block.bytes(service), &BodyPlace::EMPTY)?;
    let reply = service.reply_descriptor(Kind::Reply).with_flags(FLAG_MORE);
    // Not by way of the outbox: no chunk may overtake it.
    let delivered = service.instance.deliver(&reply, service.envelope.deadline_ns).await;
    delivered.map_err(|_| BodyError::Unreachable)?;
    service.has_left();

    let (writer, written) = write(source, StreamWriter::live(service)).await;
    let is_whole = written.is_ok();
    if let Err(error) = written
        && !service.is_cancelled()
    {
        log(service, &error);
    }
    if let Err(error) = writer.end_live(is_whole).await {
        log(service, &error);
    }
    Ok(())
}

/// Lets the body be written before it is sent as a whole.
pub(super) async fn gather(service: &Rc<Service>, source: Source) -> Result<Body, OutcomeError> {
    let (writer, written) = write(source, StreamWriter::gathering(service)).await;
    written.map(|()| writer.into_body())
}

async fn write(source: Source, mut writer: StreamWriter) -> (StreamWriter, Result<(), OutcomeError>) {
    let written = match source {
        Source::Blocking(source) => catch_unwind(AssertUnwindSafe(|| source(&mut writer))),
        #[cfg(feature = "async")]
        Source::Async(source) => {
            let written;
            (writer, written) = crate::asynchronous::write(source, writer).await;
            written
        }
    };
    let written = match written {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(OutcomeError::Source(error)),
        Err(_) => Err(OutcomeError::SourcePanicked),
    };
    (writer, written)
}
