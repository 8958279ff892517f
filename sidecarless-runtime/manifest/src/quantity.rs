//! Durations and byte counts as people write them: `250ms`, `1m30s`, `64Ki`, `8Mi`.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// A number of bytes, written as a plain number or with `Ki`, `Mi` or `Gi`, and a `B` behind it or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(u64);

/// Byte units, largest first.
const BYTE_UNITS: [(&str, u64); 3] = [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];

/// Duration units with their length in microseconds, largest first: the order in which a duration lists them.
const DURATION_UNITS: [(&str, u64); 5] =
    [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

impl ByteCount {
    /// `bytes` bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// How many bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The count that `text` writes, or `None` where it writes none or one beyond 2⁶⁴.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let (digits, unit) = split_number(text)?;
        let unit = unit.strip_suffix('B').unwrap_or(unit);
        let factor = if unit.is_empty() { 1 } else { BYTE_UNITS.iter().find(|(name, _)| *name == unit)?.1 };
        digits.checked_mul(factor).map(Self)
    }

    /// What the author of a near miss such as `8MB` or `8m` probably meant.
    pub(crate) fn suggestion(text: &str) -> Option<String> {
        let (digits, unit) = split_number(text)?;
        let name = match unit.trim().to_ascii_lowercase().as_str() {
            "k" | "kb" | "kib" | "ki" => "Ki",
            "m" | "mb" | "mib" | "mi" => "Mi",
            "g" | "gb" | "gib" | "gi" => "Gi",
            _ => return None,
        };
        Some(format!("{digits}{name}"))
    }
}

/// Splits `12ms` into 12 and `ms`. A leading zero would be octal to some readers, so only `0` itself may begin so.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    Some((digits.parse().ok()?, unit))
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = BYTE_UNITS.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        match unit {
            Some((name, factor)) => f.pad(&format!("{}{name}", self.0 / factor)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

impl Serialize for ByteCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for ByteCount {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["integer", "string"],
            "description": "A number of bytes: plain, or with one of the units Ki, Mi and Gi, such as `8Mi` or `8MiB`.",
            "minimum": 0,
            "pattern": "^(0|[1-9][0-9]{0,19})(Ki|Mi|Gi)?B?$",
        })
    }
}

/// The duration that `text` writes: numbers with units, largest unit first, each at most once.
#[must_use]
pub fn duration_from_text(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut units = DURATION_UNITS.iter();
    let mut micros = 0_u64;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest)?;
        let unit_chars = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_chars);
        let (_, factor) = units.by_ref().find(|(name, _)| *name == unit)?;
        micros = micros.checked_add(number.checked_mul(*factor)?)?;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::from_micros(micros))
}

/// What the author of a near miss such as `10` or `5 sec` probably meant.
pub(crate) fn duration_suggestion(text: &str) -> Option<String> {
    let (number, unit) = split_number(text)?;
    let name = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "s" | "sec" | "secs" | "second" | "seconds" => "s",
        "ms" | "msec" | "millis" | "milliseconds" => "ms",
        "m" | "min" | "mins" | "minute" | "minutes" => "m",
        "h" | "hr" | "hour" | "hours" => "h",
        "us" | "µs" | "micros" | "microseconds" => "us",
        _ => return None,
    };
    Some(format!("{number}{name}"))
}

/// The shortest text with one unit that manifests and settings read back; less than a microsecond is dropped.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let unit = DURATION_UNITS.iter().find(|(_, factor)| micros != 0 && micros.is_multiple_of(*factor));
    match unit {
        Some((name, factor)) => format!("{}{name}", micros / factor),
        None => "0s".to_owned(),
    }
}

/// For `#[serde(serialize_with)]`.
pub(crate) fn serialize_duration<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&duration_text(*duration))
}

/// For `#[serde(serialize_with)]`, on fields that are left out where they are `None`.
pub(crate) fn serialize_optional_duration<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    duration.map(duration_text).serialize(serializer)
}

/// Stands for a [`Duration`] in schemas.
pub(crate) struct DurationText;

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        const NUMBER: &str = "(0|[1-9][0-9]*)";
        json_schema!({
            "type": "string",
            "description": "Whole numbers with the units h, m, s, ms and us, largest first, such as `250ms` or \
             `1m30s`.",
            "minLength": 2,
            "pattern": format!("^({NUMBER}h)?({NUMBER}m)?({NUMBER}s)?({NUMBER}ms)?({NUMBER}us)?$"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_written() {
        for (text, micros, canonical) in [
            ("250ms", 250_000, "250ms"),
            ("10s", 10_000_000, "10s"),
            ("1m", 60_000_000, "1m"),
            ("1m30s", 90_000_000, "90s"),
            ("1h0m1us", 3_600_000_001, "3600000001us"),
            ("120m", 7_200_000_000, "2h"),
            ("0s", 0, "0s"),
        ] {
            let duration = duration_from_text(text).unwrap_or_else(|| panic!("{text} is a duration"));
            assert_eq!(duration, Duration::from_micros(micros), "{text}");
            assert_eq!(duration_text(duration), canonical);
            assert_eq!(duration_from_text(canonical), Some(duration));
        }
        for bad in ["", "10", "s", "1.5s", "-1s", "1 s", "01s", "1s1m", "1s1s", "99999999999999999999s", "9999999999h"]
        {
            assert_eq!(duration_from_text(bad), None, "{bad}");
        }
        assert_eq!(duration_suggestion("10").as_deref(), Some("10s"));
        assert_eq!(duration_suggestion("5 min").as_deref(), Some("5m"));
    }

    #[test]
    fn byte_counts_read_back_as_written() {
        for (text, bytes, canonical) in [
            ("0", 0, "0"),
            ("1000", 1000, "1000"),
            ("8Mi", 8 << 20, "8Mi"),
            ("1024Ki", 1 << 20, "1Mi"),
            ("2048", 2048, "2Ki"),
            ("8MiB", 8 << 20, "8Mi"),
            ("100B", 100, "100"),
        ] {
            let count = ByteCount::from_text(text).unwrap_or_else(|| panic!("{text} is a byte count"));
            assert_eq!(count.bytes(), bytes, "{text}");
            assert_eq!(count.to_string(), canonical);
        }
        for bad in ["", "Mi", "B", "8MB", "8M", "8BMi", "8MiBB", "8 MiB", "-1", "1.5Gi", "08", "99999999999Gi"] {
            assert_eq!(ByteCount::from_text(bad), None, "{bad}");
        }
        assert_eq!(ByteCount::suggestion("8MB").as_deref(), Some("8Mi"));
    }
}
