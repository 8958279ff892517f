//! What a node is told at its start: a TOML file, then the environment, all of it optional.
//!
//! Every field can be set by an environment variable: `RAMET_` and the field in capitals, with `__` between a table
//! and its field, such as `RAMET_LISTEN` and `RAMET_GATEWAY__HEADER_TIMEOUT`. Figment would merge the two as well, but
//! it keeps no lines and columns and stops at the first error.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::errors::Errors;
use crate::placement::Placement;
use crate::pool::PoolSizes;
use crate::quantity::{ByteCount, DurationText, serialize_duration};
use crate::source::Source;

mod load;

/// The prefix of the environment variables.
pub const ENVIRONMENT_PREFIX: &str = "RAMET_";
/// The variable with the settings file's path, which is for the caller to read.
pub const ENVIRONMENT_CONFIG: &str = "RAMET_CONFIG";
/// The variable with a seed's key, which is `ramet fork resume`'s and no setting.
pub const ENVIRONMENT_FORK_KEY: &str = "RAMET_FORK_KEY";
/// Variables that are others' and no settings: the loader's, and those that a node tells its instances, which may run
/// `ramet`, too.
pub(crate) const ENVIRONMENT_OTHERS: [&str; 4] =
    ["RAMET_EBPF_OBJECT", "RAMET_NAMESPACE", "RAMET_FUNCTION", "RAMET_INSTANCE"];
/// Variables with this prefix are for tests and no settings.
pub const ENVIRONMENT_TEST_PREFIX: &str = "RAMET_TEST_";
/// The most gateway workers.
pub const WORKERS_MAX: u32 = 64;
/// The most client connections.
pub const CONNECTIONS_MAX: u32 = 1 << 20;
/// The least and the most bytes of a request's head.
pub const HEADER_BYTES: std::ops::RangeInclusive<u64> = 1 << 10..=64 << 10;
/// The most seeds.
pub const SEEDS_MAX: u32 = 4096;
/// The least and the most memory of all seeds.
pub const SEEDS_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 50;
/// The longest that a seed's lease can be allowed to be.
pub const LEASE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// The lowest and the highest [`NodeSettings::uid_base`]: no system user below, room for every function above.
pub const UID_BASE: std::ops::RangeInclusive<u32> = 1000..=4_294_900_000;

/// What a node is told at its start. Everything has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NodeSettings {
    /// Where the gateway takes HTTP requests: address and port.
    #[schemars(with = "crate::schema::Address", default = "default::listen")]
    pub listen: SocketAddr,
    /// Where metrics and health are served over HTTP: address and port.
    #[schemars(with = "crate::schema::Address", default = "default::admin")]
    pub admin: SocketAddr,
    /// The unix socket of the admin API. Without it, `/run/ramet/ramet.sock` for root, else `ramet/ramet.sock` in
    /// `$XDG_RUNTIME_DIR`.
    #[schemars(with = "Option<crate::schema::FilePath>")]
    pub socket: PathBuf,
    /// How packet descriptors travel.
    #[schemars(default)]
    pub transport: Transport,
    /// Whether readers of rings look at them before they sleep. Without rings it changes nothing.
    #[schemars(default)]
    pub busy_poll: BusyPoll,
    /// Whether the machine's cores are kept awake while requests come: whoever is sent a message is there tens of
    /// microseconds sooner. It costs power, in a virtual machine the time of its host, and takes the right to write to
    /// `/dev/cpu_dma_latency`.
    #[schemars(default)]
    pub keep_awake: bool,
    /// Which cores the instances of functions run on. One whose author has said so runs where that is.
    #[schemars(default)]
    pub placement: Placement,
    /// Whether what the gateway and a function that serves HTTP by itself say to each other goes past TCP.
    #[schemars(default)]
    pub shortcut: Shortcut,
    /// Certificate and key; without them the gateway speaks plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSettings>,
    /// The gateway's limits.
    #[schemars(with = "Option<GatewaySettings>")]
    pub gateway: GatewaySettings,
    /// The pool of each security domain: how many slots of each size, by the sizes `4Ki`, `16Ki`, `64Ki`, `256Ki` and
    /// `1Mi`. The default takes 96 MiB.
    #[schemars(default)]
    pub pool: PoolSizes,
    /// Whether pools get all of their memory when they are made, in huge pages where the machine has them, instead of
    /// page by page as requests come.
    #[schemars(default = "default::prefault_pools")]
    pub prefault_pools: bool,
    /// The processes of this host that wait as seeds to be forked.
    #[schemars(with = "Option<ForkSettings>")]
    pub fork: ForkSettings,
    /// What is logged, and how.
    #[schemars(default)]
    pub log: LogSettings,
    /// Where the supervisor is root, each instance runs as a user of its own, numbered from here. Nodes on one host are
    /// given numbers that are far apart: the processes of a user are counted together.
    #[schemars(range(min = *UID_BASE.start(), max = *UID_BASE.end()), default = "default::uid_base")]
    pub uid_base: u32,
}

/// How packet descriptors travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// The best that kernel and privileges allow: `skmsg`, then `ring`, then `socket`.
    #[default]
    Auto,
    /// Redirected by the kernel (eBPF, sk_msg).
    Skmsg,
    /// Rings in shared memory.
    Ring,
    /// Unix stream sockets.
    Socket,
}

/// Whether readers of rings look at them before they sleep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BusyPoll {
    /// They sleep at once: least processor time.
    Never,
    /// They look for at most 50 µs, as long as messages have come in such time lately; otherwise they see now and then
    /// whether they would.
    #[default]
    Adaptive,
    /// They never sleep: least latency, if every instance and the gateway's threads have a core of their own.
    Always,
}

/// Whether connections of the gateway to functions that serve HTTP by themselves are short-cut past TCP (eBPF,
/// `sock_ops` and `sk_msg`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Shortcut {
    /// Where kernel and privileges allow it.
    #[default]
    Auto,
    /// They are; a node that cannot does not start.
    On,
    /// They are plain TCP.
    Off,
}

/// Where certificate and key are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct TlsSettings {
    /// The certificate chain, PEM. A relative path is relative to the settings file's folder.
    #[schemars(with = "crate::schema::FilePath")]
    pub certificate: PathBuf,
    /// The private key, PEM. A relative path is relative to the settings file's folder.
    #[schemars(with = "crate::schema::FilePath")]
    pub key: PathBuf,
}

/// The gateway's limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct GatewaySettings {
    /// How many threads serve requests. Without it, one for each core.
    #[schemars(with = "Option<u32>", range(min = 1, max = WORKERS_MAX))]
    pub workers: u32,
    /// How long a client may take to send a request's head. 10ms to 1h.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText", default = "default::header_timeout")]
    pub header_timeout: Duration,
    /// How long a connection may lie idle between requests. 10ms to 1h.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText", default = "default::idle_timeout")]
    pub idle_timeout: Duration,
    /// How long a client may take to send a request's body. 10ms to 1h.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText", default = "default::body_timeout")]
    pub body_timeout: Duration,
    /// The most bytes of a request's head. 1Ki to 64Ki.
    #[schemars(default = "default::max_header_bytes")]
    pub max_header_bytes: ByteCount,
    /// The most client connections at a time.
    #[schemars(range(min = 1, max = CONNECTIONS_MAX), default = "default::max_connections")]
    pub max_connections: u32,
    /// How long accepted requests may take to finish once the node is told to stop. 0s to 1h.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText", default = "default::drain_timeout")]
    pub drain_timeout: Duration,
}

/// How many processes are kept as seeds, and where they are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ForkSettings {
    /// Where other hosts read seeds: address and port. Port 0 is any.
    #[schemars(with = "crate::schema::Address", default = "default::fork_listen")]
    pub listen: SocketAddr,
    /// The memory that all seeds together may hold on to; a new one takes the place of idle ones. At least 1Mi.
    #[schemars(default = "default::fork_memory")]
    pub memory: ByteCount,
    /// The most seeds.
    #[schemars(range(min = 1, max = SEEDS_MAX), default = "default::fork_seeds")]
    pub seeds: u32,
    /// The longest lease that a seed can have. 1s to 720h.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText", default = "default::fork_lease_max")]
    pub lease_max: Duration,
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct LogSettings {
    /// The least important level that is logged.
    #[schemars(default)]
    pub level: LogLevel,
    /// The form of a log line.
    #[schemars(default)]
    pub format: LogFormat,
}

/// How important a log line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is off and the node went on.
    Warn,
    /// Something changed.
    #[default]
    Info,
    /// What a developer of functions wants to see.
    Debug,
    /// What a developer of ramet wants to see.
    Trace,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object each.
    Json,
}

/// What defaults depend on; the caller asks the operating system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// The effective user id.
    pub uid: u32,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// How many cores there are.
    pub cores: usize,
}

impl NodeSettings {
    /// Reads the settings file, if there is one, puts the variables of `environment` that begin with `RAMET_` over it,
    /// and fills in the defaults.
    ///
    /// # Errors
    /// Everything that is wrong in file or environment.
    pub fn parse(
        file: Option<&Source>,
        environment: impl IntoIterator<Item = (String, String)>,
        surroundings: &Surroundings,
    ) -> Result<Self, Errors> {
        load::settings(file, environment, surroundings)
    }

    /// The settings of a node that is told nothing.
    #[must_use]
    pub fn default_for(surroundings: &Surroundings) -> Self {
        Self {
            listen: default::listen(),
            admin: default::admin(),
            socket: default::socket(surroundings),
            transport: Transport::default(),
            busy_poll: BusyPoll::default(),
            keep_awake: false,
            placement: Placement::default(),
            shortcut: Shortcut::default(),
            tls: None,
            gateway: GatewaySettings {
                workers: default::workers(surroundings),
                header_timeout: default::header_timeout(),
                idle_timeout: default::idle_timeout(),
                body_timeout: default::body_timeout(),
                max_header_bytes: default::max_header_bytes(),
                max_connections: default::max_connections(),
                drain_timeout: default::drain_timeout(),
            },
            pool: PoolSizes::default(),
            prefault_pools: default::prefault_pools(),
            fork: ForkSettings {
                listen: default::fork_listen(),
                memory: default::fork_memory(),
                seeds: default::fork_seeds(),
                lease_max: default::fork_lease_max(),
            },
            log: LogSettings::default(),
            uid_base: default::uid_base(),
        }
    }
}

/// What holds for a field that neither file nor environment sets.
mod default {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use super::{Surroundings, WORKERS_MAX};
    use crate::quantity::ByteCount;

    pub(super) fn listen() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 8080).into()
    }

    pub(super) fn admin() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 9090).into()
    }

    /// A user without a runtime directory gets a folder of its own in `/tmp`, which the supervisor makes private.
    pub(super) fn socket(surroundings: &Surroundings) -> PathBuf {
        let folder = match (surroundings.uid, &surroundings.runtime_dir) {
            (0, _) => PathBuf::from("/run/ramet"),
            (_, Some(folder)) => folder.join("ramet"),
            (uid, None) => Path::new("/tmp").join(format!("ramet-{uid}")),
        };
        folder.join("ramet.sock")
    }

    pub(super) fn workers(surroundings: &Surroundings) -> u32 {
        u32::try_from(surroundings.cores).unwrap_or(WORKERS_MAX).clamp(1, WORKERS_MAX)
    }

    pub(super) const fn header_timeout() -> Duration {
        Duration::from_secs(5)
    }

    pub(super) const fn idle_timeout() -> Duration {
        Duration::from_secs(60)
    }

    pub(super) const fn body_timeout() -> Duration {
        Duration::from_secs(30)
    }

    pub(super) const fn max_header_bytes() -> ByteCount {
        ByteCount::new(32 << 10)
    }

    pub(super) const fn max_connections() -> u32 {
        16_384
    }

    pub(super) const fn drain_timeout() -> Duration {
        Duration::from_secs(30)
    }

    pub(super) const fn prefault_pools() -> bool {
        true
    }

    pub(super) fn fork_listen() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    pub(super) const fn fork_memory() -> ByteCount {
        ByteCount::new(4 << 30)
    }

    pub(super) const fn fork_seeds() -> u32 {
        64
    }

    pub(super) const fn fork_lease_max() -> Duration {
        Duration::from_secs(24 * 3600)
    }

    pub(super) const fn uid_base() -> u32 {
        200_000
    }
}
