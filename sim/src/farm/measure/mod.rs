//! What is said of a run.

mod fairness;
mod quantile;
mod recorder;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(super) use recorder::{Attempt, Recorder};

/// What a policy made of a workload. Of clips asked for between the warm-up and the end of the asking, however late they started,
/// where nothing else is said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// GPU-seconds of all clips over the farm's while they were asked for, without a flood.
    pub offered_load: f64,
    /// Measured clips.
    pub jobs: u32,
    /// Clips that were never done, of all.
    pub unfinished: u32,
    /// Of interactive clips by tier; `paid` is pro and studio together. `batch`: what was handed in at once, whatever the tier,
    /// and so waits for itself. `flood`: of the one who floods, whom no tier counts.
    pub wait: BTreeMap<String, Wait>,
    pub loads: Loads,
    pub fairness: Fairness,
    pub preemption: Preemption,
    /// By tier.
    pub bounds: BTreeMap<String, Bounds>,
    /// Of policies that promise.
    pub promises: Option<Promises>,
    pub utilisation: Utilisation,
    /// From the end of the asking to the last clip's, s.
    pub drain_s: f64,
}

/// From being asked for to the first start on a node, s.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    pub jobs: u32,
    pub mean_s: f64,
    pub p50_s: f64,
    pub p90_s: f64,
    pub p99_s: f64,
    pub max_s: f64,
    /// Quantiles 0, 0.01, … 1.
    pub quantiles_s: Vec<f64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Loads {
    pub starts: u32,
    /// Starts that had to load a base model.
    pub cold_models: u32,
    /// Adapters that starts needed, and those of them that were not in the node's memory.
    pub adapters: u32,
    pub cold_adapters: u32,
    /// GPU-hours that nodes stood still for loads.
    pub gpu_hours: f64,
    /// Of them, for adapters.
    pub adapter_gpu_hours: f64,
    /// GPU-hours that nodes were held.
    pub held_gpu_hours: f64,
}

/// Between users of equal weight. A user is backlogged while a clip of its waits that any node could run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Fairness {
    /// The most by which one of two users fell behind the other in any stretch through which both were backlogged, GPU-seconds of
    /// the reference device, charged at the start.
    pub gap_s: f64,
    /// The same over the mean clip.
    pub gap_jobs: f64,
    /// The same over the longest clip: no policy that runs clips to their end can promise less than one.
    pub gap_longest_jobs: f64,
    /// 99th percentile over pairs of users.
    pub gap_p99_s: f64,
    /// Pairs that were backlogged together when one of them was served.
    pub pairs: u32,
    /// The most by which a user who could have been given a start fell behind another, over the mean clip: it had a clip waiting
    /// and ran fewer than its tier's cap, and the other had clips waiting as well.
    pub eligible_gap_jobs: f64,
    /// The same over the longest clip, and its 99th percentile over pairs over the mean clip.
    pub eligible_gap_longest_jobs: f64,
    pub eligible_gap_p99_jobs: f64,
    /// Jain's index of service per weight and second, of users that were backlogged for ten minutes or more. 1 is even.
    pub jain: Option<f64>,
}

/// Of all clips.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Preemption {
    pub stops: u32,
    /// GPU-seconds that stopped runs cost: storing checkpoints, loading again, and steps that were done again.
    pub lost_s: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// Clips with a start bound.
    pub jobs: u32,
    /// Those that started later.
    pub missed: u32,
    /// Of them, those before which no clip of their user started for so long: the others waited for clips of their own user.
    pub starved: u32,
    /// The longest that a user with a waiting clip was given no start, s.
    pub turn_max_s: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Promises {
    pub jobs: u32,
    /// Clips that started within the 90th percentile that was promised.
    pub kept: u32,
}

/// Shares of the nodes' time from the warm-up to the end of the asking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Utilisation {
    pub rendering: f64,
    pub loading: f64,
}
