//! The scheduler's value and its one step.

mod placement;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Generation, JobId, ModelId, NodeId, UserId};
use flowai_actors::limits::{
    JOB_ASSIGNMENTS_MAX, JOB_ATTEMPTS_MAX, JOB_NODE_DEATHS_MAX, JOB_RETRY_MS, NODE_LEASE_MS,
};
use flowai_actors::state::Tier;
use flowai_store::journal::Unfinished;

use super::event::{AttemptEnd, Drain, Effect, Event, NodeOffer, Recovered, WaitingJob};
use super::shares::{Running, Shares};

/// Everything the leader knows of unfinished jobs and of nodes. Ended jobs are forgotten: their rows remember.
#[derive(Debug, Clone, Default)]
pub struct Scheduler {
    jobs: BTreeMap<JobId, Job>,
    /// Waiting jobs of each user, first come first; a job that was tried already goes to the front.
    waiting: BTreeMap<UserId, VecDeque<JobId>>,
    nodes: BTreeMap<NodeId, Node>,
    /// Also nodes that are away: they drain when they come.
    draining: BTreeSet<NodeId>,
    shares: Shares,
    running: Running,
    /// Of the event that is being taken in.
    now: Monotonic,
    /// Grows with whatever may move the line or give a node work.
    revision: u64,
    /// Whose work was given out.
    placed: u64,
    /// Nothing that waits for a time is due before this one, so that most events need not look at all of it.
    wake_at: Option<Monotonic>,
}

#[derive(Debug, Clone)]
struct Job {
    spec: WaitingJob,
    held_by: Option<Holder>,
    cancel_asked: bool,
    /// From when it may go back to a node where it failed. A new leader does not know it: taking over is pause enough.
    back_at: Monotonic,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    node: NodeId,
    generation: Generation,
    /// For an attempt whose node is not known here yet, when that node's silence becomes its loss.
    lost_at: Option<Monotonic>,
}

#[derive(Debug, Clone)]
struct Node {
    generation: Generation,
    models: BTreeSet<ModelId>,
    lease_until: Monotonic,
    running: Option<(JobId, Attempt)>,
    is_draining: bool,
    /// It did not do as it was told, and nothing was heard of it since.
    is_doubtful: bool,
}

impl Node {
    /// Whether it may be given a job, once it is free.
    fn takes_work(&self) -> bool {
        !self.is_draining && !self.is_doubtful
    }

    /// Whether it has every model of the job.
    fn offers(&self, job: &WaitingJob) -> bool {
        job.models().all(|model| self.models.contains(model))
    }
}

impl Scheduler {
    /// Takes one event in and says what follows. Free nodes are given work whatever the event was.
    pub fn step(&mut self, event: Event, now: Monotonic) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.now = now;
        match event {
            Event::JobArrived(job) => self.arrive(job),
            Event::JobRecovered(recovered) => self.recover(recovered, now),
            Event::CancelAsked(job) => self.cancel(job, &mut effects),
            Event::JobGone(job) => self.forget(job),
            Event::NodeRegistered(offer) => self.register(offer, now, &mut effects),
            Event::Beat {
                node,
                generation,
                is_astray,
            } => self.beat(&node, generation, is_astray, now),
            Event::NodeDraining { node, how } => self.drain(node, how != Drain::Off),
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
        self.expire(now, &mut effects);
        self.place(&mut effects);
        effects
    }

    /// Another one than before: the line may have moved.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    fn changed(&mut self) {
        self.revision += 1;
    }

    fn wake_by(&mut self, at: Monotonic) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    pub fn knows(&self, job: JobId) -> bool {
        self.jobs.contains_key(&job)
    }

    /// Whether this process of the node is the one that may speak about the attempt.
    pub fn is_holder(
        &self,
        node: &NodeId,
        generation: Generation,
        job: JobId,
        attempt: Attempt,
    ) -> bool {
        self.holder_of(job, attempt)
            .is_some_and(|held| held.node == *node && held.generation == generation)
    }

    /// The owner of an unfinished job.
    pub fn owner_of(&self, job: JobId) -> Option<UserId> {
        self.jobs.get(&job).map(|job| job.spec.owner)
    }

    /// Whether the owner of a running job wants it no more.
    pub fn is_cancel_asked(&self, job: JobId) -> bool {
        self.jobs.get(&job).is_some_and(|job| job.cancel_asked)
    }

    /// The model of an unfinished job, and that of its keyframe if its first frame is made from words.
    pub fn models_of(&self, job: JobId) -> Option<(&ModelId, Option<&ModelId>)> {
        let spec = &self.jobs.get(&job)?.spec;
        Some((&spec.model, spec.keyframe_model.as_ref()))
    }

    /// Whether this process of the node holds a lease.
    pub fn is_live(&self, node: &NodeId, generation: Generation) -> bool {
        let known = self.nodes.get(node);
        known.is_some_and(|known| known.generation == generation)
    }

    /// What was given to the node.
    pub fn running_on(&self, node: &NodeId) -> Option<(JobId, Attempt)> {
        self.nodes.get(node)?.running
    }

    /// Jobs that wait and jobs that run, of one tier.
    pub fn load(&self, tier: Tier) -> (u32, u32) {
        let of_tier = self.jobs.values().filter(|job| job.spec.tier == tier);
        of_tier.fold((0, 0), |(waiting, running), job| match job.held_by {
            None => (waiting + 1, running),
            Some(_) => (waiting, running + 1),
        })
    }

    pub(super) fn waiting(&self) -> &BTreeMap<UserId, VecDeque<JobId>> {
        &self.waiting
    }

    pub(super) fn waiting_job(&self, job: JobId) -> Option<&WaitingJob> {
        self.jobs.get(&job).map(|job| &job.spec)
    }

    /// Whether a waiting job failed on every live node that offers its models, and may not go back to one yet.
    pub(super) fn pauses(&self, id: JobId) -> bool {
        let job = self.jobs.get(&id);
        job.is_some_and(|job| job.back_at > self.now && !self.has_untried_node(job))
    }

    pub(super) fn now(&self) -> Monotonic {
        self.now
    }

    pub(super) fn shares(&self) -> &Shares {
        &self.shares
    }

    pub(super) fn running_of(&self, user: UserId) -> u32 {
        self.running.of(user)
    }

    /// Whether some known node offers all of the job's models.
    pub(super) fn is_offered(&self, job: &WaitingJob) -> bool {
        self.nodes.values().any(|node| node.offers(job))
    }

    /// Whether a generation of a node is older than one that is known, and which that is.
    pub fn newer_generation(&self, node: &NodeId, offered: Generation) -> Option<Generation> {
        self.nodes
            .get(node)
            .map(|known| known.generation)
            .filter(|held| *held > offered)
    }

    fn arrive(&mut self, spec: WaitingJob) {
        if self.jobs.contains_key(&spec.job) {
            return;
        }
        self.queue_of(spec.owner).push_back(spec.job);
        self.jobs.insert(
            spec.job,
            Job {
                spec,
                held_by: None,
                cancel_asked: false,
                back_at: Monotonic::default(),
            },
        );
    }

    fn recover(&mut self, recovered: Recovered, now: Monotonic) {
        let Recovered {
            waiting: spec,
            node,
            generation,
            cancel_requested,
        } = recovered;
        if self.jobs.contains_key(&spec.job) {
            return;
        }
        self.running.add(spec.owner);
        self.changed();
        let lost_at = now.plus_ms(NODE_LEASE_MS);
        self.wake_by(lost_at);
        let holder = Holder {
            node,
            generation,
            lost_at: Some(lost_at),
        };
        self.jobs.insert(
            spec.job,
            Job {
                spec,
                held_by: Some(holder),
                cancel_asked: cancel_requested,
                back_at: Monotonic::default(),
            },
        );
    }

    fn cancel(&mut self, id: JobId, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        match &job.held_by {
            None => {
                let attempt = job.spec.attempt;
                self.forget(id);
                effects.push(Effect::Cancel { job: id, attempt });
            }
            Some(_) if job.cancel_asked => {}
            Some(holder) => {
                job.cancel_asked = true;
                effects.push(Effect::Stop {
                    node: holder.node.clone(),
                    job: id,
                    attempt: job.spec.attempt,
                });
            }
        }
    }

    fn drain(&mut self, name: NodeId, is_draining: bool) {
        if let Some(node) = self.nodes.get_mut(&name) {
            node.is_draining = is_draining;
            self.changed();
        }
        if is_draining {
            self.draining.insert(name);
        } else {
            self.draining.remove(&name);
        }
    }

    fn register(&mut self, offer: NodeOffer, now: Monotonic, effects: &mut Vec<Effect>) {
        if self
            .newer_generation(&offer.node, offer.generation)
            .is_some()
        {
            return;
        }
        // A greater generation proves the older process dead: what it held is lost at once.
        let dead: Vec<JobId> = self
            .jobs
            .values()
            .filter(|job| {
                job.held_by.as_ref().is_some_and(|held| {
                    held.node == offer.node && held.generation < offer.generation
                })
            })
            .map(|job| job.spec.job)
            .collect();
        for job in dead {
            self.lose(job, "its node started anew", effects);
        }

        let running = offer
            .running
            .filter(|(job, attempt)| self.adopt(*job, *attempt, &offer));
        if let Some((job, attempt)) = offer.running.filter(|_| running.is_none()) {
            effects.push(Effect::Stale {
                node: offer.node.clone(),
                job,
                attempt,
            });
        }
        // What this process was given and does not know of never reached it.
        let unheard: Vec<JobId> = self
            .jobs
            .values()
            .filter(|job| {
                job.held_by.as_ref().is_some_and(|held| {
                    held.node == offer.node && held.generation == offer.generation
                }) && running.is_none_or(|(id, _)| id != job.spec.job)
            })
            .map(|job| job.spec.job)
            .collect();
        for job in unheard {
            let reason = "its node does not know of it".to_owned();
            self.requeue(job, Unfinished::Stopped, reason, effects);
        }
        let is_draining = self.draining.contains(&offer.node);
        self.changed();
        self.wake_by(now.plus_ms(NODE_LEASE_MS));
        self.nodes.insert(
            offer.node.clone(),
            Node {
                generation: offer.generation,
                models: offer.models.into_iter().collect(),
                lease_until: now.plus_ms(NODE_LEASE_MS),
                running,
                is_draining,
                is_doubtful: false,
            },
        );
        if let Some((id, attempt)) = running
            && self.jobs.get(&id).is_some_and(|job| job.cancel_asked)
        {
            effects.push(Effect::Stop {
                node: offer.node,
                job: id,
                attempt,
            });
        }
    }

    /// Whether the node's word agrees with the rows; from then on its own lease counts.
    fn adopt(&mut self, job: JobId, attempt: Attempt, offer: &NodeOffer) -> bool {
        let Some(job) = self.jobs.get_mut(&job) else {
            return false;
        };
        match &mut job.held_by {
            Some(held)
                if job.spec.attempt == attempt
                    && held.node == offer.node
                    && held.generation == offer.generation =>
            {
                held.lost_at = None;
                true
            }
            _ => false,
        }
    }

    fn beat(&mut self, node: &NodeId, generation: Generation, is_astray: bool, now: Monotonic) {
        if let Some(known) = self.nodes.get_mut(node)
            && known.generation == generation
        {
            known.lease_until = now.plus_ms(NODE_LEASE_MS);
            let was_doubtful = std::mem::replace(&mut known.is_doubtful, is_astray);
            if was_doubtful != is_astray {
                self.changed();
            }
        }
    }

    fn not_taken(&mut self, job: JobId, attempt: Attempt, effects: &mut Vec<Effect>) {
        let Some(held) = self.holder_of(job, attempt).cloned() else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(&held.node) {
            node.is_doubtful = true;
        }
        let reason = format!("{} did not take it", held.node);
        self.requeue(job, Unfinished::Stopped, reason, effects);
    }

    fn ended(
        &mut self,
        node: NodeId,
        generation: Generation,
        id: JobId,
        attempt: Attempt,
        end: AttemptEnd,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_holder(&node, generation, id, attempt) {
            effects.push(Effect::Stale {
                node,
                job: id,
                attempt,
            });
            return;
        }
        match end {
            // The clip came before the cancel could stop it: a late cancel destroys nothing.
            AttemptEnd::Rendered => {
                self.forget(id);
                effects.push(Effect::Settle { job: id, attempt });
            }
            AttemptEnd::Stopped if self.jobs.get(&id).is_some_and(|job| job.cancel_asked) => {
                self.forget(id);
                effects.push(Effect::Cancel { job: id, attempt });
            }
            AttemptEnd::Stopped => {
                let reason = "its node stopped it".to_owned();
                self.requeue(id, Unfinished::Stopped, reason, effects);
            }
            AttemptEnd::Failed {
                code,
                detail,
                retryable,
            } => {
                if retryable {
                    let reason = format!("{code}: {detail}");
                    self.requeue(id, Unfinished::Failed, reason, effects);
                } else {
                    self.forget(id);
                    effects.push(Effect::Fail {
                        job: id,
                        attempt,
                        code,
                        detail,
                    });
                }
            }
        }
    }

    /// Takes the attempt from nodes whose lease ran out, and from those that a new leader never heard of.
    fn expire(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        if self.wake_at.is_none_or(|at| now < at) {
            return;
        }
        // A pause may be over as well.
        self.changed();
        let silent: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.lease_until <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in silent {
            if let Some((job, _)) = self.nodes.remove(&id).and_then(|node| node.running) {
                self.lose(job, "its node fell silent", effects);
            }
        }
        let unclaimed: Vec<JobId> = self
            .jobs
            .values()
            .filter(|job| {
                job.held_by
                    .as_ref()
                    .and_then(|held| held.lost_at)
                    .is_some_and(|lost_at| lost_at <= now)
            })
            .map(|job| job.spec.job)
            .collect();
        // Dialling may take longer than this, so it proves no death and counts as none. Only a next process of the node that
        // comes sooner tells of one.
        for job in unclaimed {
            let reason = "its node did not come back to the new leader".to_owned();
            self.requeue(job, Unfinished::Stopped, reason, effects);
        }
        self.wake_at = self.next_due();
    }

    fn next_due(&self) -> Option<Monotonic> {
        let leases = self.nodes.values().map(|node| node.lease_until);
        let claims = self.jobs.values().filter_map(|job| match &job.held_by {
            Some(held) => held.lost_at,
            None => Some(job.back_at).filter(|back_at| self.now < *back_at),
        });
        leases.chain(claims).min()
    }

    /// The attempt's node died. The job waits again, unless it looks like the killer or nobody wants it any more.
    fn lose(&mut self, id: JobId, reason: &str, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let spec = &mut job.spec;
        spec.node_deaths += 1;
        if let Some(held) = &job.held_by {
            spec.died_on.insert(held.node.clone());
        }
        let (attempt, node_deaths) = (spec.attempt, spec.node_deaths);
        // One bad node dies of any job: it takes two to blame the job, or all tries where there is no second.
        let is_last_try = spec.failures + 1 >= JOB_ATTEMPTS_MAX;
        let is_killer = spec.died_on.len() >= JOB_NODE_DEATHS_MAX as usize
            || is_last_try && node_deaths >= JOB_NODE_DEATHS_MAX;
        if job.cancel_asked {
            self.forget(id);
            effects.push(Effect::Cancel { job: id, attempt });
        } else if is_killer {
            self.forget(id);
            effects.push(Effect::Quarantine {
                job: id,
                attempt,
                node_deaths,
            });
        } else {
            self.requeue(id, Unfinished::Lost, reason.to_owned(), effects);
        }
    }

    fn requeue(
        &mut self,
        id: JobId,
        outcome: Unfinished,
        reason: String,
        effects: &mut Vec<Effect>,
    ) {
        let node = self.release(id);
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let pause_ms = JOB_RETRY_MS << job.spec.failures.min(16);
        match outcome {
            Unfinished::Stopped => {}
            Unfinished::Failed | Unfinished::Lost => {
                job.back_at = self.now.plus_ms(pause_ms);
                job.spec.failures += 1;
                job.spec.failed_on.extend(node);
            }
        }
        let back_at = job.back_at;
        let (attempt, failures) = (job.spec.attempt, job.spec.failures);
        if job.cancel_asked {
            self.forget(id);
            effects.push(Effect::Cancel { job: id, attempt });
        } else if failures >= JOB_ATTEMPTS_MAX || attempt.get() >= JOB_ASSIGNMENTS_MAX {
            self.forget(id);
            let detail = format!(
                "given to a node {attempt} times, failed {failures} times; the last time: {reason}"
            );
            effects.push(Effect::Fail {
                job: id,
                attempt,
                code: "attempts_used_up".to_owned(),
                detail,
            });
        } else {
            let owner = job.spec.owner;
            self.queue_of(owner).push_front(id);
            self.wake_by(back_at);
            effects.push(Effect::Requeue {
                job: id,
                attempt,
                outcome,
                reason,
            });
        }
    }

    fn holder_of(&self, id: JobId, attempt: Attempt) -> Option<&Holder> {
        let job = self.jobs.get(&id)?;
        job.held_by.as_ref().filter(|_| job.spec.attempt == attempt)
    }

    /// Takes a job from its node, if it has one, and says which.
    fn release(&mut self, id: JobId) -> Option<NodeId> {
        let job = self.jobs.get_mut(&id)?;
        let held = job.held_by.take()?;
        self.revision += 1;
        self.running.remove(job.spec.owner);
        if let Some(node) = self.nodes.get_mut(&held.node)
            && node.running.is_some_and(|(running, _)| running == id)
        {
            node.running = None;
        }
        Some(held.node)
    }

    fn forget(&mut self, id: JobId) {
        self.release(id);
        if let Some(job) = self.jobs.remove(&id) {
            self.leave_queue(job.spec.owner, id);
        }
    }

    fn queue_of(&mut self, owner: UserId) -> &mut VecDeque<JobId> {
        if !self.waiting.contains_key(&owner) {
            self.shares.join(owner, self.now);
        }
        self.changed();
        self.waiting.entry(owner).or_default()
    }

    fn leave_queue(&mut self, owner: UserId, id: JobId) {
        self.changed();
        if let Some(queue) = self.waiting.get_mut(&owner) {
            queue.retain(|waiting| *waiting != id);
            if queue.is_empty() {
                self.waiting.remove(&owner);
            }
        }
    }
}
