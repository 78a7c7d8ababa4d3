//! Which waiting job a free node is given.

use std::collections::BTreeMap;

use flowai_actors::ids::{JobId, NodeId, UserId};
use flowai_actors::limits::USER_RUNNING_MAX;
#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};

use super::super::event::Effect;
use super::super::shares::Claim;
use super::{Holder, Job, Scheduler};

impl Scheduler {
    /// Gives free nodes work, the user with the smallest claim first.
    pub(super) fn place(&mut self, effects: &mut Vec<Effect>) {
        if self.placed == self.revision {
            return;
        }
        let free: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.running.is_none() && node.takes_work())
            .map(|(id, _)| id.clone())
            .collect();
        for node in free {
            let (heads, claims) = self.candidates(&node, None);
            let served = self
                .shares
                .serve_next(&claims, self.now, |user| self.waiting.contains_key(&user));
            if let Some(job) = served.and_then(|claim| heads.get(&claim.user)) {
                effects.extend(self.assign(*job, node));
            }
        }
        // What was given leaves less to give, never more.
        self.placed = self.revision;
    }

    /// Of each user who may start one, the first job that this node can run. `leaves`: whose running job is not counted.
    pub(in crate::scheduler) fn candidates(
        &self,
        node: &NodeId,
        leaves: Option<UserId>,
    ) -> (BTreeMap<UserId, JobId>, Vec<Claim>) {
        let mut heads = BTreeMap::new();
        let mut claims = Vec::new();
        for (user, waiting) in &self.waiting {
            let running = self
                .running
                .of(*user)
                .saturating_sub(u32::from(leaves == Some(*user)));
            #[cfg(feature = "planted-bugs")]
            let running = running.saturating_sub(u32::from(planted::is(Bug::CapOffByOne)));
            if running >= USER_RUNNING_MAX {
                continue;
            }
            let mut jobs = waiting.iter().filter_map(|id| self.jobs.get(id));
            if let Some(job) = jobs.find(|job| self.fits(job, node)) {
                heads.insert(*user, job.spec.job);
                claims.push(Claim::of(&job.spec));
            }
        }
        (heads, claims)
    }

    /// A job goes back to a node where it failed only after a pause, and only while no other could run it.
    fn fits(&self, job: &Job, id: &NodeId) -> bool {
        let node = self.nodes.get(id);
        let is_offered = node.is_some_and(|node| node.offers(&job.spec));
        let may_go_back = || job.back_at <= self.now && !self.has_untried_node(job);
        is_offered && (!job.spec.failed_on.contains(id) || may_go_back())
    }

    /// Whether a live node, free or not, offers the job's models and did not fail it yet.
    pub(super) fn has_untried_node(&self, job: &Job) -> bool {
        self.nodes.iter().any(|(id, node)| {
            node.takes_work() && node.offers(&job.spec) && !job.spec.failed_on.contains(id)
        })
    }

    fn assign(&mut self, id: JobId, node_id: NodeId) -> Option<Effect> {
        self.changed();
        let node = self.nodes.get_mut(&node_id)?;
        let job = self.jobs.get_mut(&id)?;
        let attempt = job.spec.attempt.next();
        let generation = node.generation;
        job.spec.attempt = attempt;
        job.held_by = Some(Holder {
            node: node_id.clone(),
            generation,
            lost_at: None,
        });
        node.running = Some((id, attempt));
        let owner = job.spec.owner;
        self.running.add(owner);
        self.leave_queue(owner, id);
        Some(Effect::Assign {
            job: id,
            attempt,
            node: node_id,
            generation,
        })
    }
}
