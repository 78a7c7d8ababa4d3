//! The coordinator's own scheduler, driven by the simulated farm's events.

use std::collections::{BTreeSet, HashMap};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Generation, GpuSeconds, JobId, ModelId, NodeId, Sha256, UserId};
use flowai_coordinator::scheduler::{
    AttemptEnd, Checkpoint, Effect, Event, Holds, NodeOffer, Ran, Readiness, Scheduler, Shape,
    WaitingJob,
};
use uuid::Uuid;

use super::super::workload::AdapterIx;
use super::super::{
    DeviceClass, End, Fleet, JobIx, ModelIx, Ms, NodeIx, Order, UserIx, Workload, trace,
};
use super::{Beat, Policy};

pub(super) struct FlowAi<'a> {
    scheduler: Scheduler,
    workload: &'a Workload,
    fleet: &'a Fleet,
    /// By number, as the scheduler knows them.
    nodes: Vec<NodeId>,
    by_name: HashMap<NodeId, NodeIx>,
    models: Vec<ModelId>,
    /// By job, the newest.
    attempts: Vec<Attempt>,
}

/// Nodes here start once.
const GENERATION: Generation = Generation::new(1);
/// Models say which of the two has the room for them.
const LARGE_BYTES: u64 = 80 << 30;
const SMALL_BYTES: u64 = 24 << 30;

impl<'a> FlowAi<'a> {
    pub(super) fn new(workload: &'a Workload, fleet: &'a Fleet) -> Self {
        let nodes: Vec<NodeId> = fleet.nodes().map(|(node, _)| node_id(node)).collect();
        let mut policy = Self {
            scheduler: Scheduler::default(),
            workload,
            fleet,
            by_name: nodes.iter().cloned().zip((0..).map(NodeIx)).collect(),
            nodes,
            models: (0..trace::MODELS)
                .map(|model| model_id(ModelIx(model)))
                .collect(),
            attempts: vec![Attempt::ZERO; workload.jobs.len()],
        };
        for (node, class) in fleet.nodes() {
            let fitting = (0..trace::MODELS)
                .map(ModelIx)
                .filter(|model| class.fits(*model));
            let offer = NodeOffer {
                node: policy.nodes[node.0 as usize].clone(),
                generation: GENERATION,
                models: fitting
                    .map(|model| policy.models[model.0 as usize].clone())
                    .collect(),
                device_class: class.as_str().to_owned(),
                memory_bytes: match class {
                    DeviceClass::Large => LARGE_BYTES,
                    DeviceClass::Small => SMALL_BYTES,
                },
                running: None,
            };
            let effects = policy
                .scheduler
                .step(Event::NodeRegistered(offer), Monotonic::default());
            assert!(effects.is_empty(), "nobody waits yet: {effects:?}");
        }
        policy
    }

    fn step(&mut self, event: Event, now: Ms) -> Vec<Order> {
        let effects = self.scheduler.step(event, Monotonic::from_millis(now));
        effects
            .into_iter()
            .filter_map(|effect| self.order(effect))
            .collect()
    }

    /// # Panics
    /// For an effect that has no cause here: no job fails or is cancelled, and no node falls silent.
    fn order(&mut self, effect: Effect) -> Option<Order> {
        match effect {
            Effect::Assign {
                job, attempt, node, ..
            } => {
                let job = job_ix(job);
                self.attempts[job.0 as usize] = attempt;
                Some(Order::Start {
                    job,
                    node: self.by_name[&node],
                })
            }
            Effect::Stop {
                node, keep: true, ..
            } => Some(Order::Stop {
                node: self.by_name[&node],
            }),
            // The journal's part.
            Effect::Settle { .. } | Effect::Requeue { .. } => None,
            Effect::Stop { keep: false, .. }
            | Effect::Fail { .. }
            | Effect::Cancel { .. }
            | Effect::Quarantine { .. }
            | Effect::Stale { .. } => {
                panic!("nothing here is a cause of {effect:?}")
            }
        }
    }
}

impl Policy for FlowAi<'_> {
    fn arrived(&mut self, ix: JobIx, now: Ms) -> Vec<Order> {
        let job = self.workload.job(ix);
        let adapters = job.adapters.iter().map(|(adapter, _)| sha256(*adapter));
        let waiting = WaitingJob {
            job: job_id(ix),
            owner: user_id(job.user),
            tier: job.tier,
            class: job.class,
            model: self.models[job.model.0 as usize].clone(),
            keyframe_model: None,
            adapters: adapters.collect(),
            shape: Shape {
                frames: job.shape.frames,
                width: job.shape.width,
                height: job.shape.height,
                steps: job.shape.steps,
            },
            cost: GpuSeconds(job.predicted_s),
            queued_at: Monotonic::from_millis(now),
            after: None,
            resume: None,
            attempt: Attempt::ZERO,
            failures: 0,
            failed_on: BTreeSet::new(),
            node_deaths: 0,
            died_on: BTreeSet::new(),
            preemptions: 0,
        };
        self.step(Event::JobArrived(waiting), now)
    }

    fn ended(&mut self, node: NodeIx, job: JobIx, end: End, now: Ms) -> Vec<Order> {
        let seconds = |ms: Ms| GpuSeconds(ms as f64 / 1000.0);
        let event = Event::Ended {
            node: self.nodes[node.0 as usize].clone(),
            generation: GENERATION,
            job: job_id(job),
            attempt: self.attempts[job.0 as usize],
            end: match end {
                End::Rendered { busy_ms, load_ms } => AttemptEnd::Rendered {
                    ran: Some(Ran {
                        busy: seconds(busy_ms),
                        load: seconds(load_ms),
                    }),
                },
                End::Stopped { step } => AttemptEnd::Stopped {
                    checkpoint: Some(Checkpoint {
                        device_class: self.fleet.class(node).as_str().to_owned(),
                        step,
                    }),
                },
            },
        };
        self.step(event, now)
    }

    fn hears_beats(&self) -> bool {
        true
    }

    fn beat(&mut self, node: NodeIx, says: Beat<'_>, now: Ms) -> Vec<Order> {
        let mut orders = Vec::new();
        if let Some((job, step)) = says.done {
            let steps = self.workload.job(job).shape.steps;
            let progressed = Event::Progressed {
                job: job_id(job),
                attempt: self.attempts[job.0 as usize],
                step: step.min(steps),
                steps,
            };
            orders.extend(self.step(progressed, now));
        }
        let hashes = |adapters: &mut dyn Iterator<Item = &AdapterIx>| {
            adapters.map(|adapter| sha256(*adapter)).collect()
        };
        let holds = Holds {
            model: says
                .holds
                .model
                .map(|model| self.models[model.0 as usize].clone()),
            fused: hashes(&mut says.holds.fused.iter()),
            near: hashes(&mut says.holds.near.iter()),
        };
        let beat = Event::Beat {
            node: self.nodes[node.0 as usize].clone(),
            generation: GENERATION,
            readiness: Readiness::Ready,
            holds: Some(holds),
        };
        orders.extend(self.step(beat, now));
        orders
    }

    fn ahead(&self, node: NodeIx) -> Option<JobIx> {
        self.scheduler
            .next_on(&self.nodes[node.0 as usize])
            .map(job_ix)
    }

    fn promised_ms(&mut self, job: JobIx) -> Option<Ms> {
        let range = self.scheduler.starts_in(job_id(job))?;
        Some((range.p90_s * 1000.0) as Ms)
    }
}

fn node_id(node: NodeIx) -> NodeId {
    let name = format!("node-{}", node.0);
    name.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn model_id(model: ModelIx) -> ModelId {
    let name = format!("model-{}", model.0);
    name.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// A number of its own in the first bytes, by which the scheduler tells adapters apart.
fn sha256(adapter: AdapterIx) -> Sha256 {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&adapter.model.0.to_be_bytes());
    bytes[2..4].copy_from_slice(&adapter.rank.to_be_bytes());
    Sha256::from_bytes(bytes)
}

/// In the order of their numbers.
fn job_id(job: JobIx) -> JobId {
    JobId::from_uuid(Uuid::from_u128(u128::from(job.0)))
}

fn job_ix(job: JobId) -> JobIx {
    JobIx(job.as_uuid().as_u128() as u32)
}

fn user_id(user: UserIx) -> UserId {
    UserId::from_uuid(Uuid::from_u128(u128::from(user.0)))
}
