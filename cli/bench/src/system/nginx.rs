//! The functions of `http-hops`, each behind an nginx: what a service mesh does, without its control plane.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::{Running, answering_get, http};
use crate::load::Workload;
use crate::options::{ChainOptions, System};
use crate::process::{Launcher, Processes};

/// Starts each function with its nginx; functions call the nginx of the next one.
pub(super) async fn start_sidecars(options: &ChainOptions, launcher: &mut Launcher) -> anyhow::Result<Running> {
    let nginx = find_nginx()?;
    let fronts = addresses(options.functions, launcher)?;
    let backs = addresses(options.functions, launcher)?;
    let mut processes = Processes::default();
    for (index, (&front, &back)) in fronts.iter().zip(&backs).enumerate() {
        let number = index + 1;
        let next = fronts.get(number).copied();
        processes.0.push(http::start_hop(&format!("nginx-sidecars-function-{number}"), back, next, launcher)?);
        let folder = launcher.folder().join(format!("nginx-{number}"));
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let file = folder.join("nginx.conf");
        fs::write(&file, configuration(&folder, front, back, options))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let arguments = ["-e".into(), "stderr".into(), "-p".into(), folder.into(), "-c".into(), file.into()];
        processes.0.push(launcher.start(&format!("nginx-{number}"), &nginx, arguments)?);
    }
    answering_get(&mut processes, fronts[0], "/", 200).await?;
    let workload = Workload::Echo { path: "/".to_owned() };
    Ok(Running { system: System::NginxSidecars, address: fronts[0], workload, processes })
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

/// One worker, no logging, connections kept on both sides, bodies passed on as they come: nothing that would slow nginx
/// down.
fn configuration(folder: &Path, front: SocketAddr, back: SocketAddr, options: &ChainOptions) -> String {
    let folder = folder.display();
    // As root, the worker would become a user who may not enter the folder.
    let user = if rustix::process::geteuid().is_root() { "user root root;" } else { "" };
    let kept = options.connections.iter().max().copied().unwrap_or(1).max(64);
    format!(
        "daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections {connections}; }}
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
    upstream function {{
        server {back};
        keepalive {kept};
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
    }}
    server {{
        listen {front};
        location / {{
            proxy_pass http://function;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_request_buffering off;
            proxy_buffering off;
            proxy_buffer_size 64k;
            proxy_buffers 4 64k;
        }}
    }}
}}
",
        connections = 4 * kept + 64,
    )
}
