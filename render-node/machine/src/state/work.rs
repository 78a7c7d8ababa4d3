//! The job that the node has, from its assignment to the answer to its end.

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Epoch, ModelId, Sha256};
use flowai_actors::limits::CLIP_PATIENCE_MS;
use flowai_actors::messages::{
    Assign, AssignAnswer, EndedAnswer, FirstFrameSource, Outcome, Prefetch, UploadTargetsAnswer,
};
#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};

use super::{RETRY_MS, State};
use crate::attempt::{Asking, Job, Stage, UploadTries};
use crate::event::{Clip, Effect, RunId};
use crate::failure::{FailureCode, JobFailure};
use crate::leaving::Leaving;
use crate::run::{NotRendered, NotUploaded};

/// Rounds of upload targets for one clip that the store refuses: it may be the leader's clock for a moment, and a render is dear, but
/// URLs that are never good are not a matter of waiting.
const REFUSED_ROUNDS_MAX: u32 = 6;
/// After the first of them; twice as long after each other one.
const REFUSED_PAUSE_MS: u64 = 1_000;

impl State {
    pub(super) fn assigned(
        &mut self,
        now: Monotonic,
        assign: Box<Assign>,
        effects: &mut Vec<Effect>,
    ) {
        let at = assign.at;
        let refused = |reason: &str| AssignAnswer::Refused {
            reason: reason.to_owned(),
        };
        if let Some(job) = self.job_of(at) {
            job.at.epoch = job.at.epoch.max(at.epoch);
            effects.push(Effect::AnswerAssign(AssignAnswer::Accepted));
            return;
        }
        let answer = match self.running() {
            _ if at.epoch < self.epoch => refused("assigned under a term that has ended"),
            _ if self.ended.contains(&(at.job, at.attempt)) => {
                refused("this attempt has ended here")
            }
            Some(with) => AssignAnswer::Busy { with },
            None if self.closing.is_some() => refused("node is shutting down"),
            None if !models(&assign).all(|(model, sha256)| self.offers(model, sha256)) => {
                refused("this node has no such model, or other files under its name")
            }
            None => {
                self.epoch = at.epoch;
                self.runs += 1;
                let run = RunId(self.runs);
                self.job = Some(Job::new(now, run, &assign));
                effects.push(Effect::AnswerAssign(AssignAnswer::Accepted));
                effects.push(Effect::Start { run, assign });
                return;
            }
        };
        effects.push(Effect::AnswerAssign(answer));
    }

    /// A hint gives no right to work and changes nothing that a job needs.
    pub(super) fn hinted(&mut self, epoch: Epoch, next: Box<Prefetch>, effects: &mut Vec<Effect>) {
        let mut stages = next.stages.iter();
        let is_offered = stages.all(|stage| self.offers(&stage.model, stage.model_sha256));
        let is_news = self.hinted != Some(next.job);
        if epoch >= self.epoch && is_offered && is_news && self.closing.is_none() {
            self.hinted = Some(next.job);
            effects.push(Effect::Prefetch(next));
        }
    }

    /// `keep`: what is done is wanted, and goes on elsewhere. A clip that is complete needs no engine: it is delivered.
    pub(super) fn stop(&mut self, now: Monotonic, keep: bool, effects: &mut Vec<Effect>) {
        let Some(job) = self.job.as_mut() else {
            return;
        };
        job.is_dropped |= !keep;
        let keeps = !job.is_dropped;
        match job.stage {
            Stage::Rendering => {
                let leaving = Leaving::new(now, job.run, job.at, &job.pace);
                self.leaving.get_or_insert(leaving);
                effects.push(match keeps {
                    true => Effect::Keep(job.run),
                    false => Effect::Stop(job.run),
                });
            }
            Stage::Placing { .. } | Stage::Uploading { .. } | Stage::Keeping if keeps => {}
            Stage::Uploading { .. } => effects.push(Effect::Stop(job.run)),
            Stage::Placing { .. } => job.tell(now, Outcome::Stopped { checkpoint: None }),
            Stage::Keeping => {
                effects.push(Effect::Stop(job.run));
                job.tell(now, Outcome::Stopped { checkpoint: None });
            }
            // Too late: a stop destroys nothing that has ended.
            Stage::Telling { .. } => {}
        }
    }

    pub(super) fn rendered(
        &mut self,
        now: Monotonic,
        run: RunId,
        result: Result<Clip, NotRendered>,
    ) {
        if self.leaving.take_if(|leaving| leaving.run == run).is_some() {
            self.say_free(now);
        }
        let Some(job) = self.job_in(run).filter(|job| job.is_rendering()) else {
            return;
        };
        match result {
            Ok(_) if job.is_dropped => job.tell(now, Outcome::Stopped { checkpoint: None }),
            Ok(clip) => job.place(now, clip, UploadTries::new(now)),
            Err(NotRendered::Stopped) => job.stopped(now),
            Err(NotRendered::Failed(failure)) => job.tell(now, failure.into()),
        }
    }

    pub(super) fn targets_answered(
        &mut self,
        now: Monotonic,
        run: RunId,
        answer: Option<UploadTargetsAnswer>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(job) = self.job_in(run) else {
            return;
        };
        let Stage::Placing { clip, tries, ask } = &mut job.stage else {
            return;
        };
        match answer {
            #[cfg(feature = "planted-bugs")]
            Some(UploadTargetsAnswer::Targets { .. }) if planted::is(Bug::PublishBeforeUpload) => {
                let manifest = clip.manifest.clone();
                let outcome = Outcome::Rendered {
                    clip_sha256: manifest.clip_sha256,
                    clip_bytes: manifest.clip_bytes,
                    manifest,
                };
                job.tell(now, outcome);
            }
            Some(UploadTargetsAnswer::Targets { targets }) => {
                job.stage = Stage::Uploading {
                    clip: clip.clone(),
                    tries: *tries,
                };
                effects.push(Effect::Upload { run, targets });
            }
            Some(UploadTargetsAnswer::Stale) => self.forget(now, effects),
            Some(UploadTargetsAnswer::Refused { reason }) => {
                job.tell(
                    now,
                    JobFailure::new(FailureCode::UploadRefused, reason).into(),
                );
            }
            None => *ask = Asking::At(now.plus_ms(RETRY_MS)),
        }
    }

    pub(super) fn uploaded(
        &mut self,
        now: Monotonic,
        run: RunId,
        result: Result<f64, NotUploaded>,
    ) {
        let Some(job) = self.job_in(run) else {
            return;
        };
        let Stage::Uploading { clip, tries } = &mut job.stage else {
            return;
        };
        match result {
            Ok(upload_ms) => {
                let mut manifest = clip.manifest.clone();
                manifest.timings_ms.upload = upload_ms;
                let outcome = Outcome::Rendered {
                    clip_sha256: manifest.clip_sha256,
                    clip_bytes: manifest.clip_bytes,
                    manifest,
                };
                job.tell(now, outcome);
            }
            Err(NotUploaded::Stopped) => job.tell(now, Outcome::Stopped { checkpoint: None }),
            Err(NotUploaded::Expired(reason)) => {
                tries.refused += 1;
                let (clip, tries) = (clip.clone(), *tries);
                if tries.refused < REFUSED_ROUNDS_MAX {
                    let pause_ms = REFUSED_PAUSE_MS << (tries.refused - 1);
                    return job.place(now.plus_ms(pause_ms), clip, tries);
                }
                job.tell(
                    now,
                    JobFailure::new(FailureCode::UploadFailed, reason).into(),
                );
            }
            Err(NotUploaded::Unreachable(failure)) => {
                let (clip, tries) = (clip.clone(), *tries);
                if now < tries.since.plus_ms(CLIP_PATIENCE_MS) {
                    return job.place(now, clip, tries);
                }
                job.tell(now, failure.into());
            }
            Err(NotUploaded::Failed(failure)) => job.tell(now, failure.into()),
        }
    }

    pub(super) fn ended_answered(
        &mut self,
        now: Monotonic,
        run: RunId,
        answer: Option<EndedAnswer>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(job) = self.job_in(run) else {
            return;
        };
        match (answer, &mut job.stage) {
            (Some(EndedAnswer::Settled | EndedAnswer::Stale), _) => self.forget(now, effects),
            (None, Stage::Telling { ask, .. }) => *ask = Asking::At(now.plus_ms(RETRY_MS)),
            (None, _) => {}
        }
    }

    fn offers(&self, model: &ModelId, sha256: Sha256) -> bool {
        self.models.get(model) == Some(&sha256)
    }
}

/// The models that the job needs, with the hash of each.
fn models(assign: &Assign) -> impl Iterator<Item = (&ModelId, Sha256)> {
    let of_keyframe = match &assign.first_frame {
        FirstFrameSource::Image(_) => None,
        FirstFrameSource::Keyframe { model_sha256, .. } => Some(*model_sha256),
    };
    let keyframe = assign.spec.keyframe().zip(of_keyframe);
    let keyframe = keyframe.map(|(keyframe, sha256)| (&keyframe.model, sha256));
    std::iter::once((&assign.spec.model, assign.model_sha256)).chain(keyframe)
}
