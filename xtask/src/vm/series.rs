//! Which kernels guests can have, and where Debian keeps each.

use super::sources::Archive;
use clap::ValueEnum;
use std::fmt;

/// A series of kernels that ramet promises to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Series {
    /// Debian 12's own, the oldest supported
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12's newer one
    #[value(name = "6.12")]
    V6_12,
    /// Debian 13's backport, whose soft-RoCE has on-demand paging
    #[value(name = "6.18")]
    V6_18,
}

impl Series {
    /// The number that people call it by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V6_18 => "6.18",
        }
    }

    /// The suite that has it.
    pub(super) fn suite(self) -> &'static str {
        match self {
            Self::V6_1 => "bookworm",
            Self::V6_12 => "bookworm-security",
            Self::V6_18 => "trixie-backports",
        }
    }

    /// The archive that has the suite.
    pub(super) fn archive(self) -> Archive {
        match self {
            Self::V6_12 => Archive::Security,
            Self::V6_1 | Self::V6_18 => Archive::Main,
        }
    }

    /// The newest package of the series among a list of names.
    ///
    /// Not the cloud image, which has no soft-RoCE, and neither the debug symbols nor the real-time one.
    pub(super) fn newest<'a>(self, packages: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        packages.filter_map(|package| Some((self.release(package)?, package))).max().map(|(_, package)| package)
    }

    /// The numbers of a package's release: `linux-image-6.12.117+deb12-amd64` has 6, 12, 117.
    fn release(self, package: &str) -> Option<Vec<u32>> {
        let release = package.strip_prefix("linux-image-")?.strip_suffix("-amd64")?;
        release.strip_prefix(self.name())?.strip_prefix('.')?;
        let release = match release.split_once("+deb") {
            Some((release, debian)) if debian.bytes().all(|letter| letter.is_ascii_digit()) => release,
            _ => release,
        };
        release.split(['.', '-']).map(|number| number.parse().ok()).collect()
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGES: [&str; 10] = [
        "linux-image-6.12.9+deb12-amd64",
        "linux-image-6.12.117+deb12-amd64",
        "linux-image-6.12.118+deb12-cloud-amd64",
        "linux-image-6.12.119+deb12-rt-amd64",
        "linux-image-6.12.120+deb12-amd64-dbg",
        "linux-image-6.12-amd64",
        "linux-image-6.1.0-9-amd64",
        "linux-image-6.1.0-50-amd64",
        "linux-image-6.1.0-51-amd64-unsigned",
        "linux-image-amd64",
    ];

    #[test]
    fn the_newest_whole_kernel_is_taken() {
        assert_eq!(Series::V6_12.newest(PACKAGES.into_iter()), Some("linux-image-6.12.117+deb12-amd64"));
        assert_eq!(Series::V6_1.newest(PACKAGES.into_iter()), Some("linux-image-6.1.0-50-amd64"));
        assert_eq!(Series::V6_18.newest(PACKAGES.into_iter()), None);
    }
}
