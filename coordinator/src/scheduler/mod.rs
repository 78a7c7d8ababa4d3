//! Which job runs where, decided by a plain value: `step(event, now) -> effects`.
//!
//! No clock, no I/O and no randomness of its own: times come in with the events, and equal events give equal effects, so
//! that the simulator runs this very code. What it promises:
//!
//! - a waiting user of a greater weight starts first when both have used as little ([`shares`]), and nobody waits for ever;
//! - a user never has more than [`USER_RUNNING_MAX`] jobs running;
//! - a node never has more than one, and only jobs all of whose models it offers;
//! - a node without a beat for [`NODE_LEASE_MS`] loses its attempt (INV-5), and what it says later of it is stale (INV-2);
//! - a job fails at most [`JOB_ATTEMPTS_MAX`] times, each time on another node while there is one, and one during which
//!   [`JOB_NODE_DEATHS_MAX`] nodes died is quarantined.
//!
//! An effect is a wish until the journal has committed it; the journal tells of what it could not write as an event.
//!
//! [`USER_RUNNING_MAX`]: flowai_actors::limits::USER_RUNNING_MAX
//! [`NODE_LEASE_MS`]: flowai_actors::limits::NODE_LEASE_MS
//! [`JOB_ATTEMPTS_MAX`]: flowai_actors::limits::JOB_ATTEMPTS_MAX
//! [`JOB_NODE_DEATHS_MAX`]: flowai_actors::limits::JOB_NODE_DEATHS_MAX

mod event;
mod forecast;
mod line;
mod shares;
mod state;
#[cfg(test)]
mod tests;

pub use event::{AttemptEnd, Drain, Effect, Event, NodeOffer, Recovered, WaitingJob};
pub use line::{Place, WaitsFor};
pub use state::Scheduler;
