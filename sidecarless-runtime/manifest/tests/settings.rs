//! Settings: file, then environment, all errors at once.

use std::path::Path;
use std::time::Duration;

use ramet_manifest::settings::{LogFormat, LogLevel};
use ramet_manifest::{Errors, NodeSettings, Source, Surroundings, Transport};

const EVERYTHING: &str = r#"
listen = "[::]:80"
admin = "127.0.0.1:9999"
socket = "ramet.sock"
transport = "ring"
keep_awake = true
uid_base = 0x30d40

[tls]
certificate = "tls/cert.pem"
key = "/etc/key.pem"

[gateway]
workers = 3
header_timeout = "1s"
idle_timeout = "2m"
body_timeout = "3s"
max_header_bytes = "8Ki"
max_connections = 1_000
drain_timeout = "0s"

[pool]
4Ki = 2048
1Mi = 0

[log]
level = "debug"
format = "json"
"#;

fn surroundings() -> Surroundings {
    Surroundings { uid: 1000, runtime_dir: Some("/run/user/1000".into()), cores: 8 }
}

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<NodeSettings, Errors> {
    let file = Source { name: "ramet.toml".to_owned(), text: text.to_owned(), base_dir: Some("/etc/ramet".into()) };
    let environment = environment.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    NodeSettings::parse(Some(&file), environment, &surroundings())
}

fn errors(text: &str, environment: &[(&str, &str)]) -> String {
    parse(text, environment).unwrap_err().to_string()
}

#[test]
fn nothing_needs_to_be_set() {
    let settings = parse("", &[]).unwrap();
    assert_eq!(settings, NodeSettings::parse(None, [], &surroundings()).unwrap());
    assert_eq!(
        (settings.listen.to_string(), settings.admin.to_string()),
        ("127.0.0.1:8080".into(), "127.0.0.1:9090".into())
    );
    assert_eq!(settings.socket, Path::new("/run/user/1000/ramet/ramet.sock"));
    assert_eq!((settings.gateway.workers, settings.transport, settings.uid_base), (8, Transport::Auto, 200_000));
    assert_eq!(settings.pool.total().to_string(), "96Mi");
    let socket = |uid, runtime_dir: Option<&str>| {
        let surroundings = Surroundings { uid, runtime_dir: runtime_dir.map(Into::into), cores: 0 };
        let settings = NodeSettings::default_for(&surroundings);
        assert_eq!(settings.gateway.workers, 1);
        settings.socket
    };
    assert_eq!(socket(0, Some("/run/user/0")), Path::new("/run/ramet/ramet.sock"));
    assert_eq!(socket(7, None), Path::new("/tmp/ramet-7/ramet.sock"));
}

#[test]
fn everything_can_be_set() {
    let settings = parse(EVERYTHING, &[]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!((settings.listen.port(), settings.transport, settings.uid_base), (80, Transport::Ring, 200_000));
    assert_eq!(settings.socket, Path::new("/etc/ramet/ramet.sock"));
    assert!(settings.keep_awake && !parse("", &[]).unwrap().keep_awake);
    let tls = settings.tls.as_ref().unwrap();
    assert_eq!(
        (tls.certificate.as_path(), tls.key.as_path()),
        (Path::new("/etc/ramet/tls/cert.pem"), Path::new("/etc/key.pem"))
    );
    assert_eq!((settings.gateway.workers, settings.gateway.max_connections), (3, 1000));
    assert_eq!(
        (settings.gateway.idle_timeout, settings.gateway.drain_timeout),
        (Duration::from_secs(120), Duration::ZERO)
    );
    assert_eq!(settings.gateway.max_header_bytes.bytes(), 8192);
    assert_eq!(settings.pool.counts(), [2048, 256, 128, 64, 0]);
    assert_eq!((settings.log.level, settings.log.format), (LogLevel::Debug, LogFormat::Json));
    let printed = toml::to_string(&settings).unwrap();
    assert_eq!(parse(&printed, &[]).unwrap(), settings, "{printed}");
}

#[test]
fn the_environment_has_the_last_word() {
    let environment = [
        ("RAMET_LISTEN", "0.0.0.0:81"),
        ("RAMET_GATEWAY__WORKERS", "5"),
        ("RAMET_GATEWAY__HEADER_TIMEOUT", "9s"),
        ("RAMET_POOL__64KI", "1"),
        ("RAMET_LOG__LEVEL", "warn"),
        ("RAMET_TLS__KEY", "key.pem"),
        ("RAMET_ADMIN", ""),
        ("RAMET_CONFIG", "/etc/ramet.toml"),
        ("RAMET_FORK_KEY", "0123"),
        ("RAMET_EBPF_OBJECT", "/tmp/ramet.bpf.o"),
        ("RAMET_NAMESPACE", "default"),
        ("RAMET_FUNCTION", "resize"),
        ("RAMET_INSTANCE", "7"),
        ("RAMET_TEST_KEEP", "1"),
        ("HOME", "/root"),
    ];
    let settings = parse(EVERYTHING, &environment).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!((settings.listen.port(), settings.admin.port(), settings.gateway.workers), (81, 9999, 5));
    assert_eq!((settings.gateway.header_timeout, settings.log.level), (Duration::from_secs(9), LogLevel::Warn));
    assert_eq!((settings.pool.counts()[2], settings.log.format), (1, LogFormat::Json));
    assert_eq!(settings.tls.unwrap().key, Path::new("key.pem"));
}

#[test]
fn every_error_is_reported() {
    let text = "listen = 8080\ntransport = \"skmgs\"\n[gateway]\nworkers = 0\nheader_timeout = 5\ntimeout = \
    \"1s\"\n[tls]\nkey = \"k\"\n";
    let environment = [("RAMET_LOG__LEVEL", "loud"), ("RAMET_LISTN", "x"), ("RAMET_A__B__C", "x")];
    let found = errors(text, &environment);
    let expected = [
        "environment variable RAMET_LOG__LEVEL: log.level: found \"loud\", expected one of \"error\", \"warn\", \
         \"info\", \"debug\", \"trace\"",
        "environment variable RAMET_LISTN: listn: unknown field; did you mean \"listen\"?",
        "environment variable RAMET_A__B__C: expected at most 4096 bytes, and at most one `__` in the name",
        "ramet.toml:1:10: listen: found the number 8080, expected an address with a port, such as \"127.0.0.1:8080\" \
         or \"[::]:8080\"; put it in quotes if it is one",
        "ramet.toml:2:13: transport: found \"skmgs\", expected one of \"auto\", \"skmsg\", \"ring\", \"socket\"; did \
         you mean \"skmsg\"?",
        "ramet.toml:4:11: gateway.workers: found the number 0, expected a whole number from 1 to 64",
        "ramet.toml:5:18: gateway.header_timeout: found the number 5, expected a duration from 10ms to 1h, such as \
         250ms, 10s or 1m; did you mean \"5s\"?",
        "ramet.toml:6:1: gateway.timeout: unknown field; did you mean \"idle_timeout\"?",
        "ramet.toml:7:1: tls.certificate: this field is needed",
    ];
    for line in expected {
        assert!(found.lines().any(|found| found == line), "{line}\nis not in\n{found}");
    }
    assert_eq!(found.lines().count(), expected.len(), "{found}");
}

#[test]
fn text_that_is_not_toml_is_refused() {
    assert!(errors("a = \nb = [\n", &[]).starts_with("ramet.toml:1:"));
    assert!(errors(&"a = [".repeat(1000), &[]).contains("this is not TOML"));
    assert_eq!(errors(&" ".repeat((1 << 20) + 1), &[]), "ramet.toml: 1048577 bytes, expected at most 1048576");
    let same = "listen = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:1\"";
    assert_eq!(
        errors(same, &[]),
        "ramet.toml:2:9: admin: listen and admin are both 127.0.0.1:1, expected two addresses"
    );
}
