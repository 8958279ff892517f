//! A request whose body may still be coming: read piece by piece, each where the gateway wrote it.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::rc::Rc;

use ramet_dataplane::message::FLAG_STREAMED;

use crate::body::{Body, Content, Held, Keeper, Piece};
use crate::lending::{BodyError, Lent, Size, next_piece, whole_body};
use crate::request::Request;
use crate::service::Service;
use crate::wait::block_on;

/// A request's head, with its body as it comes.
///
/// A handler that answers, or passes the request on, before it has read all of the body gives the rest up.
pub struct StreamedRequest {
    service: Rc<Service>,
    request: Request,
}

impl StreamedRequest {
    pub(crate) fn new(service: Rc<Service>, body: Body) -> Self {
        let request = Request::new(Rc::clone(&service), body);
        Self { service, request }
    }

    /// As [`Request::method`].
    #[must_use]
    pub fn method(&self) -> &str {
        self.request.method()
    }

    /// As [`Request::target`].
    #[must_use]
    pub fn target(&self) -> &str {
        self.request.target()
    }

    /// As [`Request::path`].
    #[must_use]
    pub fn path(&self) -> &str {
        self.request.path()
    }

    /// As [`Request::query_value`].
    #[must_use]
    pub fn query_value(&self, name: &str) -> Option<Cow<'_, str>> {
        self.request.query_value(name)
    }

    /// As [`Request::headers`].
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.request.headers()
    }

    /// As [`Request::header`].
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.request.header(name)
    }

    /// The body, to be read while it comes: in the handler, or in what writes a streamed answer.
    #[must_use]
    pub fn into_body(self) -> BodyStream {
        let Self { service, request } = self;
        let rest = match request.into_body() {
            Body(Content::Held(Held { pieces, keeper })) => Rest::Here { pieces: pieces.into_iter(), keeper },
            _ if service.envelope.flags & FLAG_STREAMED == 0 => Rest::None,
            _ => {
                // The message that leaves has another body.
                service.touch();
                Rest::Coming(service)
            }
        };
        BodyStream { rest, current: None, read: 0 }
    }

    /// Waits for all of the body.
    ///
    /// # Errors
    /// [`BodyError`]: the body broke off, or memory or time is used up.
    pub fn whole(self) -> Result<Request, BodyError> {
        let instance = std::sync::Arc::clone(&self.service.instance);
        block_on(&instance, self.gathered())
    }

    pub(crate) async fn gathered(self) -> Result<Request, BodyError> {
        let Self { service, request } = self;
        let body = whole_body(&service, request.into_body()).await?;
        Ok(Request::new(service, body))
    }
}

impl fmt::Debug for StreamedRequest {
    /// Without the headers' values and the body, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamedRequest")
            .field("method", &self.method())
            .field("target", &self.target())
            .finish_non_exhaustive()
    }
}

/// A body as it comes, as an [`io::Read`] or piece by piece. Only what has been read to its end without an error is a
/// whole body: one that broke off ends with [`BodyError::BrokenOff`].
///
/// The client sends as fast as this is read: few pieces are taken in ahead.
pub struct BodyStream {
    rest: Rest,
    /// What [`io::Read`] has not read yet.
    current: Option<BodyPiece>,
    read: usize,
}

enum Rest {
    /// All of it has come before.
    Here { pieces: std::vec::IntoIter<Piece>, keeper: Keeper },
    /// The gateway has it, or gets it.
    Coming(Rc<Service>),
    /// That was all.
    None,
    /// No more will come, and that was not all.
    Broken(BodyError),
}

/// Some bytes of a body, where they are. Dropping it makes room for others.
pub struct BodyPiece(Place);

enum Place {
    Lent { lent: Lent, bytes: usize },
    Held { piece: Piece, _keeper: Keeper },
}

impl BodyStream {
    /// Waits for the next bytes; `None` at the end.
    ///
    /// # Errors
    /// [`BodyError`]: the body broke off, or time is used up. It stays so.
    pub fn next_piece(&mut self) -> Result<Option<BodyPiece>, BodyError> {
        match &self.rest {
            Rest::Coming(service) => {
                let instance = std::sync::Arc::clone(&service.instance);
                block_on(&instance, self.advance())
            }
            // Nothing is waited for.
            Rest::Here { .. } | Rest::None | Rest::Broken(_) => self.at_hand(),
        }
    }

    pub(crate) async fn advance(&mut self) -> Result<Option<BodyPiece>, BodyError> {
        let Rest::Coming(service) = &self.rest else { return self.at_hand() };
        match next_piece(service, Size::Any).await {
            Ok(Some((lent, bytes))) => Ok(Some(BodyPiece(Place::Lent { lent, bytes }))),
            Ok(None) => {
                self.rest = Rest::None;
                Ok(None)
            }
            Err(error) => {
                self.rest = Rest::Broken(error.clone());
                Err(error)
            }
        }
    }

    fn at_hand(&mut self) -> Result<Option<BodyPiece>, BodyError> {
        match &mut self.rest {
            Rest::Here { pieces, keeper } => {
                let piece = |piece| BodyPiece(Place::Held { piece, _keeper: keeper.clone() });
                Ok(pieces.next().map(piece))
            }
            Rest::Coming(_) | Rest::None => Ok(None),
            Rest::Broken(error) => Err(error.clone()),
        }
    }
}

impl io::Read for BodyStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(piece) = &self.current {
                let unread = piece.get(self.read..).unwrap_or_default();
                if !unread.is_empty() {
                    let bytes = unread.len().min(into.len());
                    into[..bytes].copy_from_slice(&unread[..bytes]);
                    self.read += bytes;
                    return Ok(bytes);
                }
            }
            // Before the next one is asked for, so that the slot is free again.
            (self.current, self.read) = (None, 0);
            self.current = self.next_piece()?;
            if self.current.is_none() {
                return Ok(0);
            }
        }
    }
}

impl fmt::Debug for BodyStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = match &self.rest {
            Rest::Here { .. } => "here",
            Rest::Coming(_) => "coming",
            Rest::None => "at its end",
            Rest::Broken(_) => "broken",
        };
        f.debug_tuple("BodyStream").field(&rest).finish()
    }
}

impl Deref for BodyPiece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            // The length was checked when it came.
            Place::Lent { lent, bytes } => lent.slot.slice(0, *bytes).unwrap_or_default(),
            Place::Held { piece, .. } => piece.bytes(),
        }
    }
}

impl fmt::Debug for BodyPiece {
    /// The length, not the bytes: they may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyPiece").field("bytes", &self.len()).finish_non_exhaustive()
    }
}
