//! A function that does what the request tells it to: the header `x-do-NAME`, where NAME is the actor's own name, or
//! `x-do` for every actor.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "what a function prints is its log")]

use std::fmt::Write as _;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use ramet_sdk::{Call, Context, Error, ExitCode, Request, Response, Result, StreamedRequest};

/// What an actor remembers from one request to the next, and a copy of it from the other one's.
struct Memory {
    /// What it was told to keep.
    kept: Vec<u8>,
    /// How often it has become a copy.
    forks: u32,
    /// What no other actor has.
    token: u128,
    /// The state of a generator of random numbers, as a library would have it.
    generator: u64,
}

static MEMORY: Mutex<Memory> = Mutex::new(Memory { kept: Vec::new(), forks: 0, token: 0, generator: 1 });

impl Memory {
    /// The next random number (xorshift64).
    fn next(&mut self) -> u64 {
        self.generator ^= self.generator << 13;
        self.generator ^= self.generator >> 7;
        self.generator ^= self.generator << 17;
        self.generator
    }
}

/// As the author of a function may want it.
fn stay_on(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core).expect("a core that there may be");
    sched_setaffinity(Pid::from_raw(0), &cores).expect("a core that there is");
}

fn memory() -> MutexGuard<'static, Memory> {
    MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn main() -> ExitCode {
    println!("actor {} starts", name());
    if let Some(core) = std::env::args().skip_while(|argument| argument != "--on-core").nth(1) {
        stay_on(core.parse().expect("a core's number"));
    }
    // What is there before it serves is in every copy.
    memory().kept = (0..4 << 20).map(|at: u32| (at % 251) as u8).collect();
    if std::env::args().any(|argument| argument == "--barren") {
        ramet_sdk::after_fork(|_| Err(Error::new("this actor wants no copies")));
    }
    // A generator that nobody seeds anew gives the same numbers in every copy.
    let is_forgetful = std::env::args().any(|argument| argument == "--forgetful");
    ramet_sdk::after_fork(move |copy| {
        let mut memory = memory();
        memory.forks += 1;
        memory.token = u128::from_ne_bytes(copy.random()?);
        if !is_forgetful {
            memory.generator = u64::from_ne_bytes(copy.random()?) | 1;
        }
        let number = memory.next();
        println!("copy {} {:032x} {number:016x}", copy.instance().0, memory.token);
        Ok(())
    });
    if std::env::args().any(|argument| argument == "--streamed") {
        return ramet_sdk::serve_streamed(handle_streamed);
    }
    ramet_sdk::serve(handle)
}

/// The first argument, so that one program can be every function of a chain.
fn name() -> String {
    std::env::args().nth(1).unwrap_or_default()
}

/// What is done with a body while it comes; all else when it is there.
fn handle_streamed(request: StreamedRequest, context: &Context) -> Result<Response> {
    let order = request.header("x-do").unwrap_or_default().to_owned();
    match order.as_str() {
        "relay" => {
            let mut body = request.into_body();
            Ok(Response::stream(move |out| {
                while let Some(piece) = body.next_piece()? {
                    out.write_all(&piece)?;
                    out.flush()?;
                }
                Ok(())
            }))
        }
        "sum" => {
            let mut body = request.into_body();
            let (mut bytes, mut sum) = (0, 0_u64);
            loop {
                match body.next_piece() {
                    Ok(Some(piece)) => {
                        bytes += piece.len();
                        sum = piece.iter().fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
                        println!("has {bytes}");
                    }
                    Ok(None) => return Ok(Response::text(format!("{bytes} {sum:016x}"))),
                    Err(error) => {
                        println!("after {bytes}: {error}");
                        return Err(error.into());
                    }
                }
            }
        }
        "early" => Ok(Response::text("early").reply()),
        "first" => {
            let mut body = request.into_body();
            let first = body.next_piece()?.map(|piece| piece.to_vec()).unwrap_or_default();
            Ok(Response::ok(first))
        }
        "quit" => {
            let mut body = request.into_body();
            let _first = body.next_piece()?;
            std::process::exit(7);
        }
        "wait" => {
            let mut body = request.into_body();
            let _first = body.next_piece()?;
            println!("waits");
            loop {
                std::thread::park();
            }
        }
        _ => handle(request.whole()?, context),
    }
}

fn handle(request: Request, context: &Context) -> Result<Response> {
    let order =
        request.header(&format!("x-do-{}", name())).or_else(|| request.header("x-do")).unwrap_or("tag").to_owned();
    let (verb, argument) = order.split_once(':').unwrap_or((order.as_str(), ""));
    match verb {
        "echo" => Ok(Response::ok(request.into_body())),
        "tag" => tag(&request),
        "identity" => Ok(identity(context)),
        "keep" => {
            memory().kept = request.body().to_contiguous().into_owned();
            Ok(Response::text("kept"))
        }
        "kept" => Ok(Response::ok(memory().kept.clone())),
        "pid" => Ok(Response::text(std::process::id().to_string()).reply()),
        "panic" => panic!("as told"),
        "error" => Err(Error::new("as told")),
        "exit" => std::process::exit(7),
        "hang" => {
            println!("hangs");
            loop {
                std::thread::park();
            }
        }
        "pause" => {
            let pause = Duration::from_millis(argument.parse()?);
            // tidy: the test asks for a slow function
            std::thread::sleep(pause);
            Ok(Response::ok(request.into_body()))
        }
        "burn" => {
            let until = Instant::now() + Duration::from_millis(argument.parse()?);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            Ok(Response::ok(request.into_body()))
        }
        "status" => Ok(Response::new(argument.parse()?).body("as told")),
        "headers" => Ok(describe(&request)),
        "reply" => Ok(Response::text("early").reply()),
        "to" => Ok(Response::ok(request.into_body()).forward_to(argument.to_owned())),
        "kind" => Ok(Response::ok(request.into_body()).header("x-kind", argument.to_owned())),
        "big" => big(context, argument.parse()?),
        "stream" => Ok(stream(argument.parse()?)),
        "stall" => Ok(stall(argument.parse()?)),
        "call" => {
            let reply =
                context.call(argument, Call::post("/called").body(request.body().to_contiguous().into_owned()))?;
            let mut text = format!("{}:", reply.status()).into_bytes();
            text.extend_from_slice(&reply.body().to_contiguous());
            Ok(Response::ok(text))
        }
        "join" => Ok(join(&request)),
        "log" => {
            println!("{argument}");
            eprintln!("err {argument}");
            Ok(Response::ok(request.into_body()))
        }
        _ => Ok(Response::sentence(400, format!("an actor cannot {verb}"))),
    }
}

/// Who it is, how often it was copied, its token, and a sum over all that it keeps.
fn identity(context: &Context) -> Response {
    let memory = memory();
    let sum = memory.kept.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let mut text = String::new();
    let _ = write!(text, "{} {} {:032x} {sum:016x}", context.instance().0, memory.forks, memory.token);
    Response::text(text)
}

/// Adds the actor's name to the body.
fn tag(request: &Request) -> Result<Response> {
    let mut body = request.body().to_contiguous().into_owned();
    body.extend_from_slice(format!("+{}", name()).as_bytes());
    Ok(Response::ok(body))
}

/// Answers with request line and headers.
fn describe(request: &Request) -> Response {
    let mut text = format!("{} {}\n", request.method(), request.target());
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value)));
    }
    Response::text(text).header("x-set", "by the function").reply()
}

/// Answers with that many bytes, written in place; byte `i` is `i mod 251`.
fn big(context: &Context, bytes: usize) -> Result<Response> {
    let mut body = context.body(bytes)?;
    let mut at = 0;
    for slice in body.slices_mut() {
        for byte in slice {
            *byte = (at % 251) as u8;
            at += 1;
        }
    }
    Ok(Response::ok(body))
}

/// Streams that many numbered lines.
fn stream(lines: usize) -> Response {
    Response::stream(move |out| {
        for line in 0..lines {
            writeln!(out, "line {line}")?;
            if line % 10 == 0 {
                out.flush()?;
            }
        }
        Ok(())
    })
}

/// Streams that many numbered lines and never comes to an end.
fn stall(lines: usize) -> Response {
    Response::stream(move |out| {
        for line in 0..lines {
            writeln!(out, "line {line}")?;
        }
        out.flush()?;
        loop {
            std::thread::park();
        }
    })
}

/// Says what each parallel branch answered.
fn join(request: &Request) -> Response {
    let mut text = String::new();
    for branch in request.branches() {
        let body = String::from_utf8_lossy(&branch.body.to_contiguous()).into_owned();
        text.push_str(&format!("{}={}:{body};", branch.name, branch.status));
    }
    Response::text(text)
}
