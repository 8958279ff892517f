//! What a handler fails with: any error, so that `?` works on all of them.

use std::fmt;

/// The result of a handler.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error, or a sentence. It is logged on the function's standard error; the client sees only a 500.
///
/// To tell the client what it did wrong, return a [`crate::Response`] with a status of 400 or more instead.
pub struct Error(Box<dyn std::error::Error + Send + Sync>);

impl Error {
    /// An error that is a sentence.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into().into())
    }

    /// The error itself, to look for a type with `downcast_ref`.
    #[must_use]
    pub fn inner(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.0
    }
}

// Like `anyhow::Error`, this is no `std::error::Error` itself, or the conversion from every error would overlap with
// the one from itself.
impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for Error {
    /// The error and what caused it, as one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn any_error_converts_and_names_its_causes() {
        fn fails() -> Result<()> {
            Err(Outer("x".parse::<u8>().expect_err("no number")))?;
            Ok(())
        }
        assert_eq!(fails().expect_err("fails").to_string(), "outer: invalid digit found in string");
        assert_eq!(Error::new("no such user").to_string(), "no such user");
    }
}
