//! Which nodes a job may be given.
//!
//! A job goes back to a node where it failed only after a pause and while no other could take it, and with a checkpoint to one of its
//! device class while there is one.

use std::collections::BTreeSet;

use super::event::Checkpoint;
use super::groups::GroupIx;
use super::jobs::{Job, JobIx, Place};
use super::lanes::Lane;
use super::needs::KindIx;
use super::nodes::NodeIx;
use super::state::Scheduler;

impl Scheduler {
    /// Whether the node may be given jobs of the kind: it offers the models, has the memory as far as is known, and is trusted.
    pub(super) fn may_take(&self, node: NodeIx, kind: KindIx) -> bool {
        let group = self.nodes.get(node).map(|node| node.group);
        let needs = self.kinds.get(kind).map(|kind| kind.needs);
        group.is_some_and(|group| self.kinds.fits_on(kind, group, node))
            && needs.is_some_and(|needs| self.trusts(node, needs))
    }

    /// Whether the lane's job may go to this node of its kind.
    pub(super) fn may_run(&self, lane: &Lane, job: JobIx, node: NodeIx) -> bool {
        !lane.is_choosy() || self.is_chosen(job, node)
    }

    fn is_chosen(&self, ix: JobIx, node: NodeIx) -> bool {
        let Some(job) = self.jobs.get(ix) else {
            return false;
        };
        let Some(story) = &job.story else { return true };
        if job.paused_s(self.now) > 0.0 {
            return false;
        }
        // A job goes back to a node where it failed only after a pause, and only while no other could run it.
        let may_go_back = || story.back_at <= self.now && !self.has_untried_node(job);
        if story.failed_on.contains(&node) && !may_go_back() {
            return false;
        }
        let class = self
            .nodes
            .get(node)
            .and_then(|node| self.kinds.get_group(node.group))
            .map(|group| group.class);
        let is_of_class = |checkpoint: &Checkpoint| {
            class.is_some_and(|class| self.kinds.class_name(class) == checkpoint.device_class)
        };
        match &story.resume {
            Some(checkpoint) if self.has_class(job, checkpoint) => is_of_class(checkpoint),
            _ => true,
        }
    }

    /// Whether a node that takes work, free or not, can run the job, is trusted with it and did not fail it yet.
    pub(super) fn has_untried_node(&self, job: &Job) -> bool {
        self.has_untried(job, failed_on(job))
    }

    /// The same where it has just failed on one of them.
    pub(super) fn has_untried_node_beside(&self, job: &Job, node: NodeIx) -> bool {
        self.has_untried(job, failed_on(job).chain([node]))
    }

    fn has_untried(&self, job: &Job, tried: impl Iterator<Item = NodeIx>) -> bool {
        self.has_untried_of(job.kind, tried)
    }

    fn has_untried_of(&self, kind: KindIx, tried: impl Iterator<Item = NodeIx>) -> bool {
        let fitting = self.kinds.get(kind).map_or(0, |kind| kind.fitting);
        fitting > self.barred(kind, tried, |_| true)
    }

    /// Whether no node that can run the kind is trusted with it now.
    pub(super) fn all_pause(&self, kind: KindIx) -> bool {
        !self.has_untried_of(kind, std::iter::empty())
    }

    /// Whether some node that the job may be given can go on from the checkpoint; otherwise it begins anew wherever it fits.
    fn has_class(&self, job: &Job, checkpoint: &Checkpoint) -> bool {
        let is_of_class = |ix: &GroupIx| {
            let class = self.kinds.get_group(*ix).map(|group| group.class);
            class.is_some_and(|class| self.kinds.class_name(class) == checkpoint.device_class)
        };
        let of_class = self.kinds.groups().filter(is_of_class);
        let fitting: u32 = of_class.map(|ix| self.kinds.fitting(job.kind, ix)).sum();
        // Where it has failed it is given only while no other node could take it, of whatever class.
        let is_barred_by_failure = self.has_untried_node(job);
        let tried = failed_on(job).filter(|_| is_barred_by_failure);
        fitting > self.barred(job.kind, tried, |group| is_of_class(&group))
    }

    /// Nodes of these groups that take work and could run the kind, and are not given a job of it for now: they are not trusted with
    /// it, or are among those where it was tried.
    pub(super) fn barred(
        &self,
        kind: KindIx,
        tried: impl Iterator<Item = NodeIx>,
        is_wanted: impl Fn(GroupIx) -> bool,
    ) -> u32 {
        let Some(needs) = self.kinds.get(kind).map(|kind| kind.needs) else {
            return 0;
        };
        let suspects = self.trust.suspects();
        let distrusted = suspects.filter(|node| !self.trusts(*node, needs));
        let barred: BTreeSet<NodeIx> = tried.chain(distrusted).collect();
        let could = |ix: &&NodeIx| {
            let node = self.nodes.get(**ix).filter(|node| node.takes_work());
            node.is_some_and(|node| {
                is_wanted(node.group) && self.kinds.fits_on(kind, node.group, **ix)
            })
        };
        barred.iter().filter(could).count() as u32
    }

    /// Whether the lane's job would be given to the node, were it free.
    pub(super) fn is_open_to(&self, node: NodeIx, lane: &Lane, job: JobIx) -> bool {
        self.could_run(lane, job, node) && self.reserved_for(node).is_none_or(|other| other == job)
    }

    /// The same, whoever else the node is kept for.
    pub(super) fn could_run(&self, lane: &Lane, job: JobIx, node: NodeIx) -> bool {
        self.may_take(node, lane.kind) && self.may_run(lane, job, node)
    }

    /// Whose start the node was stopped for, if it still waits and may run there, and its user may start one more, beside no other
    /// that its bound began.
    pub(super) fn reserved_for(&self, node: NodeIx) -> Option<JobIx> {
        let known = self.nodes.get(node)?;
        let ix = self.jobs.find(known.reserved?)?;
        let job = self.jobs.get(ix)?;
        let Place::Lane(lane) = job.place else {
            return None;
        };
        let lane = self.lanes.get(lane)?;
        let is_capped = lane.entry.is_none_or(|entry| entry.is_capped);
        let has_forced = self.shares.get(job.owner)?.forced.is_some();
        (!is_capped && !has_forced && self.could_run(lane, ix, node)).then_some(ix)
    }
}

/// Where it failed.
fn failed_on(job: &Job) -> impl Iterator<Item = NodeIx> {
    let stories = job.story.iter();
    stories.flat_map(|story| story.failed_on.iter().copied())
}
