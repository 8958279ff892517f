//! The chains that run already and are to be measured: those of a node, or whatever answers at an address.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::Context;
use http::Uri;
use ramet_bench::{ChainOptions, Target};
use ramet_control::admin;
use ramet_manifest::Kind;

use crate::arguments::NodeArguments;
use crate::client::{Node, block_on};
use crate::exit::Failure;
use crate::objects::objects;
use crate::selection::Selection;

/// What is measured instead of chains of the benchmark's own; nothing if neither an address nor a node is named.
pub(super) fn of(node: &NodeArguments, options: &ChainOptions) -> Result<Vec<Target>, Failure> {
    if options.url.is_some() && node.socket.is_some() {
        return Err(Failure::Invalid("--url and --socket are two things to measure: leave one of them out".to_owned()));
    }
    if let Some(url) = &options.url {
        return Ok(vec![at(url)?]);
    }
    if node.socket.is_none() && options.chain.is_none() {
        return Ok(Vec::new());
    }
    if options.idle || options.rounds.base.is_some() {
        let what = if options.idle { "--idle" } else { "--base" };
        return Err(Failure::Invalid(format!("{what} measures nodes of the benchmark's own: leave --socket out")));
    }
    let given = [("--systems", options.systems.is_some()), ("--against", options.against.is_some())];
    if let Some((what, _)) = given.iter().find(|(_, is_given)| *is_given) {
        let why = format!("{what} names systems of the benchmark's own: leave --socket and --chain out");
        return Err(Failure::Invalid(why));
    }
    of_node(&Node::of(node)?, options)
}

fn at(url: &str) -> Result<Target, Failure> {
    let wrong = |why: &str| Failure::Invalid(format!("{url:?} cannot be measured: {why}"));
    let uri: Uri = url.parse().map_err(|error| wrong(&format!("it is no URL ({error})")))?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong("it does not begin with http://, and nothing else is spoken"));
    }
    let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
    let port = match authority.port_u16() {
        Some(port) => port,
        None if authority.as_str().ends_with(authority.host()) => 80,
        None => return Err(wrong("it is no URL (its port is no number up to 65535)")),
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let mut addresses =
        (host, port).to_socket_addrs().map_err(|error| wrong(&format!("its host is unknown ({error})")))?;
    Ok(Target {
        name: "url".to_owned(),
        transport: "http".to_owned(),
        functions: None,
        address: addresses.next().ok_or_else(|| wrong("its host has no address"))?,
        host: authority.to_string(),
        path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        process: None,
    })
}

fn of_node(node: &Node, options: &ChainOptions) -> Result<Vec<Target>, Failure> {
    let selection = Selection::new(None, options.chain.as_deref())?;
    let chains = objects(node, Kind::Chain, &selection)?;
    if chains.is_empty() {
        return Err(match options.chain {
            Some(_) => selection.missing(Kind::Chain),
            None => Failure::NotFound("the node has no chain; `ramet apply` makes one".to_owned()),
        });
    }
    let status: admin::Node = block_on(node.ask("GET", "/v1/node", None::<&()>))?;
    let certificate: Option<String> = block_on(node.ask("GET", "/v1/certificate", None::<&()>))?;
    if certificate.is_some() {
        let why = "the node speaks TLS, which the benchmark does not; measure a node without a certificate";
        return Err(Failure::Invalid(why.to_owned()));
    }
    let address: SocketAddr = status.listen.parse().context("the node's listening address is unusable")?;
    let process = i32::try_from(status.pid).context("the node's process number is unusable")?;
    let target = |chain: &admin::Object| -> Result<Target, Failure> {
        let (host, path) = crate::invoke::first_route(chain)?;
        let steps = chain.manifest["spec"]["steps"].as_array().map_or(0, Vec::len);
        Ok(Target {
            name: format!("{}/{}", chain.namespace, chain.name),
            transport: status.transport.clone(),
            functions: Some(u32::try_from(steps).unwrap_or(u32::MAX)),
            address,
            host,
            path,
            process: Some(process),
        })
    };
    chains.iter().map(target).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart() {
        let target = at("http://127.0.0.1:8080/echo?x=1").unwrap();
        assert_eq!(target.address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!((target.host.as_str(), target.path.as_str()), ("127.0.0.1:8080", "/echo?x=1"));
        let target = at("http://[::1]").unwrap();
        assert_eq!((target.address, target.path.as_str()), ("[::1]:80".parse().unwrap(), "/"));
    }

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        node: NodeArguments,
        #[command(flatten)]
        options: ChainOptions,
    }

    #[test]
    fn systems_are_not_named_for_what_runs_already() {
        let parse = |arguments: &[&str]| <Command as clap::Parser>::try_parse_from([&["bench"], arguments].concat());
        for option in ["--systems", "--against"] {
            let arguments = parse(&["--socket", "/no/such/socket", option, "unix"]).unwrap();
            let Err(Failure::Invalid(why)) = of(&arguments.node, &arguments.options) else { panic!("{option}") };
            assert!(why.starts_with(option), "{why}");
            assert!(parse(&["--url", "http://127.0.0.1/", option, "unix"]).is_err(), "{option}");
        }
        let arguments = parse(&["--systems", "ramet-ring", "--against", "unix"]).unwrap();
        assert!(of(&arguments.node, &arguments.options).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_a_reason() {
        for (url, why) in
            [("https://a", "http://"), ("/echo", "http://"), ("http://127.0.0.1:x/", "no URL"), ("", "URL")]
        {
            let Err(Failure::Invalid(message)) = at(url) else { panic!("{url}") };
            assert!(message.contains(why), "{message}");
        }
    }
}
