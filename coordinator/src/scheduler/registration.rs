//! Nodes that come, beat, drain and fall silent.

use flowai_actors::ids::{Attempt, Generation, JobId, NodeId};
use flowai_actors::limits::{
    JOB_NOT_READ_MS, JOB_NOT_READ_MS_MAX, NODE_LEASE_MS, NODE_NOT_TAKEN_MS, NODE_NOT_TAKEN_MS_MAX,
};
use flowai_store::journal::Unfinished;

use super::event::{Drain, Effect, Holds, NodeOffer, Readiness};
use super::jobs::{Holder, Job, JobIx};
use super::nodes::{Node, NodeIx};
use super::state::Scheduler;

impl Scheduler {
    /// Whether a generation of a node is older than one that is known, and which that is.
    pub fn newer_generation(&self, node: &NodeId, offered: Generation) -> Option<Generation> {
        let known = self.nodes.by_name(node)?.generation;
        Some(known).filter(|held| *held > offered)
    }

    pub(super) fn register(&mut self, offer: &NodeOffer, effects: &mut Vec<Effect>) {
        if self
            .newer_generation(&offer.node, offer.generation)
            .is_some()
        {
            return;
        }
        let node = self.nodes.named(&offer.node);
        // A greater generation proves the older process dead: what it held is lost at once.
        for job in self.held_by(node, |held| held.generation < offer.generation) {
            self.lose(job, "its node started anew", effects);
        }
        let said = offer
            .running
            .and_then(|(job, attempt)| Some((self.jobs.find(job)?, attempt)));
        let running =
            said.filter(|(job, attempt)| self.adopt(*job, *attempt, node, offer.generation));
        if let Some((job, attempt)) = offer.running.filter(|_| running.is_none()) {
            effects.push(Effect::Stale {
                node: offer.node.clone(),
                job,
                attempt,
            });
        }
        // What this process was given and does not know of never reached it.
        let is_unheard = |held: &Holder| held.generation == offer.generation;
        for job in self.held_by(node, is_unheard) {
            if running.is_none_or(|(heard, _)| heard != job) {
                let reason = "its node does not know of it".to_owned();
                self.doubt_longer(node);
                self.requeue(job, Unfinished::Stopped, reason, None, effects);
            }
        }
        self.settle_in(node, offer, running);
        let stop = running.and_then(|(job, attempt)| {
            Some((
                self.jobs.get(job).filter(|job| job.cancel_asked())?.id,
                attempt,
            ))
        });
        if let Some((job, attempt)) = stop {
            effects.push(Effect::Stop {
                node: offer.node.clone(),
                job,
                attempt,
                keep: false,
            });
        } else if self
            .nodes
            .get(node)
            .is_some_and(|node| node.drain == Drain::Now)
        {
            // It was asked while the node was away, or a leader before this one was.
            self.stop_and_keep(node, effects);
        }
    }

    /// The node is known with what it offers now.
    fn settle_in(&mut self, ix: NodeIx, offer: &NodeOffer, running: Option<(JobIx, Attempt)>) {
        self.changed();
        let lease_until = self.now.plus_ms(NODE_LEASE_MS);
        self.wake_by(lease_until);
        let group = self
            .kinds
            .group(&offer.models, offer.memory_bytes, &offer.device_class);
        let before = self.nodes.get(ix);
        let drain = before.map(|node| node.drain);
        let drain = drain.or_else(|| self.drains.get(&ix).copied());
        let same = before
            .filter(|node| node.generation == offer.generation)
            .cloned();
        if same.as_ref().is_none_or(|node| node.group != group) {
            self.slow.remove(&ix);
        }
        let (not_taken, doubted_until) = same
            .as_ref()
            .map(|node| (node.not_taken, node.doubted_until))
            .unwrap_or_default();
        // What is taken from it has to leave its engine first.
        let readiness = match (offer.running, running) {
            (Some(_), None) => Readiness::Doubtful,
            _ if self.now < doubted_until => Readiness::Doubtful,
            _ => Readiness::Ready,
        };
        let known_run = same.as_ref().and_then(|node| node.running);
        let reserved = same.as_ref().and_then(|node| node.reserved);
        let running = running.map(|(job, attempt)| {
            known_run
                .filter(|run| run.job == job)
                .unwrap_or_else(|| self.adopted_run(job, attempt))
        });
        let (model, fused, near) = same
            .map(|node| (node.model, node.fused, node.near))
            .unwrap_or_default();
        let node = Node {
            generation: offer.generation,
            group,
            lease_until,
            running,
            drain: drain.unwrap_or(Drain::Off),
            readiness,
            not_taken,
            doubted_until,
            model,
            fused,
            near,
            reserved,
            idle_since: self.now,
        };
        self.set_node(ix, Some(node));
    }

    /// The node is as told from now on, or away. In one go, so that what only it can run is never without a node in between.
    pub(super) fn set_node(&mut self, ix: NodeIx, node: Option<Node>) {
        let group_of = |node: &Node| node.takes_work().then_some(node.group);
        let from = self.nodes.remove(ix).as_ref().and_then(group_of);
        let to = node.as_ref().and_then(group_of);
        if let Some(node) = node {
            self.nodes.insert(ix, node);
        }
        let refitted = self.kinds.move_node(ix, from, to);
        self.refit(refitted);
        self.dirty_nodes.remove(&ix);
        self.touch_node(ix);
    }

    /// Changes whether a node takes work, and all that follows from it.
    fn change_node(&mut self, ix: NodeIx, change: impl FnOnce(&mut Node)) {
        if let Some(mut node) = self.nodes.get(ix).cloned() {
            change(&mut node);
            self.set_node(ix, Some(node));
            self.changed();
        }
    }

    fn held_by(&self, node: NodeIx, is_wanted: impl Fn(&Holder) -> bool) -> Vec<JobIx> {
        let holds = |job: &Job| {
            job.holder()
                .is_some_and(|held| held.node == node && is_wanted(held))
        };
        let given = self
            .nodes
            .get(node)
            .and_then(|node| node.running)
            .map(|running| running.job);
        // What an earlier term gave is in no node's hands here yet.
        let recovered = self.unclaimed.range((node, JobIx::FIRST)..);
        let recovered = recovered
            .take_while(|(of, _)| *of == node)
            .map(|(_, ix)| *ix);
        let jobs = given.into_iter().chain(recovered);
        jobs.filter(|ix| self.jobs.get(*ix).is_some_and(holds))
            .collect()
    }

    pub(super) fn beat(
        &mut self,
        node: &NodeId,
        generation: Generation,
        readiness: Readiness,
        holds: Option<Holds>,
    ) {
        let lease_until = self.now.plus_ms(NODE_LEASE_MS);
        let Some(ix) = self.nodes.find(node) else {
            return;
        };
        let Some(known) = self
            .nodes
            .get_mut(ix)
            .filter(|known| known.generation == generation)
        else {
            return;
        };
        known.lease_until = lease_until;
        let readiness = match readiness {
            Readiness::Ready if self.now < known.doubted_until => Readiness::Doubtful,
            said => said,
        };
        if let Some(holds) = holds {
            self.holds(ix, &holds);
        }
        if self
            .nodes
            .get(ix)
            .is_some_and(|node| node.readiness != readiness)
        {
            self.change_node(ix, |node| node.readiness = readiness);
        }
    }

    fn holds(&mut self, ix: NodeIx, holds: &Holds) {
        let model = holds.model.as_ref().map(|model| self.kinds.model(model));
        let Some(node) = self.nodes.get_mut(ix) else {
            return;
        };
        node.fused = holds.fused.iter().map(Into::into).collect();
        node.near = holds.near.iter().map(Into::into).collect();
        if node.model != model {
            node.model = model;
            // Whoever was held back from a cold node need not wait for a warm one.
            self.touch_node(ix);
        }
    }

    pub(super) fn not_taken(&mut self, job: JobId, attempt: Attempt, effects: &mut Vec<Effect>) {
        let Some(held) = self.holder_of(job, attempt) else {
            return;
        };
        self.doubt_longer(held.node);
        let reason = format!("{} did not take it", self.nodes.name(held.node));
        if let Some(ix) = self.jobs.find(job) {
            self.requeue(ix, Unfinished::Stopped, reason, None, effects);
        }
    }

    /// The node gets no job before its next beat, and after the first time in a row for longer and longer.
    fn doubt_longer(&mut self, ix: NodeIx) {
        let now = self.now;
        self.change_node(ix, |node| {
            node.readiness = Readiness::Doubtful;
            node.not_taken += 1;
            if let Some(doublings) = node.not_taken.checked_sub(2) {
                let pause_ms = NODE_NOT_TAKEN_MS << doublings.min(16);
                node.doubted_until = now.plus_ms(pause_ms.min(NODE_NOT_TAKEN_MS_MAX));
            }
        });
    }

    /// The node has a job that it was given: it takes jobs, and what this one is made from can be read.
    pub(super) fn took(&mut self, node: NodeIx, job: JobIx) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.not_taken = 0;
        }
        let story = self.jobs.get_mut(job).and_then(|job| job.story.as_mut());
        if let Some(story) = story {
            (story.not_read, story.given_from) = (0, None);
        }
    }

    /// The job waits again, by nobody's failure: after the first time in a row for longer and longer.
    pub(super) fn not_given(&mut self, job: JobId, attempt: Attempt, effects: &mut Vec<Effect>) {
        let now = self.now;
        if self.holder_of(job, attempt).is_none() {
            return;
        }
        let Some(ix) = self.jobs.find(job) else {
            return;
        };
        if let Some(job) = self.jobs.get_mut(ix) {
            let story = job.story();
            story.not_read += 1;
            story.given_from = story.not_read.checked_sub(2).map(|doublings| {
                let pause_ms = JOB_NOT_READ_MS << doublings.min(16);
                now.plus_ms(pause_ms.min(JOB_NOT_READ_MS_MAX))
            });
        }
        let reason = "what it is made from could not be read".to_owned();
        self.requeue(ix, Unfinished::Stopped, reason, None, effects);
    }

    /// The node's link has gone. Its lease may go on, and whatever it were given would not reach it.
    pub(super) fn unlinked(&mut self, node: &NodeId, generation: Generation) {
        let Some(ix) = self.nodes.find(node) else {
            return;
        };
        let known = self.nodes.get(ix);
        let is_ready = known.is_some_and(|node| {
            node.generation == generation && node.readiness == Readiness::Ready
        });
        if is_ready {
            self.change_node(ix, |node| node.readiness = Readiness::Doubtful);
        }
    }

    pub(super) fn drain(&mut self, node: &NodeId, how: Drain, effects: &mut Vec<Effect>) {
        let ix = self.nodes.named(node);
        // A node that is away drains as well when it comes.
        match how {
            Drain::Off => self.drains.remove(&ix),
            Drain::Lazy | Drain::Now => self.drains.insert(ix, how),
        };
        self.change_node(ix, |node| node.drain = how);
        if how == Drain::Now {
            self.stop_and_keep(ix, effects);
        }
    }
}
