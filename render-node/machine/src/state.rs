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

mod lease;
mod work;

use std::collections::{BTreeMap, VecDeque};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, ModelId, NodeId, Sha256};
use flowai_actors::limits::{NODE_BEAT_MS, NODE_SELF_STOP_MS};
use flowai_actors::link::PeerId;
use flowai_actors::messages::AttemptRef;

use crate::attempt::{Asking, Job, Stage};
use crate::event::{Effect, Ending, Event, RunId};
use crate::farewell::Farewell;
use crate::leaving::Leaving;

/// A question that found no answer is asked again after this.
const RETRY_MS: u64 = 500;
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

    /// The next beat, which says so, is due at once.
    fn close(&mut self, now: Monotonic) {
        self.closing.get_or_insert_with(|| Farewell::new(now));
        if let Leader::Known { next_beat, .. } = &mut self.leader {
            *next_beat = now;
        }
    }

    /// What was taken from it has left the engine, if it has: the leader gives it nothing before it hears so.
    fn say_free(&mut self, now: Monotonic) {
        let is_free = self.running().is_none();
        if let Leader::Known { next_beat, .. } = &mut self.leader
            && is_free
        {
            *next_beat = now;
        }
    }

    fn has_closed(&self, now: Monotonic) -> bool {
        let is_over = |farewell: &Farewell| !self.is_registered() || farewell.is_over(now);
        self.job.is_none() && self.closing.as_ref().is_some_and(is_over)
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

impl Leader {
    fn peer(&self) -> Option<&PeerId> {
        match self {
            Self::None => None,
            Self::Greeted { peer, .. } | Self::Known { peer, .. } => Some(peer),
        }
    }
}
