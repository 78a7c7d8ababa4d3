//! What is there and what could be: nodes of some device classes, and the work that more of them could take. Read only.

use std::collections::HashMap;

use flowai_actors::ids::{Generation, NodeId};
use flowai_actors::state::Tier;
use flowai_actors::waiting::Ceiling;

use super::groups::GroupIx;
use super::kinds::Unfit;
use super::names::ClassIx;
use super::needs::KindIx;
use super::nodes::Node;
use super::state::Scheduler;

/// Nodes of some device classes, and what waits for them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pool {
    /// Live ones, in no order.
    pub nodes: Vec<PoolNode>,
    /// Jobs that would run at once were there nodes for all: of each user no more than its tier's cap leaves.
    pub runnable: u32,
    /// GPU-seconds of them, as these nodes would take.
    pub backlog_s: f64,
    /// Of each tier with such a job: when a job of it that came now would start, at the ninetieth percentile, seconds. `None`
    /// without such a job or without a node.
    pub wait_s: [Option<f64>; Tier::ALL.len()],
    /// Tiers with such a job.
    pub is_waiting: [bool; Tier::ALL.len()],
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolNode {
    pub node: NodeId,
    /// Of its process.
    pub generation: Generation,
    /// It gets no other job, whoever wanted that.
    pub is_draining: bool,
    /// An operator wants something of it: no business of anybody else. The scheduler does not know who wanted what.
    pub is_operators: bool,
    pub is_busy: bool,
    /// Since its last job; 0 while it has one.
    pub idle_ms: u64,
    /// Models and adapters that it has at hand.
    pub held: usize,
}

impl Scheduler {
    /// The nodes whose device class is wanted, and their work. A pool of which no node was ever seen is believed to be able to
    /// run what no node that was seen can. Looks at every lane: for once in some seconds.
    pub fn pool(&self, is_of: impl Fn(&str) -> bool) -> Pool {
        let groups: Vec<GroupIx> = self
            .kinds
            .groups()
            .filter(|ix| {
                self.class_of(*ix)
                    .is_some_and(|class| is_of(self.kinds.class_name(class)))
            })
            .collect();
        let nodes = self
            .nodes
            .iter()
            .filter(|(_, node)| groups.contains(&node.group))
            .map(|(ix, node)| self.seen(self.nodes.name(ix).clone(), node))
            .collect();
        let mut pool = Pool {
            nodes,
            ..Pool::default()
        };
        self.count_work(&groups, &mut pool);
        for (tier, is_waiting) in Tier::ALL.into_iter().zip(pool.is_waiting) {
            if is_waiting {
                pool.wait_s[tier as usize] = self.shortest_wait(&groups, tier);
            }
        }
        pool
    }

    /// Sizes for which every kind of node that offers the models, live or not, has too little memory, as far as was learned. Each
    /// model's smallest first.
    pub fn ceilings(&self) -> Vec<Ceiling> {
        let too_large = self.kinds.all().filter(|(ix, _)| {
            let is_short = self.kinds.unfit(*ix) == Some(Unfit::Memory);
            is_short && !self.kinds.groups().any(|group| self.kinds.fits(*ix, group))
        });
        let ceilings = too_large.filter_map(|(_, kind)| {
            let keyframe_model = match kind.needs.keyframe {
                None => None,
                Some(model) => Some(self.kinds.model_name(model)?.clone()),
            };
            Some(Ceiling {
                model: self.kinds.model_name(kind.needs.model)?.clone(),
                keyframe_model,
                volume: kind.needs.size.volume(),
            })
        });
        let mut ceilings: Vec<Ceiling> = ceilings.collect();
        ceilings.sort_by(|a, b| {
            let models = (&a.model, &a.keyframe_model).cmp(&(&b.model, &b.keyframe_model));
            models.then(a.volume.total_cmp(&b.volume))
        });
        // A larger one says nothing more.
        ceilings.dedup_by(|next, kept| {
            (&next.model, &next.keyframe_model) == (&kept.model, &kept.keyframe_model)
        });
        ceilings
    }

    pub(super) fn class_of(&self, group: GroupIx) -> Option<ClassIx> {
        Some(self.kinds.get_group(group)?.class)
    }

    fn seen(&self, name: NodeId, node: &Node) -> PoolNode {
        let is_busy = node.running.is_some();
        let idle_ms = self.now.since(node.idle_since).as_millis() as u64;
        PoolNode {
            node: name,
            generation: node.generation,
            is_draining: node.is_draining(),
            is_operators: false,
            is_busy,
            idle_ms: if is_busy { 0 } else { idle_ms },
            held: usize::from(node.model.is_some()) + node.fused.len() + node.near.len(),
        }
    }

    fn count_work(&self, groups: &[GroupIx], pool: &mut Pool) {
        // What each user may still start.
        let mut left: HashMap<_, u32> = HashMap::new();
        for (ix, kind) in self.kinds.waiting() {
            let Some(class) = self.where_it_fits(ix, groups) else {
                continue;
            };
            let ratio = self.durations.ratio(kind.needs, class);
            for claim in &kind.open {
                let Some(lane) = self.lanes.get(claim.lane) else {
                    continue;
                };
                for job in &lane.jobs {
                    let Some(job) = self.jobs.get(*job) else {
                        continue;
                    };
                    // More nodes would not start it.
                    if job.paused_s(self.now) > 0.0 {
                        continue;
                    }
                    let running = self.shares.get(job.owner).map_or(0, |user| user.running);
                    let cap = job.tier.running_max();
                    let left = left.entry(job.owner).or_insert(cap.saturating_sub(running));
                    if *left == 0 {
                        break;
                    }
                    *left -= 1;
                    pool.runnable += 1;
                    let cost = match class {
                        Some(class) => job.cost_on(self.kinds.class_name(class)),
                        None => job.cost_left(),
                    };
                    pool.backlog_s += cost * ratio;
                    pool.is_waiting[job.tier as usize] = true;
                }
            }
        }
    }

    /// Whether nodes of the groups can run the kind, and of which class: `Some(None)` when nothing is known of either.
    fn where_it_fits(&self, kind: KindIx, groups: &[GroupIx]) -> Option<Option<ClassIx>> {
        let fits = |ix: &GroupIx| self.kinds.fits(kind, *ix);
        if groups.is_empty() {
            return (!self.kinds.groups().any(|ix| fits(&ix))).then_some(None);
        }
        let group = groups.iter().find(|ix| fits(ix))?;
        Some(self.class_of(*group))
    }

    fn shortest_wait(&self, groups: &[GroupIx], tier: Tier) -> Option<f64> {
        let mut classes: Vec<ClassIx> = groups.iter().filter_map(|ix| self.class_of(*ix)).collect();
        classes.sort();
        classes.dedup();
        let waits = classes
            .into_iter()
            .filter_map(|class| self.wait_behind_others(tier, self.kinds.class_name(class)));
        waits.map(|wait| wait.p90_s).min_by(f64::total_cmp)
    }
}
