//! `demo`: a whole node at work, from nothing: a picture goes in, its thumbnail comes out, and the numbers follow.

mod http;
mod node;
mod picture;

use crate::build_ebpf::{self, Freshness, Install, target_directory, workspace_root};
use crate::commands::{cargo, succeeds};
use crate::debian;
use anyhow::{Context, Result, ensure};
use node::Node;
use std::fs;
use std::io::{IsTerminal, stdout};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The manifest of the chain.
const MANIFEST: &str = "examples/thumbnail/ramet.yaml";
/// Where the manifest expects the programs, seen from its own folder.
const PROGRAMS: &str = "../../target/release/";
/// The thumbnail's width in pixels.
const WIDTH: u32 = 320;

/// The arguments of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave the measurement out
    #[arg(long)]
    no_bench: bool,
}

/// Where things are.
struct Places {
    root: PathBuf,
    target: PathBuf,
    /// What the demo makes: pictures, and what the node writes.
    folder: PathBuf,
}

impl Places {
    fn program(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = workspace_root()?;
    let target = target_directory(&root)?;
    let places = Places { folder: target.join("demo"), root, target };
    fs::create_dir_all(&places.folder).with_context(|| format!("cannot make {}", places.folder.display()))?;
    build(&places)?;
    make_thumbnail(&places)?;
    if !args.no_bench {
        measure(&places)?;
    }
    Ok(())
}

fn build(places: &Places) -> Result<()> {
    debian::ensure_build_packages(Install::Allowed)?;
    // Without the object a node still runs; it says itself why it does not use the kernel.
    if let Err(error) = build_ebpf::ensure(Install::Allowed, Freshness::Reuse) {
        eprintln!("warning: no eBPF object, so descriptors will not pass through the kernel: {error:#}");
    }
    let built = succeeds(cargo(&places.root).args(["build", "--release", "--workspace"]))?;
    ensure!(built, "the workspace does not compile; the messages above say why");
    Ok(())
}

/// Runs a node, has it make a thumbnail, and stops it.
fn make_thumbnail(places: &Places) -> Result<()> {
    let original = picture::draw()?;
    let original_path = places.folder.join("picture.jpg");
    write(&original_path, &original)?;

    let mut node = Node::start(&places.program("ramet"), &manifest(places)?, &places.folder.join("node.log"))?;
    node.wait_until_ready()?;
    let status = node.status()?;
    println!("the node is ready at http://{}", node.listen);
    println!("transport: {} ({})", status.transport, status.reason);

    let path = format!("/thumbnail?width={WIDTH}");
    let start = Instant::now();
    let answer = http::request(node.listen, "POST", &path, &original)?;
    let took = start.elapsed();
    let text = || String::from_utf8_lossy(&answer.body).trim().to_owned();
    ensure!(answer.status == 200, "POST {path} was answered {}: {}", answer.status, text());
    let thumbnail_path = places.folder.join("thumbnail.jpg");
    write(&thumbnail_path, &answer.body)?;

    println!("posted    {}", picture::describe(&original_path, &original)?);
    println!("answered  {} in {:.1} ms", picture::describe(&thumbnail_path, &answer.body)?, milliseconds(took));
    if stdout().is_terminal() {
        print!("{}", picture::preview(&answer.body)?);
    }
    node.stop()
}

/// The manifest as it is, or, with a target folder elsewhere, a copy that names the programs there.
fn manifest(places: &Places) -> Result<PathBuf> {
    let path = places.root.join(MANIFEST);
    if places.target == places.root.join("target") {
        return Ok(path);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let programs = format!("{}/", places.target.join("release").display());
    let copy = places.folder.join("ramet.yaml");
    write(&copy, text.replace(PROGRAMS, &programs).as_bytes())?;
    Ok(copy)
}

/// The same chain of empty functions in three ways, in short turns. A way that this machine cannot go is named.
fn measure(places: &Places) -> Result<()> {
    println!("\nlatency of a chain of 3 functions, measured in turns (half a minute):\n");
    let mut bench = Command::new(places.program("ramet"));
    bench.args(["bench", "chain", "--systems", "ramet-skmsg,ramet-ring", "--against", "http-hops"]);
    bench.args(["--rounds", "3", "--duration", "1s"]).stdin(Stdio::null());
    ensure!(succeeds(&mut bench)?, "the measurement failed; the messages above say why");
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
