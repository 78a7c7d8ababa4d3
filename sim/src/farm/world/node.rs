//! One node: what it holds, what it works on.

use std::collections::VecDeque;

use super::super::workload::AdapterIx;
use super::super::{DeviceClass, Job, JobIx, ModelIx, Ms, assumed};

#[derive(Debug)]
pub(super) struct Node {
    pub(super) class: DeviceClass,
    pub(super) run: Option<Run>,
    holds: Holds,
    /// Adapters that come while something else runs, and when each is there.
    coming: Vec<(AdapterIx, Ms)>,
}

/// What a node has at hand.
#[derive(Debug, Default)]
pub struct Holds {
    /// Loaded: a job of it starts at once.
    pub model: Option<ModelIx>,
    /// In that model's weights.
    pub fused: Vec<AdapterIx>,
    /// In host memory, the least recently used first.
    pub near: VecDeque<AdapterIx>,
}

/// What a node says of itself, again and again.
#[derive(Debug, Clone, Copy)]
pub struct Beat<'a> {
    pub holds: &'a Holds,
    /// What it works on, and how many steps of the whole clip are done.
    pub done: Option<(JobIx, u32)>,
}

impl Holds {
    fn touch(&mut self, adapter: AdapterIx) {
        self.near.retain(|near| *near != adapter);
        self.near.push_back(adapter);
        if self.near.len() > assumed::HOST_ADAPTERS {
            self.near.pop_front();
        }
    }
}

/// What a start had to wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::farm) struct Loads {
    pub(in crate::farm) model_ms: Ms,
    pub(in crate::farm) adapter_ms: Ms,
    pub(in crate::farm) switch_ms: Ms,
    pub(in crate::farm) is_model_cold: bool,
    /// Of the job's adapters: had to be fetched, or were still on their way.
    pub(in crate::farm) cold_adapters: u32,
    pub(in crate::farm) warm_adapters: u32,
}

impl Loads {
    pub(in crate::farm) fn total_ms(&self) -> Ms {
        self.model_ms + self.adapter_ms + self.switch_ms
    }
}

impl Node {
    pub(super) fn new(class: DeviceClass) -> Self {
        Self {
            class,
            run: None,
            holds: Holds::default(),
            coming: Vec::new(),
        }
    }

    pub(super) fn beat(&self, now: Ms) -> Beat<'_> {
        Beat {
            holds: &self.holds,
            done: self.run.as_ref().map(|run| (run.job, run.steps_done(now))),
        }
    }

    /// Loads what the job needs.
    pub(super) fn load(&mut self, job: &Job, now: Ms) -> Loads {
        self.take_what_came(now);
        let mut loads = Loads::default();
        if self.holds.model != Some(job.model) {
            loads.model_ms = job.model_load_ms;
            loads.is_model_cold = true;
            self.holds.model = Some(job.model);
            self.holds.fused.clear();
        }
        for (adapter, load_ms) in &job.adapters {
            if self.holds.near.contains(adapter) {
                loads.warm_adapters += 1;
            } else {
                let coming = self.coming.iter().find(|(coming, _)| coming == adapter);
                loads.adapter_ms += coming.map_or(*load_ms, |(_, at)| at.saturating_sub(now));
                loads.cold_adapters += 1;
            }
            self.holds.touch(*adapter);
        }
        let wanted = job.adapters.iter().map(|(adapter, _)| adapter);
        if !wanted.eq(&self.holds.fused) {
            loads.switch_ms = assumed::ADAPTER_SWITCH_MS;
            self.holds.fused = job.adapters.iter().map(|(adapter, _)| *adapter).collect();
        }
        self.coming.clear();
        loads
    }

    fn take_what_came(&mut self, now: Ms) {
        let coming = std::mem::take(&mut self.coming);
        for (adapter, at) in coming {
            if at <= now {
                self.holds.touch(adapter);
            } else {
                self.coming.push((adapter, at));
            }
        }
    }

    /// Fetches the adapters of the job that probably comes next, one after the other.
    pub(super) fn fetch_ahead(&mut self, job: &Job, now: Ms) {
        self.take_what_came(now);
        let mut from = now;
        for (adapter, load_ms) in &job.adapters {
            if !self.holds.near.contains(adapter) {
                from += load_ms;
                self.coming.push((*adapter, from));
            }
        }
    }
}

/// What a node works on.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) number: u64,
    pub(super) job: JobIx,
    pub(super) started: Ms,
    pub(super) load_ms: Ms,
    pub(super) first_step: u32,
    /// Where it will stop, once it was told to.
    pub(super) stop_step: Option<u32>,
    step_ms: f64,
}

impl Run {
    pub(super) fn new(
        number: u64,
        ix: JobIx,
        job: &Job,
        class: DeviceClass,
        first_step: u32,
        now: Ms,
        load_ms: Ms,
    ) -> Self {
        let steps = f64::from(job.shape.steps + assumed::FIXED_STEPS);
        Self {
            number,
            job: ix,
            started: now,
            load_ms,
            first_step,
            stop_step: None,
            step_ms: 1000.0 * job.work_s / class.speed() / steps,
        }
    }

    pub(super) fn rendering_since(&self) -> Ms {
        self.started + self.load_ms
    }

    fn boundary(&self, step: u32) -> Ms {
        self.rendering_since() + (f64::from(step - self.first_step) * self.step_ms).round() as Ms
    }

    pub(super) fn ends(&self, steps: u32) -> Ms {
        self.boundary(steps + assumed::FIXED_STEPS)
    }

    fn steps_done(&self, now: Ms) -> u32 {
        let rendered_ms = now.saturating_sub(self.rendering_since()) as f64;
        self.first_step + (rendered_ms / self.step_ms) as u32
    }

    /// Stops it at the next boundary. Gives when its checkpoint is stored; nothing when it is stopping already, or when no
    /// boundary is left before its last step's.
    pub(super) fn stop(&mut self, now: Ms, steps: u32) -> Option<Ms> {
        let coming = (self.first_step..steps).find(|step| self.boundary(*step) >= now);
        let step = coming.filter(|_| self.stop_step.is_none())?;
        self.stop_step = Some(step);
        Some(self.boundary(step) + assumed::CHECKPOINT_MS)
    }
}
