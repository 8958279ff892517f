//! Where this machine gets Debian's packages from, so that a kernel image comes from the same place.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// The keys that Debian's archives are signed with, those of its next release among them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where apt's sources are.
const APT: &str = "/etc/apt";

/// Debian's archives are two, and a mirror may have them in different places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Archive {
    /// Releases, updates and backports.
    Main,
    /// Security updates.
    Security,
}

/// One place and the suites that are taken from there.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suites: Vec<String>,
    signed_by: Option<String>,
}

/// A sources file (deb822) for one suite, from the mirror that this machine uses for `archive`.
pub(super) fn for_suite(suite: &str, archive: Archive) -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = codename(&release).context("/etc/os-release has no VERSION_CODENAME; this is no Debian")?;
    let sources = read(Path::new(APT));
    let (uri, keys) = mirror(&sources, codename, archive).with_context(|| {
        format!("none of apt's sources in {APT} is Debian's {codename}; add it there, so that packages can be fetched")
    })?;
    Ok(format!("Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {keys}\n"))
}

/// All sources of the machine. What cannot be read has none.
fn read(apt: &Path) -> Vec<Source> {
    let mut paths = vec![apt.join("sources.list")];
    let parts = fs::read_dir(apt.join("sources.list.d")).into_iter().flatten().flatten();
    let mut parts: Vec<_> = parts.map(|entry| entry.path()).collect();
    parts.sort();
    paths.extend(parts);
    let mut sources = Vec::new();
    for path in paths {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(one_line)),
            Some("sources") => sources.extend(stanzas(&text).iter().flat_map(|stanza| from_stanza(stanza))),
            _ => {}
        }
    }
    sources
}

/// The mirror's address and the keys that go with it.
fn mirror(sources: &[Source], codename: &str, archive: Archive) -> Option<(String, String)> {
    let of = |suite: &str| sources.iter().find(|source| source.suites.iter().any(|known| known == suite));
    let keys = |source: &Source| source.signed_by.clone().unwrap_or_else(|| KEYRING.to_owned());
    let main = || of(codename).or_else(|| of("stable"));
    match archive {
        Archive::Main => main().map(|source| (source.uri.clone(), keys(source))),
        Archive::Security => {
            if let Some(source) = of(&format!("{codename}-security")).or_else(|| of("stable-security")) {
                return Some((source.uri.clone(), keys(source)));
            }
            // Mirrors that have both have them side by side.
            let main = main()?;
            let base = main.uri.trim_end_matches('/').strip_suffix("debian")?;
            Some((format!("{base}debian-security"), keys(main)))
        }
    }
}

fn codename(os_release: &str) -> Option<&str> {
    os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).map(|name| name.trim_matches('"'))
}

/// `deb [signed-by=/keys arch=amd64] http://mirror.example/debian bookworm main`
fn one_line(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    Some(Source { uri: uri.to_owned(), suites: vec![suite.to_owned()], signed_by: signed_by.and_then(key_file) })
}

/// The fields of each stanza of a deb822 file, with continued lines joined.
fn stanzas(text: &str) -> Vec<Vec<(String, String)>> {
    let mut stanzas = vec![Vec::<(String, String)>::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.trim().is_empty() {
            stanzas.push(Vec::new());
            continue;
        }
        let Some(stanza) = stanzas.last_mut() else { continue };
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            stanza.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    stanzas
}

/// A stanza names several places at once.
fn from_stanza(stanza: &[(String, String)]) -> Vec<Source> {
    let field = |name: &str| stanza.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value.as_str());
    let is_binary = field("types").split_whitespace().any(|kind| kind == "deb");
    if !is_binary || field("enabled").eq_ignore_ascii_case("no") {
        return Vec::new();
    }
    let suites: Vec<String> = field("suites").split_whitespace().map(str::to_owned).collect();
    let signed_by = key_file(field("signed-by"));
    let source = |uri: &str| Source { uri: uri.to_owned(), suites: suites.clone(), signed_by: signed_by.clone() };
    field("uris").split_whitespace().map(source).collect()
}

/// Keys can be written out in the field as well; then Debian's own serve.
fn key_file(value: &str) -> Option<String> {
    value.starts_with('/').then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm
 bookworm-updates
Components: main
Signed-By: /keys/debian.gpg

# Not ours.
Types: deb
URIs: https://other.example/node
Suites: nodistro
Signed-By:
 -----BEGIN

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm-security
";

    fn deb822() -> Vec<Source> {
        stanzas(DEB822).iter().flat_map(|stanza| from_stanza(stanza)).collect()
    }

    #[test]
    fn both_formats_are_read() {
        let sources = deb822();
        assert_eq!(sources.len(), 2, "{sources:?}");
        assert_eq!(sources[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(sources[1].signed_by, None);
        let line =
            one_line("deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian/ bookworm main").expect("a source");
        assert_eq!((line.uri.as_str(), line.signed_by.as_deref()), ("http://m.example/debian/", Some("/k.gpg")));
        assert_eq!(line.suites, ["bookworm"]);
        assert_eq!(one_line("# deb http://m.example/debian bookworm main"), None);
        assert_eq!(one_line("deb-src http://m.example/debian bookworm main"), None);
    }

    #[test]
    fn the_mirror_is_the_machines_own() {
        let sources = deb822();
        let (uri, keys) = mirror(&sources, "bookworm", Archive::Main).expect("a mirror");
        assert_eq!((uri.as_str(), keys.as_str()), ("http://mirror.example/debian", "/keys/debian.gpg"));
        assert_eq!(mirror(&sources, "trixie", Archive::Main), None);
    }

    #[test]
    fn security_has_a_place_of_its_own_or_lies_beside() {
        let mut sources = deb822();
        let beside = mirror(&sources, "bookworm", Archive::Security).expect("a mirror");
        assert_eq!(beside.0, "http://mirror.example/debian-security");
        sources.extend(one_line("deb http://security.example/s bookworm-security main"));
        let own = mirror(&sources, "bookworm", Archive::Security).expect("a mirror");
        assert_eq!((own.0.as_str(), own.1.as_str()), ("http://security.example/s", KEYRING));
    }
}
