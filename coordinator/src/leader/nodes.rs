//! What nodes say of themselves, and what they are told.

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Generation, NodeId};
use flowai_actors::messages::{AttemptRef, Beat, BeatAnswer, Register, Registered, Verdict};
#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};

use super::event::{Answer, Effect, ReplyId};
use super::state::State;
use crate::scheduler::{Event as Heard, Holds, NodeOffer, Readiness};

/// Beats in a row without the job that the node took: one may have been sent before it took it.
const UNNAMED_BEATS_MAX: u32 = 2;

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
        if let Some((of, newest)) = self.unlinked.remove(&node)
            && of == generation
            && reply <= newest
        {
            // Its question was on the link that has gone.
            let node = node.clone();
            self.step(now, Heard::NodeUnlinked { node, generation }, effects);
        }

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
