//! What the scheduler hears and what it answers.

use std::collections::BTreeSet;

use flowai_actors::ids::{Attempt, Generation, GpuSeconds, JobId, ModelId, NodeId, UserId};
use flowai_actors::state::Tier;
use flowai_store::journal::Unfinished;

/// A job that waits for a node.
#[derive(Debug, Clone, PartialEq)]
pub struct WaitingJob {
    pub job: JobId,
    pub owner: UserId,
    pub tier: Tier,
    pub model: ModelId,
    /// Of a job whose first frame is made from words: the same node makes both.
    pub keyframe_model: Option<ModelId>,
    /// What the render is predicted to take: the price in fairness.
    pub cost: GpuSeconds,
    /// The newest attempt so far; zero before the first.
    pub attempt: Attempt,
    /// Attempts that failed or were lost.
    pub failures: u32,
    /// Nodes on which they did.
    pub failed_on: BTreeSet<NodeId>,
    /// Attempts that were lost because their node died.
    pub node_deaths: u32,
    /// Nodes that died.
    pub died_on: BTreeSet<NodeId>,
}

impl WaitingJob {
    /// What a node must offer to run it, in the order of its stages.
    pub fn models(&self) -> impl Iterator<Item = &ModelId> {
        self.keyframe_model.iter().chain([&self.model])
    }
}

/// A running attempt found in the rows by a new leader: its node has one lease to say that it still works on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovered {
    pub waiting: WaitingJob,
    pub node: NodeId,
    pub generation: Generation,
    pub cancel_requested: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct NodeOffer {
    pub node: NodeId,
    pub generation: Generation,
    pub models: Vec<ModelId>,
    /// The attempt that it says it works on.
    pub running: Option<(JobId, Attempt)>,
}

/// What an operator, or a machine about to be taken away, wants of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    Off,
    /// It ends its job and gets no other.
    Lazy,
    /// Its job stops at the next step boundary and goes on elsewhere.
    Now,
}

/// How an attempt ended, as its node tells it. A render that succeeded is settled by the journal, which then says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptEnd {
    Rendered,
    Stopped,
    Failed {
        code: String,
        detail: String,
        retryable: bool,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// May come twice (doorbell and sweep).
    JobArrived(WaitingJob),
    JobRecovered(Recovered),
    /// The owner wants a job no more.
    CancelAsked(JobId),
    /// Its row says that it ended, or is gone: nothing is left to do for it.
    JobGone(JobId),
    NodeRegistered(NodeOffer),
    Beat {
        node: NodeId,
        generation: Generation,
        /// It works on something that is not its own any more: no other job fits beside it.
        is_astray: bool,
    },
    /// An operator wants no further job on it.
    NodeDraining {
        node: NodeId,
        how: Drain,
    },
    Ended {
        node: NodeId,
        generation: Generation,
        job: JobId,
        attempt: Attempt,
        end: AttemptEnd,
    },
    /// The node refused the assignment, could not be asked, or does not work on it. It gets no other job until its next beat.
    NotTaken {
        job: JobId,
        attempt: Attempt,
    },
    /// Time has passed.
    Tick,
}

/// What shall happen, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Commit the assignment, then tell the node.
    Assign {
        job: JobId,
        attempt: Attempt,
        node: NodeId,
        generation: Generation,
    },
    /// Tell the node to stop at its next step boundary.
    Stop {
        node: NodeId,
        job: JobId,
        attempt: Attempt,
    },
    /// Commit the delivered clip.
    Settle {
        job: JobId,
        attempt: Attempt,
    },
    /// Commit the attempt's end; the job waits again.
    Requeue {
        job: JobId,
        attempt: Attempt,
        outcome: Unfinished,
        reason: String,
    },
    Fail {
        job: JobId,
        attempt: Attempt,
        code: String,
        detail: String,
    },
    Cancel {
        job: JobId,
        attempt: Attempt,
    },
    Quarantine {
        job: JobId,
        attempt: Attempt,
        node_deaths: u32,
    },
    /// What was said of an attempt is not true any more; nothing changes, and the node drops it.
    Stale {
        node: NodeId,
        job: JobId,
        attempt: Attempt,
    },
}
