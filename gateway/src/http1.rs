//! What HTTP/1.1 is made of, for those parts that the gateway reads and writes itself.

/// What the names of headers are made of (RFC 9110, 5.6.2), in lower case.
pub(crate) fn is_name(name: &str) -> bool {
    let is_of_names =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_of_names)
}

/// What the values of headers are made of.
pub(crate) fn is_value(value: &[u8]) -> bool {
    value.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

/// Whether it is a path, maybe with a query, of what those are made of (RFC 3986, 3.3 and 3.4).
pub(crate) fn is_target(target: &str) -> bool {
    let is_of_targets = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte);
    target.starts_with('/') && target.bytes().all(is_of_targets)
}

/// The value of a `content-length` header.
pub(crate) fn length(digits: &[u8]) -> Option<u64> {
    let is_number = (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Notes a header's value. `None`: the header was there already.
pub(crate) fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

/// A number's digits.
pub(crate) fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[start..];
        }
    }
}
