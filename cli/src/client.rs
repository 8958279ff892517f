//! HTTP to a node: JSON over its admin socket, requests to its gateway.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use ramet_control::admin::Problem;
use ramet_manifest::Source;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::arguments::NodeArguments;
use crate::exit::Failure;
use crate::{tls, up};

/// Runs a command's future; the command line needs no more than one thread.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// A node's admin API.
#[derive(Debug)]
pub(crate) struct Node {
    socket: PathBuf,
}

impl Node {
    /// The node that the arguments or the settings name.
    pub(crate) fn of(arguments: &NodeArguments) -> Result<Self, Failure> {
        let socket = match &arguments.socket {
            Some(socket) => socket.clone(),
            None => up::settings(arguments)?.socket,
        };
        Ok(Self { socket })
    }

    /// Where it answers.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks and reads the answer as JSON.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        let response = self.send(method, path, body).await?;
        let bytes = response.into_body().collect().await.context("the node's answer broke off")?.to_bytes();
        let answer = serde_json::from_slice(&bytes).context("the node's answer is not what this version expects")?;
        Ok(answer)
    }

    /// Asks and leaves the answer's body to be read as it comes.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            Failure::NoNode(format!(
                "no node answers on {} ({error}); start one with `ramet up`, or name its socket with --socket",
                self.socket.display()
            ))
        })?;
        let body = match body {
            Some(body) => serde_json::to_vec(body).context("the request cannot be written as JSON")?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "ramet")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .context("the request is not valid HTTP")?;
        let response = exchange(stream, request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(problem(response).await)
    }
}

async fn problem(response: Response<Incoming>) -> Failure {
    let status = response.status();
    let bytes = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let message = match serde_json::from_slice::<Problem>(&bytes) {
        Ok(problem) if problem.errors.is_empty() => problem.detail,
        Ok(problem) => format!("{}\n{}", problem.title, problem.errors.join("\n")),
        Err(_) => format!("the node answered {status}: {}", String::from_utf8_lossy(&bytes)),
    };
    match status {
        StatusCode::NOT_FOUND => Failure::NotFound(message),
        StatusCode::UNPROCESSABLE_ENTITY => Failure::Invalid(message),
        _ => Failure::Failed(message),
    }
}

/// Sends a request to a gateway: over TLS where that has a certificate, which is PEM.
pub(crate) async fn to_gateway(
    address: SocketAddr,
    certificate: Option<&str>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Failure> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| Failure::NoNode(format!("the gateway does not answer on {address}: {error}")))?;
    match certificate {
        Some(certificate) => exchange(tls::connect(stream, address.ip(), certificate).await?, request).await,
        None => exchange(stream, request).await,
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.context("the connection failed")?;
    tokio::spawn(async move {
        // The request's own error says what went wrong.
        let _ = connection.await;
    });
    Ok(sender.send_request(request).await.context("the node broke off the request")?)
}

/// Reads manifest files, all or none.
pub(crate) fn read_manifests(files: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    files.iter().map(|file| read_manifest(file)).collect()
}

fn read_manifest(file: &Path) -> Result<Source, Failure> {
    if file == Path::new("-") {
        let text = std::io::read_to_string(std::io::stdin())?;
        return Ok(Source { name: "standard input".to_owned(), text, base_dir: std::env::current_dir().ok() });
    }
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::Invalid(format!("cannot read the manifest {name}: {error}")))?;
    let absolute = std::path::absolute(file)?;
    Ok(Source { name, text, base_dir: absolute.parent().map(Path::to_path_buf) })
}
