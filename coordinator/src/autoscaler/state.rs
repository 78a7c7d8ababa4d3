//! How many nodes of each group are wanted, decided by a plain value: `step(pools, now) -> effects`.
//!
//! Needed are as many nodes as bring the predicted wait of the tier that is worst off down to its target, were it inversely
//! proportional to the nodes; without a node, as many as do the whole backlog within the target. More nodes than jobs that could
//! run are never of use. What is needed counts upwards after some looks in a row, and downwards only when it was so for a
//! cool-down, so that neither a burst nor a pause moves anything.

use std::collections::{BTreeMap, BTreeSet};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Generation, NodeId};
use flowai_actors::limits::{
    AUTOSCALE_GONE_MS, AUTOSCALE_LOOKS_ABOVE, AUTOSCALE_NAMED_MAX, AUTOSCALE_REMIND_MS,
    AUTOSCALE_SETTLE_MS,
};
use flowai_actors::state::Tier;

use super::group::Group;
use super::money::Money;
use super::provider::Call;
use crate::scheduler::{Pool, PoolNode};

/// Within this time a drain that was asked for is seen on its node; one that is not seen later was taken back by an operator.
const DRAIN_SEEN_MS: u64 = 15_000;

/// What an operator wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub groups: Vec<Group>,
    /// All groups together cost no more an hour. `None`: whatever their maxima cost.
    pub budget: Option<Money>,
    /// Nodes by which one decision changes a group at the most.
    pub step_max: u32,
    /// Nodes that were spare for so long are given back.
    pub cool_down_ms: u64,
}

/// Why so many nodes are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The term has just begun: nodes may still come back.
    Settling,
    /// Nothing speaks for another number.
    Steady,
    /// What was asked for is not there yet.
    Coming,
    /// A job of this tier would wait longer than its target.
    Wait(Tier),
    /// Nodes had nothing to do for the whole cool-down.
    Spare,
    /// Fewer would be less than the minimum.
    Minimum,
    /// More would be of use, and are more than the maximum.
    Maximum,
    /// More would be of use, and cost more than the budget.
    Budget,
}

impl Reason {
    /// For metrics.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Settling => "settling",
            Self::Steady => "steady",
            Self::Coming => "coming",
            Self::Wait(_) => "wait",
            Self::Spare => "spare",
            Self::Minimum => "minimum",
            Self::Maximum => "maximum",
            Self::Budget => "budget",
        }
    }
}

/// What one look at one group came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub class: String,
    pub wanted: u32,
    /// Nodes that take jobs.
    pub ready: u32,
    pub reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// One for each group and look, to be shown.
    Decided(Decision),
    /// The node ends its job and gets no other. Never sooner.
    Drain(NodeId),
    /// It is given jobs again; or it is gone, and a machine of its name begins anew.
    Undrain(NodeId),
    /// Tell the provider.
    Call(Call),
}

/// A node whose machine may go.
#[derive(Debug, Clone, Copy)]
struct Released {
    seen_at: Monotonic,
    /// `None` before it was seen since. Of its name there may be another machine, which has begun later.
    generation: Option<Generation>,
}

/// What one group stands at.
#[derive(Debug, Clone, Default)]
struct Standing {
    wanted: u32,
    /// Looks in a row at which more were needed than are wanted.
    looks_above: u32,
    /// Spare ones at each look since then, at least; `None` while none is spare.
    spare: Option<(Monotonic, u32)>,
    /// Nodes that were drained for this and may still be there, and since when.
    drained: BTreeMap<NodeId, Monotonic>,
    /// Those of them that the provider was told of: their machines may go at any moment, and no job is given to them again.
    released: BTreeMap<NodeId, Released>,
    told: Option<(Call, Monotonic)>,
}

/// What a group's pool looks like to its standing.
#[derive(Debug, Clone, Default)]
struct Seen {
    ready: u32,
    /// Nodes that end their job, or have, and cost money until they are gone.
    leaving: u32,
    /// More nodes than this would find nothing to do.
    useful: u32,
    needed: u32,
    /// Whose wait that follows from.
    tier: Option<Tier>,
}

/// For how many nodes of a group the budget pays.
#[derive(Debug, Clone, Copy)]
struct Payable {
    /// Of those that are there: with what is left beside the nodes that others have, or their minima. What those cost that leave is
    /// not looked at, or more would be let go for the same money.
    present: u32,
    /// Of those to come: with what is left beside the nodes that others want, and all that leave.
    new: u32,
}

/// All groups.
#[derive(Debug, Clone)]
pub struct State {
    policy: Policy,
    /// Whether what it drains is drained; a dry run's nodes go on.
    drains: bool,
    standings: Vec<Standing>,
    begun_at: Option<Monotonic>,
}

impl State {
    /// `drains`: whether drains that it asks for are carried out.
    pub fn new(policy: Policy, drains: bool) -> Self {
        let standings = vec![Standing::default(); policy.groups.len()];
        Self {
            policy,
            drains,
            standings,
            begun_at: None,
        }
    }

    /// One look at the pools, in the order of the policy's groups.
    pub fn step(&mut self, pools: &[Pool], now: Monotonic) -> Vec<Effect> {
        let begun_at = *self.begun_at.get_or_insert(now);
        let mut effects = Vec::new();
        let is_settling = now < begun_at.plus_ms(AUTOSCALE_SETTLE_MS);
        for (ix, pool) in pools.iter().enumerate().take(self.standings.len()) {
            self.forget_gone(ix, pool, now, &mut effects);
        }
        let mut all_seen: Vec<Seen> = (0..self.standings.len())
            .map(|ix| self.see(ix, pools.get(ix)))
            .collect();
        for (ix, pool) in pools.iter().enumerate().take(self.standings.len()) {
            let reason = if is_settling {
                self.standings[ix].wanted = all_seen[ix].ready;
                Reason::Settling
            } else {
                let reason = self.decide(ix, pool, &all_seen, now, &mut effects);
                // What follows is reckoned with what was decided.
                all_seen[ix] = self.see(ix, Some(pool));
                self.call(ix, pool, all_seen[ix].ready, now, &mut effects);
                reason
            };
            effects.push(Effect::Decided(Decision {
                class: self.policy.groups[ix].class.clone(),
                wanted: self.standings[ix].wanted,
                ready: all_seen[ix].ready,
                reason,
            }));
        }
        if is_settling {
            // Decided anew when the farm is whole, within minimum, maximum and budget.
            self.standings.iter_mut().for_each(|group| group.wanted = 0);
        }
        effects
    }

    /// Drained nodes that have left, and those of which an operator wants something.
    fn forget_gone(&mut self, ix: usize, pool: &Pool, now: Monotonic, effects: &mut Vec<Effect>) {
        let drains = self.drains;
        let Standing {
            drained, released, ..
        } = &mut self.standings[ix];
        drained.retain(|name, since| {
            let Some(node) = pool.nodes.iter().find(|node| node.node == *name) else {
                // It may come back before its machine goes.
                let is_near = |own: &Released| now < own.seen_at.plus_ms(AUTOSCALE_GONE_MS);
                if released.get(name).is_some_and(is_near) {
                    return true;
                }
                effects.push(Effect::Undrain(name.clone()));
                return false;
            };
            if let Some(own) = released.get_mut(name) {
                own.seen_at = now;
                if *own.generation.get_or_insert(node.generation) < node.generation {
                    effects.push(Effect::Undrain(name.clone()));
                    return false;
                }
            }
            let is_seen = node.is_draining || !drains || now < since.plus_ms(DRAIN_SEEN_MS);
            is_seen && !node.is_operators
        });
        released.retain(|name, _| drained.contains_key(name));
    }

    /// The provider is being told this now: whatever it answers, machines that it names may go.
    pub fn tells(&mut self, call: &Call, now: Monotonic) {
        let groups = self.policy.groups.iter().zip(&mut self.standings);
        for (_, standing) in groups.filter(|(group, _)| group.class == call.class) {
            let named = call.drained.iter().cloned();
            for name in named {
                let own = standing.released.entry(name).or_insert(Released {
                    seen_at: now,
                    generation: None,
                });
                own.seen_at = now;
            }
        }
    }

    fn see(&self, ix: usize, pool: Option<&Pool>) -> Seen {
        let standing = &self.standings[ix];
        let Some(pool) = pool else {
            return Seen::default();
        };
        let ready = pool.nodes.iter().filter(|node| standing.keeps(node));
        let ready = ready.count() as u32;
        let leaving = pool.nodes.len() as u32 - ready;
        // A node that only a dry run would drain works on, and what it does would have to be done.
        let does_count = |node: &&PoolNode| node.is_busy && (standing.keeps(node) || !self.drains);
        let busy = pool.nodes.iter().filter(does_count).count() as u32;
        let useful = busy.saturating_add(pool.runnable);
        let (needed, tier) = needed(pool, ready);
        Seen {
            ready,
            leaving,
            useful,
            needed: needed.min(useful),
            tier,
        }
    }

    fn decide(
        &mut self,
        ix: usize,
        pool: &Pool,
        all_seen: &[Seen],
        now: Monotonic,
        effects: &mut Vec<Effect>,
    ) -> Reason {
        let seen = &all_seen[ix];
        let group = &self.policy.groups[ix];
        let (min, max) = (group.min, group.max);
        let payable = self.payable(ix, all_seen);
        let step_max = self.policy.step_max;
        let standing = &mut self.standings[ix];

        // Nodes that came by themselves are kept while they may be.
        let present = seen.ready.min(payable.present);
        let most = max.min(payable.new.max(present).max(min));
        let kept = standing.wanted.max(seen.ready);
        standing.wanted = kept.clamp(min, most);
        if kept < min {
            return Reason::Minimum;
        }
        if seen.ready > standing.wanted {
            let excess = (seen.ready - standing.wanted).min(step_max);
            standing.drain(pool, excess, |_| true, now, effects);
            return match seen.ready > max {
                true => Reason::Maximum,
                false => Reason::Budget,
            };
        }
        if seen.needed > standing.wanted {
            standing.spare = None;
            standing.looks_above += 1;
            if standing.looks_above < AUTOSCALE_LOOKS_ABOVE {
                return Reason::Steady;
            }
            let wished = seen.needed.min(standing.wanted.saturating_add(step_max));
            let wait = seen.tier.map_or(Reason::Steady, Reason::Wait);
            let bound = self.grow(ix, pool, wished, payable, effects);
            return bound.unwrap_or(wait);
        }
        standing.looks_above = 0;
        if standing.shrink(seen, &self.policy, min, pool, now, effects) {
            return Reason::Spare;
        }
        match standing.wanted > seen.ready {
            true => Reason::Coming,
            false => Reason::Steady,
        }
    }

    /// Wants more, as far as maximum and budget allow. Gives which of them stood in the way, if one did.
    fn grow(
        &mut self,
        ix: usize,
        pool: &Pool,
        wished: u32,
        payable: Payable,
        effects: &mut Vec<Effect>,
    ) -> Option<Reason> {
        let max = self.policy.groups[ix].max;
        let standing = &mut self.standings[ix];
        let to = wished.min(max);
        let mut missing = to.saturating_sub(standing.wanted);
        // New ones were reckoned with all that leave. Whoever of them comes back costs nothing more.
        let new = payable.new.saturating_sub(standing.wanted);
        let back = missing.min(payable.present.saturating_sub(standing.wanted));
        for node in standing.own(pool).into_iter().take(back as usize) {
            standing.drained.remove(&node);
            effects.push(Effect::Undrain(node));
            standing.wanted += 1;
            missing -= 1;
        }
        standing.wanted += missing.min(new);
        if standing.wanted < to {
            return Some(Reason::Budget);
        }
        standing.looks_above = 0;
        (to < wished).then_some(Reason::Maximum)
    }

    fn payable(&self, ix: usize, all_seen: &[Seen]) -> Payable {
        let Some(budget) = self.policy.budget else {
            return Payable {
                present: u32::MAX,
                new: u32::MAX,
            };
        };
        let (mut present, mut new) = (budget, budget);
        for (other, seen) in all_seen.iter().enumerate() {
            let group = &self.policy.groups[other];
            let (stays, comes) = match other == ix {
                true => (0, 0),
                false => {
                    let stays = seen.ready.max(group.min);
                    (stays, stays.max(self.standings[other].wanted))
                }
            };
            present = present.minus(group.price.times(stays));
            new = new.minus(group.price.times(comes.saturating_add(seen.leaving)));
        }
        let price = self.policy.groups[ix].price;
        Payable {
            present: present.pays_for(price),
            new: new.pays_for(price),
        }
    }

    /// Tells the provider what is new, and again what is not done.
    fn call(
        &mut self,
        ix: usize,
        pool: &Pool,
        ready: u32,
        now: Monotonic,
        effects: &mut Vec<Effect>,
    ) {
        let class = self.policy.groups[ix].class.clone();
        let standing = &mut self.standings[ix];
        let ended = pool
            .nodes
            .iter()
            .filter(|node| standing.drained.contains_key(&node.node))
            .filter(|node| node.is_draining && !node.is_busy);
        let names: BTreeSet<NodeId> = ended.map(|node| node.node.clone()).collect();
        let call = Call {
            class,
            wanted: standing.wanted,
            ready,
            drained: names.into_iter().take(AUTOSCALE_NAMED_MAX).collect(),
        };
        let is_done = call.wanted == ready && call.drained.is_empty();
        let is_due = standing.told.as_ref().is_none_or(|(told, at)| {
            let is_news = told.wanted != call.wanted || told.drained != call.drained;
            is_news || (!is_done && at.plus_ms(AUTOSCALE_REMIND_MS) <= now)
        });
        if is_due {
            standing.told = Some((call.clone(), now));
            effects.push(Effect::Call(call));
        }
    }
}

impl Standing {
    /// Whether the node takes jobs, and was not drained for this.
    fn keeps(&self, node: &PoolNode) -> bool {
        !node.is_draining && !self.drained.contains_key(&node.node)
    }

    /// Nodes drained for this of which the provider does not know yet, those with most at hand first.
    fn own(&self, pool: &Pool) -> Vec<NodeId> {
        let mut own: Vec<&PoolNode> = pool
            .nodes
            .iter()
            .filter(|node| self.drained.contains_key(&node.node))
            .filter(|node| !self.released.contains_key(&node.node))
            .collect();
        own.sort_by_key(|node| (std::cmp::Reverse(node.held), &node.node));
        own.into_iter().map(|node| node.node.clone()).collect()
    }

    /// Takes the first `count` such nodes out: idle ones first, of them those with least at hand, then the longest idle.
    fn drain(
        &mut self,
        pool: &Pool,
        count: u32,
        may: impl Fn(&PoolNode) -> bool,
        now: Monotonic,
        effects: &mut Vec<Effect>,
    ) -> u32 {
        let kept = pool.nodes.iter().filter(|node| self.keeps(node));
        let mut candidates: Vec<&PoolNode> = kept.filter(|node| may(node)).collect();
        candidates.sort_by_key(|node| {
            let longest_first = std::cmp::Reverse(node.idle_ms);
            (node.is_busy, node.held, longest_first, &node.node)
        });
        candidates.truncate(count as usize);
        for node in &candidates {
            self.drained.insert(node.node.clone(), now);
            effects.push(Effect::Drain(node.node.clone()));
        }
        candidates.len() as u32
    }

    /// Wants fewer when some were spare for the whole cool-down. Those that have not come yet are given up first.
    fn shrink(
        &mut self,
        seen: &Seen,
        policy: &Policy,
        min: u32,
        pool: &Pool,
        now: Monotonic,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let spare = self.wanted.saturating_sub(seen.useful.max(min));
        if spare == 0 {
            self.spare = None;
            return false;
        }
        let (since, least) = self.spare.unwrap_or((now, spare));
        let least = least.min(spare);
        self.spare = Some((since, least));
        if now < since.plus_ms(policy.cool_down_ms) {
            return false;
        }
        self.spare = None;
        let less = least.min(policy.step_max);
        let given_up = less.min(self.wanted.saturating_sub(seen.ready));
        let drained = self.drain(pool, less - given_up, |node| !node.is_busy, now, effects);
        self.wanted -= given_up + drained;
        given_up + drained > 0
    }
}

/// How many nodes bring every tier to its target, and the tier that is worst off; 0 when all are.
fn needed(pool: &Pool, ready: u32) -> (u32, Option<Tier>) {
    let waiting = Tier::ALL
        .into_iter()
        .filter(|tier| pool.is_waiting[*tier as usize]);
    let load = waiting.map(|tier| {
        let target_s = f64::from(tier.wait_target_s());
        let nodes = match pool.wait_s[tier as usize] {
            Some(wait_s) if ready > 0 => {
                let ratio = wait_s / target_s;
                if ratio > 1.0 {
                    f64::from(ready) * ratio
                } else {
                    0.0
                }
            }
            _ => (pool.backlog_s / target_s).max(1.0),
        };
        (nodes, tier)
    });
    match load.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((nodes, tier)) if nodes > 0.0 => (nodes.ceil() as u32, Some(tier)),
        _ => (0, None),
    }
}
