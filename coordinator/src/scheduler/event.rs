//! What the scheduler hears and what it answers.

use std::collections::BTreeSet;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Generation, GpuSeconds, JobId, ModelId, NodeId, Sha256, UserId};
pub use flowai_actors::membership::Drain;
use flowai_actors::messages::Stage;
use flowai_actors::state::{Class, Tier};
use flowai_store::journal::Unfinished;

/// The size of a clip: what its memory and its time follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub frames: u32,
    /// px
    pub width: u32,
    /// px
    pub height: u32,
    /// Denoising steps of the clip.
    pub steps: u32,
}

/// What is left of an attempt that stopped at a step boundary: another node of the same device class goes on from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub device_class: String,
    /// Steps done, of the clip.
    pub step: u32,
}

/// A job that waits for a node.
#[derive(Debug, Clone, PartialEq)]
pub struct WaitingJob {
    pub job: JobId,
    pub owner: UserId,
    /// Its owner's when this was read.
    pub tier: Tier,
    pub class: Class,
    pub model: ModelId,
    /// Of a job whose first frame is made from words: the same node makes both.
    pub keyframe_model: Option<ModelId>,
    /// Of both stages.
    pub adapters: Vec<Sha256>,
    pub shape: Shape,
    /// What the render is predicted to take before anything was learned: the price in fairness.
    pub cost: GpuSeconds,
    /// When it was accepted, or when what it starts after was done, on the clock of the events. May lie before the first of
    /// them.
    pub queued_at: Monotonic,
    /// It starts only when that job is done.
    pub after: Option<JobId>,
    pub resume: Option<Checkpoint>,
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
    /// Attempts that were stopped for another job.
    pub preemptions: u32,
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
    /// Equal classes give equal bits and take equal times.
    pub device_class: String,
    pub memory_bytes: u64,
    /// The attempt that it says it works on.
    pub running: Option<(JobId, Attempt)>,
}

/// Whether a node takes a job once it is free, as far as was heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// It works on something that is not its own any more, did not do as it was told, or cannot be told: no other job before its next beat.
    Doubtful,
    /// It ends with what it works on.
    Closing,
}

/// What a node has at hand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds {
    /// Loaded: a job of it starts at once.
    pub model: Option<ModelId>,
    /// Fused into that model's weights.
    pub fused: Vec<Sha256>,
    /// In its memory or on its disk.
    pub near: Vec<Sha256>,
}

/// What a render took on its node, by its own clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ran {
    /// Of the engine, without loads.
    pub busy: GpuSeconds,
    /// Of fetching and loading models and adapters.
    pub load: GpuSeconds,
}

/// How an attempt ended, as its node tells it. A render that succeeded is settled by the journal, which then says so.
#[derive(Debug, Clone, PartialEq)]
pub enum AttemptEnd {
    Rendered {
        /// `None` where nothing was measured.
        ran: Option<Ran>,
    },
    Stopped {
        checkpoint: Option<Checkpoint>,
    },
    /// As its node says.
    Failed {
        code: String,
        detail: String,
        /// Another node, or this one later, may succeed.
        retryable: bool,
        /// Which of its models was at work.
        stage: Stage,
    },
    /// No node can render it, whatever its node might say.
    Impossible {
        code: String,
        detail: String,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// May come twice (doorbell and sweep).
    JobArrived(WaitingJob),
    JobRecovered(Recovered),
    /// The owner wants a job no more.
    CancelAsked(JobId),
    /// Its row may say something else than is believed, and is read again: nothing is believed of it until then.
    Doubted(JobId),
    /// Its row says that it ended, or is gone: nothing is left to do for it.
    JobGone {
        job: JobId,
        /// Its clip was delivered: jobs that wait for it may start. Otherwise they cannot.
        is_done: bool,
    },
    NodeRegistered(NodeOffer),
    Beat {
        node: NodeId,
        generation: Generation,
        readiness: Readiness,
        /// When it says.
        holds: Option<Holds>,
    },
    /// Of the running attempt. Many are lost.
    Progressed {
        job: JobId,
        attempt: Attempt,
        step: u32,
        steps: u32,
    },
    NodeDraining {
        node: NodeId,
        how: Drain,
    },
    /// The running attempt left a checkpoint on its way: whatever becomes of it, the next one may go on there.
    Checkpointed {
        job: JobId,
        attempt: Attempt,
        checkpoint: Checkpoint,
    },
    Ended {
        node: NodeId,
        generation: Generation,
        job: JobId,
        attempt: Attempt,
        end: AttemptEnd,
    },
    /// The node refused the assignment, could not be asked, or does not work on it. It gets no other job before its next beat.
    NotTaken {
        job: JobId,
        attempt: Attempt,
    },
    /// The leader could not put together what the node was to be given, and asked nobody.
    NotGiven {
        job: JobId,
        attempt: Attempt,
    },
    /// Its link has gone: it gets no job before it is heard again.
    NodeUnlinked {
        node: NodeId,
        generation: Generation,
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
        /// Store a checkpoint: the job goes on later.
        keep: bool,
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
        /// What the next attempt goes on from.
        checkpoint: Option<Checkpoint>,
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
