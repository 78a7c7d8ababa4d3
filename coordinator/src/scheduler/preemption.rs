//! Work that makes room for somebody whose start bound would pass.
//!
//! A render stops at a step boundary, leaves a checkpoint, and goes on later where it fits: it loses a swap, not its work. So
//! it is worth it only for a bound that would be missed, of a tier above or over batch work, where much more than the swap is
//! left (arXiv 2604.04335 shows as much for images over videos).

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::JobId;
use flowai_actors::limits::{
    CANDIDATES_MAX, JOB_PREEMPTIONS_MAX, PREEMPTION_GAP_MS, PREEMPTION_SWAP_S,
    PREEMPTION_SWAPS_WORTH, PREEMPTIONS_AT_ONCE_MAX,
};
use flowai_actors::state::{Class, Tier};
use itertools::Itertools as _;

use super::event::Effect;
use super::jobs::JobIx;
use super::lanes::LaneIx;
use super::nodes::{NodeIx, Running};
use super::shares::{UserIx, Virtual};
use super::state::Scheduler;

/// A running job that may be stopped for somebody.
struct Victim {
    node: NodeIx,
    owner: UserIx,
    tag: Virtual,
    class: Class,
    weight: u32,
    left_ms: u64,
}

impl Victim {
    /// Whether jobs of this weight may take its place.
    fn is_below(&self, weight: u32) -> bool {
        self.class == Class::Batch || self.weight < weight
    }
}

/// The largest tag of those that a job of the tier may stop.
fn most_had(victims: &[Victim], tier: Tier) -> Option<Virtual> {
    let below = victims
        .iter()
        .filter(|victim| victim.is_below(tier.weight()));
    below.map(|victim| victim.tag).max()
}

impl Scheduler {
    /// Stops what has to make room. The node is free only when it says so: until then it is kept for the one it stops for.
    pub(super) fn preempt_for_bounds(&mut self, effects: &mut Vec<Effect>) {
        for (victim, job) in self.stops_for_bounds() {
            if let Some(node) = self.nodes.get_mut(victim) {
                node.reserved = Some(job);
            }
            self.stop_and_keep(victim, effects);
        }
    }

    /// Nodes to stop, each with the job that it is to run next.
    fn stops_for_bounds(&self) -> Vec<(NodeIx, JobId)> {
        let mut endangered = self.endangered().peekable();
        let mut stops = Vec::new();
        // Looking at all nodes takes longer than to see that nobody is in need.
        if endangered.peek().is_none() {
            return stops;
        }
        let mut victims = self.victims();
        if victims.is_empty() {
            return stops;
        }
        let mut own_ends = self.own_ends();
        let working = self.nodes.iter().filter(|(_, node)| node.takes_work());
        let reserved = working.filter_map(|(_, node)| node.reserved);
        // Each is the only one of its user: a bound begins one of a user's jobs at a time.
        let waiting = reserved.filter_map(|job| self.jobs.by_id(job));
        let helped = waiting.filter(|job| job.holder().is_none());
        let helped = helped.map(|job| job.owner);
        let mut helped: HashSet<UserIx> = helped.collect();
        let most = Tier::ALL.map(|tier| most_had(&victims, tier));
        // By kind, whether some of them could make room.
        let mut has_victims = HashMap::new();
        let mut searches = 0;
        for (lane, ix) in endangered {
            if stops.len() == PREEMPTIONS_AT_ONCE_MAX || searches == CANDIDATES_MAX {
                break;
            }
            let Some(job) = self.jobs.get(ix) else {
                continue;
            };
            let (id, owner) = (job.id, job.owner);
            // It would hold up the node for what cannot be read now.
            if job.paused_s(self.now) > 0.0 || job.story.as_ref().is_some_and(|s| s.not_read > 0) {
                continue;
            }
            let tag = self.shares.get(owner).map(|user| user.tag);
            // In overload most are those for whom nobody can be stopped: they must not use up the searches.
            let has_victims = has_victims.entry(job.kind).or_insert_with(|| {
                let mut nodes = victims.iter().map(|victim| victim.node);
                nodes.any(|node| self.may_take(node, job.kind))
            });
            let is_vain = tag > most[job.tier as usize] || !*has_victims;
            if helped.contains(&owner) || self.has_own_end(lane, ix, &mut own_ends) || is_vain {
                continue;
            }
            searches += 1;
            if let Some(at) = self.victim_for(lane, ix, &victims) {
                stops.push((victims.remove(at).node, id));
                helped.insert(owner);
            }
        }
        stops
    }

    /// Lanes whose first jobs' bounds pass before a node could be freed for them, and these jobs, the most urgent first. In overload
    /// they are tens of thousands, and one need not look at all of them to find as many as can be helped.
    fn endangered(&self) -> impl Iterator<Item = (LaneIx, JobIx)> {
        let soon = self.now.plus_ms((1_000.0 * PREEMPTION_SWAP_S) as u64);
        let kinds = self.kinds.waiting();
        let late = kinds.flat_map(move |(_, kind)| kind.bounds.ending_by(soon));
        let urgent = late.map(|bounds| bounds.map(|(bound, lane)| (bound.ends_at(), lane)));
        let first = |(_, lane)| Some((lane, *self.lanes.get(lane)?.jobs.front()?));
        urgent.kmerge().filter_map(first)
    }

    /// Nodes that become free by themselves before one could be freed.
    fn own_ends(&self) -> Vec<NodeIx> {
        let ends_soon = |running: Running| running.ends_within(PREEMPTION_SWAP_S, self.now);
        let ending = self.nodes.iter().filter(|(_, node)| {
            node.reserved.is_none() && node.takes_work() && node.running.is_some_and(ends_soon)
        });
        ending.map(|(ix, _)| ix).collect()
    }

    /// Whether one of these nodes is promised to the job, which then serves no other.
    fn has_own_end(&self, lane: LaneIx, job: JobIx, own_ends: &mut Vec<NodeIx>) -> bool {
        let end = own_ends
            .iter()
            .position(|node| self.head_could_run(lane, job, *node));
        end.map(|at| own_ends.swap_remove(at)).is_some()
    }

    fn head_could_run(&self, lane: LaneIx, head: JobIx, node: NodeIx) -> bool {
        let lane = self.lanes.get(lane);
        lane.is_some_and(|lane| self.could_run(lane, head, node))
    }

    /// Jobs that may be stopped, the longest way to go first, and those on slow nodes last.
    fn victims(&self) -> Vec<Victim> {
        let nodes = self.nodes.iter();
        let stoppable = nodes.filter(|(_, node)| node.takes_work() && node.reserved.is_none());
        let victims = stoppable.filter_map(|(ix, node)| {
            let running = node.running.filter(|running| self.may_stop(running))?;
            let job = self.jobs.get(running.job)?;
            Some(Victim {
                node: ix,
                owner: job.owner,
                tag: self.shares.get(job.owner)?.tag,
                class: job.class,
                weight: job.tier.weight(),
                left_ms: (1_000.0 * running.left_s(self.now)) as u64,
            })
        });
        let mut victims: Vec<Victim> = victims.collect();
        victims.sort_by_key(|victim| {
            let is_slow = self.is_slow(victim.node);
            (is_slow, Reverse(victim.left_ms), victim.node)
        });
        victims
    }

    /// Which of the victims makes room for the job: of a tier below its own or batch work, and of a user who had no less.
    fn victim_for(&self, lane: LaneIx, job: JobIx, victims: &[Victim]) -> Option<usize> {
        let rival = self.jobs.get(job)?;
        let tag = self.shares.get(rival.owner)?.tag;
        victims.iter().position(|victim| {
            victim.is_below(rival.tier.weight())
                && victim.owner != rival.owner
                && victim.tag >= tag
                && self.head_could_run(lane, job, victim.node)
        })
    }

    fn may_stop(&self, running: &Running) -> bool {
        let Some(victim) = self.jobs.get(running.job).filter(|_| !running.is_stopping) else {
            return false;
        };
        let is_worth_it = running.left_s(self.now) > PREEMPTION_SWAPS_WORTH * PREEMPTION_SWAP_S;
        let is_long_ago = |at: Monotonic| at.plus_ms(PREEMPTION_GAP_MS) <= self.now;
        let was_left_alone = victim.story.as_ref().is_none_or(|story| {
            story.preemptions < JOB_PREEMPTIONS_MAX
                && story.preempted_at.is_none_or(is_long_ago)
                && !story.cancel_asked
        });
        is_worth_it && was_left_alone
    }

    /// Tells the node to stop at its next step boundary and to keep what it has.
    pub(super) fn stop_and_keep(&mut self, ix: NodeIx, effects: &mut Vec<Effect>) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(ix) else {
            return;
        };
        let is_for_another = node.reserved.is_some();
        let Some(running) = node.running.as_mut().filter(|running| !running.is_stopping) else {
            return;
        };
        running.is_stopping = true;
        let attempt = running.attempt;
        let Some(job) = self.jobs.get_mut(running.job) else {
            return;
        };
        let id = job.id;
        let story = job.story();
        story.stop_asked = true;
        if is_for_another {
            self.preemptions += 1;
            story.preemptions += 1;
            story.preempted_at = Some(now);
        }
        let node = self.nodes.name(ix).clone();
        effects.push(Effect::Stop {
            node,
            job: id,
            attempt,
            keep: true,
        });
    }
}
