//! The farm as a queue of events: clips are asked for, nodes load, render and stop, and a policy says what runs where.

mod node;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use flowai_actors::limits::NODE_BEAT_MS;

pub(super) use self::node::Loads;
pub use self::node::{Beat, Holds};
use self::node::{Node, Run};
use super::measure::{Attempt, Figures, Recorder};
use super::policy::Policy;
use super::{Fleet, JobIx, Ms, NodeIx, Setting, Submit, Workload};

/// What a policy wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The node must be free and have the memory, the job must wait.
    Start { job: JobIx, node: NodeIx },
    /// At its next step boundary, with a checkpoint. Ignored when there is none left.
    Stop { node: NodeIx },
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Rendered {
        busy_ms: Ms,
        load_ms: Ms,
    },
    /// After so many steps of the whole clip; the job waits again and goes on from there on a device of the same class.
    Stopped {
        step: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Submit(JobIx),
    /// Of a run by its number: one that was stopped meanwhile does not end again.
    End(NodeIx, u64),
    Stop(NodeIx, u64),
    Beat(NodeIx),
}

/// A farm that has not ended so many times its horizon is given up; what is left counts as unfinished.
const HORIZONS_MAX: u64 = 20;

/// Runs a workload to its end.
///
/// # Panics
/// When the policy starts what does not wait, on a node that is busy or lacks the memory: a policy that errs has no figures.
pub fn simulate(
    setting: &Setting,
    workload: &Workload,
    fleet: &Fleet,
    policy: &mut dyn Policy,
) -> Figures {
    let mut world = World::new(setting, workload, fleet);
    let hears_beats = policy.hears_beats();
    if hears_beats {
        for (node, _) in fleet.nodes() {
            world.at(u64::from(node.0) % NODE_BEAT_MS.max(1), Event::Beat(node));
        }
    }
    for (ix, job) in (0..).map(JobIx).zip(&workload.jobs) {
        if let Submit::At(at) = job.submit {
            world.at(at, Event::Submit(ix));
        }
    }
    while let Some(Reverse((now, _, event))) = world.queue.pop() {
        if world.unfinished == 0 || now > HORIZONS_MAX * setting.horizon_ms() {
            break;
        }
        world.now = now;
        let orders = world.take_in(event, policy);
        for order in orders {
            world.obey(order, policy);
        }
    }
    world.recorder.figures(world.unfinished)
}

struct World<'a> {
    workload: &'a Workload,
    nodes: Vec<Node>,
    jobs: Vec<Progress>,
    /// By job: the one that is asked for after it.
    followers: Vec<Option<(JobIx, Ms)>>,
    queue: BinaryHeap<Reverse<(Ms, u64, Event)>>,
    now: Ms,
    events: u64,
    runs: u64,
    unfinished: u32,
    recorder: Recorder<'a>,
}

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Unasked,
    Waiting { checkpoint: Option<Checkpoint> },
    Running,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Checkpoint {
    class: super::DeviceClass,
    step: u32,
}

impl<'a> World<'a> {
    fn new(setting: &'a Setting, workload: &'a Workload, fleet: &'a Fleet) -> Self {
        let mut followers = vec![None; workload.jobs.len()];
        for (ix, job) in (0..).map(JobIx).zip(&workload.jobs) {
            if let Submit::After { job, think_ms } = job.submit {
                followers[job.0 as usize] = Some((ix, think_ms));
            }
        }
        Self {
            workload,
            nodes: fleet.nodes().map(|(_, class)| Node::new(class)).collect(),
            jobs: vec![Progress::Unasked; workload.jobs.len()],
            followers,
            queue: BinaryHeap::new(),
            now: 0,
            events: 0,
            runs: 0,
            unfinished: workload.jobs.len() as u32,
            recorder: Recorder::new(setting, workload, fleet),
        }
    }

    fn at(&mut self, at: Ms, event: Event) {
        self.events += 1;
        self.queue.push(Reverse((at, self.events, event)));
    }

    fn take_in(&mut self, event: Event, policy: &mut dyn Policy) -> Vec<Order> {
        match event {
            Event::Submit(job) => {
                self.jobs[job.0 as usize] = Progress::Waiting { checkpoint: None };
                self.recorder.asked(job, self.now);
                let orders = policy.arrived(job, self.now);
                if let Some(promised_ms) = policy.promised_ms(job) {
                    self.recorder.promised(job, promised_ms);
                }
                orders
            }
            Event::End(node, run) => match self.take_run(node, run) {
                Some(run) => self.rendered(node, &run, policy),
                None => Vec::new(),
            },
            Event::Stop(node, run) => match self.take_run(node, run) {
                Some(run) => self.stopped(node, &run, policy),
                None => Vec::new(),
            },
            Event::Beat(node) => {
                self.at(self.now + NODE_BEAT_MS, Event::Beat(node));
                let says = self.nodes[node.0 as usize].beat(self.now);
                policy.beat(node, says, self.now)
            }
        }
    }

    fn take_run(&mut self, node: NodeIx, number: u64) -> Option<Run> {
        let node = &mut self.nodes[node.0 as usize];
        node.run.take_if(|run| run.number == number)
    }

    fn rendered(&mut self, node: NodeIx, run: &Run, policy: &mut dyn Policy) -> Vec<Order> {
        self.jobs[run.job.0 as usize] = Progress::Done;
        self.unfinished -= 1;
        self.recorder.ended(self.attempt(node, run), None);
        if let Some((job, think_ms)) = self.followers[run.job.0 as usize] {
            self.at(self.now + think_ms, Event::Submit(job));
        }
        let end = End::Rendered {
            busy_ms: self.now - run.rendering_since(),
            load_ms: run.load_ms,
        };
        policy.ended(node, run.job, end, self.now)
    }

    fn stopped(&mut self, node: NodeIx, run: &Run, policy: &mut dyn Policy) -> Vec<Order> {
        let step = run.stop_step.unwrap_or(run.first_step);
        let class = self.nodes[node.0 as usize].class;
        let checkpoint = Some(Checkpoint { class, step });
        self.jobs[run.job.0 as usize] = Progress::Waiting { checkpoint };
        self.recorder.ended(self.attempt(node, run), Some(step));
        policy.ended(node, run.job, End::Stopped { step }, self.now)
    }

    fn attempt(&self, node: NodeIx, run: &Run) -> Attempt {
        Attempt {
            job: run.job,
            class: self.nodes[node.0 as usize].class,
            first_step: run.first_step,
            started: run.started,
            rendering_since: run.rendering_since(),
            ended: self.now,
        }
    }

    fn obey(&mut self, order: Order, policy: &mut dyn Policy) {
        match order {
            Order::Start { job, node } => self.start(job, node, policy),
            Order::Stop { node } => {
                let shape = |job: JobIx| self.workload.job(job).shape;
                let run = self.nodes[node.0 as usize].run.as_mut();
                let stop = run.and_then(|run| {
                    let at = run.stop(self.now, shape(run.job).steps)?;
                    Some((at, run.number))
                });
                if let Some((at, number)) = stop {
                    self.at(at, Event::Stop(node, number));
                }
            }
        }
    }

    fn start(&mut self, ix: JobIx, node_ix: NodeIx, policy: &mut dyn Policy) {
        let job = self.workload.job(ix);
        let node = &mut self.nodes[node_ix.0 as usize];
        assert!(
            node.run.is_none(),
            "{node_ix:?} is busy, {ix:?} cannot start"
        );
        assert!(
            node.class.fits(job.model),
            "{ix:?} has no room on {node_ix:?}"
        );
        let Progress::Waiting { checkpoint } = self.jobs[ix.0 as usize] else {
            panic!("{ix:?} does not wait");
        };
        self.jobs[ix.0 as usize] = Progress::Running;
        let loads = node.load(job, self.now);
        // Other devices make other bits.
        let kept = checkpoint.filter(|kept| kept.class == node.class);
        let first_step = kept.map_or(0, |kept| kept.step);
        self.runs += 1;
        let run = Run::new(
            self.runs,
            ix,
            job,
            node.class,
            first_step,
            self.now,
            loads.total_ms(),
        );
        let ends = run.ends(job.shape.steps);
        let number = run.number;
        node.run = Some(run);
        self.recorder.started(
            ix,
            &loads,
            first_step,
            checkpoint.map(|kept| kept.step),
            self.now,
        );
        self.at(ends, Event::End(node_ix, number));
        if let Some(next) = policy.ahead(node_ix) {
            self.nodes[node_ix.0 as usize].fetch_ahead(self.workload.job(next), self.now);
        }
    }
}
