//! What budgets count, in whole numbers: requests, tokens, and money in nano-dollars.
//!
//! Money is a `u64` of nano-dollars (10⁻⁹ USD, at most 18.4 billion dollars), read from and written as
//! decimal text without loss, and never a float. Where a price is applied, the whole sum is rounded up once.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Nano-dollars in one dollar.
pub const NANO_PER_USD: u64 = 1_000_000_000;

/// Digits of a dollar's fraction that can be told apart.
const FRACTION_DIGITS: usize = 9;

/// What a budget or a rate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Unit {
    /// Requests that went upstream.
    Requests,
    /// Tokens as the vendor reports them: input, cache writes, cache reads and output.
    Tokens,
    /// Money, in nano-dollars.
    #[serde(rename = "USD")]
    Usd,
}

/// One amount of each unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Amounts {
    /// Requests.
    pub requests: u64,
    /// Tokens of all kinds together.
    pub tokens: u64,
    /// Nano-dollars.
    pub nano_usd: u64,
}

/// Why a text is not an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// It has a sign, a letter, a separator, or nothing at all.
    #[error("must be written in digits{}", if *.0 == Unit::Usd { ", as in 12.50" } else { "" })]
    NotANumber(Unit),
    /// It has a fraction, or a finer one than can be counted.
    #[error("{}", if *.0 == Unit::Usd { "must have at most 9 digits after the point" } else { "must be a whole number" })]
    TooFine(Unit),
    /// It is larger than can be counted.
    #[error("must be at most {}", .0.text(u64::MAX))]
    TooLarge(Unit),
}

impl Unit {
    /// All units.
    pub const ALL: [Self; 3] = [Self::Requests, Self::Tokens, Self::Usd];

    /// Reads an amount as people write it: a whole number, or dollars with up to nine digits after the point.
    ///
    /// # Errors
    /// What the text must be instead. Nothing is rounded.
    pub fn parse(self, text: &str) -> Result<u64, AmountError> {
        let (whole, fraction) = text.split_once('.').map_or((text, None), |(w, f)| (w, Some(f)));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || fraction.is_some_and(|fraction| !digits(fraction)) {
            return Err(AmountError::NotANumber(self));
        }
        let too_large = AmountError::TooLarge(self);
        let whole: u64 = whole.parse().map_err(|_| too_large)?;
        let fraction = fraction.unwrap_or_default().trim_end_matches('0');
        if self != Self::Usd {
            return if fraction.is_empty() { Ok(whole) } else { Err(AmountError::TooFine(self)) };
        }
        if fraction.len() > FRACTION_DIGITS {
            return Err(AmountError::TooFine(self));
        }
        let nano: u64 = format!("{fraction:0<FRACTION_DIGITS$}").parse().map_err(|_| too_large)?;
        whole.checked_mul(NANO_PER_USD).and_then(|whole| whole.checked_add(nano)).ok_or(too_large)
    }

    /// Writes an amount the way [`Unit::parse`] reads it, without loss and as short as possible.
    pub fn text(self, amount: u64) -> String {
        let mut text = Vec::new();
        self.write(amount, &mut text);
        String::from_utf8(text).unwrap_or_default()
    }

    /// As [`Unit::text`], behind what `out` has.
    pub fn write(self, amount: u64, out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        if self != Self::Usd {
            return out.extend_from_slice(digits.format(amount).as_bytes());
        }
        out.extend_from_slice(digits.format(amount / NANO_PER_USD).as_bytes());
        let nano = amount % NANO_PER_USD;
        if nano == 0 {
            return;
        }
        let point = out.len();
        // Above all digits of a fraction, so that its zeros are written too; the one in front makes room for the point.
        out.extend_from_slice(digits.format(NANO_PER_USD + nano).as_bytes());
        out.get_mut(point).into_iter().for_each(|one| *one = b'.');
        let zeros = out.iter().rev().take_while(|digit| **digit == b'0').count();
        out.truncate(out.len() - zeros);
    }

    /// What it is called in a manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "Requests",
            Self::Tokens => "Tokens",
            Self::Usd => "USD",
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Amounts {
    /// Nothing but `requests` requests.
    pub const fn of_requests(requests: u64) -> Self {
        Self { requests, tokens: 0, nano_usd: 0 }
    }

    /// What a request takes of a rate, in its first step or a later one. Every request is at least one, also
    /// one that no budget counts.
    pub fn of_rate(&self, unit: Unit, is_first: bool) -> u64 {
        self.of(unit).max(u64::from(is_first && unit == Unit::Requests))
    }

    /// The amount of one unit.
    pub const fn of(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => self.tokens,
            Unit::Usd => self.nano_usd,
        }
    }

    /// The sums, saturating: for reports, not for limits.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            tokens: self.tokens.saturating_add(other.tokens),
            nano_usd: self.nano_usd.saturating_add(other.nano_usd),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_reads_exactly_and_prints_back() {
        for (text, nano, shortest) in [
            ("0", 0, "0"),
            ("12.50", 12_500_000_000, "12.5"),
            ("0.000000001", 1, "0.000000001"),
            ("007.10", 7_100_000_000, "7.1"),
            ("1.0000000000", NANO_PER_USD, "1"),
            ("18446744073.709551615", u64::MAX, "18446744073.709551615"),
        ] {
            assert_eq!(Unit::Usd.parse(text), Ok(nano), "{text}");
            assert_eq!(Unit::Usd.text(nano), shortest);
            assert_eq!(Unit::Usd.parse(shortest), Ok(nano), "{shortest}");
        }
    }

    #[test]
    fn what_is_not_an_amount_is_refused_by_name() {
        use AmountError::{NotANumber, TooFine, TooLarge};
        let usd = Unit::Usd;
        for text in ["", ".", "-1", "+1", "1.", ".5", "1e3", "1_000", "1,5", "$5", " 5", "NaN", "1.5.0", "٣"]
        {
            assert_eq!(usd.parse(text), Err(NotANumber(usd)), "{text:?}");
            assert_eq!(Unit::Tokens.parse(text), Err(NotANumber(Unit::Tokens)), "{text:?}");
        }
        assert_eq!(usd.parse("0.0000000001"), Err(TooFine(usd)));
        assert_eq!(usd.parse("18446744073.709551616"), Err(TooLarge(usd)));
        assert_eq!(usd.parse("99999999999999999999"), Err(TooLarge(usd)));
        assert_eq!(Unit::Requests.parse("1.5"), Err(TooFine(Unit::Requests)));
        assert_eq!(Unit::Requests.parse("18446744073709551616"), Err(TooLarge(Unit::Requests)));
        assert_eq!(Unit::Requests.parse("5.0"), Ok(5), "a whole number all the same");
    }

    #[test]
    fn every_amount_survives_its_text() {
        let mut amount = 1_u64;
        for round in 0..10_000_u64 {
            amount = amount.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round);
            for unit in Unit::ALL {
                let part = amount >> (round % 64);
                assert_eq!(unit.parse(&unit.text(part)), Ok(part), "{unit} {part}");
            }
        }
    }
}
