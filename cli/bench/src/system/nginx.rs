//! nginx: in front of each function of `http-hops`, which is what a service mesh does, without its control plane; and
//! answering by itself.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::fronts::UNROUTED_PATH;
use super::{Measured, Running, answering_get, http};
use crate::load::{Answer, Workload};
use crate::process::{Launcher, Process, Processes};
use crate::setting::Identity;

/// What one nginx does.
enum Task<'t> {
    /// It hands everything on, and keeps so many connections.
    Proxy { back: SocketAddr, kept: usize },
    /// It answers this to everything, and speaks HTTP/2 there.
    Answer { answer: &'t Answer, h2c: SocketAddr },
}

/// Starts each function with its nginx; functions call the nginx of the next one.
pub(super) async fn start_sidecars(
    identity: Identity,
    functions: u32,
    connections_max: usize,
    launcher: &mut Launcher,
) -> anyhow::Result<Running> {
    let fronts = addresses(functions, launcher)?;
    let backs = addresses(functions, launcher)?;
    let mut processes = Processes::default();
    for (index, (&front, &back)) in fronts.iter().zip(&backs).enumerate() {
        let number = index + 1;
        let next = fronts.get(number).map(|next| format!("--next={next}"));
        processes.0.push(http::start_hop(&format!("nginx-sidecars-function-{number}"), back, next, launcher)?);
        let proxy = Task::Proxy { back, kept: connections_max };
        processes.0.push(start(&format!("nginx-{number}"), front, &proxy, launcher)?);
    }
    answering_get(&mut processes, fronts[0], "/", 200).await?;
    let workload = Workload::Echo { path: "/".to_owned() };
    let functions = Some(functions);
    Ok(Running { identity, address: fronts[0], h2c: None, workload, processes: Measured::Own(processes), functions })
}

/// Starts an nginx that gives `answer`.
pub(super) async fn start_bare(identity: Identity, answer: Answer, launcher: &mut Launcher) -> anyhow::Result<Running> {
    let (address, h2c) = (launcher.free_address()?, launcher.free_address()?);
    let process = start("nginx-bare", address, &Task::Answer { answer: &answer, h2c }, launcher)?;
    let mut processes = Processes(vec![process]);
    answering_get(&mut processes, address, "/", answer.status).await?;
    let workload = Workload::Fixed { path: UNROUTED_PATH.to_owned(), answer };
    let functions = Some(0);
    Ok(Running { identity, address, h2c: Some(h2c), workload, processes: Measured::Own(processes), functions })
}

fn start(name: &str, listen: SocketAddr, task: &Task<'_>, launcher: &Launcher) -> anyhow::Result<Process> {
    let nginx = find_nginx()?;
    let folder = launcher.folder().join(name);
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration(&folder, listen, task))
        .with_context(|| format!("cannot write {}", file.display()))?;
    let arguments = ["-e".into(), "stderr".into(), "-p".into(), folder.into(), "-c".into(), file.into()];
    launcher.start(name, nginx, arguments)
}

fn addresses(count: u32, launcher: &mut Launcher) -> anyhow::Result<Vec<SocketAddr>> {
    (0..count).map(|_| launcher.free_address()).collect()
}

fn find_nginx() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("nginx")).find(|file| file.is_file());
    match found {
        Some(file) => Ok(file),
        None => bail!("there is no nginx in PATH"),
    }
}

/// No logging, connections kept on both sides, bodies passed on as they come: nothing that would slow nginx down.
fn configuration(folder: &Path, listen: SocketAddr, task: &Task<'_>) -> String {
    let folder = folder.display();
    // As root, the worker would become a user who may not enter the folder.
    let user = if rustix::process::geteuid().is_root() { "user root root;" } else { "" };
    let (workers, upstream, h2c, location) = match task {
        Task::Proxy { back, kept } => ("1", upstream(*back, (*kept).max(64)), String::new(), PROXY.to_owned()),
        // One port has one protocol before nginx 1.25.
        Task::Answer { answer, h2c } => ("auto", String::new(), format!("listen {h2c} http2;"), fixed(answer)),
    };
    format!(
        "daemon off;
{user}
worker_processes {workers};
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections {CONNECTIONS}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    client_body_buffer_size 64k;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    tcp_nodelay on;
{upstream}
    server {{
        listen {listen};
        {h2c}
        location / {{
{location}
        }}
    }}
}}
"
    )
}

/// Enough for the most connections that can be asked for, on both sides.
const CONNECTIONS: usize = 4 * 4096 + 64;

const PROXY: &str = "            proxy_pass http://function;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_request_buffering off;
            proxy_buffering off;
            proxy_buffer_size 64k;
            proxy_buffers 4 64k;";

fn upstream(back: SocketAddr, kept: usize) -> String {
    format!(
        "    upstream function {{
        server {back};
        keepalive {kept};
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
    }}"
    )
}

/// In its language a quoted text has the two characters that would end it behind a backslash, and a dollar begins a
/// variable, of which an answer of the gateway has none.
fn fixed(answer: &Answer) -> String {
    let body = String::from_utf8_lossy(&answer.body).replace('\\', "\\\\").replace('"', "\\\"");
    format!("            default_type application/problem+json;\n            return {} \"{body}\";", answer.status)
}
