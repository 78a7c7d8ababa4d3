//! Jobs that take their engine down, for fault tests.

use std::thread;
use std::time::Duration;

/// What a job does to the process that renders it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poison {
    /// The engine's thread panics, as a bug does.
    Panic,
    /// The process ends at once, as it does when memory cannot be had.
    Abort,
    /// A step that never ends, as of a device that hangs.
    Hang,
}

impl Poison {
    pub const ALL: [Self; 3] = [Self::Panic, Self::Abort, Self::Hang];

    /// The seed that asks for it: at the top of the range, where nobody's own seed is by chance.
    pub const fn seed(self) -> u64 {
        const FIRST: u64 = (1 << 53) - 0xBAD;
        FIRST + self as u64
    }

    pub fn of_seed(seed: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|poison| poison.seed() == seed)
    }

    /// Does not come back.
    #[expect(clippy::panic, reason = "it is what is asked for")]
    pub(super) fn act(self) {
        match self {
            Self::Panic => panic!("a poisoned job panics"),
            Self::Abort => std::process::abort(),
            Self::Hang => loop {
                thread::sleep(Duration::from_secs(3_600));
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use flowai_actors::limits::SEED_MAX;

    use super::*;

    #[test]
    fn seeds_of_poison_are_possible_and_their_own() {
        for poison in Poison::ALL {
            assert!(poison.seed() <= SEED_MAX, "{poison:?}");
            assert_eq!(Poison::of_seed(poison.seed()), Some(poison));
        }
        for harmless in [0, 1, SEED_MAX] {
            assert_eq!(Poison::of_seed(harmless), None);
        }
    }
}
