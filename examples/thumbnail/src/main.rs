//! A picture's thumbnail in three functions: decode, resize, encode. One program, three names.
//!
//! Between the steps travel raw pixels, in shared memory; their width and height travel as headers. The request line
//! goes along, so each step sees the client's query: `?width=` for resize, `?format=png` for encode.
#![forbid(unsafe_code)]

mod picture;

use std::io::Write;

use picture::{Format, Opened, Problem, Size};
use ramet_sdk::{Context, Error, ExitCode, Request, Response, Result};

/// The thumbnail's width in pixels where the client names none.
const WIDTH_DEFAULT: u32 = 256;

fn main() -> ExitCode {
    // The manifest names the step in the function's command: [thumbnail, resize].
    match std::env::args().nth(1).as_deref() {
        Some("decode") => ramet_sdk::serve(decode),
        Some("resize") => ramet_sdk::serve(resize),
        Some("encode") => ramet_sdk::serve(encode),
        _ => {
            eprintln!("usage: thumbnail decode|resize|encode");
            ExitCode::from(64)
        }
    }
}

/// JPEG or PNG in, pixels out.
fn decode(request: Request, context: &Context) -> Result<Response> {
    // The reader reads the body where the gateway has written it.
    let opened = match Opened::new(request.body().reader()) {
        Ok(opened) => opened,
        Err(problem) => return Ok(refuse(&problem)),
    };
    let size = opened.size();
    // Memory for the pixels, where the next step will read them. In one slot they are decoded in place; more than a
    // slot holds are decoded elsewhere and written slot by slot.
    let mut body = context.body(size.bytes())?;
    let decoded = match body.as_mut_slice() {
        Some(pixels) => opened.decode_into(pixels),
        None => {
            body.truncate(0);
            opened.decode().and_then(|pixels| body.write_all(&pixels).map_err(|_| Problem::TooLarge))
        }
    };
    match decoded {
        Ok(()) => Ok(pixels(size).body(body)),
        // A status of 400 or more goes to the client at once; the steps that follow never see the request.
        Err(problem) => Ok(refuse(&problem)),
    }
}

/// Pixels in, fewer pixels out.
fn resize(request: Request, _context: &Context) -> Result<Response> {
    let size = size_of(&request)?;
    let width = match request.query_value("width").map(|width| width.parse()) {
        None => WIDTH_DEFAULT,
        Some(Ok(width)) if width > 0 => width,
        Some(_) => return Ok(Response::sentence(400, "width is a number of pixels, at least 1")),
    };
    let small = size.scaled_to(width);
    if small == size {
        // Nothing to do: the same slots go on to the next step.
        return Ok(pixels(size).body(request.into_body()));
    }
    // Read in place if it is in one slot. A body of several slots is put together once: scaling jumps about in it.
    let from = request.body().to_contiguous();
    let scaled = picture::scale(&from, size, small).ok_or_else(|| Error::new("the body is not that many pixels"))?;
    // Bytes that are in private memory are copied once, to where the next step reads them.
    Ok(pixels(small).body(scaled))
}

/// Pixels in, JPEG or PNG out.
fn encode(request: Request, context: &Context) -> Result<Response> {
    let size = size_of(&request)?;
    let format = match request.query_value("format").as_deref() {
        None | Some("jpeg") => Format::Jpeg,
        Some("png") => Format::Png,
        Some(_) => return Ok(Response::sentence(400, "format is jpeg or png")),
    };
    // How long the file will be shows only when it is written: reserve enough, and what is not needed goes back.
    let mut body = context.body(format.bytes_max(size))?;
    picture::encode(&request.body().to_contiguous(), size, format, &mut body)?;
    Ok(Response::ok(body).header("content-type", format.media_type()))
}

/// A response to be filled with pixels.
fn pixels(size: Size) -> Response {
    Response::new(200).header("x-width", size.width).header("x-height", size.height)
}

/// The size that the step before has written down.
fn size_of(request: &Request) -> Result<Size> {
    let number = |name| request.header(name).and_then(|value| value.parse().ok());
    match (number("x-width"), number("x-height")) {
        (Some(width), Some(height)) => Ok(Size { width, height }),
        // An error of ours, not of the client: it is logged, and the client sees a 500.
        _ => Err(Error::new("this step takes pixels from decode or resize; put it after them in the chain")),
    }
}

fn refuse(problem: &Problem) -> Response {
    Response::sentence(problem.status(), problem.to_string())
}
