mod anything;
mod bounds;
mod cancels;
mod deadlines;
mod dependencies;
mod failures;
mod fairness;
mod forecast;
mod keyframes;
mod line;
mod locality;
mod pool;
mod preemption;
mod recovery;
mod slow;
mod trust;

use std::collections::BTreeSet;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Generation, GpuSeconds, JobId, ModelId, NodeId, UserId};
use flowai_actors::limits::{
    FORCED_START_EVERY, JOB_ATTEMPTS_MAX, JOB_RETRY_MS, NODE_BEAT_MS, NODE_LEASE_MS,
};
use flowai_actors::messages::Stage;
use flowai_actors::state::{Class, Tier};
use flowai_store::journal::Unfinished;
use uuid::Uuid;

use super::*;

/// A scheduler with a clock and short words for what happens to it.
struct Farm {
    scheduler: Scheduler,
    now_ms: u64,
}

fn job_id(n: u64) -> JobId {
    JobId::from_uuid(Uuid::from_u64_pair(1, n))
}

fn user_id(n: u64) -> UserId {
    UserId::from_uuid(Uuid::from_u64_pair(2, n))
}

fn node_id(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn model(name: &str) -> ModelId {
    name.parse().unwrap()
}

fn waiting(n: u64, user: u64, tier: Tier) -> WaitingJob {
    WaitingJob {
        job: job_id(n),
        owner: user_id(user),
        tier,
        class: Class::Interactive,
        model: model("tiny"),
        keyframe_model: None,
        adapters: Vec::new(),
        shape: Shape {
            frames: 14,
            width: 256,
            height: 192,
            steps: 10,
        },
        cost: GpuSeconds(10.0),
        // The latest that counts is now.
        queued_at: Monotonic::from_millis(u64::MAX / 2),
        after: None,
        resume: None,
        attempt: Attempt::ZERO,
        failures: 0,
        failed_on: BTreeSet::new(),
        node_deaths: 0,
        died_on: BTreeSet::new(),
        preemptions: 0,
    }
}

const FIRST: Generation = Generation::new(1);
const SECOND: Generation = Generation::new(2);

impl Farm {
    fn new() -> Self {
        Self {
            scheduler: Scheduler::default(),
            now_ms: 0,
        }
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        self.scheduler
            .step(event, Monotonic::from_millis(self.now_ms))
    }

    fn arrive(&mut self, job: WaitingJob) -> Vec<Effect> {
        self.step(Event::JobArrived(job))
    }

    fn register(
        &mut self,
        node: &str,
        generation: Generation,
        running: Option<(u64, u32)>,
    ) -> Vec<Effect> {
        self.offer(node, generation, &["tiny"], running)
    }

    fn offer(
        &mut self,
        node: &str,
        generation: Generation,
        models: &[&str],
        running: Option<(u64, u32)>,
    ) -> Vec<Effect> {
        self.step(Event::NodeRegistered(NodeOffer {
            node: node_id(node),
            generation,
            models: models.iter().map(|name| model(name)).collect(),
            device_class: "gpu".to_owned(),
            memory_bytes: 1 << 34,
            running: running.map(|(job, attempt)| (job_id(job), Attempt::new(attempt))),
        }))
    }

    fn ended(&mut self, node: &str, job: u64, attempt: u32, end: AttemptEnd) -> Vec<Effect> {
        self.step(Event::Ended {
            node: node_id(node),
            generation: FIRST,
            job: job_id(job),
            attempt: Attempt::new(attempt),
            end,
        })
    }

    /// Lets time pass in beats, in which only the named nodes are heard.
    fn pass(&mut self, ms: u64, beating: &[&str]) -> Vec<Effect> {
        let until = self.now_ms + ms;
        let mut effects = Vec::new();
        while self.now_ms < until {
            self.now_ms = until.min(self.now_ms + NODE_BEAT_MS);
            for node in beating {
                effects.extend(self.step(Event::Beat {
                    node: node_id(node),
                    generation: FIRST,
                    readiness: Readiness::Ready,
                    holds: None,
                }));
            }
            effects.extend(self.step(Event::Tick));
        }
        effects
    }
}

fn assign(job: u64, attempt: u32, node: &str) -> Effect {
    Effect::Assign {
        job: job_id(job),
        attempt: Attempt::new(attempt),
        node: node_id(node),
        generation: FIRST,
    }
}

fn rendered() -> AttemptEnd {
    AttemptEnd::Rendered { ran: None }
}

fn stopped() -> AttemptEnd {
    AttemptEnd::Stopped { checkpoint: None }
}

fn failure(retryable: bool) -> AttemptEnd {
    AttemptEnd::Failed {
        code: "engine_failed".into(),
        detail: "a device was lost".into(),
        retryable,
        stage: Stage::Clip,
    }
}

/// The order in which jobs start when one node does them one after the other.
fn start_order(farm: &mut Farm, effects: Vec<Effect>) -> Vec<u64> {
    start_order_of(farm, effects, usize::MAX)
}

/// The first `most` of them.
fn start_order_of(farm: &mut Farm, effects: Vec<Effect>, most: usize) -> Vec<u64> {
    start_order_on(farm, "a", effects, most)
}

/// The same on a node of another name.
fn start_order_on(farm: &mut Farm, node: &str, effects: Vec<Effect>, most: usize) -> Vec<u64> {
    let mut order = Vec::new();
    let mut effects = effects;
    while let Some(Effect::Assign { job, attempt, .. }) = effects
        .iter()
        .find(|effect| matches!(effect, Effect::Assign { .. }))
        .cloned()
    {
        let n = job.as_uuid().as_u64_pair().1;
        order.push(n);
        if order.len() >= most {
            break;
        }
        effects = farm.ended(node, n, attempt.get(), rendered());
    }
    order
}
