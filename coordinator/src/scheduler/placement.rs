//! Which waiting job a free node is given, and which free node a job.
//!
//! A node that becomes free takes the job of the smallest claim, or one that it can start sooner because it holds its model or
//! adapters: what is saved in loads is worth more to all than the exact turn. The claim of whoever passes is at most
//! [`LOCALITY_DEFICIT_JOBS`] usual jobs behind (a bounded deficit: arXiv 2501.14312), nobody passes who came later by ten times
//! what is saved, and a job is passed a bounded number of times (delay scheduling: Zaharia et al., EuroSys 2010).

use std::collections::BTreeSet;

use flowai_actors::limits::{
    CANDIDATES_MAX, CHOOSY_CANDIDATES_MAX, LOCALITY_DEFICIT_JOBS, LOCALITY_NODES_A_SKIP,
    LOCALITY_SKIPS_MIN, WAITED_SECOND_WORTH_S,
};

use super::bounds::Cause;
use super::claims::{Claims, Stream, stream};
use super::durations::Cold;
use super::event::Effect;
use super::jobs::{Job, JobIx, Place};
use super::kinds::{GroupIx, Kind, KindIx};
use super::lanes::{Claim, Lane, LaneIx};
use super::nodes::{Node, NodeIx};
use super::shares::{UserIx, Virtual};
use super::state::Scheduler;

/// Free nodes that a job is compared with, of those that have its model loaded and of the others.
const NODES_COMPARED_MAX: usize = 16;

/// What a node is given next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) job: JobIx,
    pub(super) cause: Cause,
    /// Whose turn it was.
    pub(super) passes: Option<JobIx>,
}

impl Choice {
    /// By its turn.
    fn of(job: JobIx) -> Self {
        Self {
            job,
            cause: Cause::Turn,
            passes: None,
        }
    }
}

impl Scheduler {
    /// Gives free nodes work: first those that have just become free, then the jobs that have just come.
    pub(super) fn place(&mut self, effects: &mut Vec<Effect>) {
        while let Some(node) = self.next_dirty_node() {
            if !self.nodes.get(node).is_some_and(Node::is_free) {
                continue;
            }
            let (choice, outdated) = self.choose(node, None);
            if let Some(choice) = choice {
                self.start(choice, node, effects);
            }
            outdated.into_iter().for_each(|lane| self.refile(lane));
        }
        let mut kinds = std::mem::take(&mut self.dirty_kinds);
        while !self.free.is_empty() {
            let (found, outdated) = self.match_newcomer(&kinds);
            outdated.into_iter().for_each(|lane| self.refile(lane));
            let Some((job, node)) = found else {
                break;
            };
            self.start(Choice::of(job), node, effects);
            kinds.append(&mut self.dirty_kinds);
        }
        self.dirty_kinds.clear();
    }

    /// Slow nodes come last, and leave to others what these start sooner.
    fn next_dirty_node(&mut self) -> Option<NodeIx> {
        let quick = self.dirty_nodes.iter().find(|node| !self.is_slow(**node));
        let next = *quick.or_else(|| self.dirty_nodes.first())?;
        self.dirty_nodes.take(&next)
    }

    /// What the node would be given, and lanes to file anew. `leaves`: whose running job there is taken as ended.
    pub(super) fn choose(
        &self,
        node: NodeIx,
        leaves: Option<UserIx>,
    ) -> (Option<Choice>, Vec<LaneIx>) {
        let reserved = self.reserved_for(node).map(|job| (job, Cause::Reserved));
        let first = reserved.or_else(|| Some((self.overdue(node)?, Cause::Overdue)));
        if let Some((job, cause)) = first {
            let choice = Choice {
                cause,
                ..Choice::of(job)
            };
            return (Some(choice), Vec::new());
        }
        let mut outdated = Vec::new();
        for with_capped in [false, true] {
            let mut claims = self.claims_for(node, leaves, with_capped);
            let best = self.best(node, &mut claims);
            outdated.append(&mut claims.outdated);
            if best.is_some() {
                return (best, outdated);
            }
        }
        (None, outdated)
    }

    /// Of all that the node may take. `with_capped`: also of users who run enough already.
    fn claims_for(&self, node: NodeIx, leaves: Option<UserIx>, with_capped: bool) -> Claims<'_> {
        let group = self.nodes.get(node).map(|node| node.group);
        let kinds = group
            .into_iter()
            .flat_map(|group| self.kinds.waiting_for(group));
        let kinds = kinds.filter(|(ix, _)| self.may_take(node, *ix));
        let streams = kinds.flat_map(|(_, kind)| {
            let capped = self.capped(kind, leaves, with_capped);
            [stream(&kind.open), capped]
        });
        Claims::new(self, streams)
    }

    /// The best of the claims that are not too far behind the first.
    fn best(&self, node: NodeIx, claims: &mut Claims<'_>) -> Option<Choice> {
        let known = self.nodes.get(node)?;
        let is_slow = self.is_slow(node);
        let can_run = |(lane, ix): &(&Lane, JobIx)| {
            self.may_run(lane, *ix, node) && !(is_slow && self.has_quicker(lane, *ix))
        };
        let heads =
            claims.filter_map(|claim| self.head(claim).filter(can_run).map(|(_, ix)| (claim, ix)));
        let heads = heads.filter(|(_, ix)| !self.is_held(*ix, node));
        let mut heads = heads.filter_map(|(claim, ix)| Some((claim, ix, self.jobs.get(ix)?)));
        let (first_claim, first, first_job) = heads.next()?;
        let stays = Choice::of(first);
        if u32::from(first_job.skips) >= self.skips_max(first_job) {
            return Some(stays);
        }
        let last = first_claim.finish.0 + LOCALITY_DEFICIT_JOBS * self.durations.mean_charge();
        let first_load_s = self.load_s(first_job, known);
        let mut best = (0.0, stays);
        for (_, job, rival) in heads
            .take_while(|(claim, ..)| claim.finish.0 <= last)
            .take(CANDIDATES_MAX)
        {
            let later_s = rival.queued_at.since(first_job.queued_at).as_secs_f64();
            let gain_s = first_load_s - self.load_s(rival, known) - WAITED_SECOND_WORTH_S * later_s;
            if gain_s > best.0 {
                best = (
                    gain_s,
                    Choice {
                        passes: Some(first),
                        ..Choice::of(job)
                    },
                );
            }
        }
        Some(best.1)
    }

    /// How often a job may be passed by others: the more nodes there are, the sooner one comes that suits it.
    fn skips_max(&self, job: &Job) -> u32 {
        let nodes = self.kinds.get(job.kind).map_or(0, |kind| kind.fitting);
        LOCALITY_SKIPS_MIN.max(nodes / LOCALITY_NODES_A_SKIP)
    }

    /// Of the users who run enough already: all, or only whoever has one running job less when that of `leaves` ends.
    fn capped<'a>(&'a self, kind: &'a Kind, leaves: Option<UserIx>, with_all: bool) -> Stream<'a> {
        if with_all {
            return stream(&kind.capped);
        }
        let Some(user) = leaves.and_then(|user| self.shares.get(user)) else {
            return Box::new(std::iter::empty());
        };
        let would_stand = user.lanes.iter().filter_map(|ix| {
            let lane = self.lanes.get(*ix)?;
            let claim = lane.entry.filter(|entry| entry.is_capped)?.claim;
            let job = self.jobs.get(*lane.jobs.front()?)?;
            let is_here = kind.capped.contains(&claim) && user.running <= job.tier.running_max();
            let lift = (self.shares.now().0 - user.tag.0).max(0.0);
            let claim = self.as_it_is(claim)?;
            let finish = Virtual(claim.finish.0 + lift);
            is_here.then_some(Claim { finish, ..claim })
        });
        let mut claims: Vec<Claim> = would_stand.collect();
        claims.sort_unstable();
        Box::new(claims.into_iter())
    }

    fn head(&self, claim: Claim) -> Option<(&Lane, JobIx)> {
        let lane = self.lanes.get(claim.lane)?;
        Some((lane, *lane.jobs.front()?))
    }

    /// What has to be brought to the node before the job can begin.
    pub(super) fn cold(&self, job: &Job, node: &Node) -> Cold {
        let needs = self.kinds.get(job.kind).map(|kind| kind.needs);
        let model = needs.is_some_and(|needs| node.model != Some(needs.model));
        let far = job
            .adapters
            .iter()
            .filter(|key| !node.fused.contains(key) && !node.near.contains(key));
        Cold {
            model,
            adapters: far.count() as u32,
        }
    }

    /// Seconds until a job can begin on the node, as predicted.
    pub(super) fn load_s(&self, job: &Job, node: &Node) -> f64 {
        let (Some(kind), Some(group)) =
            (self.kinds.get(job.kind), self.kinds.get_group(node.group))
        else {
            return 0.0;
        };
        let cold = self.cold(job, node);
        let model_s = if cold.model {
            self.durations.model_load_s(kind.needs.model, group.class)
        } else {
            0.0
        };
        let adapters_s = f64::from(cold.adapters) * self.durations.adapter_load_s(group.class);
        let wanted: BTreeSet<_> = job.adapters.iter().copied().collect();
        let fuse_s = if !cold.model && wanted == node.fused {
            0.0
        } else {
            self.durations.adapter_fuse_s()
        };
        model_s + adapters_s + fuse_s
    }

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
        let is_of_class = |checkpoint: &super::event::Checkpoint| {
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
    fn has_class(&self, job: &Job, checkpoint: &super::event::Checkpoint) -> bool {
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

    /// The first claim of these kinds that a free node can serve, the node that starts it soonest, and lanes to file anew.
    fn match_newcomer(&self, kinds: &BTreeSet<KindIx>) -> (Option<(JobIx, NodeIx)>, Vec<LaneIx>) {
        let has_free = |ix: &&KindIx| self.free.groups().any(|group| self.kinds.fits(**ix, group));
        let kinds = kinds.iter().filter(has_free);
        let kinds: Vec<&Kind> = kinds.filter_map(|ix| self.kinds.get(*ix)).collect();
        let filed: [fn(&Kind) -> &BTreeSet<Claim>; 2] = [|kind| &kind.open, |kind| &kind.capped];
        let mut outdated = Vec::new();
        for filed in filed {
            // Each kind is searched by itself: many of one that wait in vain hide nobody of another.
            let of_kinds = kinds.iter().filter_map(|kind| {
                let mut claims = Claims::new(self, [stream(filed(kind))].into_iter());
                let found = self.first_served(&mut claims);
                outdated.append(&mut claims.outdated);
                found
            });
            if let Some((_, job, node)) = of_kinds.min_by_key(|(claim, ..)| *claim) {
                return (Some((job, node)), outdated);
            }
        }
        (None, outdated)
    }

    /// Those that may not go everywhere, or are held for a node that has their model, are passed over in numbers: they wait for their
    /// nodes in front of others.
    fn first_served(&self, claims: &mut Claims<'_>) -> Option<(Claim, JobIx, NodeIx)> {
        let (mut plain, mut choosy) = (0, 0);
        for claim in claims {
            let Some((lane, ix)) = self.head(claim) else {
                continue;
            };
            if let Some(node) = self.free_node_for(lane, ix) {
                return Some((claim, ix, node));
            }
            let job = self.jobs.get(ix);
            match lane.is_choosy() || job.is_some_and(|job| self.now < job.hold_until) {
                true => choosy += 1,
                false => plain += 1,
            }
            if plain >= CANDIDATES_MAX || choosy >= CHOOSY_CANDIDATES_MAX {
                break;
            }
        }
        None
    }

    /// The one that starts it soonest; where some are slow, the one on which it ends first.
    pub(super) fn free_node_for(&self, lane: &Lane, ix: JobIx) -> Option<NodeIx> {
        let job = self.jobs.get(ix)?;
        let needs = self.kinds.get(lane.kind)?.needs;
        let can = |node: &NodeIx| self.is_open_to(*node, lane, ix) && !self.is_held(ix, *node);
        let warm = self.free.with_model(needs.model).filter(&can);
        let groups = self
            .free
            .groups()
            .filter(|group| self.kinds.fits(lane.kind, *group));
        // Those that may not have it are passed over first: distrusted nodes idle longest.
        let cold = groups.flat_map(|group| {
            let of_group = self.free.of_group(group).filter(&can);
            of_group.take(NODES_COMPARED_MAX)
        });
        let nodes: Vec<NodeIx> = warm.take(NODES_COMPARED_MAX).chain(cold).collect();
        let load_s = |ix: NodeIx| {
            let node = self.nodes.get(ix);
            node.map_or(f64::MAX, |node| self.load_s(job, node))
        };
        match nodes.iter().any(|node| self.is_slow(*node)) {
            true => least_of(&nodes, |ix| self.end_s(job, ix)),
            false => least_of(&nodes, load_s),
        }
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

/// The first of those whose seconds are the fewest.
fn least_of(nodes: &[NodeIx], seconds: impl Fn(NodeIx) -> f64) -> Option<NodeIx> {
    let timed = nodes.iter().map(|node| (seconds(*node), *node));
    let least = timed.min_by(|(a, _), (b, _)| a.total_cmp(b));
    least.map(|(_, node)| node)
}
