//! A function builds a large table, and the next one goes on with it. Which of three ways the table takes is said by
//! the manifest and the path; `tests/compare.rs` measures them beside each other.
#![forbid(unsafe_code)]

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ramet_sdk::{Body, Context, Error, ExitCode, Request, Response, Result};

/// How many bytes a number of the table has on its way through a message.
const NUMBER_BYTES: usize = size_of::<u64>();

/// The state: what took long to make, and is large.
static TABLE: Mutex<Vec<u64>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    ramet_sdk::serve(handle)
}

fn table() -> MutexGuard<'static, Vec<u64>> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn handle(request: Request, context: &Context) -> Result<Response> {
    match request.path() {
        "/build" => {
            let numbers = number(&request, "numbers")?;
            *table() = (0..numbers as u64).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
            Ok(Response::text(numbers.to_string()))
        }
        // The table as a message's body: to whoever asked, or to the next function of the chain.
        "/dump" => Ok(Response::ok(written(context)?)),
        "/pool" if request.body().is_empty() => Ok(Response::ok(written(context)?)),
        // The table out of a message's body.
        "/load" | "/pool" => {
            *table() = read(request.body())?;
            found(&request)
        }
        // The table is there: it was built or loaded, or this is a copy of where it was.
        "/lookup" => found(&request),
        "/sum" => Ok(Response::text(sum(&table()).to_string())),
        other => Ok(Response::sentence(404, format!("there is no {other}; try /build, /lookup or /sum"))),
    }
}

fn number(request: &Request, name: &str) -> Result<usize> {
    let text = request.query_value(name).ok_or_else(|| Error::new(format!("the query has no {name}")))?;
    Ok(text.parse()?)
}

/// What a request is about that goes on with the table.
fn found(request: &Request) -> Result<Response> {
    let at = number(request, "at")?;
    let found = table().get(at).copied();
    Ok(Response::text(found.map_or_else(|| "nothing".to_owned(), |number| number.to_string())))
}

fn sum(table: &[u64]) -> u64 {
    table.iter().fold(0, |sum, number| sum.rotate_left(1) ^ number)
}

fn written(context: &Context) -> Result<Body> {
    let table = table();
    let mut body = context.body(table.len() * NUMBER_BYTES)?;
    let mut chunk = Vec::with_capacity(1 << 16);
    for numbers in table.chunks((1 << 16) / NUMBER_BYTES) {
        chunk.clear();
        chunk.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        body.write_all(&chunk)?;
    }
    Ok(body.into())
}

fn read(body: &Body) -> Result<Vec<u64>> {
    let bytes = body.to_contiguous();
    let (numbers, rest) = bytes.as_chunks::<NUMBER_BYTES>();
    if !rest.is_empty() {
        return Err(Error::new(format!("{} bytes are no table", bytes.len())));
    }
    Ok(numbers.iter().map(|number| u64::from_le_bytes(*number)).collect())
}
