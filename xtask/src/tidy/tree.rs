//! The project's text files: what is written by hand, and nothing that a build puts beside it.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Folders that hold no source.
const SKIPPED: [&str; 3] = ["target", ".git", "corpus"];
/// What is text, by the end of its name. Everything else is not looked at.
const EXTENSIONS: [&str; 10] = ["rs", "md", "toml", "yaml", "yml", "sh", "service", "py", "html", "css"];
/// Text without an extension.
const NAMES: [&str; 4] = ["run", "Dockerfile", "LICENSE-MIT", "LICENSE-APACHE"];

/// A file and its path relative to the workspace, with forward slashes.
#[derive(Debug)]
pub(super) struct TextFile {
    pub(super) path: String,
    pub(super) text: String,
}

impl TextFile {
    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub(super) fn is_markdown(&self) -> bool {
        self.path.ends_with(".md")
    }

    /// The file's folder, or "" at the top.
    pub(super) fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

/// Reads all of them, in the order of their paths.
pub(super) fn read(root: &Path) -> Result<Vec<TextFile>> {
    let mut files = Vec::new();
    visit(root, "", &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn visit(root: &Path, folder: &str, files: &mut Vec<TextFile>) -> Result<()> {
    let place = root.join(folder);
    for entry in fs::read_dir(&place).with_context(|| format!("cannot list {}", place.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", place.display()))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let kind = entry.file_type().with_context(|| format!("cannot look at {path}"))?;
        if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
            visit(root, &path, files)?;
        } else if kind.is_file() && is_text(&name) {
            let text = fs::read_to_string(root.join(&path)).with_context(|| format!("cannot read {path} as UTF-8"))?;
            files.push(TextFile { path, text });
        }
    }
    Ok(())
}

fn is_text(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    NAMES.contains(&name) || extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_scripts_are_text_and_build_output_is_not() {
        for name in ["lib.rs", "README.md", "run", "LICENSE-MIT", "ramet.yaml"] {
            assert!(is_text(name), "{name}");
        }
        for name in ["Cargo.lock", "ramet.bpf.o", "photo.jpg", "rs"] {
            assert!(!is_text(name), "{name}");
        }
    }

    #[test]
    fn a_file_knows_its_folder() {
        let file = |path: &str| TextFile { path: path.to_owned(), text: String::new() };
        assert_eq!(file("a/b/c.md").folder(), "a/b");
        assert_eq!(file("c.md").folder(), "");
    }
}
