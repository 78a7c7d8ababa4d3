//! When waiting jobs will probably start, and what a busy node will probably be given next.
//!
//! The base is a fluid: virtual time reaches a claim's finish tag after `(finish - now) * weights / nodes` seconds, were the
//! farm shared out drop by drop among those who stand now. What really happens differs: users come and go, nodes are lost,
//! warm jobs pass. So the base is calibrated by what became of the last forecasts: a quantile of `waited / base` over the last
//! starts of the tier that waited for the same, times the base. That is honest by construction, as long as the near future
//! resembles the near past (conformal prediction; Vovk, Gammerman, Shafer 2005).

use std::collections::BTreeSet;

use flowai_actors::ids::{JobId, NodeId};
use flowai_actors::state::Tier;

use super::durations::Window;
use super::groups::GroupIx;
use super::jobs::{Job, JobIx, Jobs, Place, Quote, Told};
use super::lanes::Lane;
use super::nodes::NodeIx;
use super::state::Scheduler;

/// Added to both sides of a ratio, so that waits of milliseconds say nothing.
const FLOOR_S: f64 = 1.0;
/// Until a tier has shown anything: a start may take so many times its base.
const UNKNOWN_P90: f64 = 3.0;

/// Seconds from now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    pub p50_s: f64,
    pub p90_s: f64,
}

/// What became of forecasts.
#[derive(Debug, Clone, Default)]
pub(super) struct Calibration {
    ratios: [[Window; Told::COUNT]; Tier::ALL.len()],
    inside: u64,
    all: u64,
}

impl Calibration {
    /// A job started after so many seconds that was told a forecast when it came.
    pub(super) fn started(&mut self, tier: Tier, quote: Quote, waited_s: f64) {
        let ratio = (waited_s + FLOOR_S) / (f64::from(quote.base_s) + FLOOR_S);
        self.ratios[tier as usize][quote.told as usize].push(ratio);
        self.all += 1;
        self.inside += u64::from(waited_s <= f64::from(quote.p90_s));
    }

    fn range(&self, tier: Tier, (told, base_s): (Told, f64)) -> Range {
        let ratios = &self.ratios[tier as usize][told as usize];
        let at = |q, unknown| (base_s + FLOOR_S) * ratios.quantile(q).unwrap_or(unknown) - FLOOR_S;
        let p50_s = at(0.5, 1.0).max(0.0);
        // The newest start has not been counted yet when the next is promised: a little more than the tenth keeps it.
        Range {
            p50_s,
            p90_s: at(0.92, UNKNOWN_P90).max(p50_s),
        }
    }
}

impl Scheduler {
    /// The job that the node would be given if the one it has ended now. A forecast: arrivals, ends and other nodes change it.
    /// `None` for a node that is free, or is given nothing, and when nobody waits for it.
    pub fn next_on(&self, node: &NodeId) -> Option<JobId> {
        let ix = self.nodes.find(node)?;
        let known = self.nodes.get(ix).filter(|node| node.takes_work())?;
        let leaves = self.jobs.get(known.running?.job).map(|job| job.owner);
        let choice = self.choose(ix, leaves).0?;
        Some(self.jobs.get(choice.job)?.id)
    }

    /// When a waiting job will probably start. `None` for one that no live node can run, or that waits for another job.
    pub fn starts_in(&self, id: JobId) -> Option<Range> {
        let ix = self.jobs.find(id)?;
        let tier = self.jobs.get(ix)?.tier;
        Some(self.calibration.range(tier, self.base(ix)?))
    }

    /// When a job of the tier that came now would probably start on nodes of this device class, without anything of it loaded.
    pub fn predicted_wait(&self, tier: Tier, device_class: &str) -> Option<Range> {
        if self.has_idle(device_class) {
            return Some(Range {
                p50_s: 0.0,
                p90_s: 0.0,
            });
        }
        self.wait_behind_others(tier, device_class)
    }

    /// The same of a job that no idle node can take, should there be any.
    pub(super) fn wait_behind_others(&self, tier: Tier, device_class: &str) -> Option<Range> {
        let (nodes, busy_s) = self.capacity(|ix| {
            let group = self.kinds.get_group(ix);
            let of_class = group.filter(|group| self.kinds.class_name(group.class) == device_class);
            let paused = self.paused_in(ix);
            of_class.map_or(0, |group| group.live().saturating_sub(paused))
        });
        let length = self.durations.mean_charge() / f64::from(tier.weight());
        let weights = self.shares.weights() + u64::from(tier.weight());
        (nodes > 0).then(|| {
            let base_s = busy_s + length * weights as f64 / f64::from(nodes);
            self.calibration.range(tier, (Told::Turn, base_s))
        })
    }

    /// Nodes of the group that take work and are given none of the kinds of jobs that were seen, after failures there.
    fn paused_in(&self, group: GroupIx) -> u32 {
        let suspects: BTreeSet<NodeIx> = self.trust.suspects().collect();
        let is_paused = |ix: &&NodeIx| {
            let node = self.nodes.get(**ix).filter(|node| node.takes_work());
            let is_here = node.is_some_and(|node| node.group == group);
            let mut kinds = self.kinds.all();
            is_here
                && !kinds.any(|(kind, known)| {
                    self.kinds.fits(kind, group) && self.trusts(**ix, known.needs)
                })
        };
        suspects.iter().filter(is_paused).count() as u32
    }

    /// Whether a node of the class stands idle that is trusted and kept for nobody.
    fn has_idle(&self, device_class: &str) -> bool {
        let groups = self.free.groups().filter(|ix| {
            let group = self.kinds.get_group(*ix);
            group.is_some_and(|group| self.kinds.class_name(group.class) == device_class)
        });
        let mut nodes = groups.flat_map(|group| self.free.of_group(group));
        nodes.any(|ix| {
            let is_kept = self.reserved_for(ix).is_some();
            !is_kept && self.trust.is_trusted(ix, self.now)
        })
    }

    /// Share of the jobs that started before the ninetieth percentile of what they were told when they came; `None` before the
    /// first.
    pub fn inside_p90(&self) -> Option<f64> {
        let Calibration { inside, all, .. } = &self.calibration;
        (*all > 0).then(|| *inside as f64 / *all as f64)
    }

    /// Remembers what the job's owner is told now.
    pub(super) fn quote(&mut self, ix: JobIx) {
        let Some(job) = self.jobs.get(ix) else { return };
        let Some((told, base_s)) = self.base(ix) else {
            return;
        };
        let range = self.calibration.range(job.tier, (told, base_s));
        let quote = Quote {
            told,
            base_s: base_s as f32,
            p90_s: range.p90_s as f32,
        };
        if let Some(job) = self.jobs.get_mut(ix) {
            job.quote = Some(quote);
        }
    }

    /// What a waiting job waits for, and the seconds until then before calibration.
    fn base(&self, ix: JobIx) -> Option<(Told, f64)> {
        let job = self.jobs.get(ix)?;
        let Place::Lane(lane) = job.place else {
            return None;
        };
        let lane = self.lanes.get(lane)?;
        let fitting = |group| {
            let paused = self.barred(job.kind, std::iter::empty(), |of| of == group);
            self.kinds.fitting(job.kind, group).saturating_sub(paused)
        };
        let fits = |group: &GroupIx| self.kinds.fits(job.kind, *group);
        let groups = self.free.groups().filter(fits);
        let mut free = groups.flat_map(|group| self.free.of_group(group));
        let has_free = free.any(|node| self.is_open_to(node, lane, ix));
        let (nodes, busy_s) = self.capacity(fitting);
        if nodes == 0 {
            return None;
        }
        let busy_s = busy_s.max(job.paused_s(self.now));
        if has_free {
            let hold_s = job.hold_until.since(self.now).as_secs_f64();
            let told = if hold_s > 0.0 {
                Told::Hold
            } else {
                Told::Nothing
            };
            return Some((told, hold_s));
        }
        let tag = self.shares.get(job.owner)?.tag;
        let weight = f64::from(job.tier.weight());
        let finish = tag.0 + self.usual_ratio(job) * through_s(lane, ix, &self.jobs) / weight;
        let virtual_s = (finish - self.shares.now().0).max(0.0);
        let others_s = virtual_s * self.shares.weights() as f64 / f64::from(nodes);
        // Its own length is part of the tag, and not of its wait.
        let turn_s = (others_s - self.cost_of(job) / f64::from(nodes)).max(0.0) + busy_s;
        Some((Told::Turn, turn_s))
    }

    /// So many nodes of all groups, and seconds until the next of them probably becomes free.
    fn capacity(&self, nodes_of: impl Fn(GroupIx) -> u32) -> (u32, f64) {
        let nodes: u32 = self.kinds.groups().map(nodes_of).sum();
        // Of nodes whose ends are spread evenly over a usual run.
        (
            nodes,
            self.durations.mean_charge() / f64::from(nodes.max(1) + 1),
        )
    }
}

/// Baseline GPU-seconds of a job and of those before it in its lane. Whoever has just come is the last, and nothing is walked.
fn through_s(lane: &Lane, job: JobIx, jobs: &Jobs) -> f64 {
    if lane.jobs.back() == Some(&job) {
        return lane.backlog_s;
    }
    let before = lane.jobs.iter().take_while(|other| **other != job);
    let through = before.chain([&job]).filter_map(|ix| jobs.get(*ix));
    through.map(Job::cost_left).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_start_at_once_do_not_hide_what_others_wait() {
        let mut calibration = Calibration::default();
        let mut start = |told, base_s, waited_s| {
            let quote = Quote {
                told,
                base_s,
                p90_s: base_s,
            };
            calibration.started(Tier::Free, quote, waited_s);
        };
        for _ in 0..100 {
            start(Told::Nothing, 0.0, 0.0);
        }
        for _ in 0..10 {
            start(Told::Hold, 19.0, 39.0);
        }
        let promised = |told, base_s| calibration.range(Tier::Free, (told, base_s)).p90_s;
        assert_eq!(promised(Told::Hold, 19.0), 39.0);
        assert_eq!(promised(Told::Nothing, 0.0), 0.0);
    }
}
