//! The farm in one thread from one seed: the programs' own code in a world that is made up.
//!
//! - [`check`] breaks that world in every way it knows and checks the invariants after every step: the real leader, scheduler,
//!   lease and node machine.
//! - [`farm`] asks how good the scheduler's decisions are: people, clips and nodes as a published trace describes them, the
//!   same for every policy, and what each policy makes of them.
//!
//! Nothing here decides what a farm does: whatever decides is the programs' own code. What surrounds it (network, clocks,
//! database, engine) is modelled, and the database's model is compared with PostgreSQL in `tests/`.

pub mod check;
pub mod farm;
