//! What the node's mind hears and wants done.

use flowai_actors::checkpoint::CheckpointFile;
use flowai_actors::clock::Monotonic;
use flowai_actors::ids::Epoch;
use flowai_actors::link::{PeerId, Rule};
use flowai_actors::manifest::Manifest;
use flowai_actors::messages::{
    Assign, AssignAnswer, AttemptRef, BeatAnswer, Ended, EndedAnswer, Prefetch, Progress,
    ReadyFile, Registered, Target, UploadTargets, UploadTargetsAnswer,
};

use crate::run::{NotRendered, NotUploaded, Standing};

/// One run of a job on this node. Names what belongs to it; what comes for an older one is not heard any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RunId(pub u64);

/// What the node hears.
#[derive(Debug)]
pub enum Event {
    LinkUp(PeerId),
    LinkDown(PeerId),
    /// `None`: no answer came.
    Registered {
        from: PeerId,
        sent_at: Monotonic,
        reported: Option<AttemptRef>,
        answer: Option<Registered>,
    },
    BeatAnswered {
        from: PeerId,
        sent_at: Monotonic,
        reported: Option<AttemptRef>,
        answer: Option<BeatAnswer>,
    },
    Assigned(Box<Assign>),
    /// `keep`: it goes on elsewhere.
    StopAsked {
        at: AttemptRef,
        keep: bool,
    },
    /// What the leader of this term thinks will come next.
    Hinted {
        epoch: Epoch,
        next: Box<Prefetch>,
    },
    /// The run is this far.
    Moved {
        run: RunId,
        standing: Standing,
    },
    /// The run has left the engine: its files lie ready here, or never will.
    Rendered {
        run: RunId,
        result: Result<Clip, NotRendered>,
    },
    /// Nothing more of the run's checkpoints goes to the store, where this one lies.
    Left {
        run: RunId,
        checkpoint: Option<CheckpointFile>,
    },
    TargetsAnswered {
        run: RunId,
        answer: Option<UploadTargetsAnswer>,
    },
    /// Bytes of the run's files go out, or wait for the store.
    StillUploading {
        run: RunId,
    },
    Uploaded {
        run: RunId,
        /// How long it took, in ms.
        result: Result<f64, NotUploaded>,
    },
    EndedAnswered {
        run: RunId,
        answer: Option<EndedAnswer>,
    },
    /// The link says that a newer process of this node is known.
    Replaced,
    /// The leader takes this node's link no more, and says what to do about it.
    Refused(Rule),
    /// The program shall end in order.
    Close,
    /// It ends now, however far its job is: the leader need not wait for the lease, nor take the node for dead.
    Abandon,
    Tick,
}

/// What shall happen, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Register {
        to: PeerId,
        running: Option<AttemptRef>,
    },
    Beat {
        to: PeerId,
        seq: u64,
        running: Option<AttemptRef>,
        is_closing: bool,
    },
    /// Answers the assignment that was just handed in.
    AnswerAssign(AssignAnswer),
    /// Answers the stop that was just handed in.
    AnswerStop(bool),
    Start {
        run: RunId,
        assign: Box<Assign>,
    },
    /// Brings these adapters near, instead of those of the last hint.
    Prefetch(Box<Prefetch>),
    Pause(RunId),
    Resume(RunId),
    /// Lets the run end at its next boundary and keep what is done; its end is still heard.
    Keep(RunId),
    /// Lets the run end at its next boundary; its end is still heard, and nothing that it made is wanted.
    Stop(RunId),
    /// Lets the run end at its next boundary and drops everything that it made.
    Forget(RunId),
    SendProgress {
        to: PeerId,
        progress: Progress,
    },
    AskTargets {
        to: PeerId,
        run: RunId,
        question: UploadTargets,
    },
    Upload {
        run: RunId,
        targets: Vec<Target>,
    },
    Tell {
        to: PeerId,
        run: RunId,
        ended: Box<Ended>,
    },
    End(Ending),
}

/// Why the node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was told to and has nothing left to do.
    Closed,
    /// A newer process of this node is known to the farm.
    Replaced,
    /// The farm takes it no more.
    Refused(Rule),
    /// A job that was to stop did not leave the engine in its time: it hangs, and only a new process has another.
    EngineHung,
}

/// A clip that lies ready on the node.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    pub files: Vec<ReadyFile>,
    /// Complete but for the time of the upload and the term under which it ends.
    pub manifest: Box<Manifest>,
}
