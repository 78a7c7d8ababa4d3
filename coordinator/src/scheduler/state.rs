//! The scheduler's value, its one step, and how jobs enter and leave the line.

use std::collections::{BTreeMap, BTreeSet};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Generation, JobId, ModelId, NodeId, UserId};
use flowai_actors::limits::CARE_MS;
#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};
use flowai_actors::state::Tier;

use super::bounds::{Bound, ForcedStarts};
use super::durations::Durations;
use super::event::{Drain, Effect, Event, WaitingJob};
use super::forecast::Calibration;
use super::free::Free;
use super::jobs::{Holder, Job, JobIx, Jobs, Place, Story};
use super::kinds::{KindIx, Kinds, Needs, SizeBucket};
use super::lanes::{Claim, Entry, LaneIx, Lanes};
use super::nodes::{NodeIx, Nodes, Running};
use super::placement::Choice;
use super::shares::{Shares, UserIx, Virtual};
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
    pub(super) forced_starts: ForcedStarts,
    pub(super) calibration: Calibration,
    /// Jobs that start after another one.
    pub(super) children: BTreeMap<JobId, Vec<JobIx>>,
    pub(super) load: [Load; Tier::ALL.len()],
    /// Attempts that were stopped for others.
    pub(super) preemptions: u64,
    /// What operators want of nodes, live or not.
    pub(super) drains: BTreeMap<NodeIx, Drain>,
    /// Running jobs of an earlier term whose node has not come yet.
    pub(super) unclaimed: BTreeSet<JobIx>,
    /// When jobs that failed may go back to a node where they did.
    pub(super) pausing: BTreeSet<(Monotonic, JobIx)>,
    /// When some node's pause is over.
    pub(super) trust_due: Option<Monotonic>,
    /// When jobs that waited or ran for too long are looked for next.
    pub(super) next_deadlines: Monotonic,
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
                is_astray,
                holds,
            } => self.beat(&node, generation, is_astray, holds),
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
            Event::Tick => {}
        }
        self.expire(&mut effects);
        self.place(&mut effects);
        if self.next_care <= now {
            self.next_care = now.plus_ms(CARE_MS);
            self.preempt_for_bounds(&mut effects);
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

    pub fn knows(&self, job: JobId) -> bool {
        self.jobs.find(job).is_some()
    }

    /// Whether this process of the node is the one that may speak about the attempt.
    pub fn is_holder(
        &self,
        node: &NodeId,
        generation: Generation,
        job: JobId,
        attempt: Attempt,
    ) -> bool {
        let holder = self.holder_of(job, attempt);
        holder
            .is_some_and(|held| self.nodes.name(held.node) == node && held.generation == generation)
    }

    pub(super) fn holder_of(&self, id: JobId, attempt: Attempt) -> Option<Holder> {
        let job = self.jobs.by_id(id).filter(|job| job.attempt == attempt)?;
        job.holder().copied()
    }

    /// The owner of an unfinished job.
    pub fn owner_of(&self, job: JobId) -> Option<UserId> {
        let job = self.jobs.by_id(job)?;
        Some(self.shares.get(job.owner)?.id)
    }

    /// Whether the owner of a running job wants it no more.
    pub fn is_cancel_asked(&self, job: JobId) -> bool {
        self.jobs.by_id(job).is_some_and(Job::cancel_asked)
    }

    /// Whether a running job is to stop and to go on later.
    pub fn is_stop_asked(&self, job: JobId) -> bool {
        let story = self.jobs.by_id(job).and_then(|job| job.story.as_ref());
        story.is_some_and(|story| story.stop_asked)
    }

    /// The model of an unfinished job, and that of its keyframe if its first frame is made from words.
    pub fn models_of(&self, job: JobId) -> Option<(&ModelId, Option<&ModelId>)> {
        let needs = self.kinds.get(self.jobs.by_id(job)?.kind)?.needs;
        let keyframe = needs
            .keyframe
            .and_then(|model| self.kinds.model_name(model));
        Some((self.kinds.model_name(needs.model)?, keyframe))
    }

    /// Whether this process of the node holds a lease.
    pub fn is_live(&self, node: &NodeId, generation: Generation) -> bool {
        self.nodes
            .by_name(node)
            .is_some_and(|known| known.generation == generation)
    }

    /// What was given to the node.
    pub fn running_on(&self, node: &NodeId) -> Option<(JobId, Attempt)> {
        let running = self.nodes.by_name(node)?.running?;
        Some((self.jobs.get(running.job)?.id, running.attempt))
    }

    /// Jobs that wait and jobs that run, of one tier.
    pub fn load(&self, tier: Tier) -> (u32, u32) {
        let load = self.load[tier as usize];
        (load.waiting, load.running)
    }

    /// Every unfinished job as it is believed to be: its newest attempt, and the node that works on it.
    pub fn unfinished(&self) -> impl Iterator<Item = (JobId, Attempt, Option<&NodeId>)> {
        let node_of = |job: &Job| job.holder().map(|held| held.node);
        self.jobs.iter().map(move |(_, job)| {
            (
                job.id,
                job.attempt,
                node_of(job).map(|node| self.nodes.name(node)),
            )
        })
    }

    /// What is believed of an unfinished job: its newest attempt, and the node that works on it.
    pub fn believed(&self, job: JobId) -> Option<(Attempt, Option<&NodeId>)> {
        let job = self.jobs.by_id(job)?;
        let node = job.holder().map(|held| self.nodes.name(held.node));
        Some((job.attempt, node))
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
        let steps = f64::from(spec.shape.steps.max(1));
        let done = spec
            .resume
            .as_ref()
            .map_or(0.0, |checkpoint| f64::from(checkpoint.step) / steps);
        let mut job = Job {
            id: spec.job,
            owner: self.shares.user(spec.owner),
            kind: self.kinds.kind(needs),
            tier: spec.tier,
            class: spec.class,
            cost: (spec.cost.0 * (1.0 - done)).max(0.0),
            steps: spec.shape.steps,
            adapters: spec.adapters.iter().map(Into::into).collect(),
            queued_at: spec.queued_at.min(self.now),
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

    /// Puts a job into its lane, by its arrival.
    pub(super) fn enqueue(&mut self, ix: JobIx) {
        self.changed();
        let Some(job) = self.jobs.get(ix) else { return };
        let (owner, kind, seq, cost) = (job.owner, job.kind, job.seq, job.cost);
        if let Some(kind) = self.kinds.get_mut(kind) {
            kind.backlog_s += cost;
        }
        let class = (!job.is_choosy()).then_some(job.class);
        let (lane_ix, is_new) = self.lanes.of(owner, kind, class);
        if is_new && let Some(user) = self.shares.get_mut(owner) {
            user.lanes.push(lane_ix);
        }
        let Some(lane) = self.lanes.get_mut(lane_ix) else {
            return;
        };
        let jobs = &self.jobs;
        let at = lane
            .jobs
            .partition_point(|other| jobs.get(*other).is_some_and(|other| other.seq < seq));
        lane.jobs.insert(at, ix);
        if let Some(job) = self.jobs.get_mut(ix) {
            job.place = Place::Lane(lane_ix);
        }
        if at == 0 {
            self.rekey(lane_ix);
            self.dirty_kinds.insert(kind);
        }
    }

    /// Takes a waiting job out of its lane.
    fn dequeue(&mut self, ix: JobIx) {
        self.changed();
        let Some(job) = self.jobs.get_mut(ix) else {
            return;
        };
        let Place::Lane(lane_ix) = std::mem::replace(&mut job.place, Place::Parked) else {
            return;
        };
        let Some(lane) = self.lanes.get_mut(lane_ix) else {
            return;
        };
        let (kind, cost) = (lane.kind, job.cost);
        if let Some(kind) = self.kinds.get_mut(kind) {
            kind.backlog_s = (kind.backlog_s - cost).max(0.0);
        }
        let was_first = lane.jobs.front() == Some(&ix);
        if was_first {
            lane.jobs.pop_front();
        } else {
            lane.jobs.retain(|other| *other != ix);
        }
        if was_first {
            self.rekey(lane_ix);
            self.dirty_kinds.insert(kind);
        }
    }

    /// Files a lane as its first job and its user stand now, and removes an empty one.
    pub(super) fn rekey(&mut self, ix: LaneIx) {
        let before = self.unfile(ix);
        let Some(lane) = self.lanes.get(ix) else {
            return;
        };
        let (owner, kind) = (lane.user, lane.kind);
        let head = lane.jobs.front().and_then(|job| self.jobs.get(*job));
        let head = head.map(|job| (job.tier, job.bound()));
        let user = self.shares.get(owner);
        let is_capped = user
            .zip(head)
            .is_some_and(|(user, (tier, _))| user.running >= cap(tier));
        let stood = before.is_some_and(|entry| entry.stands);
        let stands = head.is_some() && !is_capped && self.kinds.is_offered(kind);
        let mut is_lifted = false;
        match (stood, stands) {
            (false, true) => {
                is_lifted = self
                    .shares
                    .stand(owner, head.map_or(1, |(tier, _)| tier.weight()))
            }
            (true, false) => self.shares.sit(owner),
            (true, true) | (false, false) => {}
        }
        match head {
            Some((_, bound)) => self.file(
                ix,
                Flags {
                    is_capped,
                    stands,
                    bound,
                },
            ),
            None => {
                self.lanes.remove(ix);
                if let Some(user) = self.shares.get_mut(owner) {
                    user.lanes.retain(|lane| *lane != ix);
                }
            }
        }
        self.kinds.note_lanes(kind);
        if is_lifted {
            self.refile_others(owner, ix);
        }
    }

    /// Files all lanes of a user anew: its tag or the number of its running jobs has changed.
    pub(super) fn rekey_user(&mut self, owner: UserIx) {
        let lanes = self.shares.get(owner).map(|user| user.lanes.clone());
        for lane in lanes.into_iter().flatten() {
            self.rekey(lane);
        }
    }

    /// The user's tag has changed, and nothing else of these lanes.
    fn refile_others(&mut self, owner: UserIx, but: LaneIx) {
        let lanes = self.shares.get(owner).map(|user| user.lanes.clone());
        for lane in lanes.into_iter().flatten().filter(|lane| *lane != but) {
            if let Some(Entry {
                is_capped,
                stands,
                bound,
                ..
            }) = self.unfile(lane)
            {
                self.file(
                    lane,
                    Flags {
                        is_capped,
                        stands,
                        bound,
                    },
                );
            }
        }
    }

    fn unfile(&mut self, ix: LaneIx) -> Option<Entry> {
        let lane = self.lanes.get_mut(ix)?;
        let entry = lane.entry.take()?;
        let kind = self.kinds.get_mut(lane.kind)?;
        if entry.is_capped {
            kind.capped.remove(&entry.claim);
        } else {
            kind.open.remove(&entry.claim);
        }
        if let Some(bound) = entry.bound {
            kind.bounds.remove(bound, ix);
        }
        Some(entry)
    }

    fn file(&mut self, ix: LaneIx, flags: Flags) {
        let Some(claim) = self.claim_of(ix) else {
            return;
        };
        let Some(lane) = self.lanes.get_mut(ix) else {
            return;
        };
        let Some(kind) = self.kinds.get_mut(lane.kind) else {
            return;
        };
        let Flags {
            is_capped,
            stands,
            bound,
        } = flags;
        if is_capped {
            kind.capped.insert(claim);
        } else {
            kind.open.insert(claim);
        }
        let bound = bound.filter(|_| !is_capped);
        if let Some(bound) = bound {
            kind.bounds.insert(bound, ix);
        }
        lane.entry = Some(Entry {
            claim,
            is_capped,
            bound,
            stands,
        });
    }

    fn claim_of(&self, ix: LaneIx) -> Option<Claim> {
        let lane = self.lanes.get(ix)?;
        let job = self.jobs.get(*lane.jobs.front()?)?;
        let user = self.shares.get(lane.user)?;
        Some(Claim {
            finish: Virtual(user.tag.0 + self.length_of(job)),
            served: user.served,
            seq: job.seq,
            lane: ix,
        })
    }

    /// Virtual seconds that a job takes of its user's share.
    pub(super) fn length_of(&self, job: &Job) -> f64 {
        self.cost_of(job) / f64::from(job.tier.weight())
    }

    /// GPU-seconds that a job will take, on no particular node.
    pub(super) fn cost_of(&self, job: &Job) -> f64 {
        let needs = self.kinds.get(job.kind).map(|kind| kind.needs);
        needs.map_or(0.0, |needs| {
            job.cost * self.durations.ratio(needs, None).p50
        })
    }

    /// Kinds that some node can run only now, or none any more: who waits for them stands, or does not.
    pub(super) fn flipped(&mut self, kinds: Vec<KindIx>) {
        for ix in kinds {
            let lanes = self.kinds.get(ix).map(|kind| {
                kind.open
                    .iter()
                    .chain(&kind.capped)
                    .map(|claim| claim.lane)
                    .collect()
            });
            let lanes: Vec<LaneIx> = lanes.unwrap_or_default();
            lanes.into_iter().for_each(|lane| self.rekey(lane));
            self.dirty_kinds.insert(ix);
        }
    }

    /// Gives a free node a job.
    pub(super) fn start(&mut self, choice: Choice, node_ix: NodeIx, effects: &mut Vec<Effect>) {
        let Choice {
            job: ix,
            is_forced,
            passes,
        } = choice;
        if let Some(passed) = passes.and_then(|job| self.jobs.get_mut(job)) {
            passed.skips = passed.skips.saturating_add(1);
        }
        let (Some(job), Some(node)) = (self.jobs.get(ix), self.nodes.get(node_ix)) else {
            return;
        };
        let (Some(kind), Some(group)) =
            (self.kinds.get(job.kind), self.kinds.get_group(node.group))
        else {
            return;
        };
        let charged = job.cost * self.durations.ratio(kind.needs, Some(group.class)).p50;
        let (load_s, cold) = (self.load_s(job, node), self.cold(job, node));
        let (owner, tier, is_first, queued_at, quote) = (
            job.owner,
            job.tier,
            job.attempt == Attempt::ZERO,
            job.queued_at,
            job.quote,
        );
        self.dequeue(ix);
        self.shares.charge(owner, charged, tier.weight());
        self.shares.run(owner, tier.weight(), ix, charged);
        self.durations.charged(charged);
        self.forced_starts.started(is_forced);
        if is_first && let Some(quote) = quote {
            self.calibration
                .started(tier, quote, self.now.since(queued_at).as_secs_f64());
        }
        if let Some(user) = self.shares.get_mut(owner)
            && is_forced
        {
            user.forced = Some(ix);
        }
        self.rekey_user(owner);
        let load = &mut self.load[tier as usize];
        load.waiting -= 1;
        load.running += 1;
        let now = self.now;
        let (Some(job), Some(node)) = (self.jobs.get_mut(ix), self.nodes.get_mut(node_ix)) else {
            return;
        };
        job.attempt = job.attempt.next();
        job.place = Place::Running(Holder {
            node: node_ix,
            generation: node.generation,
            lost_at: None,
        });
        if let Some(story) = &mut job.story {
            story.stop_asked = false;
        }
        node.reserved = None;
        node.running = Some(Running {
            job: ix,
            attempt: job.attempt,
            since: now,
            charged,
            expected_s: charged + load_s,
            load_s,
            cold,
            progress: None,
            is_stopping: false,
        });
        effects.push(Effect::Assign {
            job: job.id,
            attempt: job.attempt,
            node: self.nodes.name(node_ix).clone(),
            generation: self
                .nodes
                .get(node_ix)
                .map_or(Generation::ZERO, |node| node.generation),
        });
        self.free.update(node_ix, self.nodes.get(node_ix));
    }

    /// Takes a job from its node, if it has one, and says which.
    pub(super) fn release(&mut self, ix: JobIx, used: Used) -> Option<NodeIx> {
        let job = self.jobs.get_mut(ix)?;
        let Place::Running(held) = job.place else {
            return None;
        };
        job.place = Place::Parked;
        let (owner, tier) = (job.owner, job.tier);
        self.unclaimed.remove(&ix);
        let running = self
            .nodes
            .get_mut(held.node)
            .and_then(|node| node.running.take_if(|running| running.job == ix));
        if let Some(running) = running {
            let ran_s = self.now.since(running.since).as_secs_f64() - running.load_s;
            let used = match used {
                Used::Measured(seconds) => seconds,
                Used::AsCharged => running.charged,
                Used::Elapsed => ran_s.clamp(0.0, running.charged),
            };
            self.shares
                .correct(owner, used - running.charged, tier.weight());
            if let Some(node) = self.nodes.get_mut(held.node) {
                node.idle_since = self.now;
            }
            self.touch_node(held.node);
        }
        self.shares.rest(owner, ix);
        if let Some(user) = self.shares.get_mut(owner) {
            user.forced = user.forced.filter(|forced| *forced != ix);
        }
        let load = &mut self.load[tier as usize];
        load.waiting += 1;
        load.running -= 1;
        self.rekey_user(owner);
        self.changed();
        Some(held.node)
    }

    /// The node may have become free, or is no longer.
    pub(super) fn touch_node(&mut self, ix: NodeIx) {
        let node = self.nodes.get(ix);
        if node.is_some_and(|node| node.is_free()) {
            self.dirty_nodes.insert(ix);
        }
        self.free.update(ix, node);
    }

    /// Nothing is left to do for the job.
    pub(super) fn forget(&mut self, ix: JobIx, used: Used) {
        self.release(ix, used);
        self.dequeue(ix);
        self.unclaimed.remove(&ix);
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
                if let Some(story) = self.jobs.get_mut(child).map(Job::story) {
                    story.after = None;
                }
                self.enqueue(child);
                continue;
            }
            let Some(job) = self.jobs.get(child) else {
                continue;
            };
            effects.push(Effect::Fail {
                job: job.id,
                attempt: job.attempt,
                code: "dependency_failed".to_owned(),
                detail: format!("it was to start after {id}, which was not rendered"),
            });
            self.forget(child, Used::Elapsed);
        }
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

/// What of the charge for an attempt was used.
#[derive(Debug, Clone, Copy)]
pub(super) enum Used {
    /// GPU-seconds.
    Measured(f64),
    AsCharged,
    /// As long as it ran.
    Elapsed,
}

struct Flags {
    is_capped: bool,
    stands: bool,
    bound: Option<Bound>,
}

/// Running jobs above which a user is served only where nobody else could use the node.
fn cap(tier: Tier) -> u32 {
    let most = tier.running_max();
    #[cfg(feature = "planted-bugs")]
    let most = most + u32::from(planted::is(Bug::CapOffByOne));
    most
}
