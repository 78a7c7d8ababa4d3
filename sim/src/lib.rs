//! The farm in one thread from one seed: the real leader, scheduler, lease and node machine in a world that fails.
//!
//! - [`check`] breaks that world in every way it knows and checks the invariants after every step.
//!
//! Nothing here decides what a farm does: whatever decides is the programs' own code. What surrounds it (network, clocks,
//! database, engine) is modelled, and the database's model is compared with PostgreSQL in `tests/`.

pub mod check;
