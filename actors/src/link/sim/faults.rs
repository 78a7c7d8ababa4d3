//! What may happen to a message in [`super::SimNet`].

use std::ops::RangeInclusive;

use rand::Rng;

/// The weather of a simulated network. Probabilities are in 0..=1, times in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    /// How likely a message is lost.
    pub lose: f64,
    /// How likely a message arrives twice.
    pub double: f64,
    /// How long a copy of a message is on its way, each time drawn anew.
    pub delay_ms: RangeInclusive<u64>,
    /// Whether a message may overtake an earlier one of the same sender.
    pub reorder: bool,
}

impl Faults {
    /// A good local network: 1 ms, nothing lost.
    pub fn none() -> Self {
        Self {
            lose: 0.0,
            double: 0.0,
            delay_ms: 1..=1,
            reorder: false,
        }
    }

    /// The weather of the acceptance test: 10 % lost, 10 % doubled, up to 50 ms late, in any order.
    pub fn rough() -> Self {
        Self {
            lose: 0.1,
            double: 0.1,
            delay_ms: 0..=50,
            reorder: true,
        }
    }

    /// The delays of the copies that arrive: none when the message is lost, two when it is doubled.
    pub(super) fn draw(&self, random: &mut impl Rng) -> Vec<u64> {
        let copies = match (
            random.random_bool(self.lose),
            random.random_bool(self.double),
        ) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        };
        (0..copies)
            .map(|_| random.random_range(self.delay_ms.clone()))
            .collect()
    }
}
