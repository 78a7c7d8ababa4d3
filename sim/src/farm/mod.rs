//! What a policy makes of a day's work: waits, loads, fairness.
//!
//! ```text
//! Setting ─▶ workload::generate ─▶ world::simulate(policy) ─▶ measure::Figures
//! ```
//!
//! The workload is a function of the [`Setting`], and every policy gets the same one: the same people, clips and load times.
//! Only what a policy decides differs. Times are milliseconds of the simulated farm ([`Ms`]).
//!
//! What is a published trace's and what is an assumption of ours is said beside each constant in [`trace`] and [`assumed`].

pub mod assumed;
pub mod compare;
mod fleet;
pub mod measure;
pub mod policy;
mod setting;
pub mod trace;
mod workload;
mod world;

pub use fleet::{DeviceClass, Fleet, NodeIx};
pub use setting::{Demand, Flow, Setting, SettingError};
pub use workload::{Job, JobIx, ModelIx, Shape, Submit, UserIx, Workload};
pub use world::{End, Order, simulate};

/// Milliseconds since the simulated farm began.
pub type Ms = u64;

/// One run: the workload of a setting under a policy.
pub fn run(setting: &Setting, policy: policy::Choice) -> Result<measure::Figures, SettingError> {
    let fleet = Fleet::new(setting.nodes);
    let workload = Workload::generate(setting, &fleet)?;
    let mut policy = policy.build(&workload, &fleet);
    Ok(simulate(setting, &workload, &fleet, policy.as_mut()))
}
