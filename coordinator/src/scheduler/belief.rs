//! What is believed of jobs and nodes, as the leader asks for it.

use flowai_actors::ids::{Attempt, Generation, JobId, ModelId, NodeId, UserId};
use flowai_actors::state::Tier;

use super::jobs::{Cursor, Holder, Job};
use super::nodes::Node;
use super::state::Scheduler;

impl Scheduler {
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

    /// Whether a live node gets no other job, whoever wanted that.
    pub fn is_draining(&self, node: &NodeId) -> bool {
        self.nodes.by_name(node).is_some_and(Node::is_draining)
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

    /// Where looking through the unfinished jobs that are known now begins.
    pub fn first_unfinished(&self) -> Cursor {
        self.jobs.cursor()
    }

    /// A part of the unfinished jobs, found at the next `most` places, and where the next part begins. Of those that came after
    /// the cursor was made none is given.
    pub fn unfinished_part(
        &self,
        from: Cursor,
        most: usize,
    ) -> (impl Iterator<Item = JobId>, Option<Cursor>) {
        self.jobs.part(from, most)
    }

    /// What is believed of an unfinished job: its newest attempt, and the node that works on it.
    pub fn believed(&self, job: JobId) -> Option<(Attempt, Option<&NodeId>)> {
        let job = self.jobs.by_id(job)?;
        let node = job.holder().map(|held| self.nodes.name(held.node));
        Some((job.attempt, node))
    }
}
