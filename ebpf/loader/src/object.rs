//! Finds the compiled program, whether ramet runs from a build folder or is installed.

use crate::LoaderError;
use std::env;
use std::path::{Path, PathBuf};

/// The environment variable that names the object file and beats every other place.
pub const OBJECT_VARIABLE: &str = "RAMET_EBPF_OBJECT";
/// The object's file name.
pub const OBJECT_NAME: &str = "ramet.bpf.o";

/// Where packages put the object.
const INSTALLED: [&str; 2] = ["/usr/lib/ramet", "/usr/local/lib/ramet"];

/// The path of the object file.
///
/// The variable `RAMET_EBPF_OBJECT` decides if it is set. Otherwise the `ebpf` folder of the build that the running
/// executable belongs to is looked at, then `/usr/lib/ramet` and `/usr/local/lib/ramet`.
///
/// # Errors
///
/// [`LoaderError::ObjectNotFound`] lists where it looked.
pub fn find_object() -> Result<PathBuf, LoaderError> {
    let named = env::var_os(OBJECT_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let executable = env::current_exe().ok();
    let looked = candidates(named, executable.as_deref().and_then(Path::parent));
    match looked.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(LoaderError::ObjectNotFound { looked }),
    }
}

/// A path that was named by hand is the only candidate: falling back would run another program than was asked for.
fn candidates(named: Option<PathBuf>, folder: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = named {
        return vec![path];
    }
    // Binaries lie in `target/debug`, tests in `target/debug/deps`, the object in `target/ebpf`.
    let built = folder.into_iter().flat_map(|folder| {
        folder.ancestors().skip(1).take(2).map(|target| target.join("ebpf").join(OBJECT_NAME)).collect::<Vec<_>>()
    });
    built.chain(INSTALLED.iter().map(|folder| Path::new(folder).join(OBJECT_NAME))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_object_is_the_only_candidate() {
        assert_eq!(candidates(Some("/x.o".into()), Some(Path::new("/a/b"))), [PathBuf::from("/x.o")]);
    }

    #[test]
    fn binaries_and_tests_find_the_object_of_their_build() {
        let expected = PathBuf::from("/w/target/ebpf/ramet.bpf.o");
        assert_eq!(candidates(None, Some(Path::new("/w/target/debug")))[0], expected);
        assert_eq!(candidates(None, Some(Path::new("/w/target/debug/deps")))[1], expected);
    }

    #[test]
    fn an_installed_object_is_found_last() {
        let paths = candidates(None, Some(Path::new("/usr/bin")));
        assert_eq!(paths[paths.len() - 2], PathBuf::from("/usr/lib/ramet/ramet.bpf.o"));
    }
}
