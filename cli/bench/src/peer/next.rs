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
#[cfg(feature = "peers")]
use super::samples::NextSamples;

/// What a function answers over HTTP: what the next one does, or what it was sent itself, or why not.
pub(super) type Answer = Response<Either<Incoming, Either<Pieces, Full<Bytes>>>>;

/// The function that follows, with the connections to it that are open.
#[derive(Debug)]
pub(super) enum Next {
    Http(NextHttp),
    Frames(NextFrames),
    #[cfg(feature = "peers")]
    Grpc(Box<NextCall>),
    #[cfg(feature = "peers")]
    Samples(Box<NextSamples>),
}

impl Next {
    pub(super) fn new(address: Address) -> anyhow::Result<Self> {
        Ok(match address {
            Address::Http(address) => Self::Http(NextHttp::new(address)?),
            Address::Unix(_) | Address::Tcp(_) => Self::Frames(NextFrames::new(address)),
            #[cfg(feature = "peers")]
            Address::Grpc(address) => Self::Grpc(Box::new(NextCall::new(address)?)),
            #[cfg(feature = "peers")]
            Address::Samples(place) => Self::Samples(Box::new(NextSamples::new(&place)?)),
            #[cfg(not(feature = "peers"))]
            Address::Grpc(_) | Address::Samples(_) => anyhow::bail!(super::WITHOUT_PEERS),
        })
    }

    /// Waits until this process is to end by itself; nothing but iceoryx2 leaves anything behind where it does not.
    pub(super) async fn farewell(&self) -> std::io::Result<()> {
        match self {
            #[cfg(feature = "peers")]
            Self::Samples(_) => {
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?.recv().await;
                Ok(())
            }
            _ => std::future::pending().await,
        }
    }

    pub(super) async fn call(&self, body: Pieces) -> anyhow::Result<Answer> {
        let answer = match self {
            Self::Http(next) => return Ok(next.call(body).await?.map(Either::Left)),
            Self::Frames(next) => Pieces::from(next.call(&body).await?),
            #[cfg(feature = "peers")]
            Self::Grpc(next) => Pieces::from(next.call(body.into_bytes()).await?),
            #[cfg(feature = "peers")]
            Self::Samples(next) => Pieces::from(next.call(&body).await?),
        };
        Ok(Response::new(Either::Right(Either::Left(answer))))
    }
}
