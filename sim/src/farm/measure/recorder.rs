//! Takes down what happens in a farm.

use std::collections::BTreeMap;

use flowai_actors::state::{Class, Tier};

use super::super::world::Loads as StartLoads;
use super::super::{DeviceClass, Fleet, Job, JobIx, Ms, Setting, UserIx, Workload, assumed, trace};
use super::fairness::Ledger;
use super::{Bounds, Figures, Loads, Preemption, Promises, Utilisation, Wait};

pub(in crate::farm) struct Recorder<'a> {
    workload: &'a Workload,
    nodes: usize,
    /// From the warm-up to the end of the asking.
    window: (Ms, Ms),
    asked: Vec<Option<Ms>>,
    waited_ms: Vec<Option<Ms>>,
    /// When it was asked for, or stopped.
    waits_since: Vec<Ms>,
    /// The longest that it waited at a time and its user was given no start.
    turn_ms: Vec<Ms>,
    last_start: BTreeMap<UserIx, Ms>,
    promised_ms: Vec<Option<Ms>>,
    loads: Loads,
    ledger: Ledger,
    preemption: Preemption,
    rendering_ms: Ms,
    loading_ms: Ms,
    last_end: Ms,
}

/// A run on a node, from its start to its end.
#[derive(Debug)]
pub(in crate::farm) struct Attempt {
    pub(in crate::farm) job: JobIx,
    pub(in crate::farm) class: DeviceClass,
    pub(in crate::farm) first_step: u32,
    pub(in crate::farm) started: Ms,
    pub(in crate::farm) rendering_since: Ms,
    pub(in crate::farm) ended: Ms,
}

impl<'a> Recorder<'a> {
    pub(in crate::farm) fn new(setting: &Setting, workload: &'a Workload, fleet: &Fleet) -> Self {
        let none = || vec![None; workload.jobs.len()];
        Self {
            workload,
            nodes: fleet.nodes().count(),
            window: (setting.warm_up_ms(), setting.horizon_ms()),
            asked: none(),
            waited_ms: none(),
            waits_since: vec![0; workload.jobs.len()],
            turn_ms: vec![0; workload.jobs.len()],
            last_start: BTreeMap::new(),
            promised_ms: none(),
            loads: Loads::default(),
            ledger: Ledger::default(),
            preemption: Preemption::default(),
            rendering_ms: 0,
            loading_ms: 0,
            last_end: 0,
        }
    }

    pub(in crate::farm) fn asked(&mut self, ix: JobIx, now: Ms) {
        self.asked[ix.0 as usize] = Some(now);
        self.waits(ix, now);
    }

    pub(in crate::farm) fn promised(&mut self, ix: JobIx, promised_ms: Ms) {
        self.promised_ms[ix.0 as usize] = Some(promised_ms);
    }

    /// `stored_step`: where its checkpoint is, if it has one; `first_step` where it goes on.
    pub(in crate::farm) fn started(
        &mut self,
        ix: JobIx,
        loads: &StartLoads,
        first_step: u32,
        stored_step: Option<u32>,
        now: Ms,
    ) {
        let job = self.workload.job(ix);
        let asked = self.asked[ix.0 as usize].unwrap_or(now);
        if self.waited_ms[ix.0 as usize].is_none() {
            self.waited_ms[ix.0 as usize] = Some(now - asked);
        }
        let before = self.last_start.get(&job.user).copied().unwrap_or(0);
        let turn = now - self.waits_since[ix.0 as usize].max(before);
        let longest = &mut self.turn_ms[ix.0 as usize];
        *longest = turn.max(*longest);
        self.last_start.insert(job.user, now);
        self.ledger
            .charge(job.user, job.tier, left_s(job, first_step));
        if is_compared(job) {
            self.ledger.starts(job.user, now);
        }
        self.ledger.runs(job.user);
        if let Some(stored) = stored_step {
            let again_s = left_s(job, first_step) - left_s(job, stored);
            self.preemption.lost_s += loads.total_ms() as f64 / 1000.0 + again_s;
        }
        if self.is_measured(ix) {
            self.loads.starts += 1;
            self.loads.cold_models += u32::from(loads.is_model_cold);
            self.loads.adapters += loads.warm_adapters + loads.cold_adapters;
            self.loads.cold_adapters += loads.cold_adapters;
            self.loads.gpu_hours += hours(loads.total_ms());
            self.loads.adapter_gpu_hours += hours(loads.adapter_ms + loads.switch_ms);
        }
    }

    /// `stopped_at`: the step after which it was stopped; it waits again.
    pub(in crate::farm) fn ended(&mut self, attempt: Attempt, stopped_at: Option<u32>) {
        let job = self.workload.job(attempt.job);
        let now = attempt.ended;
        self.last_end = now;
        self.ledger.rests(job.user);
        if self.is_measured(attempt.job) {
            self.loads.held_gpu_hours += hours(now - attempt.started);
        }
        self.loading_ms += self.in_window(attempt.started, attempt.rendering_since.min(now));
        self.rendering_ms += self.in_window(attempt.rendering_since, now);
        if let Some(step) = stopped_at {
            debug_assert!(step >= attempt.first_step);
            self.preemption.stops += 1;
            self.preemption.lost_s +=
                attempt.class.speed() * assumed::CHECKPOINT_MS as f64 / 1000.0;
            self.ledger.charge(job.user, job.tier, -left_s(job, step));
            self.waits(attempt.job, now);
        }
    }

    fn waits(&mut self, ix: JobIx, now: Ms) {
        self.waits_since[ix.0 as usize] = now;
        let job = self.workload.job(ix);
        if is_compared(job) {
            self.ledger.waits(job.user, job.tier, now);
        }
    }

    fn in_window(&self, from: Ms, to: Ms) -> Ms {
        to.min(self.window.1)
            .saturating_sub(from.max(self.window.0))
    }

    fn is_measured(&self, ix: JobIx) -> bool {
        let asked = self.asked[ix.0 as usize];
        asked.is_some_and(|at| (self.window.0..self.window.1).contains(&at))
    }

    pub(in crate::farm) fn figures(self, unfinished: u32) -> Figures {
        let measured: Vec<JobIx> = (0..self.asked.len() as u32)
            .map(JobIx)
            .filter(|ix| self.is_measured(*ix))
            .collect();
        let mut waits: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let mut bounds: BTreeMap<String, Bounds> = BTreeMap::new();
        let mut promises: Option<Promises> = None;
        for ix in &measured {
            let job = self.workload.job(*ix);
            let waited = self.waited_ms[ix.0 as usize];
            for group in groups(job) {
                let waits = waits.entry(group.to_owned()).or_default();
                waits.extend(waited.map(|ms| ms as f64 / 1000.0));
            }
            if let Some(bound) = job.start_bound_ms().filter(|_| !is_flood(job)) {
                let bounds = bounds.entry(job.tier.as_str().to_owned()).or_default();
                bounds.jobs += 1;
                bounds.missed += u32::from(waited.is_none_or(|ms| ms > bound));
                let turn = waited.map(|_| self.turn_ms[ix.0 as usize]);
                bounds.starved += u32::from(turn.is_none_or(|ms| ms > bound));
                bounds.turn_max_s = bounds.turn_max_s.max(turn.unwrap_or(0) as f64 / 1000.0);
            }
            if let Some(promised) = self.promised_ms[ix.0 as usize] {
                let promises = promises.get_or_insert_default();
                promises.jobs += 1;
                promises.kept += u32::from(waited.is_some_and(|ms| ms <= promised));
            }
        }
        let works_s = || self.workload.jobs.iter().map(|job| job.work_s);
        let mean_s = works_s().sum::<f64>() / self.workload.jobs.len().max(1) as f64;
        let window_ms = (self.window.1 - self.window.0) as f64 * self.nodes as f64;
        Figures {
            offered_load: self.workload.offered_load,
            jobs: measured.len() as u32,
            unfinished,
            wait: waits
                .into_iter()
                .map(|(group, waits)| (group, Wait::of(waits)))
                .collect(),
            loads: self.loads,
            fairness: self
                .ledger
                .figures(mean_s, works_s().fold(mean_s, f64::max)),
            preemption: self.preemption,
            bounds,
            promises,
            utilisation: Utilisation {
                rendering: self.rendering_ms as f64 / window_ms,
                loading: self.loading_ms as f64 / window_ms,
            },
            drain_s: self.last_end.saturating_sub(self.window.1) as f64 / 1000.0,
        }
    }
}

/// GPU-seconds of the reference device from a step on.
fn left_s(job: &Job, step: u32) -> f64 {
    let whole = f64::from(job.shape.steps + assumed::FIXED_STEPS);
    job.work_s * (1.0 - f64::from(step) / whole)
}

/// What only large nodes can run waits for them, whatever the policy wants.
fn is_compared(job: &Job) -> bool {
    DeviceClass::Small.fits(job.model)
}

fn is_flood(job: &Job) -> bool {
    job.user == UserIx(trace::USERS)
}

fn groups(job: &Job) -> Vec<&'static str> {
    if is_flood(job) {
        return vec!["flood"];
    }
    match (job.class, job.tier) {
        (Class::Batch, _) => vec!["batch"],
        (Class::Interactive, Tier::Free) => vec!["free"],
        (Class::Interactive, Tier::Pro | Tier::Studio) => vec![job.tier.as_str(), "paid"],
    }
}

fn hours(ms: Ms) -> f64 {
    ms as f64 / 3_600_000.0
}
