//! The decisions first, as tables and as promises that hold whatever happens; then the task with a real program.

mod decisions;
mod program;
mod whatever_happens;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Generation, NodeId};
use flowai_actors::limits::AUTOSCALE_SETTLE_MS;
use flowai_actors::state::Tier;

use super::{Call, Decision, Effect, Group, Money, Policy, State};
use crate::scheduler::{Pool, PoolNode};

/// Between two looks, ms.
const LOOK_MS: u64 = 5_000;
const COOL_DOWN_MS: u64 = 300_000;

fn policy(groups: &[&str], budget: Option<&str>) -> Policy {
    Policy {
        groups: groups
            .iter()
            .map(|text| text.parse::<Group>().unwrap())
            .collect(),
        budget: budget.map(|text| text.parse::<Money>().unwrap()),
        step_max: 4,
        cool_down_ms: COOL_DOWN_MS,
    }
}

fn name(text: &str) -> NodeId {
    text.parse().unwrap()
}

fn idle(text: &str) -> PoolNode {
    PoolNode {
        generation: Generation::new(1),
        node: name(text),
        is_draining: false,
        is_operators: false,
        is_busy: false,
        idle_ms: 1_000,
        held: 0,
    }
}

fn busy(text: &str) -> PoolNode {
    PoolNode {
        is_busy: true,
        idle_ms: 0,
        ..idle(text)
    }
}

/// Nodes `n0`, `n1` …, of which the first `working` have a job.
fn nodes(working: usize, all: usize) -> Vec<PoolNode> {
    let node = |n: usize| match n < working {
        true => busy(&format!("n{n}")),
        false => idle(&format!("n{n}")),
    };
    (0..all).map(node).collect()
}

/// So many nodes, all at work, and jobs of the tier, of which one that came now would wait so long.
fn crowded(all: usize, tier: Tier, runnable: u32, wait_s: f64) -> Pool {
    let mut pool = Pool {
        nodes: nodes(all, all),
        runnable,
        backlog_s: 60.0 * f64::from(runnable),
        ..Pool::default()
    };
    pool.is_waiting[tier as usize] = true;
    pool.wait_s[tier as usize] = (all > 0).then_some(wait_s);
    pool
}

fn quiet(working: usize, all: usize) -> Pool {
    Pool {
        nodes: nodes(working, all),
        ..Pool::default()
    }
}

/// A state and its clock.
struct Scaler {
    state: State,
    now: Monotonic,
}

impl Scaler {
    /// One that has seen these pools since before it decided anything.
    fn settled(policy: Policy, pools: &[Pool]) -> Self {
        let mut scaler = Self {
            state: State::new(policy, true),
            now: Monotonic::from_millis(1_000_000),
        };
        while scaler.now < Monotonic::from_millis(1_000_000 + AUTOSCALE_SETTLE_MS) {
            scaler.look(pools);
        }
        scaler
    }

    fn look(&mut self, pools: &[Pool]) -> Vec<Effect> {
        let effects = self.state.step(pools, self.now);
        self.now = self.now.plus_ms(LOOK_MS);
        effects
    }

    /// What the first group's look came to.
    fn decide(&mut self, pool: &Pool) -> Decision {
        let effects = self.look(std::slice::from_ref(pool));
        decisions(&effects).remove(0)
    }
}

fn decisions(effects: &[Effect]) -> Vec<Decision> {
    let of = |effect: &Effect| match effect {
        Effect::Decided(decision) => Some(decision.clone()),
        Effect::Drain(_) | Effect::Undrain(_) | Effect::Call(_) => None,
    };
    effects.iter().filter_map(of).collect()
}

fn calls(effects: &[Effect]) -> Vec<Call> {
    let of = |effect: &Effect| match effect {
        Effect::Call(call) => Some(call.clone()),
        Effect::Drain(_) | Effect::Undrain(_) | Effect::Decided(_) => None,
    };
    effects.iter().filter_map(of).collect()
}

fn drained(effects: &[Effect]) -> Vec<NodeId> {
    let of = |effect: &Effect| match effect {
        Effect::Drain(node) => Some(node.clone()),
        Effect::Decided(_) | Effect::Undrain(_) | Effect::Call(_) => None,
    };
    effects.iter().filter_map(of).collect()
}

fn undrained(effects: &[Effect]) -> Vec<NodeId> {
    let of = |effect: &Effect| match effect {
        Effect::Undrain(node) => Some(node.clone()),
        Effect::Decided(_) | Effect::Drain(_) | Effect::Call(_) => None,
    };
    effects.iter().filter_map(of).collect()
}
