//! What nodes cost, in whatever currency their provider bills.

use std::fmt;
use std::str::FromStr;

/// Digits after the point.
const DIGITS: usize = 4;
const UNIT: u64 = 10_u64.pow(DIGITS as u32);
/// A million an hour: far from what sums of it could overflow.
const WHOLE_MAX: u64 = 1_000_000;

/// An amount an hour, exact to a ten-thousandth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Money(u64);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an amount is digits with at most {DIGITS} behind a point, up to {WHOLE_MAX} (got {0:?})")]
pub struct MoneyError(String);

impl Money {
    pub const ZERO: Self = Self(0);

    /// Of so many nodes.
    #[must_use]
    pub fn times(self, nodes: u32) -> Self {
        Self(self.0.saturating_mul(u64::from(nodes)))
    }

    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// How many at this price it pays for.
    pub fn pays_for(self, price: Self) -> u32 {
        match price.0 {
            0 => u32::MAX,
            price => u32::try_from(self.0 / price).unwrap_or(u32::MAX),
        }
    }
}

impl FromStr for Money {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let refused = || MoneyError(text.to_owned());
        if !is_digits(whole) || !is_digits(part) || part.len() > DIGITS {
            return Err(refused());
        }
        let whole: u64 = whole.parse().map_err(|_| refused())?;
        let part: u64 = format!("{part:0<DIGITS$}").parse().map_err(|_| refused())?;
        let is_small = whole < WHOLE_MAX || (whole == WHOLE_MAX && part == 0);
        is_small
            .then_some(Self(whole * UNIT + part))
            .ok_or_else(refused)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:0DIGITS$}", self.0 / UNIT, self.0 % UNIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly_or_refused() {
        for (text, expected) in [("0", 0), ("3", 30_000), ("3.2", 32_000), ("0.0001", 1)] {
            assert_eq!(text.parse(), Ok(Money(expected)), "{text}");
        }
        for bad in [
            "", ".", "3.", ".5", "-1", "1e3", "0.00001", "1000001", "1,5",
        ] {
            assert_eq!(bad.parse::<Money>(), Err(MoneyError(bad.to_owned())));
        }
        assert_eq!("3.2".parse::<Money>().unwrap().to_string(), "3.2000");
    }
}
