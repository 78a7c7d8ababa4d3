//! How nodes say that an attempt ended, and what of that counts.

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::GpuSeconds;
use flowai_actors::limits::{SIDE_PX_MAX, SIDE_PX_MIN};
use flowai_actors::manifest::{Manifest, StageTimings};
use flowai_actors::messages::{Ended, EndedAnswer, Holding, Outcome, Stage};
#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};
use flowai_store::journal::{Artefact, Keyframe};

use super::event::{Effect, NotDelivered, ReplyId};
use super::state::{Announced, State, end_of};
use crate::scheduler::{AttemptEnd, Ran};

/// Of a node's words that are stored and shown.
const DETAIL_CHARS_MAX: usize = 2_000;

impl State {
    pub(super) fn ended(
        &mut self,
        now: Monotonic,
        reply: ReplyId,
        ended: Box<Ended>,
        effects: &mut Vec<Effect>,
    ) {
        let held = holding(&ended);
        let key = (held.at.job, held.at.attempt);
        // Told again before the first time was written.
        if let Some(replies) = self.ending.get_mut(&key) {
            replies.push(reply);
            return;
        }
        if !self.is_held(&held) {
            tracing::info!(at = ?held.at, node = %held.node, "end of an attempt that is not the node's any more");
            effects.push(Effect::LookBack { reply, held });
            return;
        }
        self.ending.insert(key, vec![reply]);
        if let Some(known) = self.held.get_mut(&held.at.job) {
            known.is_heard = true;
        }
        let end = match ended.outcome {
            #[cfg(feature = "planted-bugs")]
            Outcome::Rendered { .. } if planted::is(Bug::PublishBeforeUpload) => {
                return self.verified(now, *ended, Ok(()), effects);
            }
            Outcome::Rendered { .. } => {
                effects.push(Effect::Verify(ended));
                return;
            }
            Outcome::Stopped { checkpoint } => AttemptEnd::Stopped {
                checkpoint: self.checkpoint_left(&held, checkpoint),
            },
            Outcome::Failed {
                code,
                detail,
                retryable,
                stage,
            } => AttemptEnd::Failed {
                code: printable(&code),
                detail: printable(&detail),
                retryable,
                stage,
            },
        };
        self.step(now, end_of(&held, end), effects);
    }

    pub(super) fn verified(
        &mut self,
        now: Monotonic,
        ended: Ended,
        result: Result<(), NotDelivered>,
        effects: &mut Vec<Effect>,
    ) {
        let held = holding(&ended);
        if !self.is_held(&held) {
            tracing::info!(at = ?held.at, node = %held.node, "stale end is refused");
            let key = (held.at.job, held.at.attempt);
            self.answer_ended(key, EndedAnswer::Stale, effects);
            return;
        }
        let artefact = match result {
            // Bounded like the render itself: a job without progress for too long is taken from its node.
            Err(NotDelivered::Unanswered(reason)) => {
                tracing::warn!(at = ?held.at, reason, "clip could not be looked at; its node tells again");
                let key = (held.at.job, held.at.attempt);
                let replies = self.ending.remove(&key).unwrap_or_default();
                effects.extend(replies.into_iter().map(Effect::Decline));
                if self.is_revoked(&held.node) {
                    self.take_back(now, &held.node, effects);
                }
                return;
            }
            Err(NotDelivered::Missing(detail)) => Err(detail),
            Ok(()) => {
                let known = self.held.get(&held.at.job);
                delivered(
                    ended,
                    self.has_keyframe(held.at.job),
                    known.and_then(|known| known.announced),
                )
            }
        };
        match artefact {
            Ok(artefact) => {
                let ran = Some(ran(&artefact.manifest.timings_ms));
                let rendered = end_of(&held, AttemptEnd::Rendered { ran });
                self.step_with(now, rendered, Some(artefact), effects);
            }
            Err(detail) => {
                let end = AttemptEnd::Failed {
                    code: "clip_not_delivered".to_owned(),
                    detail,
                    retryable: true,
                    stage: Stage::Clip,
                };
                self.step(now, end_of(&held, end), effects);
            }
        }
    }
}

/// What of a render's time was the engine's, and what was bringing things to it.
fn ran(timings: &StageTimings) -> Ran {
    let busy_ms =
        timings.prepare + timings.keyframe + timings.denoise + timings.decode + timings.encode_tail;
    Ran {
        busy: GpuSeconds(busy_ms / 1_000.0),
        load: GpuSeconds((timings.fetch + timings.fuse) / 1_000.0),
    }
}

fn holding(ended: &Ended) -> Holding {
    Holding {
        at: ended.at,
        node: ended.node.clone(),
        generation: ended.generation,
    }
}

/// What a rendered attempt delivers, when its manifest is of this very attempt. The store compared what was uploaded with
/// what was announced, and here what is told is: none is another clip. An announcement to an earlier term is not known any
/// more.
fn delivered(
    ended: Ended,
    has_keyframe: bool,
    announced: Option<Announced>,
) -> Result<Box<Artefact>, String> {
    let Outcome::Rendered {
        clip_sha256,
        clip_bytes,
        manifest,
    } = ended.outcome
    else {
        return Err("the node delivered nothing".to_owned());
    };
    if announced.is_some_and(|announced| announced.clip != clip_sha256) {
        return Err("the told clip is not the one that was announced".to_owned());
    }
    let is_its_own = manifest.job == ended.at.job
        && manifest.attempt == ended.at.attempt
        && manifest.node == ended.node
        && manifest.clip_sha256 == clip_sha256
        && manifest.clip_bytes == clip_bytes;
    if !is_its_own {
        return Err("the manifest is not that of this attempt's clip".to_owned());
    }
    let keyframe = delivered_keyframe(&manifest);
    if keyframe.is_some() != has_keyframe {
        return Err("the manifest does not say how the first frame was made".to_owned());
    }
    let told = keyframe.map(|keyframe| keyframe.sha256);
    if announced.is_some_and(|announced| announced.keyframe != told) {
        return Err("the told keyframe is not the one that was announced".to_owned());
    }
    Ok(Box::new(Artefact {
        clip_sha256,
        clip_bytes,
        keyframe,
        manifest: *manifest,
    }))
}

fn delivered_keyframe(manifest: &Manifest) -> Option<Keyframe> {
    let (asked, made) = (manifest.spec.keyframe()?, manifest.keyframe.as_ref()?);
    // The row takes no picture of another size; a job would end by it that another node can render.
    let is_size = |side: &u32| (SIDE_PX_MIN..=SIDE_PX_MAX).contains(side);
    if ![asked.width, asked.height].iter().all(is_size) {
        return None;
    }
    Some(Keyframe {
        sha256: made.sha256,
        bytes: made.bytes,
        size: (asked.width, asked.height),
    })
}

/// PostgreSQL takes no NUL, and a terminal no control characters.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(DETAIL_CHARS_MAX)
        .collect()
}
