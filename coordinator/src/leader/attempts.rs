//! What nodes say of the attempts that they hold, while they work on them.

use flowai_actors::clock::Monotonic;
use flowai_actors::credits::StepsDone;
use flowai_actors::ids::{JobId, NodeId};
use flowai_actors::limits::ARTEFACT_BYTES_MAX;
use flowai_actors::messages::{
    ArtefactFile, Holding, Live, LiveState, Phase, Progress, ReadyFile, UploadTargets,
    UploadTargetsAnswer,
};

use super::event::{Answer, Effect, NotDispatched, ReplyId};
use super::state::{Announced, State, end_of};
use crate::scheduler::{AttemptEnd, Event as Heard};

impl State {
    pub(super) fn progress(
        &mut self,
        now: Monotonic,
        node: &NodeId,
        progress: &Progress,
        effects: &mut Vec<Effect>,
    ) {
        let at = progress.at;
        let Some(held) = self.held.get_mut(&at.job) else {
            return;
        };
        if held.holding.node != *node || held.holding.at.attempt != at.attempt {
            return;
        }
        (held.heard_at, held.is_heard) = (now, true);
        // Steps of the picture that comes before the clip are no steps of the clip.
        if progress.phase != Phase::Keyframe {
            held.steps = Some(StepsDone {
                done: progress.step,
                total: progress.steps,
            });
        }
        if progress.phase == Phase::Denoising {
            let (step, steps) = (progress.step, progress.steps);
            let heard = Heard::Progressed {
                job: at.job,
                attempt: at.attempt,
                step,
                steps,
            };
            self.step(now, heard, effects);
        }
        let Some(user) = self.scheduler.owner_of(at.job) else {
            return;
        };
        if self.apis.is_empty() {
            return;
        }
        effects.push(self.tell(Live {
            user,
            job: at.job,
            live: LiveState::Progress {
                attempt: at.attempt,
                phase: progress.phase,
                step: progress.step,
                steps: progress.steps,
                left_s: progress.left_s,
            },
        }));
    }

    pub(super) fn dispatched(
        &mut self,
        now: Monotonic,
        held: Holding,
        result: Result<(), NotDispatched>,
        effects: &mut Vec<Effect>,
    ) {
        let (job, attempt) = (held.at.job, held.at.attempt);
        let is_held = self.is_held(&held);
        match result {
            Ok(()) if !is_held => effects.push(Effect::Stop {
                node: held.node,
                at: held.at,
                keep: false,
            }),
            Ok(()) => {
                if let Some(held) = self.held.get_mut(&job) {
                    held.is_dispatched = true;
                    held.heard_at = now;
                }
                if self.stop_wanted(job).is_some() {
                    effects.extend(self.stop(job));
                }
            }
            // It did: only its answer was lost.
            Err(NotDispatched::NotTaken(_)) if self.is_worked_on(&held) => {
                self.dispatched(now, held, Ok(()), effects);
            }
            Err(NotDispatched::NotTaken(reason)) => {
                tracing::warn!(at = ?held.at, node = %held.node, reason, "node did not take the job");
                self.step(now, Heard::NotTaken { job, attempt }, effects);
            }
            Err(NotDispatched::NotRead(reason)) => {
                tracing::warn!(at = ?held.at, reason, "a job was given to nobody");
                self.step(now, Heard::NotGiven { job, attempt }, effects);
            }
            Err(NotDispatched::Impossible(detail)) => {
                let end = AttemptEnd::Impossible {
                    code: "inputs_missing".to_owned(),
                    detail,
                };
                self.step(now, end_of(&held, end), effects);
            }
        }
    }

    /// Whether its node has said anything of this attempt.
    fn is_worked_on(&self, held: &Holding) -> bool {
        let known = self.held.get(&held.at.job);
        self.is_held(held) && known.is_some_and(|known| known.is_heard)
    }

    pub(super) fn targets_asked(
        &mut self,
        reply: ReplyId,
        question: UploadTargets,
        effects: &mut Vec<Effect>,
    ) {
        let held = Holding {
            at: question.at,
            node: question.node.clone(),
            generation: question.generation,
        };
        if !self.is_held(&held) {
            tracing::info!(at = ?held.at, node = %held.node, "stale question for upload targets is refused");
            let answer = Answer::Targets(UploadTargetsAnswer::Stale);
            effects.push(Effect::Answer(reply, answer));
            return;
        }
        effects.push(match self.announce(&question) {
            Ok(()) => Effect::Presign {
                reply,
                at: held.at,
                files: question.files,
            },
            Err(reason) => {
                let answer = UploadTargetsAnswer::Refused { reason };
                Effect::Answer(reply, Answer::Targets(answer))
            }
        });
    }

    /// Remembers what the attempt uploads. A second clip would be told, while the first lies in the store.
    fn announce(&mut self, question: &UploadTargets) -> Result<(), String> {
        let wanted = ArtefactFile::of_render(self.has_keyframe(question.at.job));
        if let Some(other) = question.files.iter().find(|f| !wanted.contains(&f.file)) {
            let name = other.file.file_name();
            return Err(format!("{name} is no file of this render"));
        }
        let mut keyframe = None;
        for file in wanted {
            let ready = announced(&question.files, file)?;
            if file == ArtefactFile::Keyframe {
                keyframe = Some(ready.sha256);
            }
        }
        let clip = announced(&question.files, ArtefactFile::Clip)?.sha256;
        let now = Announced { clip, keyframe };
        let Some(held) = self.held.get_mut(&question.at.job) else {
            return Ok(());
        };
        if *held.announced.get_or_insert(now) != now {
            return Err(
                "another clip or keyframe was announced for this attempt before".to_owned(),
            );
        }
        Ok(())
    }

    /// Whether the first frame of an unfinished job is made from words.
    pub(super) fn has_keyframe(&self, job: JobId) -> bool {
        let models = self.scheduler.models_of(job);
        models.is_some_and(|(_, keyframe)| keyframe.is_some())
    }
}

/// The one file of its kind, of a size that is taken.
fn announced(files: &[ReadyFile], wanted: ArtefactFile) -> Result<&ReadyFile, String> {
    let name = wanted.file_name();
    let mut found = files.iter().filter(|ready| ready.file == wanted);
    match (found.next(), found.next()) {
        (Some(ready), None) if (1..=ARTEFACT_BYTES_MAX).contains(&ready.bytes) => Ok(ready),
        (Some(ready), None) => Err(format!(
            "{name} must have 1 to {ARTEFACT_BYTES_MAX} bytes (got {})",
            ready.bytes
        )),
        _ => Err(format!("{name} must be announced once")),
    }
}
