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
use super::event::Effect;
use super::jobs::{Job, JobIx};
use super::kinds::Kind;
use super::lanes::{Claim, Lane, LaneIx};
use super::needs::KindIx;
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
}

/// The first of those whose seconds are the fewest.
fn least_of(nodes: &[NodeIx], seconds: impl Fn(NodeIx) -> f64) -> Option<NodeIx> {
    let timed = nodes.iter().map(|node| (seconds(*node), *node));
    let least = timed.min_by(|(a, _), (b, _)| a.total_cmp(b));
    least.map(|(_, node)| node)
}
