//! `invoke`: a request through a chain, without having to know where the node listens.

use std::io::{Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use ramet_control::admin;
use ramet_manifest::Kind;

use crate::arguments::{Invoke, NodeArguments};
use crate::client::{Node, block_on, to_gateway};
use crate::exit::Failure;
use crate::objects::objects;
use crate::selection::Selection;

/// `ramet invoke`.
pub(crate) fn run(node: &NodeArguments, options: &Invoke) -> Result<(), Failure> {
    let selection = Selection::new(Some(&options.namespace), Some(&options.chain))?;
    let node = Node::of(node)?;
    let chain = objects(&node, Kind::Chain, &selection)?.pop().ok_or_else(|| selection.missing(Kind::Chain))?;
    let status: admin::Node = block_on(node.ask("GET", "/v1/node", None::<&()>))?;
    let certificate: Option<String> = block_on(node.ask("GET", "/v1/certificate", None::<&()>))?;
    let address: SocketAddr = status.listen.parse().context("the node's listening address is unusable")?;
    let request = request(options, &chain)?;
    block_on(async {
        let mut response = to_gateway(address, certificate.as_deref(), request).await?;
        let status = response.status();
        let mut out: Box<dyn Write> = match &options.to {
            Some(file) => Box::new(std::fs::File::create(file)?),
            None => Box::new(std::io::stdout().lock()),
        };
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.context("the answer broke off")?;
            if let Some(data) = frame.data_ref() {
                out.write_all(data)?;
            }
        }
        out.flush()?;
        if status.is_success() {
            return Ok(());
        }
        Err(Failure::Failed(format!("the chain answered {status}")))
    })
}

fn request(options: &Invoke, chain: &admin::Object) -> Result<Request<Full<Bytes>>, Failure> {
    let body = match options.data.as_deref() {
        None => None,
        Some("@-") => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes)?;
            Some(bytes)
        }
        Some(data) => Some(match data.strip_prefix('@') {
            Some(file) => std::fs::read(file).map_err(|e| Failure::Invalid(format!("cannot read {file}: {e}")))?,
            None => data.as_bytes().to_vec(),
        }),
    };
    let (host, path) = first_route(chain)?;
    let method = options.method.as_deref().unwrap_or(if body.is_some() { "POST" } else { "GET" });
    let mut request = Request::builder().method(method).uri(format!("{path}{}", options.path)).header("host", host);
    for header in &options.headers {
        let (name, value) =
            header.split_once(':').ok_or_else(|| Failure::Invalid(format!("the header {header:?} has no colon")))?;
        request = request.header(name.trim(), value.trim());
    }
    let body = Full::new(Bytes::from(body.unwrap_or_default()));
    request.body(body).map_err(|error| Failure::Invalid(format!("that is no valid HTTP request: {error}")))
}

/// Host and path of a chain's first route.
pub(crate) fn first_route(chain: &admin::Object) -> Result<(String, String), Failure> {
    let route = chain.status.routes.first().ok_or_else(|| anyhow!("the chain has no route"))?;
    // `METHODS HOST/PATH`, where any host is `*`.
    let target = route.split_once(' ').map_or(route.as_str(), |(_, target)| target);
    let (host, path) = target.split_at(target.find('/').unwrap_or(target.len()));
    let host = match host {
        "" | "*" => "localhost".to_owned(),
        host => host.replacen('*', "any", 1),
    };
    Ok((host, if path.is_empty() { "/".to_owned() } else { path.to_owned() }))
}
