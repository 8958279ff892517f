//! The function that follows, whatever it speaks.

use bytes::Bytes;
use http::Response;
use http_body_util::{Either, Full};
use hyper::body::Incoming;

use super::address::Address;
use super::frames::NextFrames;
#[cfg(feature = "peers")]
use super::grpc::NextCall;
use super::http_hop::NextHttp;
use super::pieces::Pieces;

/// What a function answers over HTTP: what the next one does, or what it was sent itself, or why not.
pub(super) type Answer = Response<Either<Incoming, Either<Pieces, Full<Bytes>>>>;

/// The function that follows, with the connections to it that are open.
#[derive(Debug)]
pub(super) enum Next {
    Http(NextHttp),
    Frames(NextFrames),
    #[cfg(feature = "peers")]
    Grpc(Box<NextCall>),
}

impl Next {
    pub(super) fn new(address: Address) -> anyhow::Result<Self> {
        Ok(match address {
            Address::Http(address) => Self::Http(NextHttp::new(address)?),
            Address::Unix(_) | Address::Tcp(_) => Self::Frames(NextFrames::new(address)),
            #[cfg(feature = "peers")]
            Address::Grpc(address) => Self::Grpc(Box::new(NextCall::new(address)?)),
            #[cfg(not(feature = "peers"))]
            Address::Grpc(_) => anyhow::bail!(super::WITHOUT_PEERS),
        })
    }

    pub(super) async fn call(&self, body: Pieces) -> anyhow::Result<Answer> {
        let answer = match self {
            Self::Http(next) => return Ok(next.call(body).await?.map(Either::Left)),
            Self::Frames(next) => Pieces::from(next.call(&body).await?),
            #[cfg(feature = "peers")]
            Self::Grpc(next) => Pieces::from(next.call(body.into_bytes()).await?),
        };
        Ok(Response::new(Either::Right(Either::Left(answer))))
    }
}
