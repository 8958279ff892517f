//! What a request asks for, whichever parser has read it: its chain, its limits, and its head as functions see it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use httparse::Header;
use ramet_dataplane::SlotRef;
use ramet_dataplane::clock;
use ramet_dataplane::message::{BlockWriter, Envelope, HeadBlock, MessageError};
use tokio::time::Instant;

use super::intake::{self, BodyLimits, Source};
use crate::chains::{Admission, Chain, ChainTable, NoChain};
use crate::conduct::{Journey, Outset};
use crate::exchange::Holdings;
use crate::problem::Problem;
use crate::worker::Worker;

/// Bodies up to this are taken in as a whole for functions that could begin before: they are there in no time.
pub(super) const WHOLE_BYTES_MAX: u64 = 16 << 10;

/// Who is at the other end of a connection, as functions are told.
#[derive(Debug)]
pub(super) struct Client {
    address: String,
    scheme: &'static str,
}

impl Client {
    pub(super) fn new(peer: SocketAddr, scheme: &'static str) -> Self {
        Self { address: peer.ip().to_string(), scheme }
    }
}

/// Request line and headers.
#[derive(Debug)]
pub(super) struct Head<'a> {
    pub(super) method: &'a str,
    /// Path and query.
    pub(super) target: &'a str,
    /// Empty if the client named none.
    pub(super) host: &'a str,
    pub(super) headers: &'a [Header<'a>],
}

/// A request that its chain has admitted; its body is still to come.
pub(super) struct Accepted {
    pub(super) journey: Journey,
    pub(super) admission: Admission,
    block: Vec<u8>,
    envelope: Envelope,
    limits: BodyLimits,
}

impl Head<'_> {
    pub(super) fn chain<'t>(&self, table: &'t ChainTable) -> Result<&'t Arc<Chain>, Problem> {
        let path = self.target.split('?').next().unwrap_or_default();
        table.find(self.host, path, self.method).map_err(|error| match error {
            NoChain::NotFound => Problem::NoChain,
            NoChain::MethodNotAllowed(allowed) => Problem::MethodNotAllowed(allowed),
        })
    }

    /// Admits the request to its chain.
    pub(super) fn accept(
        &self,
        worker: &Rc<Worker>,
        client: &Client,
        chain: &Arc<Chain>,
        start: Instant,
    ) -> Result<Accepted, Problem> {
        let admission = chain.admit(&worker.shared.on_idle).ok_or(Problem::TooManyRequests)?;
        let domain = worker.domain(chain.settings.route.domain).ok_or(Problem::NoInstance)?;
        let quota = domain.body_quota_bytes();
        let deadline = start + chain.settings.deadline;
        let limits = BodyLimits {
            bytes_max: chain.settings.body_bytes_max.map_or(quota, |limit| limit.min(quota)),
            pause_max: worker.shared.settings.body_timeout,
            deadline,
        };
        let block = self.block(client)?;
        let deadline_ns = u64::try_from(chain.settings.deadline.as_nanos()).unwrap_or(u64::MAX);
        let envelope = Envelope {
            route: chain.route_id(),
            deadline_ns: clock::now_ns().saturating_add(deadline_ns),
            ..self.trace_context()
        };
        let holdings = Holdings::new(domain);
        let (worker, chain) = (Rc::clone(worker), Arc::clone(chain));
        let (unsent, incoming) = (Cell::default(), Cell::default());
        let journey = Journey { worker, chain, holdings, deadline, unsent, incoming };
        Ok(Accepted { journey, admission, block, envelope, limits })
    }

    /// Request line and end-to-end headers, as functions see them.
    fn block(&self, client: &Client) -> Result<Vec<u8>, Problem> {
        let mut block = BlockWriter::request(self.method, self.target);
        let too_large = |_: MessageError| Problem::HeadTooLarge;
        if !self.host.is_empty() {
            block.header("host", self.host.as_bytes()).map_err(too_large)?;
        }
        let is_named = |name| self.values("connection").any(|connection| names(connection, name));
        let names_any = self.values("connection").any(|connection| !is_usual(connection));
        let mut cookies = self.values("cookie");
        let crumbs = (cookies.next().is_some() && cookies.next().is_some())
            .then(|| self.values("cookie").collect::<Vec<_>>().join(&b"; "[..]));
        for Header { name, value } in self.headers {
            let is_joined = crumbs.is_some() && name.eq_ignore_ascii_case("cookie");
            let ends_here = is_joined || is_for_the_gateway(name) || names_any && is_named(name);
            if !ends_here {
                block.header(name, value).map_err(too_large)?;
            }
        }
        if let Some(cookie) = &crumbs {
            block.header("cookie", cookie).map_err(too_large)?;
        }
        block.header("x-forwarded-for", client.address.as_bytes()).map_err(too_large)?;
        block.header("x-forwarded-proto", client.scheme.as_bytes()).map_err(too_large)?;
        Ok(block.finish())
    }

    fn values(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    /// The client's W3C trace context, if it sent a valid one.
    fn trace_context(&self) -> Envelope {
        let mut envelope = Envelope::default();
        let Some(value) = self.values("traceparent").next() else { return envelope };
        // 00-<32 hex>-<16 hex>-<2 hex>
        let well_formed = value.len() == 55 && value.starts_with(b"00-") && value[35] == b'-' && value[52] == b'-';
        if well_formed
            && let (Some(trace_id), Some(span_id), Some([flags])) =
                (hex::<16>(&value[3..35]), hex::<8>(&value[36..52]), hex::<1>(&value[53..55]))
        {
            (envelope.trace_id, envelope.span_id, envelope.trace_flags) = (trace_id, span_id, flags);
        }
        envelope
    }
}

impl Accepted {
    /// What its first step needs if it reads the body while it comes.
    pub(super) fn outset(&self) -> Option<Outset> {
        let function = self.journey.streams_to()?;
        // It was written a moment ago.
        let block = HeadBlock::parse(self.block.clone()).ok()?;
        Some(Outset { block, envelope: self.envelope, function })
    }

    /// The longest wait for the client's next bytes.
    pub(super) fn pause_max(&self) -> Duration {
        self.limits.pause_max
    }

    /// The longest body that the chain takes.
    pub(super) fn body_bytes_max(&self) -> u64 {
        self.limits.bytes_max
    }

    /// Writes the head alone: the body is still to come.
    pub(super) fn take_in_head(&self) -> Result<(SlotRef, Envelope), Problem> {
        intake::take_in_head(&self.journey.holdings, self.envelope, &self.block)
    }

    /// Writes body and head into slots; returns the head's slot and the envelope as written.
    pub(super) async fn take_in(
        &self,
        source: &mut impl Source,
        exact: Option<u64>,
    ) -> Result<(SlotRef, Envelope), Problem> {
        intake::take_in(&self.journey.holdings, self.envelope, &self.block, source, exact, self.limits).await
    }
}

/// Whether a `connection` header names that header, which is then for this hop alone (RFC 9110, 7.6.1).
fn names(connection: &[u8], name: &str) -> bool {
    connection.split(|&byte| byte == b',').any(|named| named.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}

/// Whether a `connection` header names no other header.
fn is_usual(connection: &[u8]) -> bool {
    connection.eq_ignore_ascii_case(b"keep-alive") || connection.eq_ignore_ascii_case(b"close")
}

/// Whether it is a host with or without a port (RFC 9110, 7.2); empty is one.
pub(super) fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, ""),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte);
    let is_address = |byte: u8| byte.is_ascii_hexdigit() || b":.".contains(&byte);
    port.bytes().all(|byte| byte.is_ascii_digit())
        && match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(address) => address.is_some_and(|address| !address.is_empty() && address.bytes().all(is_address)),
            None => host.bytes().all(is_name),
        }
}

/// Headers that speak of the connection, or that the gateway sets itself.
fn is_for_the_gateway(name: &str) -> bool {
    let known = match name.len() {
        2 => "te",
        4 => "host",
        7 if name.as_bytes()[0].eq_ignore_ascii_case(&b't') => "trailer",
        7 => "upgrade",
        10 if name.as_bytes()[0].eq_ignore_ascii_case(&b'c') => "connection",
        10 => "keep-alive",
        15 => "x-forwarded-for",
        16 => "proxy-connection",
        17 if name.as_bytes()[0].eq_ignore_ascii_case(&b't') => "transfer-encoding",
        17 => "x-forwarded-proto",
        _ => return false,
    };
    name.eq_ignore_ascii_case(known)
}

fn hex<const BYTES: usize>(text: &[u8]) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |character: u8| char::from(character).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ramet_dataplane::message::HeadBlock;

    fn head<'a>(headers: &'a [Header<'a>]) -> Head<'a> {
        Head { method: "GET", target: "/a?b", host: "h", headers }
    }

    #[test]
    fn a_valid_trace_context_is_passed_on_and_garbage_is_not() {
        let context = |value: &str| head(&[Header { name: "Traceparent", value: value.as_bytes() }]).trace_context();
        let envelope = context("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!((envelope.trace_id[0], envelope.span_id[7], envelope.trace_flags), (0x0a, 0x31, 1));
        for garbage in ["", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333z-01", "01-short"] {
            assert_eq!(context(garbage), Envelope::default(), "{garbage}");
        }
    }

    #[test]
    fn functions_see_end_to_end_headers_in_lower_case() {
        let hop =
            ["Host", "TE", "Trailer", "Upgrade", "Connection", "Keep-Alive", "X-Forwarded-For", "Proxy-Connection"];
        let more = ["Transfer-Encoding", "X-Forwarded-Proto", "Accept", "X-My-Header"];
        let headers: Vec<_> = hop.iter().chain(&more).map(|name| Header { name, value: b"v" }).collect();
        let client = Client::new(SocketAddr::from(([127, 0, 0, 1], 80)), "http");
        let block = HeadBlock::parse(head(&headers).block(&client).expect("small")).expect("well-formed");
        let seen: Vec<_> = block.headers().collect();
        let expected: [(&str, &[u8]); 5] = [
            ("host", b"h"),
            ("accept", b"v"),
            ("x-my-header", b"v"),
            ("x-forwarded-for", b"127.0.0.1"),
            ("x-forwarded-proto", b"http"),
        ];
        assert_eq!(seen, expected);
    }
}
