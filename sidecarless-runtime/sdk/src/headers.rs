//! Headers that a function writes: checked when they are added, so that a mistake is named where it was made.

use std::borrow::Cow;

use ramet_dataplane::message::{BlockWriter, MessageError};

/// The value of a header: text, bytes or a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderValue(Cow<'static, [u8]>);

impl From<&str> for HeaderValue {
    fn from(value: &str) -> Self {
        Self(Cow::Owned(value.as_bytes().to_vec()))
    }
}

impl From<String> for HeaderValue {
    fn from(value: String) -> Self {
        Self(Cow::Owned(value.into_bytes()))
    }
}

impl From<&[u8]> for HeaderValue {
    fn from(value: &[u8]) -> Self {
        Self(Cow::Owned(value.to_vec()))
    }
}

impl From<Vec<u8>> for HeaderValue {
    fn from(value: Vec<u8>) -> Self {
        Self(Cow::Owned(value))
    }
}

macro_rules! number {
    ($($number:ty),*) => {$(
        impl From<$number> for HeaderValue {
            fn from(value: $number) -> Self {
                value.to_string().into()
            }
        }
    )*};
}

number!(u16, u32, u64, usize, i32, i64);

/// The headers of a response or call, in their order.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    entries: Vec<(Cow<'static, str>, HeaderValue)>,
    /// The first header that no message can carry. Builders stay infallible; the mistake shows when they are used.
    mistake: Option<String>,
}

impl Headers {
    pub(crate) fn add(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<HeaderValue>) {
        let (mut name, value) = (name.into(), value.into());
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            name.to_mut().make_ascii_lowercase();
        }
        if !is_name(&name) {
            self.mistake.get_or_insert_with(|| format!("\"{}\" is no header name", name.escape_debug()));
        } else if !is_value(&value.0) {
            self.mistake.get_or_insert_with(|| format!("the value of header \"{name}\" has a control character"));
        } else {
            self.entries.push((name, value));
        }
    }

    pub(crate) fn static_value(name: &'static str, value: &'static str) -> Self {
        let value = HeaderValue(Cow::Borrowed(value.as_bytes()));
        Self { entries: vec![(Cow::Borrowed(name), value)], mistake: None }
    }

    pub(crate) fn mistake(&self) -> Option<&str> {
        self.mistake.as_deref()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.entries.iter().find(|(found, _)| found == name).map(|(_, value)| &*value.0)
    }

    pub(crate) fn write_to(&self, block: &mut BlockWriter) -> Result<(), MessageError> {
        self.entries.iter().try_for_each(|(name, value)| block.header(name, &value.0))
    }
}

/// RFC 9110, section 5.6.2: a token.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// RFC 9110, section 5.5: no control characters but the tab.
fn is_value(value: &[u8]) -> bool {
    value.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_lower_case_and_numbers_text() {
        let mut headers = Headers::default();
        headers.add("X-Width", 640u32);
        assert_eq!(headers.get("x-width"), Some(&b"640"[..]));
        assert_eq!(headers.mistake(), None);
    }

    #[test]
    fn a_header_that_would_split_the_answer_is_a_mistake() {
        for (name, value) in [("x-a", "1\r\nx-b: 2"), ("x a", "1"), ("", "1"), ("x:", "1")] {
            let mut headers = Headers::default();
            headers.add(name, value);
            assert!(headers.mistake().is_some(), "{name}: {value}");
            assert!(headers.is_empty());
        }
    }
}
