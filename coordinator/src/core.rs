//! The leader without its surroundings: what it believes and does next, as values that take the time with each event.
//!
//! The programs put actors, a database and a network around these; the simulator puts its own world around the very same
//! values. Whoever drives them carries out each [`Effect`] and says what came of it as an [`Event`]:
//!
//! - [`State`] is one term of the leader, with the scheduler in it. Equal events give equal effects.
//! - [`Tenure`] is that term's right to lead, on the holder's clock.
//!
//! The constants are those of the programs' own tasks, for whoever imitates them.

pub use crate::leader::event::{
    Answer, Effect, Event, JobModels, ModelFiles, NotDelivered, NotDispatched, Outcome, ReplyId,
};
pub use crate::leader::state::State;
pub use crate::leader::work::{
    ASSIGN_DEADLINE, BUSY_TRIES, NEWCOMER_AGE, RETRY_FIRST, RETRY_MOST, recover,
};
pub use crate::leader::{CLOCK_START, STOP_DEADLINE, TICK};
pub use crate::lease::tenure::{ANSWER_MS, Lost, Renewal, Tenure};
