//! Who asks for what, and when.

mod draw;
mod generate;
#[cfg(test)]
mod tests;

use flowai_actors::state::{Class, Tier};

use super::{Ms, assumed};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobIx(pub u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserIx(pub u32);

/// By popularity: the first is asked for most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelIx(pub u16);

/// One of a base model's adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterIx {
    pub model: ModelIx,
    pub rank: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub frames: u32,
    /// px
    pub width: u32,
    /// px
    pub height: u32,
    pub steps: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submit {
    At(Ms),
    /// So long after another ended.
    After {
        job: JobIx,
        think_ms: Ms,
    },
}

/// One clip. Load times belong to it, so that they are the same whatever the policy: they count only where it meets a cold node.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub user: UserIx,
    pub tier: Tier,
    pub class: Class,
    pub model: ModelIx,
    /// With what each takes to be fetched, ms.
    pub adapters: Vec<(AdapterIx, Ms)>,
    pub model_load_ms: Ms,
    pub shape: Shape,
    /// On the reference device, as known beforehand, s.
    pub predicted_s: f64,
    /// On the reference device, as it turns out, s.
    pub work_s: f64,
    pub submit: Submit,
}

impl Job {
    /// Of bringing all that it needs, s.
    pub fn loads_s(&self) -> f64 {
        let adapters_ms: Ms = self.adapters.iter().map(|(_, load_ms)| load_ms).sum();
        (self.model_load_ms + adapters_ms) as f64 / 1000.0
    }

    /// How long it may wait for its start.
    pub fn start_bound_ms(&self) -> Option<Ms> {
        self.tier.start_bound_ms(self.class)
    }
}

impl ModelIx {
    /// Whether it needs the memory of the larger device.
    pub fn is_large(self) -> bool {
        self.0 % assumed::LARGE_MODEL_EVERY == assumed::LARGE_MODEL_EVERY / 2
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    pub jobs: Vec<Job>,
    /// Users who could ask, the one who floods included.
    pub users: u32,
    /// Offered GPU-seconds over the farm's, with one loading a visit, without the flood.
    pub offered_load: f64,
}

impl Workload {
    pub fn job(&self, ix: JobIx) -> &Job {
        &self.jobs[ix.0 as usize]
    }
}
