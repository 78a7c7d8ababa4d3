//! The node's mind: [`State`] takes in what the node hears, with the time, and says what shall happen.
//!
//! Pure: no clock, no I/O, no libtorch. The node's actor in `render-node` carries its effects out, and the simulator runs
//! this very code. What it promises of leases and late words stands in [`state`]; why a job was not rendered, in [`failure`].

mod attempt;
pub mod event;
pub mod failure;
mod farewell;
mod leaving;
mod run;
pub mod state;
#[cfg(test)]
mod tests;

pub use event::{Clip, Effect, Ending, Event, RunId};
pub use run::{NotRendered, NotUploaded, Standing};
pub use state::State;
