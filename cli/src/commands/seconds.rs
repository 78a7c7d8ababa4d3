//! Times as people type them.

use std::str::FromStr;

/// Whole seconds, typed as `90s`, `10m` or `2h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seconds(pub(super) u64);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("must be a number and s, m or h, as 90s, 10m or 2h (got {text:?})");
        let (number, unit) = text
            .char_indices()
            .next_back()
            .map(|(at, unit)| (&text[..at], unit))
            .ok_or_else(refuse)?;
        let unit_s = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            _ => return Err(refuse()),
        };
        let number: u64 = number.parse().map_err(|_| refuse())?;
        number.checked_mul(unit_s).map(Self).ok_or_else(refuse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_type_them() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7_200), ("0s", 0)] {
            assert_eq!(text.parse(), Ok(Seconds(seconds)), "{text}");
        }
        for bad in [
            "",
            "s",
            "10",
            "10d",
            "1.5h",
            "-1s",
            "99999999999999999h",
            "10ä",
        ] {
            assert!(bad.parse::<Seconds>().is_err(), "{bad}");
        }
    }
}
