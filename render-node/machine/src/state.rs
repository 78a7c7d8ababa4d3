//! What the node believes and does next: pure, the time comes with each event.
//!
//! One job at a time. The leader's word about it comes with each answered beat: go on (and under which term), or drop it.
//! Without an answered beat for [`NODE_SELF_STOP_MS`] the job pauses at its next step boundary, before the leader may give
//! it to another node, and goes on only when a leader says so. That saves this GPU's work across a change of leader;
//! correctness does not rest on it, because whatever a node says about an attempt is compared with the database.
//!
//! A job that was dropped or stopped has the engine until its next boundary. Until then the node reports it as running, so
//! that the leader gives it no other, and says `Busy` to one that comes nevertheless; a job behind a hung engine would wait
//! for its end and lose a try.

use std::collections::{BTreeMap, VecDeque};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, ModelId, NodeId, Sha256};
use flowai_actors::limits::{CLIP_PATIENCE_MS, NODE_BEAT_MS, NODE_SELF_STOP_MS};
use flowai_actors::link::PeerId;
use flowai_actors::messages::{
    Assign, AssignAnswer, AttemptRef, BeatAnswer, EndedAnswer, FirstFrameSource, Outcome, Prefetch,
    Registered, UploadTargetsAnswer, Verdict,
};
#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};

use crate::attempt::{Asking, Job, Stage, UploadTries};
use crate::event::{Clip, Effect, Ending, Event, RunId};
use crate::failure::{FailureCode, JobFailure};
use crate::farewell::Farewell;
use crate::leaving::Leaving;
use crate::run::{NotRendered, NotUploaded};

/// A question that found no answer is asked again after this.
const RETRY_MS: u64 = 500;
/// Rounds of upload targets for one clip that the store refuses: URLs that are never good are not a matter of waiting.
const REFUSED_ROUNDS_MAX: u32 = 3;
/// Attempts that ended here and whose late copies must not start them again.
const ENDED_REMEMBERED: usize = 64;

#[derive(Debug)]
pub struct State {
    node: NodeId,
    generation: Generation,
    leader: Leader,
    /// The newest term heard of.
    epoch: Epoch,
    /// When the newest answered beat was sent: this node's own idea of its lease.
    confirmed_at: Monotonic,
    beats: u64,
    job: Option<Job>,
    /// The engine is taken by this one, which may be the job's run or one that was forgotten.
    leaving: Option<Leaving>,
    runs: u64,
    /// What this node can render.
    models: BTreeMap<ModelId, Sha256>,
    ended: VecDeque<(JobId, Attempt)>,
    /// Of the last hint that was followed.
    hinted: Option<JobId>,
    /// The program ends with its job.
    closing: Option<Farewell>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Leader {
    None,
    /// The link is up, the leader does not know us yet.
    Greeted {
        peer: PeerId,
        ask: Asking,
    },
    Known {
        peer: PeerId,
        next_beat: Monotonic,
    },
}

impl State {
    pub fn new(node: NodeId, generation: Generation, models: BTreeMap<ModelId, Sha256>) -> Self {
        Self {
            node,
            generation,
            leader: Leader::None,
            epoch: Epoch::ZERO,
            confirmed_at: Monotonic::default(),
            beats: 0,
            job: None,
            leaving: None,
            runs: 0,
            models,
            ended: VecDeque::new(),
            hinted: None,
            closing: None,
        }
    }

    /// Who leads, once it knows us.
    pub fn leader(&self) -> Option<&PeerId> {
        match &self.leader {
            Leader::Known { peer, .. } => Some(peer),
            Leader::None | Leader::Greeted { .. } => None,
        }
    }

    /// The term that this node believes in.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The attempt that this node works on, has ended and not yet heard an answer about, or has dropped and not yet got out of
    /// the engine.
    pub fn running(&self) -> Option<AttemptRef> {
        let job = self.job.as_ref().map(|job| job.at);
        job.or_else(|| self.leaving.as_ref().map(|leaving| leaving.at))
    }

    pub fn is_registered(&self) -> bool {
        matches!(self.leader, Leader::Known { .. })
    }

    /// When [`Event::Tick`] is due next.
    pub fn next_due(&self) -> Option<Monotonic> {
        let asking = |ask: &Asking| match ask {
            Asking::Underway => None,
            Asking::At(at) => Some(*at),
        };
        let beat = match &self.leader {
            Leader::None => None,
            Leader::Greeted { ask, .. } => asking(ask),
            Leader::Known { next_beat, .. } => Some(*next_beat),
        };
        let job = self.job.as_ref();
        let is_known = self.is_registered();
        let question = job.filter(|_| is_known).and_then(|job| match &job.stage {
            Stage::Placing { ask, .. } | Stage::Telling { ask, .. } => asking(ask),
            Stage::Rendering | Stage::Uploading { .. } | Stage::Keeping => None,
        });
        let progress = job
            .filter(|job| is_known && !job.is_told)
            .map(Job::progress_due);
        let pause = job
            .filter(|job| job.can_pause())
            .map(|_| self.confirmed_at.plus_ms(NODE_SELF_STOP_MS));
        let leaving = self.leaving.as_ref().and_then(|leaving| leaving.by);
        let farewell = self.closing.as_ref().filter(|_| job.is_none());
        let farewell = farewell.map(Farewell::until);
        [beat, question, progress, pause, leaving, farewell]
            .into_iter()
            .flatten()
            .min()
    }

    pub fn apply(&mut self, now: Monotonic, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::LinkUp(peer) => {
                self.leader = Leader::Greeted {
                    peer,
                    ask: Asking::At(now),
                };
            }
            Event::LinkDown(peer) => {
                if self.leader.peer() == Some(&peer) {
                    self.leader = Leader::None;
                }
            }
            Event::Registered {
                from,
                sent_at,
                reported,
                answer,
            } => self.registered(now, &from, sent_at, reported, answer, &mut effects),
            Event::BeatAnswered {
                from,
                sent_at,
                reported,
                answer,
            } => self.beat_answered(now, &from, sent_at, reported, answer, &mut effects),
            Event::Assigned(assign) => self.assigned(now, assign, &mut effects),
            Event::StopAsked { at, keep } => {
                let is_mine = self.job_of(at).is_some();
                if is_mine {
                    self.stop(now, keep, &mut effects);
                }
                effects.push(Effect::AnswerStop(is_mine));
            }
            Event::Hinted { epoch, next } => self.hinted(epoch, next, &mut effects),
            Event::Moved { run, standing } => {
                if let Some(job) = self.job_in(run) {
                    job.moved(now, standing);
                }
            }
            Event::Rendered { run, result } => self.rendered(now, run, result),
            Event::Left { run, checkpoint } => {
                if let Some(job) = self.job_in(run) {
                    job.left(now, checkpoint);
                }
            }
            Event::TargetsAnswered { run, answer } => {
                self.targets_answered(now, run, answer, &mut effects);
            }
            Event::StillUploading { run } => {
                if let Some(job) = self.job_in(run) {
                    job.still_uploading();
                }
            }
            Event::Uploaded { run, result } => self.uploaded(now, run, result),
            Event::EndedAnswered { run, answer } => {
                self.ended_answered(now, run, answer, &mut effects);
            }
            Event::Replaced => self.leave(now, Ending::Replaced, &mut effects),
            Event::Refused(rule) => self.leave(now, Ending::Refused(rule), &mut effects),
            Event::Close => {
                self.stop(now, true, &mut effects);
                self.close(now);
            }
            Event::Abandon => {
                if let Some(job) = &mut self.job {
                    job.abandon(now);
                }
            }
            Event::Tick => {}
        }
        self.do_what_is_due(now, &mut effects);
        if self.has_closed(now) {
            effects.push(Effect::End(Ending::Closed));
        }
        effects
    }

    fn registered(
        &mut self,
        now: Monotonic,
        from: &PeerId,
        sent_at: Monotonic,
        reported: Option<AttemptRef>,
        answer: Option<Registered>,
        effects: &mut Vec<Effect>,
    ) {
        if self.leader.peer() != Some(from) {
            return;
        }
        match answer {
            Some(Registered::Welcome { epoch, running }) => {
                self.leader = Leader::Known {
                    peer: from.clone(),
                    next_beat: now.plus_ms(NODE_BEAT_MS),
                };
                self.confirmed(now, sent_at, epoch, reported, running, effects);
                // This leader has not heard of it.
                if self.closing.take().is_some() {
                    self.close(now);
                }
            }
            Some(Registered::Fenced { .. }) => self.leave(now, Ending::Replaced, effects),
            None => {
                self.leader = Leader::Greeted {
                    peer: from.clone(),
                    ask: Asking::At(now.plus_ms(RETRY_MS)),
                };
            }
        }
    }

    fn beat_answered(
        &mut self,
        now: Monotonic,
        from: &PeerId,
        sent_at: Monotonic,
        reported: Option<AttemptRef>,
        answer: Option<BeatAnswer>,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_registered() || self.leader.peer() != Some(from) {
            return;
        }
        match answer {
            Some(BeatAnswer::Renewed { epoch, running }) => {
                if let Some(farewell) = &mut self.closing {
                    farewell.answered(sent_at);
                }
                self.confirmed(now, sent_at, epoch, reported, running, effects);
            }
            Some(BeatAnswer::Unknown) => {
                self.leader = Leader::Greeted {
                    peer: from.clone(),
                    ask: Asking::At(now),
                };
            }
            Some(BeatAnswer::Fenced { .. }) => self.leave(now, Ending::Replaced, effects),
            None => {}
        }
    }

    /// A leader of this term knows us, and says what becomes of what we reported.
    fn confirmed(
        &mut self,
        now: Monotonic,
        sent_at: Monotonic,
        epoch: Epoch,
        reported: Option<AttemptRef>,
        verdict: Verdict,
        effects: &mut Vec<Effect>,
    ) {
        // An answer of an earlier term is a ghost.
        if epoch < self.epoch {
            return;
        }
        self.epoch = epoch;
        self.confirmed_at = self.confirmed_at.max(sent_at);
        let Some(job) = reported.and_then(|at| self.job_of(at)) else {
            return;
        };
        match verdict {
            Verdict::GoOn => {
                job.at.epoch = epoch;
                if job.is_paused {
                    job.resume(now);
                    effects.push(Effect::Resume(job.run));
                }
            }
            Verdict::Drop => self.forget(now, effects),
            Verdict::Idle => {}
        }
    }

    fn assigned(&mut self, now: Monotonic, assign: Box<Assign>, effects: &mut Vec<Effect>) {
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
    fn hinted(&mut self, epoch: Epoch, next: Box<Prefetch>, effects: &mut Vec<Effect>) {
        let mut stages = next.stages.iter();
        let is_offered = stages.all(|stage| self.offers(&stage.model, stage.model_sha256));
        let is_news = self.hinted != Some(next.job);
        if epoch >= self.epoch && is_offered && is_news && self.closing.is_none() {
            self.hinted = Some(next.job);
            effects.push(Effect::Prefetch(next));
        }
    }

    fn offers(&self, model: &ModelId, sha256: Sha256) -> bool {
        self.models.get(model) == Some(&sha256)
    }

    /// `keep`: what is done is wanted, and goes on elsewhere. A clip that is complete needs no engine: it is delivered.
    fn stop(&mut self, now: Monotonic, keep: bool, effects: &mut Vec<Effect>) {
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

    /// The next beat, which says so, is due at once.
    fn close(&mut self, now: Monotonic) {
        self.closing.get_or_insert_with(|| Farewell::new(now));
        if let Leader::Known { next_beat, .. } = &mut self.leader {
            *next_beat = now;
        }
    }

    fn has_closed(&self, now: Monotonic) -> bool {
        let is_over = |farewell: &Farewell| !self.is_registered() || farewell.is_over(now);
        self.job.is_none() && self.closing.as_ref().is_some_and(is_over)
    }

    fn rendered(&mut self, now: Monotonic, run: RunId, result: Result<Clip, NotRendered>) {
        self.leaving.take_if(|leaving| leaving.run == run);
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

    fn targets_answered(
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

    fn uploaded(&mut self, now: Monotonic, run: RunId, result: Result<f64, NotUploaded>) {
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
                    return job.place(now, clip, tries);
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

    fn ended_answered(
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

    fn leave(&mut self, now: Monotonic, ending: Ending, effects: &mut Vec<Effect>) {
        self.forget(now, effects);
        effects.push(Effect::End(ending));
    }

    /// The attempt is over for this node.
    fn forget(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        let Some(job) = self.job.take() else {
            return;
        };
        if job.is_rendering() {
            let leaving = Leaving::new(now, job.run, job.at, &job.pace);
            // Its stop may have been asked for before: then that time counts.
            self.leaving.get_or_insert(leaving);
        }
        if self.ended.len() == ENDED_REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back((job.at.job, job.at.attempt));
        effects.push(Effect::Forget(job.run));
    }

    fn do_what_is_due(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        let running = self.running();
        match &mut self.leader {
            Leader::None => {}
            Leader::Greeted { peer, ask } => {
                if ask.is_due(now) {
                    *ask = Asking::Underway;
                    effects.push(Effect::Register {
                        to: peer.clone(),
                        running,
                    });
                }
            }
            Leader::Known { peer, next_beat } => {
                if *next_beat <= now {
                    *next_beat = now.plus_ms(NODE_BEAT_MS);
                    self.beats += 1;
                    effects.push(Effect::Beat {
                        to: peer.clone(),
                        seq: self.beats,
                        running,
                        is_closing: self.closing.is_some(),
                    });
                }
            }
        }
        let leaving = self.leaving.as_mut();
        if leaving.is_some_and(|leaving| leaving.is_overdue(now)) {
            effects.push(Effect::End(Ending::EngineHung));
        }
        let lease_is_over = self.confirmed_at.plus_ms(NODE_SELF_STOP_MS) <= now;
        let Some(job) = self.job.as_mut() else {
            return;
        };
        if lease_is_over && job.can_pause() {
            job.is_paused = true;
            effects.push(Effect::Pause(job.run));
        }
        if let Leader::Known { peer, .. } = &self.leader {
            job.speak(now, peer, &self.node, self.generation, effects);
        }
    }

    /// The job when it is this attempt, whatever the term.
    fn job_of(&mut self, at: AttemptRef) -> Option<&mut Job> {
        let is_same = |job: &&mut Job| (job.at.job, job.at.attempt) == (at.job, at.attempt);
        self.job.as_mut().filter(is_same)
    }

    fn job_in(&mut self, run: RunId) -> Option<&mut Job> {
        self.job.as_mut().filter(|job| job.run == run)
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

impl Leader {
    fn peer(&self) -> Option<&PeerId> {
        match self {
            Self::None => None,
            Self::Greeted { peer, .. } | Self::Known { peer, .. } => Some(peer),
        }
    }
}
