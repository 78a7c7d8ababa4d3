//! Nodes that come, beat, drain and fall silent.

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Generation, JobId, NodeId};
use flowai_actors::limits::NODE_LEASE_MS;
use flowai_store::journal::Unfinished;

use super::durations::Cold;
use super::event::{Drain, Effect, Holds, NodeOffer, Readiness, Recovered};
use super::jobs::{Holder, Job, JobIx, Place};
use super::nodes::{Node, NodeIx, Running};
use super::state::Scheduler;

/// Why an attempt is given up that nobody claims under a new leader.
pub const NOT_BACK: &str = "its node did not come back to the new leader";

impl Scheduler {
    /// Whether a generation of a node is older than one that is known, and which that is.
    pub fn newer_generation(&self, node: &NodeId, offered: Generation) -> Option<Generation> {
        let known = self.nodes.by_name(node)?.generation;
        Some(known).filter(|held| *held > offered)
    }

    pub(super) fn recover(&mut self, recovered: Recovered) {
        let Recovered {
            waiting,
            node,
            generation,
            cancel_requested,
        } = recovered;
        if self.knows(waiting.job) {
            return;
        }
        let ix = self.take_in(waiting);
        let lost_at = self.now.plus_ms(NODE_LEASE_MS);
        self.wake_by(lost_at);
        self.changed();
        let node = self.nodes.named(&node);
        let Some(job) = self.jobs.get_mut(ix) else {
            return;
        };
        job.place = Place::Running(Holder {
            node,
            generation,
            lost_at: Some(lost_at),
        });
        if cancel_requested {
            job.story().cancel_asked = true;
        }
        let (owner, tier) = (job.owner, job.tier);
        self.unclaimed.insert((node, ix));
        let charged = self.jobs.get(ix).map_or(0.0, |job| self.cost_of(job));
        self.shares.run(owner, tier.weight(), ix, charged);
        let load = &mut self.load[tier as usize];
        load.waiting -= 1;
        load.running += 1;
        self.rekey_user(owner);
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
        // What is taken from it has to leave its engine first.
        let readiness = match (offer.running, running) {
            (Some(_), None) => Readiness::Doubtful,
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
            model,
            fused,
            near,
            reserved,
            idle_since: self.now,
        };
        self.set_node(ix, Some(node));
    }

    /// An attempt of an earlier term, for which nobody was charged in this one.
    fn adopted_run(&mut self, job: JobIx, attempt: Attempt) -> Running {
        let (mut cost, mut whole_s) = (0.0, 0.0);
        if let Some((known, owner)) = self.jobs.get(job).map(|job| (job, job.owner)) {
            cost = self.cost_of(known);
            whole_s = self.whole_s(known);
            self.shares.correct(owner, cost, known.tier.weight());
            self.rekey_user(owner);
        }
        Running {
            job,
            attempt,
            since: self.now,
            charged: cost,
            expected_s: cost,
            whole_s,
            is_whole: false,
            load_s: 0.0,
            cold: Cold::default(),
            progress: None,
            quickest_s: None,
            was_slow: false,
            is_stopping: false,
            is_leaving: false,
        }
    }

    /// The node is as told from now on, or away. In one go, so that what only it can run is never without a node in between.
    fn set_node(&mut self, ix: NodeIx, node: Option<Node>) {
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

    /// Whether the node's word agrees with the rows; from then on its own lease counts.
    fn adopt(&mut self, ix: JobIx, attempt: Attempt, node: NodeIx, generation: Generation) -> bool {
        let Some(job) = self.jobs.get_mut(ix).filter(|job| job.attempt == attempt) else {
            return false;
        };
        match &mut job.place {
            Place::Running(held) if held.node == node && held.generation == generation => {
                held.lost_at = None;
                self.unclaimed.remove(&(node, ix));
                true
            }
            Place::Running(_) | Place::Lane(_) | Place::Parked => false,
        }
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
        self.change_node(held.node, |node| node.readiness = Readiness::Doubtful);
        let reason = format!("{} did not take it", self.nodes.name(held.node));
        if let Some(ix) = self.jobs.find(job) {
            self.requeue(ix, Unfinished::Stopped, reason, None, effects);
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

    /// Takes the attempt from nodes whose lease ran out, and from those that a new leader never heard of.
    pub(super) fn expire(&mut self, effects: &mut Vec<Effect>) {
        let now = self.now;
        if self.wake_at.is_none_or(|at| now < at) {
            return;
        }
        // A pause may be over as well.
        self.changed();
        let silent: Vec<NodeIx> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.lease_until <= now)
            .map(|(ix, _)| ix)
            .collect();
        for ix in silent {
            // While it is known what was charged for it.
            if let Some(running) = self.nodes.get(ix).and_then(|node| node.running) {
                self.lose(running.job, "its node fell silent", effects);
            }
            self.set_node(ix, None);
        }
        // Dialling may take longer than this, so it proves no death and counts as none. Only a next process of the node that
        // comes sooner tells of one.
        let is_over = |ix: &JobIx| {
            let held = self.jobs.get(*ix).and_then(Job::holder);
            held.is_none_or(|held| held.lost_at.is_some_and(|lost_at| lost_at <= now))
        };
        let unclaimed = self.unclaimed.iter().map(|(_, ix)| *ix);
        let over: Vec<JobIx> = unclaimed.filter(is_over).collect();
        for ix in over {
            let reason = NOT_BACK.to_owned();
            if self.jobs.get(ix).is_some_and(|job| job.holder().is_some()) {
                self.requeue(ix, Unfinished::Stopped, reason, None, effects);
            }
        }
        self.wake_pausing();
        self.expire_jobs(effects);
        self.wake_at = self.next_due();
    }

    /// Free nodes look again at what had to wait for a time.
    fn wake_pausing(&mut self) {
        let now = self.now;
        let refitted = self.kinds.expire_memory(now);
        self.refit(refitted);
        let over: Vec<JobIx> = self
            .pausing
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, job)| *job)
            .collect();
        self.pausing.retain(|(at, _)| now < *at);
        let kinds: Vec<_> = over
            .into_iter()
            .filter_map(|job| Some(self.jobs.get(job)?.kind))
            .collect();
        self.dirty_kinds.extend(kinds);
        if self.trust_due.is_some_and(|at| at <= now) {
            let free: Vec<NodeIx> = self
                .nodes
                .iter()
                .filter(|(_, node)| node.is_free())
                .map(|(ix, _)| ix)
                .collect();
            self.dirty_nodes.extend(free);
        }
        self.trust_due = self.trust.next_due(now);
    }

    fn next_due(&self) -> Option<Monotonic> {
        let leases = self.nodes.iter().map(|(_, node)| node.lease_until);
        let claims = self
            .unclaimed
            .iter()
            .filter_map(|(_, ix)| self.jobs.get(*ix)?.holder()?.lost_at);
        let pauses = self.pausing.first().map(|(at, _)| *at);
        leases
            .chain(claims)
            .chain(pauses)
            .chain(self.trust_due)
            .chain([self.next_deadlines])
            .min()
    }
}
