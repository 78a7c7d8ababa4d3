//! Changes as the database's function `journal_commit` reads them, in `store/migrations`.

use flowai_actors::checkpoint::CheckpointFile;
use flowai_actors::ids::{JobId, NodeId, Sha256, UploadId};
use flowai_actors::manifest::Manifest;
use flowai_actors::messages::{ArtefactFile, AttemptRef, Holding};
use flowai_actors::state::EventKind;
use serde::Serialize;
use serde_json::{Value, json};

use super::change::{Artefact, Change, Keyframe, Unfinished, artefact_key};
use crate::number::int;

#[derive(Serialize)]
pub(super) struct Record<'a> {
    /// What is done to the job's row, and what that must hold for it.
    step: Step,
    job: JobId,
    attempt: i32,
    #[serde(flatten)]
    holder: Option<Holder<'a>>,
    /// That the row has then.
    state: &'static str,
    #[serde(flatten)]
    end: Option<End<'a>>,
    #[serde(flatten)]
    event: Option<Event>,
    artefact: Option<StoredArtefact<'a>>,
    checkpoint: Option<&'a CheckpointFile>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    Assign,
    Adopt,
    Keep,
    /// Of the attempt that the row holds.
    End,
    EndWaiting,
}

#[derive(Serialize)]
struct Holder<'a> {
    epoch: i32,
    node: &'a NodeId,
    generation: i32,
}

/// How an attempt ended, or a job that waited.
#[derive(Serialize, Default)]
struct End<'a> {
    outcome: Option<&'static str>,
    is_death: bool,
    error: Option<Failure<'a>>,
    detail: Option<&'a str>,
    /// Steps that are paid for although there is no clip.
    done: Option<i32>,
    total: Option<i32>,
}

/// Why a job failed, for its owner.
#[derive(Serialize)]
struct Failure<'a> {
    code: &'a str,
    detail: &'a str,
}

/// What the owner hears.
#[derive(Serialize)]
struct Event {
    event: &'static str,
    data: Value,
}

#[derive(Serialize)]
struct StoredArtefact<'a> {
    sha256: Sha256,
    bytes: u64,
    manifest: &'a Manifest,
    clip: String,
    poster: String,
    preview: String,
    spritesheet: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    keyframe: Option<StoredKeyframe>,
}

#[derive(Serialize)]
struct StoredKeyframe {
    id: UploadId,
    sha256: Sha256,
    bytes: u64,
    content_type: &'static str,
    width: u32,
    height: u32,
    key: String,
}

impl<'a> Record<'a> {
    pub(super) fn of(change: &'a Change) -> Self {
        let (step, attempt, held) = match change {
            Change::Assign(held) => (Step::Assign, held.at.attempt, Some(held)),
            Change::Adopt(held) => (Step::Adopt, held.at.attempt, Some(held)),
            Change::Keep { held, .. } => (Step::Keep, held.at.attempt, Some(held)),
            Change::Settle { held, .. }
            | Change::Requeue { held, .. }
            | Change::Fail { held, .. }
            | Change::Cancel { held, .. }
            | Change::Quarantine { held, .. } => (Step::End, held.at.attempt, Some(held)),
            Change::CancelWaiting { attempt, .. } | Change::FailWaiting { attempt, .. } => {
                (Step::EndWaiting, *attempt, None)
            }
        };
        Self {
            step,
            job: change.job(),
            attempt: int(attempt.get()),
            holder: held.map(Holder::of),
            state: change.next_state().as_str(),
            end: End::of(change),
            event: Event::of(change),
            artefact: match change {
                Change::Settle { held, artefact } => Some(StoredArtefact::of(held.at, artefact)),
                _ => None,
            },
            checkpoint: match change {
                Change::Keep { checkpoint, .. } => Some(checkpoint),
                Change::Requeue { checkpoint, .. } => checkpoint.as_ref(),
                _ => None,
            },
        }
    }
}

impl<'a> Holder<'a> {
    fn of(held: &'a Holding) -> Self {
        Self {
            epoch: int(held.at.epoch.get()),
            node: &held.node,
            generation: int(held.generation.get()),
        }
    }
}

impl<'a> End<'a> {
    fn of(change: &'a Change) -> Option<Self> {
        let end = |outcome| Self {
            outcome: Some(outcome),
            ..Self::default()
        };
        Some(match change {
            Change::Assign(_)
            | Change::Adopt(_)
            | Change::Keep { .. }
            | Change::CancelWaiting { .. } => return None,
            Change::Settle { .. } => end("done"),
            Change::Cancel { steps, .. } => Self {
                done: steps.map(|steps| int(steps.done)),
                total: steps.map(|steps| int(steps.total)),
                ..end("stopped")
            },
            Change::Requeue {
                outcome, reason, ..
            } => Self {
                is_death: *outcome == Unfinished::Lost,
                detail: Some(reason),
                ..end(match outcome {
                    Unfinished::Lost => "lost",
                    Unfinished::Failed => "failed",
                    Unfinished::Stopped => "stopped",
                })
            },
            Change::Fail { code, detail, .. } => Self {
                error: Some(Failure { code, detail }),
                detail: Some(detail),
                ..end("failed")
            },
            Change::FailWaiting { code, detail, .. } => Self {
                error: Some(Failure { code, detail }),
                ..Self::default()
            },
            Change::Quarantine { detail, .. } => Self {
                is_death: true,
                error: Some(Failure {
                    code: "quarantined",
                    detail,
                }),
                detail: Some(detail),
                ..end("lost")
            },
        })
    }
}

impl Event {
    /// Adoption and what is kept on the way change nothing for the owner.
    fn of(change: &Change) -> Option<Self> {
        let (kind, data) = match change {
            Change::Adopt(_) | Change::Keep { .. } => return None,
            Change::Assign(held) => (
                EventKind::Assigned,
                json!({ "attempt": held.at.attempt, "node": held.node }),
            ),
            Change::Settle { held, artefact } => (
                EventKind::Done,
                json!({
                    "attempt": held.at.attempt,
                    "clip_sha256": artefact.clip_sha256,
                    "clip_bytes": artefact.clip_bytes,
                }),
            ),
            Change::Requeue { held, reason, .. } => (
                EventKind::Retrying,
                json!({ "attempt": held.at.attempt, "reason": reason }),
            ),
            Change::Fail { held, code, detail } => (
                EventKind::Failed,
                json!({ "attempt": held.at.attempt, "code": code, "detail": detail }),
            ),
            Change::FailWaiting {
                attempt,
                code,
                detail,
                ..
            } => (
                EventKind::Failed,
                json!({ "attempt": attempt, "code": code, "detail": detail }),
            ),
            Change::Cancel { held, .. } => {
                (EventKind::Cancelled, json!({ "attempt": held.at.attempt }))
            }
            Change::CancelWaiting { attempt, .. } => {
                (EventKind::Cancelled, json!({ "attempt": attempt }))
            }
            Change::Quarantine { held, detail } => (
                EventKind::Quarantined,
                json!({ "attempt": held.at.attempt, "detail": detail }),
            ),
        };
        Some(Self {
            event: kind.as_str(),
            data,
        })
    }
}

impl<'a> StoredArtefact<'a> {
    fn of(at: AttemptRef, artefact: &'a Artefact) -> Self {
        let key = |file| artefact_key(at.job, at.attempt, file);
        Self {
            sha256: artefact.clip_sha256,
            bytes: artefact.clip_bytes,
            manifest: &artefact.manifest,
            clip: key(ArtefactFile::Clip),
            poster: key(ArtefactFile::Poster),
            preview: key(ArtefactFile::Preview),
            spritesheet: key(ArtefactFile::Spritesheet),
            keyframe: artefact.keyframe.map(|keyframe| {
                let Keyframe {
                    sha256,
                    bytes,
                    size: (width, height),
                } = keyframe;
                StoredKeyframe {
                    id: UploadId::generate(),
                    sha256,
                    bytes,
                    content_type: ArtefactFile::Keyframe.content_type(),
                    width,
                    height,
                    key: key(ArtefactFile::Keyframe),
                }
            }),
        }
    }
}
