//! Fusing adapters into weights, and taking them out again without a trace.
//!
//! A fused weight is `round(W0 + sum_i w_i * s_i * B_i A_i)`: always from the weight as the model file has it, summed in
//! f32 in order of the adapters' hashes, rounded once. Adding an adapter and subtracting it again is not the identity in
//! any float type, so nothing is ever subtracted: the pristine weight is read again. Equal sets thus give equal bits,
//! whatever was fused before (invariant 11), and a set is applied whole or not at all (invariant 10).
//!
//! DoRA is not linear: with `W' = m * (W0 + s * B A) / |W0 + s * B A|` its share is `w * (W' - W0)`, and no module has two.
//!
//! An adapter is in up to four places. T0: fused into the weights ([`Fuser`]). T1: its factors on a GPU ([`DeviceTier`]).
//! T2: read and checked in host memory ([`HostAdapters`]). T3: its file on disk, which is the caller's. On a CPU device and
//! host share one memory, so there is no T1.

mod device_tier;
mod factors;
mod fuse;
mod fuser;
mod host;
mod set;
#[cfg(test)]
mod tests;

pub use device_tier::DeviceTier;
pub use fuser::{FusableWeights, Fuser};
pub use host::{HostAdapter, HostAdapters, NotRead};
pub use set::{AdapterSet, StateId};

use flowai_model::Sha256Digest;
use tch::Kind;

/// Why a set of adapters was not applied, or a run not started.
#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    #[error("weight of adapter {adapter} must be a finite number (got {weight})")]
    Weight { adapter: Sha256Digest, weight: f64 },
    #[error("adapter {adapter} is asked for twice; give it one weight")]
    Twice { adapter: Sha256Digest },
    #[error(
        "adapters {first} and {second} both are DoRA for {module}, which can have one; leave one of them out"
    )]
    TwoDora {
        module: String,
        first: Sha256Digest,
        second: Sha256Digest,
    },
    #[error(
        "this model has no {module} of that shape: the adapter was checked against another model"
    )]
    NoSuchModule { module: String },
    #[error("{module} exceeds the range of {kind:?} with these adapters; lower their weights")]
    OutOfRange { module: String, kind: Kind },
    #[error(
        "some weights are still those of an earlier set, because putting them back failed; set adapters again"
    )]
    Mixed,
}
