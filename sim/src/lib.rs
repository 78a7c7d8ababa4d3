//! The farm in virtual time, in one thread, from one seed.
//!
//! - [`farm`] asks how good the scheduler's decisions are: people, clips and nodes as a published trace describes them, the
//!   same for every policy, and what each policy makes of them.
//!
//! Nothing here decides what the real programs decide: the policy under test is [`flowai_coordinator::scheduler`] itself.

pub mod farm;
