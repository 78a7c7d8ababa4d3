//! The leader's word: whether this node is known, and whether its job goes on.

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::Epoch;
use flowai_actors::limits::NODE_BEAT_MS;
use flowai_actors::link::PeerId;
use flowai_actors::messages::{AttemptRef, BeatAnswer, Registered, Verdict};

use super::{Leader, RETRY_MS, State};
use crate::attempt::Asking;
use crate::event::{Effect, Ending};

impl State {
    pub(super) fn registered(
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
            // It was a leader, and does not know yet that it is none.
            Some(Registered::Welcome { epoch, .. }) if epoch < self.epoch => {
                self.ask_later(now, from);
            }
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
            None => self.ask_later(now, from),
        }
    }

    fn ask_later(&mut self, now: Monotonic, from: &PeerId) {
        self.leader = Leader::Greeted {
            peer: from.clone(),
            ask: Asking::At(now.plus_ms(RETRY_MS)),
        };
    }

    pub(super) fn beat_answered(
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
    pub(super) fn confirmed(
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
            Verdict::Drop => {
                self.forget(now, effects);
                self.say_free(now);
            }
            Verdict::Idle => {}
        }
    }
}
