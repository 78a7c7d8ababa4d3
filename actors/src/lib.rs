//! The words every room of FlowAI shares: ids, states, the render spec, limits, the manifest, the messages between programs,
//! and the actor kit with the link.
//!
//! No SQL, no HTTP and no libtorch here. This is the only room that names ractor_cluster. Pure parts take the time in
//! their arguments; whoever needs a clock takes [`clock::Clock`].

pub mod checkpoint;
pub mod clock;
pub mod credits;
pub mod ids;
pub mod kit;
pub mod limits;
pub mod link;
pub mod manifest;
pub mod messages;
#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod preview;
pub mod program;
pub mod spec;
pub mod state;
pub mod waiting;
pub mod wire;
