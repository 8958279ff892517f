//! The smallest function: it answers with whatever it was sent.
#![forbid(unsafe_code)]

use ramet_sdk::{Context, ExitCode, Request, Response, Result};

fn main() -> ExitCode {
    // `ramet up` starts this program and hands it requests; `serve` calls `echo` for each.
    ramet_sdk::serve(echo)
}

fn echo(request: Request, _context: &Context) -> Result<Response> {
    let kind = request.header("content-type").unwrap_or("application/octet-stream").to_owned();
    // The body is not copied: its slots, which the gateway has filled, become the response's.
    Ok(Response::ok(request.into_body()).header("content-type", kind))
}
