//! The scheduler's value, its one step, and how jobs come and go.

use std::collections::{BTreeMap, BTreeSet};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{JobId, NodeId};
use flowai_actors::limits::CARE_MS;
use flowai_actors::state::Tier;

use super::bounds::ForcedStarts;
use super::deadlines::Round;
use super::durations::Durations;
use super::event::{Drain, Effect, Event, WaitingJob};
use super::forecast::Calibration;
use super::free::Free;
use super::jobs::{Job, JobIx, Jobs, Place, Story};
use super::kinds::Kinds;
use super::lanes::Lanes;
use super::needs::{KindIx, Needs, SizeBucket};
use super::nodes::{NodeIx, Nodes};
use super::shares::Shares;
use super::slow::Slowness;
use super::starts::Used;
use super::trust::Trust;

/// Everything the leader knows of unfinished jobs and of nodes. Ended jobs are forgotten: their rows remember.
#[derive(Debug, Clone, Default)]
pub struct Scheduler {
    pub(super) jobs: Jobs,
    pub(super) kinds: Kinds,
    pub(super) lanes: Lanes,
    pub(super) shares: Shares,
    pub(super) nodes: Nodes,
    pub(super) free: Free,
    pub(super) durations: Durations,
    pub(super) trust: Trust,
    /// Nodes whose newest steps took much longer than usual.
    pub(super) slow: BTreeMap<NodeIx, Slowness>,
    /// One of them, whose job was told to go on elsewhere.
    pub(super) leaving: Option<NodeIx>,
    pub(super) forced_starts: ForcedStarts,
    pub(super) calibration: Calibration,
    /// Jobs that start after another one.
    pub(super) children: BTreeMap<JobId, Vec<JobIx>>,
    pub(super) load: [Load; Tier::ALL.len()],
    /// Attempts that were stopped for others.
    pub(super) preemptions: u64,
    /// What operators want of nodes, live or not.
    pub(super) drains: BTreeMap<NodeIx, Drain>,
    /// Running jobs of an earlier term, by their nodes, which have not come yet.
    pub(super) unclaimed: BTreeSet<(NodeIx, JobIx)>,
    /// When jobs that failed may go back to a node where they did, and others to any.
    pub(super) pausing: BTreeSet<(Monotonic, JobIx)>,
    /// When some node's pause is over.
    pub(super) trust_due: Option<Monotonic>,
    /// When jobs that waited or ran for too long are looked for next.
    pub(super) next_deadlines: Monotonic,
    pub(super) round: Round,
    /// Nodes that have become free, and kinds with a job that was no candidate before: what may have to be brought together.
    pub(super) dirty_nodes: BTreeSet<NodeIx>,
    pub(super) dirty_kinds: BTreeSet<KindIx>,
    /// Of the event that is being taken in.
    pub(super) now: Monotonic,
    /// Grows with whatever may move the line or give a node work.
    revision: u64,
    /// Nothing that waits for a time is due before this one, so that most events need not look at all of it.
    pub(super) wake_at: Option<Monotonic>,
    /// When the bounds of those who wait are looked at next.
    next_care: Monotonic,
}

/// Jobs of one tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) waiting: u32,
    pub(super) running: u32,
}

impl Scheduler {
    /// Takes one event in and says what follows. Free nodes are given work whatever the event was.
    pub fn step(&mut self, event: Event, now: Monotonic) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.now = now;
        self.shares.advance(now);
        match event {
            Event::JobArrived(job) => self.arrive(job),
            Event::JobRecovered(recovered) => self.recover(recovered),
            Event::CancelAsked(job) => self.cancel(job, &mut effects),
            Event::Doubted(job) => self.doubt(job),
            Event::JobGone { job, is_done } => self.gone(job, is_done, &mut effects),
            Event::NodeRegistered(offer) => self.register(&offer, &mut effects),
            Event::Beat {
                node,
                generation,
                readiness,
                holds,
            } => self.beat(&node, generation, readiness, holds),
            Event::Progressed {
                job,
                attempt,
                step,
                steps,
            } => self.progressed(job, attempt, step, steps),
            Event::Checkpointed {
                job,
                attempt,
                checkpoint,
            } => self.checkpointed(job, attempt, checkpoint),
            Event::NodeDraining { node, how } => self.drain(&node, how, &mut effects),
            Event::Ended {
                node,
                generation,
                job,
                attempt,
                end,
            } => {
                self.ended(node, generation, job, attempt, end, &mut effects);
            }
            Event::NotTaken { job, attempt } => self.not_taken(job, attempt, &mut effects),
            Event::NotGiven { job, attempt } => self.not_given(job, attempt, &mut effects),
            Event::NodeUnlinked { node, generation } => self.unlinked(&node, generation),
            Event::Tick => {}
        }
        self.expire(&mut effects);
        self.place(&mut effects);
        if self.next_care <= now {
            self.next_care = now.plus_ms(CARE_MS);
            self.preempt_for_bounds(&mut effects);
            self.leave_slow_nodes(&mut effects);
        }
        effects
    }

    /// Another one than before: the line may have moved.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn changed(&mut self) {
        self.revision += 1;
    }

    pub(super) fn wake_by(&mut self, at: Monotonic) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    fn arrive(&mut self, spec: WaitingJob) {
        if self.knows(spec.job) {
            return;
        }
        let after = spec.after;
        let ix = self.take_in(spec);
        match after {
            Some(parent) => {
                self.children.entry(parent).or_default().push(ix);
                self.changed();
            }
            None => {
                self.enqueue(ix);
                self.hold(ix);
            }
        }
        self.quote(ix);
    }

    /// A job that is not in the line yet.
    pub(super) fn take_in(&mut self, spec: WaitingJob) -> JobIx {
        let needs = Needs {
            model: self.kinds.model(&spec.model),
            keyframe: spec
                .keyframe_model
                .as_ref()
                .map(|model| self.kinds.model(model)),
            size: SizeBucket::of(spec.shape),
        };
        let queued_at = spec.queued_at.min(self.now);
        let mut job = Job {
            id: spec.job,
            owner: self.shares.user(spec.owner),
            kind: self.kinds.kind(needs),
            tier: spec.tier,
            class: spec.class,
            cost: spec.cost.0.max(0.0),
            steps: spec.shape.steps,
            adapters: spec.adapters.iter().map(Into::into).collect(),
            queued_at,
            waits_since: queued_at,
            seq: 0,
            attempt: spec.attempt,
            skips: 0,
            place: Place::Parked,
            quote: None,
            hold_until: Monotonic::default(),
            story: None,
        };
        let mut nodes =
            |names: BTreeSet<NodeId>| names.iter().map(|name| self.nodes.named(name)).collect();
        let story = Story {
            failures: spec.failures,
            failed_on: nodes(spec.failed_on),
            node_deaths: spec.node_deaths,
            died_on: nodes(spec.died_on),
            resume: spec.resume,
            preemptions: spec.preemptions,
            after: spec.after,
            ..Story::default()
        };
        if spec.failures + spec.node_deaths + spec.preemptions > 0
            || story.resume.is_some()
            || story.after.is_some()
        {
            job.story = Some(Box::new(story));
        }
        self.load[job.tier as usize].waiting += 1;
        let owner = job.owner;
        if let Some(user) = self.shares.get_mut(owner) {
            user.waiting += 1;
        }
        self.wake_by(self.next_deadlines);
        self.jobs.insert(job)
    }

    /// Virtual seconds that a job takes of its user's share.
    pub(super) fn length_of(&self, job: &Job) -> f64 {
        self.cost_of(job) / f64::from(job.tier.weight())
    }

    /// GPU-seconds that what is left of a job will take, on no particular node.
    pub(super) fn cost_of(&self, job: &Job) -> f64 {
        job.cost_left() * self.usual_ratio(job)
    }

    /// GPU-seconds that all of it takes, on no particular node.
    pub(super) fn whole_s(&self, job: &Job) -> f64 {
        job.cost * self.usual_ratio(job)
    }

    pub(super) fn usual_ratio(&self, job: &Job) -> f64 {
        let needs = self.kinds.get(job.kind).map(|kind| kind.needs);
        needs.map_or(0.0, |needs| self.durations.ratio(needs, None))
    }

    /// Nothing is left to do for the job.
    pub(super) fn forget(&mut self, ix: JobIx, used: Used) {
        self.release(ix, used);
        self.dequeue(ix);
        let Some(job) = self.jobs.remove(ix) else {
            return;
        };
        self.load[job.tier as usize].waiting -= 1;
        if let Some(user) = self.shares.get_mut(job.owner) {
            user.waiting -= 1;
        }
        self.shares.leave(job.owner);
        if let Some(parent) = job.story.and_then(|story| story.after)
            && let Some(children) = self.children.get_mut(&parent)
        {
            children.retain(|child| *child != ix);
            if children.is_empty() {
                self.children.remove(&parent);
            }
        }
    }

    fn doubt(&mut self, id: JobId) {
        if let Some(ix) = self.jobs.find(id) {
            self.forget(ix, Used::Elapsed);
        }
    }

    /// A job's row says that it ended: its line is shorter, and what waited for it starts, or never will.
    fn gone(&mut self, id: JobId, is_done: bool, effects: &mut Vec<Effect>) {
        self.doubt(id);
        for child in self.children.remove(&id).unwrap_or_default() {
            if is_done {
                self.ready(child);
                continue;
            }
            let detail = format!("it was to start after {id}, which was not rendered");
            self.fail(child, "dependency_failed".to_owned(), detail, effects);
        }
    }

    /// What the job was to start after is done: from now on it waits for a node, and is told a forecast as one that comes.
    fn ready(&mut self, ix: JobIx) {
        let Some(job) = self.jobs.get_mut(ix) else {
            return;
        };
        job.story().after = None;
        (job.queued_at, job.waits_since) = (self.now, self.now);
        self.enqueue(ix);
        self.quote(ix);
    }

    fn cancel(&mut self, id: JobId, effects: &mut Vec<Effect>) {
        let Some(ix) = self.jobs.find(id) else { return };
        let Some(job) = self.jobs.get_mut(ix) else {
            return;
        };
        let attempt = job.attempt;
        match job.holder().copied() {
            None => {
                self.forget(ix, Used::Elapsed);
                effects.push(Effect::Cancel { job: id, attempt });
            }
            Some(_) if job.cancel_asked() => {}
            Some(held) => {
                job.story().cancel_asked = true;
                let node = self.nodes.name(held.node).clone();
                effects.push(Effect::Stop {
                    node,
                    job: id,
                    attempt,
                    keep: false,
                });
            }
        }
    }
}
