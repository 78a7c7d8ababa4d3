//! Which job runs where, decided by a plain value: `step(event, now) -> effects`.
//!
//! No clock, no I/O and no randomness of its own: times come in with the events, and equal events give equal effects, so
//! that the simulator runs this very code. What it promises:
//!
//! - a waiting user of a greater weight starts first when both have used as little, and shares follow weights ([`shares`]);
//! - a node is given a job whose model and adapters it holds, as far as nobody falls back by more than a bounded deficit
//!   ([`placement`]), and waits for a node that holds its model where that is sooner than loading it ([`hold`]);
//! - whoever waits longer than the start bound of its tier is started by a part of the farm kept for that ([`bounds`]), or
//!   takes the place of work that can go on later ([`preemption`]);
//! - a user runs more jobs than its tier's cap only while nobody else could use the node;
//! - a node never has more than one job, and only jobs all of whose models it offers and whose size fits it ([`kinds`]);
//! - a node without a beat for `NODE_LEASE_MS` loses its attempt (INV-5), and what it says later of it is stale (INV-2);
//! - a job fails at most `JOB_ATTEMPTS_MAX` times, each time on another node while there is one, one during which
//!   `JOB_NODE_DEATHS_MAX` nodes died is quarantined, and a node that fails what others render is given less ([`trust`]);
//! - a job leaves a node that is much slower than its class, if another one that is free ends it sooner ([`slow`]);
//! - every waiting job can say what it waits for and when it will probably start ([`line`]).
//!
//! A decision costs the logarithm of what waits: users wait in [`lanes`], one for each kind of job, and lanes are kept in the
//! order of their claims. An effect is a wish until the journal has committed it; the journal tells of what it could not write
//! as an event.

mod belief;
mod bounds;
mod claims;
mod deadlines;
mod durations;
mod eligibility;
mod ended;
mod event;
mod expiry;
mod figures;
mod filing;
mod forecast;
mod free;
mod groups;
mod hold;
mod jobs;
mod kinds;
mod lanes;
mod lessons;
mod line;
mod loads;
mod memory;
mod names;
mod needs;
mod nodes;
mod placement;
mod pool;
mod preemption;
mod recovery;
mod registration;
mod rivals;
mod shares;
mod slow;
mod starts;
mod state;
#[cfg(test)]
mod tests;
mod trust;

pub use event::{
    AttemptEnd, Checkpoint, Drain, Effect, Event, Holds, NodeOffer, Ran, Readiness, Recovered,
    Shape, WaitingJob,
};
pub use expiry::NOT_BACK;
pub use figures::{ClassFigures, Figures};
pub use forecast::Range;
pub use jobs::Cursor;
pub use line::{Place, WaitsFor};
pub use pool::{Pool, PoolNode};
pub use rivals::Rival;
pub use state::Scheduler;
