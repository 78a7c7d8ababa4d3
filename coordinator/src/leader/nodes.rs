//! What nodes say, and what they are told.

use flowai_actors::clock::Monotonic;
use flowai_actors::credits::StepsDone;
use flowai_actors::ids::{Generation, GpuSeconds, JobId, NodeId};
use flowai_actors::limits::{ARTEFACT_BYTES_MAX, SIDE_PX_MAX, SIDE_PX_MIN};
use flowai_actors::manifest::{Manifest, StageTimings};
use flowai_actors::messages::{
    ArtefactFile, AttemptRef, Beat, BeatAnswer, Ended, EndedAnswer, Holding, Live, LiveState,
    Outcome, Phase, Progress, ReadyFile, Register, Registered, UploadTargets, UploadTargetsAnswer,
    Verdict,
};
#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};
use flowai_store::journal::{Artefact, Keyframe};

use super::event::{Answer, Effect, NotDelivered, NotDispatched, ReplyId};
use super::state::{Announced, State, end_of};
use crate::scheduler::{AttemptEnd, Event as Heard, Holds, NodeOffer, Ran, Readiness};

/// Beats in a row without the job that the node took: one may have been sent before it took it.
const UNNAMED_BEATS_MAX: u32 = 2;
/// Of a node's words that are stored and shown.
const DETAIL_CHARS_MAX: usize = 2_000;

impl State {
    pub(super) fn admitted(
        &mut self,
        now: Monotonic,
        reply: ReplyId,
        register: Register,
        result: Result<(), Generation>,
        effects: &mut Vec<Effect>,
    ) {
        let (node, generation) = (register.node.clone(), register.generation);
        let newer = result
            .err()
            .or_else(|| self.scheduler.newer_generation(&node, generation));
        if let Some(held) = newer {
            let answer = Answer::Registered(Registered::Fenced { held });
            effects.push(Effect::Answer(reply, answer));
            return;
        }
        let running = register.running;
        // What it said then is not so any more: it may have been given a job since.
        if self.registry.has_overtaken(&register, reply) {
            let answer = self.welcome(&node, generation, running);
            effects.push(Effect::Answer(reply, answer));
            return;
        }
        // What was given to it when its question was here already is not in that.
        let works_on = running.or_else(|| self.given_since(&node, generation, reply));
        let offer = NodeOffer {
            node: node.clone(),
            generation,
            models: register
                .models
                .iter()
                .map(|offer| offer.id.clone())
                .collect(),
            device_class: register.device_class.clone(),
            memory_bytes: register.memory_bytes,
            running: works_on.map(|at| (at.job, at.attempt)),
        };
        tracing::info!(%node, %generation, models = offer.models.len(), ?running, "node registers");
        self.registry.registered(register, reply, now);
        self.take_back_untold(now, &node, generation, effects);
        self.step(now, Heard::NodeRegistered(offer), effects);

        let verdict = self.verdict(&node, generation, running);
        if let Some(at) = running.filter(|_| verdict == Verdict::GoOn) {
            if let Some(held) = self.held.get_mut(&at.job) {
                held.heard_at = now;
            }
            let is_adopted = self.adopt(at.job);
            if self.stop_wanted(at.job).is_some() {
                effects.extend(self.stop(at.job));
            }
            if is_adopted {
                self.welcomes.insert((at.job, at.attempt), reply);
                return;
            }
        }
        let answer = self.welcome(&node, generation, running);
        effects.push(Effect::Answer(reply, answer));
    }

    /// What this process was given when its question was here already.
    fn given_since(
        &self,
        node: &NodeId,
        generation: Generation,
        reply: ReplyId,
    ) -> Option<AttemptRef> {
        let (job, _) = self.scheduler.running_on(node)?;
        let held = self.held.get(&job)?;
        let is_its_own = held.holding.node == *node && held.holding.generation == generation;
        let is_since = held.given_after.is_some_and(|after| after >= reply);
        (is_its_own && is_since).then_some(held.holding.at)
    }

    fn welcome(
        &self,
        node: &NodeId,
        generation: Generation,
        running: Option<AttemptRef>,
    ) -> Answer {
        Answer::Registered(Registered::Welcome {
            epoch: self.epoch,
            running: self.verdict(node, generation, running),
        })
    }

    /// What this term gave to an older process and no process has said that it takes: its end is no death of a job.
    fn take_back_untold(
        &mut self,
        now: Monotonic,
        node: &NodeId,
        generation: Generation,
        effects: &mut Vec<Effect>,
    ) {
        let untold: Vec<AttemptRef> = self
            .held
            .values()
            .filter(|held| !held.is_dispatched && held.holding.at.epoch == self.epoch)
            .filter(|held| held.holding.node == *node && held.holding.generation < generation)
            .map(|held| held.holding.at)
            .collect();
        for AttemptRef { job, attempt, .. } in untold {
            self.step(now, Heard::NotTaken { job, attempt }, effects);
        }
    }

    pub(super) fn beat(
        &mut self,
        now: Monotonic,
        reply: ReplyId,
        beat: Beat,
        effects: &mut Vec<Effect>,
    ) {
        let (node, generation, running) = (beat.node.clone(), beat.generation, beat.running);
        #[cfg(feature = "planted-bugs")]
        let generation = match self.registry.generation(&node) {
            Some(held) if planted::is(Bug::GhostLease) => held,
            _ => generation,
        };
        let answer = match self.registry.generation(&node) {
            Some(held) if held > generation => BeatAnswer::Fenced { held },
            Some(_) if self.scheduler.is_live(&node, generation) => {
                let verdict = self.verdict(&node, generation, running);
                let holds = holds(&beat);
                let readiness = match verdict {
                    _ if beat.is_closing => Readiness::Closing,
                    Verdict::Drop => Readiness::Doubtful,
                    Verdict::Idle | Verdict::GoOn => Readiness::Ready,
                };
                if self.registry.beat(beat, now) {
                    let heard = Heard::Beat {
                        node: node.clone(),
                        generation,
                        readiness,
                        holds: Some(holds),
                    };
                    self.step(now, heard, effects);
                    self.compare_beat(now, &node, running, effects);
                    effects.extend(self.foretell(&node));
                }
                BeatAnswer::Renewed {
                    epoch: self.epoch,
                    running: verdict,
                }
            }
            _ => BeatAnswer::Unknown,
        };
        effects.push(Effect::Answer(reply, Answer::Beat(answer)));
    }

    /// What the node works on against what it was given. Either word may have been lost.
    fn compare_beat(
        &mut self,
        now: Monotonic,
        node: &NodeId,
        running: Option<AttemptRef>,
        effects: &mut Vec<Effect>,
    ) {
        let Some((job, attempt)) = self.scheduler.running_on(node) else {
            return;
        };
        let is_named = running.is_some_and(|at| (at.job, at.attempt) == (job, attempt));
        if is_named && self.stop_wanted(job).is_some() {
            effects.extend(self.stop(job));
        }
        let is_ending = self.ending.contains_key(&(job, attempt));
        if is_named && let Some(held) = self.held.get_mut(&job) {
            held.is_heard = true;
        }
        let Some(held) = self.held.get_mut(&job).filter(|held| held.is_dispatched) else {
            return;
        };
        if is_named || is_ending {
            held.unnamed_beats = 0;
            return;
        }
        held.unnamed_beats += 1;
        if held.unnamed_beats >= UNNAMED_BEATS_MAX {
            self.step(now, Heard::NotTaken { job, attempt }, effects);
        }
    }

    /// What the node should bring near while its present job runs.
    fn foretell(&mut self, node: &NodeId) -> Option<Effect> {
        let scheduler = &self.scheduler;
        let next = || scheduler.next_on(node);
        let job = self.registry.foretell(node, scheduler.revision(), next)?;
        Some(Effect::Foretell {
            node: node.clone(),
            job,
            models: self.models_on(node, job)?,
        })
    }

    fn verdict(
        &self,
        node: &NodeId,
        generation: Generation,
        running: Option<AttemptRef>,
    ) -> Verdict {
        let Some(at) = running else {
            return Verdict::Idle;
        };
        let is_ending = self.ending.contains_key(&(at.job, at.attempt));
        if is_ending
            || self
                .scheduler
                .is_holder(node, generation, at.job, at.attempt)
        {
            Verdict::GoOn
        } else {
            Verdict::Drop
        }
    }

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
            } => AttemptEnd::Failed {
                code: printable(&code),
                detail: printable(&detail),
                retryable,
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
                };
                self.step(now, end_of(&held, end), effects);
            }
        }
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
    fn has_keyframe(&self, job: JobId) -> bool {
        let models = self.scheduler.models_of(job);
        models.is_some_and(|(_, keyframe)| keyframe.is_some())
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

    /// Whether its node has said anything of this attempt.
    fn is_worked_on(&self, held: &Holding) -> bool {
        let known = self.held.get(&held.at.job);
        self.is_held(held) && known.is_some_and(|known| known.is_heard)
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
            Err(NotDispatched::Impossible(detail)) => {
                let end = AttemptEnd::Failed {
                    code: "inputs_missing".to_owned(),
                    detail,
                    retryable: false,
                };
                self.step(now, end_of(&held, end), effects);
            }
        }
    }
}

/// What the node has at hand, by its own word.
fn holds(beat: &Beat) -> Holds {
    let tiers = &beat.adapters;
    let fused = tiers.fused.as_ref();
    let used = fused.into_iter().flat_map(|state| &state.adapters);
    Holds {
        model: fused.map(|state| state.model.clone()),
        fused: used.map(|adapter| adapter.sha256).collect(),
        near: tiers
            .host
            .adapters
            .iter()
            .chain(&beat.held_adapters)
            .copied()
            .collect(),
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

/// PostgreSQL takes no NUL, and a terminal no control characters.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(DETAIL_CHARS_MAX)
        .collect()
}
