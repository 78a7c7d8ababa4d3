//! How many nodes a farm wants, and whom it tells.
//!
//! - [`State`] decides: a pure value, `step(pools, now) -> effects`. No clock, no I/O.
//! - [`Provider`] is told what is wanted: [`DryRun`] writes it down, [`Command`] runs an operator's program.
//! - [`run`] is the leader's task around both; whoever does not lead decides nothing.
//!
//! What it promises:
//! - a group grows when a job of some tier would wait longer than the tier's target for some looks in a row, and shrinks when
//!   nodes were spare for the whole of a cool-down;
//! - no group is wanted smaller than its minimum or larger than its maximum, and all together cost no more an hour than the
//!   budget, however long the wait: the decision's reason says so;
//! - a node is only given back by a lazy drain: it ends its job first, and its provider hears of it when it is idle;
//! - a provider is never told two things at once, and left alone for a while after a failure.

mod command;
mod group;
mod money;
mod provider;
mod run;
mod settings;
mod state;
#[cfg(test)]
mod tests;

pub use command::Command;
pub use group::{Group, GroupError};
pub use money::Money;
pub use provider::{Call, DryRun, Provider, ProviderError};
pub use settings::{Autoscale, AutoscaleSettings, AutoscaleSettingsError, How, Kind};
pub use state::{Decision, Effect, Policy, Reason, State};

pub(crate) use run::{Look, run};
