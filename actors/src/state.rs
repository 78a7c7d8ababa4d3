//! The life of a job, as one table of what may follow what.
//!
//! ```text
//!            ┌──────── retrying ────────┐
//!            ▼                          │
//! queued ──▶ running ──▶ done           │
//!    │         ├───────────────────────▶┘
//!    │         ├──▶ failed
//!    │         ├──▶ quarantined
//!    └────────▶└──▶ cancelled
//! ```

use serde::{Deserialize, Serialize};

/// Where a job stands. Stored as text in `job_state.state`; the names here are those of the database's check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a node, for the first time or again.
    Queued,
    /// An attempt of it holds a lease.
    Running,
    /// A clip was delivered.
    Done,
    /// It cannot be rendered, or its attempts are used up.
    Failed,
    /// Its owner did not want it any more.
    Cancelled,
    /// Nodes died while they ran it: an operator has to look before it may run again.
    Quarantined,
}

impl JobState {
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
        Self::Quarantined,
    ];

    /// Every job ends (INV-5), and an end is final.
    pub const fn is_end(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Done | Self::Failed | Self::Cancelled | Self::Quarantined => true,
        }
    }

    pub const fn may_become(self, next: Self) -> bool {
        match (self, next) {
            (Self::Queued, Self::Running | Self::Cancelled | Self::Failed) => true,
            (
                Self::Running,
                Self::Queued | Self::Done | Self::Failed | Self::Cancelled | Self::Quarantined,
            ) => true,
            (Self::Queued | Self::Running, _) => false,
            (Self::Done | Self::Failed | Self::Cancelled | Self::Quarantined, _) => false,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Quarantined => "quarantined",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// What a durable event of a job says. Stored as text in `job_event.kind`, sent as the `event:` of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Queued,
    /// An attempt was leased to a node.
    Assigned,
    /// The owner asked a running job to stop; the node has until its next step boundary.
    Cancelling,
    /// The attempt was lost or failed in a way that may pass elsewhere; the job waits again.
    Retrying,
    Done,
    Failed,
    Cancelled,
    Quarantined,
}

impl EventKind {
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Assigned,
        Self::Cancelling,
        Self::Retrying,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
        Self::Quarantined,
    ];

    /// Whether nothing follows it.
    pub const fn is_end(self) -> bool {
        match self {
            Self::Queued | Self::Assigned | Self::Cancelling | Self::Retrying => false,
            Self::Done | Self::Failed | Self::Cancelled | Self::Quarantined => true,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Assigned => "assigned",
            Self::Cancelling => "cancelling",
            Self::Retrying => "retrying",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Quarantined => "quarantined",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Whether somebody sits and waits for a job: sets its start bound, and whether it may be stopped for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A single submission or a draft.
    Interactive,
    /// One of many, an export.
    Batch,
}

impl Class {
    pub const ALL: [Self; 2] = [Self::Interactive, Self::Batch];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Batch => "batch",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }
}

/// What a user pays for: a weight in the shares, never a strict rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    Free,
    Pro,
    Studio,
}

impl Tier {
    pub const ALL: [Self; 3] = [Self::Free, Self::Pro, Self::Studio];

    /// Share of the farm when all tiers wait, relative to a free user's.
    pub const fn weight(self) -> u32 {
        match self {
            Self::Free => 1,
            Self::Pro => 4,
            Self::Studio => 8,
        }
    }

    /// Running jobs of one user above which others are served first.
    pub const fn running_max(self) -> u32 {
        match self {
            Self::Free => 1,
            Self::Pro => 4,
            Self::Studio => 12,
        }
    }

    /// How long a job waits, ms, before a part of the farm that is kept for it starts it whatever its turn. `None`: only its
    /// turn counts.
    pub const fn start_bound_ms(self, class: Class) -> Option<u64> {
        let minutes = match (self, class) {
            (Self::Free, Class::Interactive) => 30,
            (Self::Free, Class::Batch) => return None,
            (Self::Pro, Class::Interactive) => 5,
            (Self::Pro, Class::Batch) => 60,
            (Self::Studio, Class::Interactive) => 2,
            (Self::Studio, Class::Batch) => 30,
        };
        Some(minutes * 60_000)
    }

    /// Queued jobs of one user; over it `too_many_queued`.
    pub const fn queued_max(self) -> u32 {
        match self {
            Self::Free => 5,
            Self::Pro => 50,
            Self::Studio => 200,
        }
    }

    /// Bytes of pictures and adapters of one user; over it `storage_full`. Clips do not count: they are paid for one by one.
    pub const fn stored_bytes_max(self) -> u64 {
        const GIB: u64 = 1 << 30;
        match self {
            Self::Free => 5 * GIB,
            Self::Pro => 100 * GIB,
            Self::Studio => 1_000 * GIB,
        }
    }

    /// An autoscaler adds nodes while a job of this tier would wait longer than this, seconds: well before its start bound.
    pub const fn wait_target_s(self) -> u32 {
        match self {
            Self::Free => 600,
            Self::Pro => 60,
            Self::Studio => 30,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Pro => "pro",
            Self::Studio => "studio",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_final_and_every_state_is_reached() {
        for from in JobState::ALL {
            for to in JobState::ALL {
                assert!(
                    !(from.is_end() && from.may_become(to)),
                    "{from:?} -> {to:?}"
                );
            }
            let reached =
                from == JobState::Queued || JobState::ALL.iter().any(|s| s.may_become(from));
            assert!(reached, "{from:?} is never reached");
        }
    }

    #[test]
    fn names_read_back() {
        for state in JobState::ALL {
            assert_eq!(JobState::from_name(state.as_str()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        for kind in EventKind::ALL {
            assert_eq!(EventKind::from_name(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        for class in Class::ALL {
            assert_eq!(Class::from_name(class.as_str()), Some(class));
        }
        for tier in Tier::ALL {
            assert_eq!(Tier::from_name(tier.as_str()), Some(tier));
        }
        assert_eq!(JobState::from_name("lost"), None);
    }
}
