//! Where the key of a seed comes from: somewhere that other users do not see.

use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use ramet_control::fork::Key;
use ramet_manifest::settings::ENVIRONMENT_FORK_KEY;

use crate::exit::Failure;

/// The most that is read of a file: a key, and room for blanks around it. Not every file has an end.
const FILE_BYTES_MAX: u64 = 256;

/// A key as people write it. It is never printed.
#[derive(Clone, Debug)]
pub(crate) struct KeyText(Key);

impl FromStr for KeyText {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "a key has 32 hexadecimal digits, as the prepare of the seed printed it";
        let is_hexadecimal = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = is_hexadecimal.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        number.map(|number| Self(Key(number.to_be_bytes()))).ok_or(EXPECTED)
    }
}

/// A key's digits, for who prepares a seed.
pub(super) fn digits(key: &Key) -> String {
    format!("{:032x}", u128::from_be_bytes(key.0))
}

/// The key that was given in one of the ways. An option wins over the variable.
pub(super) fn read(argument: Option<&KeyText>, file: Option<&Path>) -> Result<Key, Failure> {
    match (argument, file) {
        (_, Some(file)) => read_file(file),
        (Some(KeyText(key)), None) => Ok(key.clone()),
        (None, None) => {
            let text = env::var_os(ENVIRONMENT_FORK_KEY).ok_or_else(|| {
                Failure::Invalid(format!(
                    "the seed's key is missing; set {ENVIRONMENT_FORK_KEY}, or name a file that has it with --key-file \
                     (`-` is standard input)"
                ))
            })?;
            parse(ENVIRONMENT_FORK_KEY, text.as_encoded_bytes())
        }
    }
}

fn read_file(file: &Path) -> Result<Key, Failure> {
    let (name, bytes) = if file == Path::new("-") {
        ("standard input".to_owned(), read_some(io::stdin()))
    } else {
        (file.display().to_string(), File::open(file).and_then(read_some))
    };
    let bytes = bytes.map_err(|error| Failure::Invalid(format!("cannot read the key from {name}: {error}")))?;
    parse(&name, &bytes)
}

fn read_some(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The key that somebody wrote there.
fn parse(name: &str, bytes: &[u8]) -> Result<Key, Failure> {
    let text = String::from_utf8_lossy(bytes);
    let KeyText(key) = text.trim().parse().map_err(|why| Failure::Invalid(format!("{name}: {why}")))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_printed() {
        let key = Key(std::array::from_fn(|at| at as u8));
        let text = digits(&key);
        assert_eq!(text, "000102030405060708090a0b0c0d0e0f");
        let KeyText(read) = text.parse().expect("a key");
        assert_eq!(read, key);
        for bad in ["", "0x0102030405060708090a0b0c0d0e0f00", "+00102030405060708090a0b0c0d0e0f"] {
            assert!(bad.parse::<KeyText>().is_err(), "{bad}");
        }
    }
}
