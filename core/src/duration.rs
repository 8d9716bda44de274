//! Durations as users write them: Go style, `1h30m`, `250ms`.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration such as `24h`, `1h30m` or `250ms`")]
pub struct DurationError {
    /// The text that was given.
    pub text: String,
}

const UNITS: [(&str, u64); 4] = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

/// Reads a Go-style duration: one or more whole numbers, each with `h`, `m`, `s` or `ms`.
///
/// # Errors
/// When the text is empty, has a sign, a fraction, another unit, or overflows 2^64 milliseconds.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let fail = || DurationError { text: text.to_owned() };
    let mut rest = text;
    let mut total_ms: u64 = 0;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits).and_then(|n| n.parse().ok()).ok_or_else(fail)?;
        let after = rest.get(digits..).unwrap_or_default();
        let (unit, unit_ms) = UNITS.iter().find(|(unit, _)| after.starts_with(unit)).ok_or_else(fail)?;
        let part = number.checked_mul(*unit_ms).ok_or_else(fail)?;
        total_ms = total_ms.checked_add(part).ok_or_else(fail)?;
        rest = after.get(unit.len()..).unwrap_or_default();
    }
    Ok(Duration::from_millis(total_ms))
}

/// Writes a duration the way [`parse`] reads it: `1h30m`, `250ms`, `0s`.
pub fn format(duration: Duration) -> String {
    let mut rest_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, unit_ms) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        let count = rest_ms / unit_ms;
        rest_ms %= unit_ms;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_writes_them() {
        for (text, ms) in
            [("24h", 86_400_000), ("1h30m", 5_400_000), ("250ms", 250), ("2m3s4ms", 123_004), ("0s", 0)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        for text in
            ["", "10", "h", "-1h", "1.5h", "1d", "1h ", "99999999999999999999h", "18446744073709551615h"]
        {
            assert!(parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn format_and_parse_agree() {
        for ms in [0, 1, 999, 1_000, 61_001, 86_400_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse(&format(duration)), Ok(duration));
        }
    }
}
