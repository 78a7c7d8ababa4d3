//! Bugs that are planted on purpose, so that the checks can be seen to find them: ten, one chosen by name at start.
//!
//! A check that finds nothing says little until it has found something. Each bug sits where the real code decides, or where
//! the simulator's model of the rows and the api does, as one `#[cfg(feature = "planted-bugs")]` line; without the feature
//! neither this module nor any of those lines is built.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// A bug, named after what is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// The journal does not compare the epoch: an ended term still settles (INV-2).
    NoFencing = 1,
    /// A submission is acknowledged before it is durable (INV-4).
    AckBeforeCommit,
    /// A settlement that is sent again after an unknown commit is charged again (INV-3).
    DoubleCapture,
    /// A clip is told and taken as delivered before its files lie in the store (INV-3).
    PublishBeforeUpload,
    /// A job that fails or kills its nodes is tried for ever (INV-5).
    NoQuarantine,
    /// The credits held for a job that failed are never released (INV-6).
    HoldLeaks,
    /// Nothing but doorbells tells of a job: one whose doorbell was lost is never found (INV-5).
    DoorbellOnly,
    /// A user gets one more running job than the cap (INV-8).
    CapOffByOne,
    /// Nobody is moved up for having waited past the start bound.
    AgingNeverFires,
    /// A beat of an old generation renews the lease of the new one (INV-2).
    GhostLease,
}

/// A name that no planted bug has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("planted bug must be one of {names} (got {got:?})", names = Bug::ALL.map(Bug::name).join(", "))]
pub struct UnknownBug {
    pub got: String,
}

impl Bug {
    pub const ALL: [Self; 10] = [
        Self::NoFencing,
        Self::AckBeforeCommit,
        Self::DoubleCapture,
        Self::PublishBeforeUpload,
        Self::NoQuarantine,
        Self::HoldLeaks,
        Self::DoorbellOnly,
        Self::CapOffByOne,
        Self::AgingNeverFires,
        Self::GhostLease,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::NoFencing => "no_fencing",
            Self::AckBeforeCommit => "ack_before_commit",
            Self::DoubleCapture => "double_capture",
            Self::PublishBeforeUpload => "publish_before_upload",
            Self::NoQuarantine => "no_quarantine",
            Self::HoldLeaks => "hold_leaks",
            Self::DoorbellOnly => "doorbell_only",
            Self::CapOffByOne => "cap_off_by_one",
            Self::AgingNeverFires => "aging_never_fires",
            Self::GhostLease => "ghost_lease",
        }
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Bug {
    type Err = UnknownBug;

    fn from_str(name: &str) -> Result<Self, UnknownBug> {
        let found = Self::ALL.into_iter().find(|bug| bug.name() == name);
        found.ok_or_else(|| UnknownBug {
            got: name.to_owned(),
        })
    }
}

/// Zero: none. Of the whole process, because a bug is in the program and not in one value of it.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

/// Plants one bug in this process, or none.
pub fn choose(bug: Option<Bug>) {
    CHOSEN.store(bug.map_or(0, |bug| bug as u8), Ordering::Relaxed);
}

/// Whether this bug is planted.
pub fn is(bug: Bug) -> bool {
    CHOSEN.load(Ordering::Relaxed) == bug as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bug_at_a_time_is_planted_by_its_name() {
        for bug in Bug::ALL {
            assert_eq!(bug.name().parse(), Ok(bug));
            choose(Some(bug));
            let planted: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| is(*bug)).collect();
            assert_eq!(planted, [bug]);
        }
        choose(None);
        assert!(!Bug::ALL.into_iter().any(is));
        let unknown = "no_such".parse::<Bug>().unwrap_err().to_string();
        assert!(unknown.contains("hold_leaks"), "{unknown}");
    }
}
