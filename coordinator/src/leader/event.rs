//! What the leader hears and what it does about it.

use std::sync::Arc;
use std::time::Duration;

use flowai_actors::checkpoint::{CheckpointPlace, CheckpointPlaced, PlaceCheckpoint};
use flowai_actors::ids::{Attempt, Generation, JobId, ModelId, NodeId, Sha256, UserId};
use flowai_actors::link::PeerId;
use flowai_actors::messages::{
    AttemptRef, Beat, BeatAnswer, Compared, Ended, EndedAnswer, FarmView, Holding, Live, Progress,
    ReadyFile, Register, Registered, UploadTargets, UploadTargetsAnswer,
};
use flowai_actors::preview::{PlacePreview, PreviewPlace, PreviewPlaced, PreviewReady};
use flowai_actors::waiting::{Ceilings, WhyAnswer};
use flowai_store::journal::{Batch, Written};
use flowai_store::members::Standings;
use flowai_store::recovery::{JobRow, UnfinishedRow};

use crate::scheduler::Drain;

/// A question that waits for its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplyId(pub u64);

/// The actor has checked that a word about a node comes from that very process.
#[derive(Debug)]
pub enum Event {
    /// An api instance says that something is new about a job.
    Rang(JobId),
    /// The quick look for what no doorbell announced.
    Swept {
        newcomers: Vec<JobId>,
        cancelled: Vec<JobId>,
    },
    /// A page of the thorough one.
    SweptAll(Vec<JobId>),
    /// The rows of the jobs that were asked for; a job without a row is gone.
    RowsRead {
        asked: Vec<JobId>,
        rows: Vec<JobRow>,
    },
    Registering {
        reply: ReplyId,
        register: Box<Register>,
    },
    /// What operators want of nodes is something else than before.
    MembersRead(Standings),
    /// A node's registration was written down, or a newer process of it is known.
    Admitted {
        reply: ReplyId,
        register: Box<Register>,
        result: Result<(), Generation>,
    },
    /// The database refuses what the node says of itself.
    NotAdmitted(ReplyId),
    Beat {
        reply: ReplyId,
        beat: Box<Beat>,
    },
    Progress {
        node: NodeId,
        progress: Progress,
    },
    Ended {
        reply: ReplyId,
        ended: Box<Ended>,
    },
    /// The object store was asked for the files of a rendered attempt.
    Verified {
        ended: Box<Ended>,
        result: Result<(), NotDelivered>,
    },
    TargetsAsked {
        reply: ReplyId,
        question: UploadTargets,
    },
    PreviewAsked {
        reply: ReplyId,
        question: PlacePreview,
    },
    PreviewPlaced {
        node: NodeId,
        placed: PreviewPlaced,
    },
    CheckpointAsked {
        reply: ReplyId,
        question: PlaceCheckpoint,
    },
    CheckpointPlaced {
        node: NodeId,
        placed: CheckpointPlaced,
    },
    /// The link of a node's process has gone.
    NodeDown {
        node: NodeId,
        generation: Generation,
    },
    /// What became of an assignment after its commit.
    Dispatched {
        held: Holding,
        result: Result<(), NotDispatched>,
    },
    /// In the order of the batch.
    Committed(Vec<Outcome>),
    /// A later term has begun.
    Fenced,
    FarmAsked {
        reply: ReplyId,
        after: Option<NodeId>,
    },
    /// An operator wants memory to be compared with the rows now.
    CompareAsked(ReplyId),
    /// A page of unfinished rows in the order of ids.
    Compared(Vec<UnfinishedRow>),
    /// Why does a job wait?
    WhyAsked {
        reply: ReplyId,
        job: JobId,
    },
    /// The autoscaler wants a node to take no more jobs, or to take jobs again.
    DrainWanted {
        node: NodeId,
        how: Drain,
    },
    /// Which sizes fit nowhere?
    CeilingsAsked(ReplyId),
    ApiUp(PeerId),
    ApiDown(PeerId),
    Tick,
}

impl Event {
    /// The node whose word it is, with the answer that it waits for.
    pub(super) fn said_by(&self) -> Option<(&NodeId, Option<ReplyId>)> {
        match self {
            Self::Registering { reply, register }
            | Self::Admitted {
                reply, register, ..
            } => Some((&register.node, Some(*reply))),
            Self::Beat { reply, beat } => Some((&beat.node, Some(*reply))),
            Self::Ended { reply, ended } => Some((&ended.node, Some(*reply))),
            Self::TargetsAsked { reply, question } => Some((&question.node, Some(*reply))),
            Self::PreviewAsked { reply, question } => Some((&question.node, Some(*reply))),
            Self::CheckpointAsked { reply, question } => Some((&question.node, Some(*reply))),
            Self::Progress { node, .. }
            | Self::PreviewPlaced { node, .. }
            | Self::CheckpointPlaced { node, .. } => Some((node, None)),
            Self::Rang(_)
            | Self::Swept { .. }
            | Self::SweptAll(_)
            | Self::RowsRead { .. }
            | Self::MembersRead(_)
            | Self::NotAdmitted(_)
            | Self::Verified { .. }
            | Self::NodeDown { .. }
            | Self::Dispatched { .. }
            | Self::Committed(_)
            | Self::Fenced
            | Self::FarmAsked { .. }
            | Self::CompareAsked(_)
            | Self::CeilingsAsked(_)
            | Self::DrainWanted { .. }
            | Self::Compared(_)
            | Self::WhyAsked { .. }
            | Self::ApiUp(_)
            | Self::ApiDown(_)
            | Self::Tick => None,
        }
    }
}

/// Why a rendered clip does not count as delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotDelivered {
    /// The object store says so.
    Missing(String),
    /// The object store did not answer: it may well lie there.
    Unanswered(String),
}

/// Why a committed assignment does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotDispatched {
    /// What it is made from could not be read or signed; no node was asked.
    NotRead(String),
    /// This node did not take it; another may.
    NotTaken(String),
    /// No node can ever run it.
    Impossible(String),
}

/// What became of one change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Written(Written),
    /// The database refuses its content.
    Refused(String),
    /// Somebody else holds its rows: it is to be written later, and nothing else waits for that.
    Blocked,
}

/// The models of a job, as its node has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobModels {
    pub clip: ModelFiles,
    /// Of a job whose first frame is made from words.
    pub keyframe: Option<ModelFiles>,
}

/// A model's name, and the hash of what a node has under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    pub model: ModelId,
    pub sha256: Sha256,
}

#[derive(Debug)]
pub enum Effect {
    Answer(ReplyId, Answer),
    /// Answer nothing: the asker hears `Rejected` and asks again.
    Decline(ReplyId),
    /// Write down that the process registered and what it offers, then say [`Event::Admitted`].
    Admit {
        reply: ReplyId,
        register: Box<Register>,
    },
    Commit(Arc<Batch>),
    /// Read the rows when so much time has passed.
    Read {
        jobs: Vec<JobId>,
        after: Duration,
    },
    /// Look for the newest of the waiting jobs, and for cancels among the running ones.
    Sweep {
        running: Vec<JobId>,
    },
    /// Read a page of the ids of all unfinished jobs.
    SweepAll {
        after: Option<JobId>,
    },
    /// Read a page of unfinished rows, to compare them with what is believed.
    Compare {
        after: Option<JobId>,
    },
    /// Forget kept answers, join tokens and nodes whose time is over.
    Forget,
    /// The assignment is committed: tell the node.
    Dispatch {
        held: Holding,
        models: JobModels,
        /// An earlier attempt may have left a checkpoint.
        may_resume: bool,
    },
    Stop {
        node: NodeId,
        at: AttemptRef,
        keep: bool,
    },
    /// Tell the node which adapters it will probably need next.
    Foretell {
        node: NodeId,
        job: JobId,
        models: JobModels,
    },
    Verify(Box<Ended>),
    /// Answer whether this attempt was settled before.
    LookBack {
        reply: ReplyId,
        held: Holding,
    },
    /// Answer with presigned uploads.
    Presign {
        reply: ReplyId,
        at: AttemptRef,
        files: Vec<ReadyFile>,
    },
    /// Tell the api instances that events of these users can be read.
    Hint {
        to: Vec<PeerId>,
        users: Vec<UserId>,
    },
    Tell {
        to: Vec<PeerId>,
        live: Live,
    },
    /// Answer with a presigned upload.
    PresignPreview {
        reply: ReplyId,
        question: PlacePreview,
    },
    TellPreview {
        to: Vec<PeerId>,
        ready: PreviewReady,
    },
    /// A newer one has come, or the attempt has ended.
    DiscardPreview {
        job: JobId,
        attempt: Attempt,
        step: u32,
    },
    /// Answer with a presigned upload.
    PresignCheckpoint {
        reply: ReplyId,
        question: PlaceCheckpoint,
    },
    /// Those that lie before this attempt and step are not needed any more; without one, the job has ended and needs none.
    DiscardCheckpoints {
        job: JobId,
        before: Option<(Attempt, u32)>,
    },
    /// Look for checkpoints of jobs that have ended, and for what removals have left.
    SweepObjects,
    /// The term is over.
    StepDown,
}

#[derive(Debug)]
pub enum Answer {
    Registered(Registered),
    Beat(BeatAnswer),
    Ended(EndedAnswer),
    Targets(UploadTargetsAnswer),
    Preview(PreviewPlace),
    Checkpoint(CheckpointPlace),
    Farm(Box<FarmView>),
    Why(WhyAnswer),
    Compared(Box<Compared>),
    Ceilings(Ceilings),
}
