//! Decoders of single values: texts, names, numbers, quantities and words of a fixed set.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::At;
use crate::name::Name;
use crate::quantity::{ByteCount, duration_from_text, duration_suggestion, duration_text};
use crate::tree::{Report, ScalarKind, Value, did_you_mean, quoted, scalar_kind};

/// The longest text, in bytes: as long as the kernel lets one argument be.
const TEXT_BYTES_MAX: usize = 128 << 10;

/// A text. What stands without quotes and reads as a number, a truth value or nothing is none.
pub(crate) fn text<'a>(at: At<'a>, report: &mut Report, what: &str) -> Option<&'a str> {
    match &at.node.value {
        Value::Scalar { text, plain } if !plain || scalar_kind(text) == ScalarKind::Text => {
            printable(at, report, text).then_some(text)
        }
        Value::Scalar { text, .. } if !text.is_empty() && !at.node.is_nothing() => {
            at.expected(report, &format!("{what}; put it in quotes if it is one"));
            None
        }
        _ => {
            at.expected(report, what);
            None
        }
    }
}

/// A text, or a number or truth value as it is written: what environment and command lines are made of.
pub(crate) fn verbatim<'a>(at: At<'a>, report: &mut Report, what: &str) -> Option<&'a str> {
    match &at.node.value {
        Value::Scalar { text, .. } if !at.node.is_nothing() => printable(at, report, text).then_some(text),
        Value::Scalar { .. } => {
            at.expected(report, &format!("{what}; write \"\" for an empty one"));
            None
        }
        _ => {
            at.expected(report, what);
            None
        }
    }
}

/// Whether a text can be passed to the kernel.
fn printable(at: At<'_>, report: &mut Report, text: &str) -> bool {
    if text.contains('\0') {
        at.say(report, "found a null character, which no text can contain");
        return false;
    }
    if text.len() > TEXT_BYTES_MAX {
        at.say(report, format!("found a text of {} bytes, expected at most {TEXT_BYTES_MAX}", text.len()));
        return false;
    }
    true
}

/// A name.
pub(crate) fn name(at: At<'_>, report: &mut Report) -> Option<Name> {
    let text = text(at, report, "a name")?;
    match Name::new(text) {
        Ok(name) => Some(name),
        Err(error) => {
            at.say(report, format!("found {}, but {error}", quoted(text)));
            None
        }
    }
}

/// The name of a function, which is always one of the same namespace.
pub(crate) fn function_name(at: At<'_>, report: &mut Report) -> Option<Name> {
    if let Value::Scalar { text, .. } = &at.node.value
        && text.contains('/')
    {
        at.say(report, format!("found {}, but only functions of the same namespace can be used", quoted(text)));
        return None;
    }
    name(at, report)
}

/// A whole number within limits.
pub(crate) fn whole(at: At<'_>, report: &mut Report, limits: RangeInclusive<u32>) -> Option<u32> {
    let expected = format!("a whole number from {} to {}", limits.start(), limits.end());
    let number = match &at.node.value {
        Value::Scalar { text, plain: true } if is_decimal(text) => text.parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| limits.contains(number));
    if number.is_none() {
        at.expected(report, &expected);
    }
    number
}

/// Digits without a leading zero, which some would read as octal.
fn is_decimal(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'))
}

/// A byte count within limits.
pub(crate) fn bytes(at: At<'_>, report: &mut Report, limits: RangeInclusive<u64>) -> Option<ByteCount> {
    let count = match &at.node.value {
        Value::Scalar { text, .. } => ByteCount::from_text(text),
        _ => None,
    };
    if let Some(count) = count.filter(|count| limits.contains(&count.bytes())) {
        return Some(count);
    }
    let (least, most) = (ByteCount::new(*limits.start()), ByteCount::new(*limits.end()));
    let mut expected = format!("a number of bytes from {least} to {most}, such as 64Ki or 8Mi");
    if count.is_none() {
        hint(at, &mut expected, ByteCount::suggestion);
    }
    at.expected(report, &expected);
    None
}

/// A duration within limits.
pub(crate) fn duration(at: At<'_>, report: &mut Report, limits: RangeInclusive<Duration>) -> Option<Duration> {
    let duration = match &at.node.value {
        Value::Scalar { text, .. } => duration_from_text(text),
        _ => None,
    };
    if let Some(duration) = duration.filter(|duration| limits.contains(duration)) {
        return Some(duration);
    }
    let (least, most) = (duration_text(*limits.start()), duration_text(*limits.end()));
    let mut expected = format!("a duration from {least} to {most}, such as 250ms, 10s or 1m");
    if duration.is_none() {
        hint(at, &mut expected, duration_suggestion);
    }
    at.expected(report, &expected);
    None
}

fn hint(at: At<'_>, expected: &mut String, suggest: impl FnOnce(&str) -> Option<String>) {
    if let Value::Scalar { text, .. } = &at.node.value
        && let Some(suggestion) = suggest(text)
    {
        expected.push_str("; did you mean ");
        expected.push_str(&quoted(&suggestion));
        expected.push('?');
    }
}

/// One of a fixed set of words.
pub(crate) fn keyword<T: Copy>(at: At<'_>, report: &mut Report, words: &[(&str, T)]) -> Option<T> {
    let mut expected = String::from(if words.len() > 1 { "one of " } else { "" });
    let mut between = "";
    for (word, _) in words {
        let _ = write!(expected, "{between}\"{word}\"");
        between = ", ";
    }
    if let Value::Scalar { text, .. } = &at.node.value {
        if let Some((_, value)) = words.iter().find(|(word, _)| word == text) {
            return Some(*value);
        }
        if words.len() > 1 {
            expected.push_str(&did_you_mean(text, words.iter().map(|(word, _)| *word)));
        }
    }
    at.expected(report, &expected);
    None
}
