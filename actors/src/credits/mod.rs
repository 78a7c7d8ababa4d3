//! Money: the unit, and what a render costs. Whole numbers only.

mod price;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::price::{Price, PriceBook, Rendering};

/// A thousandth of a credit, never negative. What is moved and in which direction is said by who moves it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Millicredits(u64);

/// A text that is no amount of credits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an amount of credits must look like 12 or 12.345, and be at most {}",
    Millicredits::MAX
)]
pub struct InvalidCredits;

impl Millicredits {
    pub const ZERO: Self = Self(0);
    /// 1e15 credits: nine times as much still fits the database's integers.
    pub const MAX: Self = Self(1_000_000_000_000_000_000);
    /// In one grant, so that nine thousand of the largest still fit one balance.
    pub const MAX_GRANT: Self = Self(Self::MAX.0 / 1_000);
    pub const IN_A_CREDIT: u64 = 1_000;

    /// More than [`Self::MAX`] is that.
    pub const fn new(amount: u64) -> Self {
        if amount > Self::MAX.0 {
            Self::MAX
        } else {
            Self(amount)
        }
    }

    pub const fn from_credits(credits: u64) -> Self {
        Self::new(credits.saturating_mul(Self::IN_A_CREDIT))
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// What of a hold is captured when a job is cancelled while it runs: the share of the steps that were done, rounded down.
    /// Nothing where no step is known.
    pub fn captured_of_cancelled(self, steps: Option<StepsDone>) -> Self {
        let Some(StepsDone { done, total }) = steps.filter(|steps| steps.total > 0) else {
            return Self::ZERO;
        };
        let share = u128::from(self.0) * u128::from(done.min(total)) / u128::from(total);
        // At most the hold itself.
        Self(u64::try_from(share).unwrap_or(self.0))
    }
}

/// How far an attempt had come, as its node said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StepsDone {
    pub done: u32,
    pub total: u32,
}

/// In credits, with as many decimals as it has.
impl fmt::Display for Millicredits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / Self::IN_A_CREDIT, self.0 % Self::IN_A_CREDIT);
        if part == 0 {
            write!(f, "{whole}")
        } else {
            let part = format!("{part:03}");
            write!(f, "{whole}.{}", part.trim_end_matches('0'))
        }
    }
}

/// From credits, with at most three decimals.
impl FromStr for Millicredits {
    type Err = InvalidCredits;

    fn from_str(text: &str) -> Result<Self, InvalidCredits> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(whole) || !is_number(part) || part.len() > 3 {
            return Err(InvalidCredits);
        }
        let amount = format!("{whole}{part:0<3}").parse().ok();
        amount
            .filter(|amount| *amount <= Self::MAX.0)
            .map(Self)
            .ok_or(InvalidCredits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_written_and_read_in_credits() {
        for (text, amount) in [
            ("0", 0),
            ("1", 1_000),
            ("0.05", 50),
            ("12.345", 12_345),
            ("1000000000000000", Millicredits::MAX.get()),
        ] {
            assert_eq!(text.parse(), Ok(Millicredits::new(amount)));
            assert_eq!(Millicredits::new(amount).to_string(), text);
        }
        assert_eq!("1.50".parse(), Ok(Millicredits::new(1_500)));
        for wrong in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "1.2345",
            " 1",
            "1000000000000001",
            "99999999999999999999999",
        ] {
            assert_eq!(
                wrong.parse::<Millicredits>(),
                Err(InvalidCredits),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn a_cancelled_job_costs_the_share_of_its_steps() {
        let check = |hold, done, total, expected| {
            let steps = Some(StepsDone { done, total });
            let captured = Millicredits::new(hold).captured_of_cancelled(steps);
            assert_eq!(captured.get(), expected, "{done} of {total} of {hold}");
        };
        check(1_000, 0, 25, 0);
        check(1_000, 1, 3, 333);
        check(1_000, 3, 3, 1_000);
        check(1_000, 4, 3, 1_000);
        check(1_000, 1, 0, 0);
        check(1, 24, 25, 0);
        let most = Millicredits::MAX.get();
        check(
            most,
            u32::MAX - 1,
            u32::MAX,
            most - most.div_ceil(4_294_967_295),
        );
        assert!(Millicredits::new(9).captured_of_cancelled(None).is_zero());
    }
}
