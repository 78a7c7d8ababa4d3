//! What the leader may make durable, and how much of it at once.

use std::collections::HashSet;

use flowai_actors::checkpoint::CheckpointFile;
use flowai_actors::credits::StepsDone;
use flowai_actors::ids::{Attempt, JobId, Sha256};
use flowai_actors::limits::JOURNAL_BATCH_MAX;
use flowai_actors::manifest::Manifest;
use flowai_actors::messages::{ArtefactFile, Holding};
use flowai_actors::state::JobState;

/// One durable step of one job. All but the first and the last compare the row with a [`Holding`] and change nothing when it
/// holds something else.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A waiting job gets its next attempt, whose number is one above that of the row. Refused when its owner wants it no more.
    Assign(Holding),
    /// The present term takes over an attempt of an earlier one; `held` names the earlier epoch.
    Adopt(Holding),
    /// The running attempt left a checkpoint on its way.
    Keep {
        held: Holding,
        checkpoint: CheckpointFile,
    },
    /// The clip is delivered: the job's only one (INV-3).
    Settle {
        held: Holding,
        artefact: Box<Artefact>,
    },
    /// The attempt is over and the job waits again.
    Requeue {
        held: Holding,
        outcome: Unfinished,
        reason: String,
        /// From where the next one may go on. Without one that of an earlier attempt stays, unless this attempt failed.
        checkpoint: Option<CheckpointFile>,
    },
    Fail {
        held: Holding,
        code: String,
        detail: String,
    },
    /// Its owner wanted the running job no more, and pays for the steps that were done; for none where they are not known.
    Cancel {
        held: Holding,
        steps: Option<StepsDone>,
    },
    /// Nodes died while they ran it.
    Quarantine { held: Holding, detail: String },
    /// A job that waits after this many attempts was asked to end.
    CancelWaiting { job: JobId, attempt: Attempt },
    /// A job that waits after this many attempts can never start.
    FailWaiting {
        job: JobId,
        attempt: Attempt,
        code: String,
        detail: String,
    },
}

/// How the reason begins of an attempt that was stopped in favour of another job: a new leader counts them, so that no job is
/// stopped more often than its limit (the view `leader_job` in `store/migrations`).
pub const MADE_ROOM: &str = "made room for another job";

/// How an attempt ended that another will follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfinished {
    /// Its node died: counts against the job.
    Lost,
    Failed,
    /// Nobody's fault: stopped in order, or never begun.
    Stopped,
}

/// A delivered clip. Its files lie under [`artefact_key`].
#[derive(Debug, Clone, PartialEq)]
pub struct Artefact {
    pub clip_sha256: Sha256,
    pub clip_bytes: u64,
    /// The picture that was made from words: it becomes one of the owner's.
    pub keyframe: Option<Keyframe>,
    pub manifest: Manifest,
}

/// A delivered keyframe, a PNG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keyframe {
    pub sha256: Sha256,
    pub bytes: u64,
    /// Width and height, px.
    pub size: (u32, u32),
}

/// Where a file of an attempt lies. The attempt is in the key, so that a zombie's upload overwrites nothing that counts.
pub fn artefact_key(job: JobId, attempt: Attempt, file: ArtefactFile) -> String {
    let name = file.file_name();
    match file {
        ArtefactFile::Clip
        | ArtefactFile::Poster
        | ArtefactFile::Preview
        | ArtefactFile::Spritesheet => format!("{}{name}", artefacts_prefix(job, attempt)),
        // Not among the clip's: it outlives the video.
        ArtefactFile::Keyframe => format!("keyframes/{job}/{attempt}/{name}"),
    }
}

/// Where the preview of a step of a running attempt lies.
pub fn preview_key(job: JobId, attempt: Attempt, step: u32) -> String {
    format!("{}step-{step}.webp", artefacts_prefix(job, attempt))
}

/// What the keys of all files of an attempt but its keyframe begin with, and no others.
pub fn artefacts_prefix(job: JobId, attempt: Attempt) -> String {
    format!("{}{attempt}/", clips_prefix(job))
}

/// What the keys of all files of a job but its keyframes begin with, of every attempt.
pub fn clips_prefix(job: JobId) -> String {
    format!("clips/{job}/")
}

impl Change {
    pub fn job(&self) -> JobId {
        match self {
            Self::CancelWaiting { job, .. } | Self::FailWaiting { job, .. } => *job,
            Self::Assign(held) | Self::Adopt(held) => held.at.job,
            Self::Settle { held, .. }
            | Self::Cancel { held, .. }
            | Self::Keep { held, .. }
            | Self::Requeue { held, .. }
            | Self::Fail { held, .. }
            | Self::Quarantine { held, .. } => held.at.job,
        }
    }

    /// Whether nothing follows it.
    pub fn ends_job(&self) -> bool {
        self.next_state().is_end()
    }

    /// The job's state once the change is written.
    pub(super) fn next_state(&self) -> JobState {
        match self {
            Self::Assign(_) | Self::Adopt(_) | Self::Keep { .. } => JobState::Running,
            Self::Settle { .. } => JobState::Done,
            Self::Requeue { .. } => JobState::Queued,
            Self::Fail { .. } | Self::FailWaiting { .. } => JobState::Failed,
            Self::Cancel { .. } | Self::CancelWaiting { .. } => JobState::Cancelled,
            Self::Quarantine { .. } => JobState::Quarantined,
        }
    }
}

/// Changes that go into one transaction: at most [`JOURNAL_BATCH_MAX`], and at most one a job, since those of one job build
/// on each other.
#[derive(Debug, Default)]
pub struct Batch {
    changes: Vec<Change>,
    jobs: HashSet<JobId>,
}

impl Batch {
    /// Gives the change back when it has to wait for the next batch.
    #[expect(
        clippy::result_large_err,
        reason = "it is moved in and out, at most once a batch"
    )]
    pub fn push(&mut self, change: Change) -> Result<(), Change> {
        if self.changes.len() >= JOURNAL_BATCH_MAX || self.jobs.contains(&change.job()) {
            return Err(change);
        }
        self.jobs.insert(change.job());
        self.changes.push(change);
        Ok(())
    }

    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Whether it changes the job.
    pub fn holds(&self, job: JobId) -> bool {
        self.jobs.contains(&job)
    }
}
