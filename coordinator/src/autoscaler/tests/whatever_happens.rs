//! Goal: bounds hold whatever the figures say. Method: seeded worlds in which machines come late or never, and work comes and goes.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

/// Machines of one group.
#[derive(Debug, Default)]
struct Machines {
    nodes: BTreeMap<NodeId, PoolNode>,
    named: u32,
    /// When those that were asked for come, in looks.
    coming: Vec<u32>,
    /// Drained by the autoscaler.
    drained: BTreeSet<NodeId>,
}

impl Machines {
    fn come(&mut self, group: usize) {
        self.named += 1;
        let node = idle(&format!("g{group}-{}", self.named));
        self.nodes.insert(node.node.clone(), node);
    }

    fn pool(&self, random: &mut StdRng) -> Pool {
        let runnable = match random.random_bool(0.5) {
            true => random.random_range(1..40),
            false => 0,
        };
        let mut pool = Pool {
            nodes: self.nodes.values().cloned().collect(),
            runnable,
            backlog_s: f64::from(runnable) * random.random_range(1.0..300.0),
            ..Pool::default()
        };
        for tier in Tier::ALL {
            if runnable > 0 && random.random_bool(0.6) {
                pool.is_waiting[tier as usize] = true;
                let wait_s = 10_f64.powf(random.random_range(-1.0..5.0));
                pool.wait_s[tier as usize] = (!pool.nodes.is_empty()).then_some(wait_s);
            }
        }
        pool
    }
}

#[test]
fn bounds_hold_and_only_drained_idle_nodes_go_whatever_happens() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let groups = random.random_range(1..4);
        let mut policy = policy(&[], None);
        for group in 0..groups {
            let min = random.random_range(0..3);
            let max = min + random.random_range(1..10);
            let price = random.random_range(0..500);
            let text = format!("g{group}={min}..{max}@{}.{:02}", price / 100, price % 100);
            policy.groups.push(text.parse().unwrap());
        }
        policy.step_max = random.random_range(1..6);
        let cost = |wanted: &dyn Fn(usize) -> u32| {
            let each = policy.groups.iter().enumerate();
            each.fold(Money::ZERO, |sum, (ix, group)| {
                sum.plus(group.price.times(wanted(ix)))
            })
        };
        let least = cost(&|ix| policy.groups[ix].min);
        let extra: Money = random.random_range(0..30).to_string().parse().unwrap();
        let budget = least.plus(extra);
        let mut policy = policy.clone();
        policy.budget = Some(budget);
        let mut state = State::new(policy.clone(), true);
        let mut machines: Vec<Machines> = (0..groups).map(|_| Machines::default()).collect();
        let mut wanted_before: Option<Vec<u32>> = None;
        for look in 0..600_u64 {
            for (ix, group) in machines.iter_mut().enumerate() {
                let arrived = group
                    .coming
                    .iter()
                    .filter(|in_looks| **in_looks == 0)
                    .count();
                group.coming.retain(|in_looks| *in_looks > 0);
                group.coming.iter_mut().for_each(|in_looks| *in_looks -= 1);
                (0..arrived).for_each(|_| group.come(ix));
                for node in group.nodes.values_mut() {
                    node.is_busy = match node.is_draining {
                        // It takes no other job.
                        true => node.is_busy && random.random_bool(0.8),
                        false => random.random_bool(0.4),
                    };
                    node.held = random.random_range(0..3);
                }
                if random.random_bool(0.01) {
                    group.nodes.pop_first();
                }
            }
            let pools: Vec<Pool> = machines
                .iter()
                .map(|group| group.pool(&mut random))
                .collect();
            let effects = state.step(&pools, Monotonic::from_millis(look * LOOK_MS));
            let decided = decisions(&effects);
            let is_settling = look * LOOK_MS < AUTOSCALE_SETTLE_MS;
            if !is_settling {
                for (decision, group) in decided.iter().zip(&policy.groups) {
                    let bounds = group.min..=group.max;
                    assert!(
                        bounds.contains(&decision.wanted),
                        "seed {seed}: {decision:?}"
                    );
                }
                let wanted = |ix: usize| decided[ix].wanted;
                assert!(cost(&wanted) <= budget, "seed {seed}: {decided:?}");
                let wanted: Vec<u32> = decided.iter().map(|decision| decision.wanted).collect();
                if let Some(before) = wanted_before.replace(wanted.clone()) {
                    for (was, is) in before.into_iter().zip(wanted) {
                        assert!(was.abs_diff(is) <= policy.step_max, "seed {seed}");
                    }
                }
            }
            for effect in effects {
                match effect {
                    Effect::Drain(node) => {
                        let group = of(&node);
                        let found = machines[group].nodes.get_mut(&node).unwrap();
                        assert!(
                            !found.is_busy,
                            "seed {seed}: within bounds no busy node is chosen"
                        );
                        found.is_draining = true;
                        machines[group].drained.insert(node);
                    }
                    Effect::Undrain(node) => {
                        let group = &mut machines[of(&node)];
                        group.drained.remove(&node);
                        if let Some(found) = group.nodes.get_mut(&node) {
                            found.is_draining = false;
                        }
                    }
                    Effect::Call(call) => {
                        let ix: usize = call.class[1..].parse().unwrap();
                        let group = &mut machines[ix];
                        for node in &call.drained {
                            assert!(group.drained.contains(node), "seed {seed}");
                            assert!(!group.nodes[node].is_busy, "seed {seed}: {node} works");
                            group.nodes.remove(node);
                        }
                        let ready = group.nodes.values().filter(|node| !node.is_draining);
                        let missing = (call.wanted as usize).saturating_sub(ready.count());
                        group.coming.truncate(missing);
                        while group.coming.len() < missing {
                            group.coming.push(random.random_range(0..40));
                        }
                    }
                    Effect::Decided(_) => {}
                }
            }
            // What is there and what was asked for is paid, until it has gone.
            if !is_settling {
                let paid =
                    cost(&|ix| (machines[ix].nodes.len() + machines[ix].coming.len()) as u32);
                assert!(
                    paid <= budget,
                    "seed {seed}, look {look}: {paid} is paid of {budget}"
                );
            }
        }
    }
}

fn of(node: &NodeId) -> usize {
    let text = node.as_str();
    text[1..text.find('-').unwrap()].parse().unwrap()
}

#[test]
fn under_a_constant_load_the_number_comes_to_rest() {
    for demand in 0..24_u32 {
        let mut state = State::new(policy(&["g0=1..16@1"], None), true);
        let mut machines = Machines::default();
        machines.come(0);
        let mut changed_at = 0;
        let mut wanted = 1;
        for look in 0..2_000_u64 {
            let arrived = machines
                .coming
                .iter()
                .filter(|in_looks| **in_looks == 0)
                .count();
            machines.coming.retain(|in_looks| *in_looks > 0);
            machines
                .coming
                .iter_mut()
                .for_each(|in_looks| *in_looks -= 1);
            (0..arrived).for_each(|_| machines.come(0));
            let mut left = demand;
            for node in machines.nodes.values_mut().filter(|node| !node.is_draining) {
                node.is_busy = left > 0;
                left = left.saturating_sub(1);
            }
            let nodes: Vec<PoolNode> = machines.nodes.values().cloned().collect();
            let mut pool = Pool {
                runnable: left,
                backlog_s: 60.0 * f64::from(left),
                nodes,
                ..Pool::default()
            };
            pool.is_waiting[Tier::Pro as usize] = left > 0;
            let wait_s = 60.0 * f64::from(demand) / pool.nodes.len() as f64;
            pool.wait_s[Tier::Pro as usize] = (left > 0).then_some(wait_s);
            let effects = state.step(&[pool], Monotonic::from_millis(look * LOOK_MS));
            for effect in effects {
                match effect {
                    Effect::Decided(decision) => {
                        if decision.wanted != wanted && look * LOOK_MS > AUTOSCALE_SETTLE_MS {
                            (wanted, changed_at) = (decision.wanted, look);
                        }
                    }
                    Effect::Drain(node) => {
                        machines.nodes.get_mut(&node).unwrap().is_draining = true;
                    }
                    Effect::Undrain(_) => {}
                    Effect::Call(call) => {
                        machines
                            .nodes
                            .retain(|node, _| !call.drained.contains(node));
                        let there = machines.nodes.len() + machines.coming.len();
                        (there..call.wanted as usize).for_each(|_| machines.coming.push(20));
                    }
                }
            }
        }
        assert_eq!(wanted, demand.clamp(1, 16), "demand {demand}");
        assert!(
            changed_at < 200,
            "demand {demand}: changed at look {changed_at}"
        );
    }
}
