//! When a term is to be renewed and when it is lost, on its holder's own clock: pure, the times come in.

use flowai_actors::clock::Monotonic;
use flowai_actors::limits::{LEADER_RENEW_MS, LEADER_TERM_MS};

/// A question about the row that is not answered by then is asked again: on a cut network the old one may hang for minutes.
pub const ANSWER_MS: u64 = LEADER_RENEW_MS;
/// After a renewal that the database did not answer.
const RENEW_AGAIN_MS: u64 = 500;

/// Why a term is not held any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// A later one has begun, or another holder's of the same number.
    Fenced,
    /// The database did not renew it in time, so that another may begin at any moment.
    Unanswered,
}

/// What came of one renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    Renewed,
    /// A later term has begun.
    Refused,
    /// No answer came, or that the database cannot.
    Unanswered,
}

/// A term as its holder believes in it. It counts from when it was asked for, so it ends here before another can begin, as long
/// as the clocks run alike; where they do not, the epoch in each write decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenure {
    until: Monotonic,
}

impl Tenure {
    /// `asked_at`: when the question was sent that won it, or renewed it last.
    pub fn asked(asked_at: Monotonic) -> Self {
        Self {
            until: asked_at.plus_ms(LEADER_TERM_MS),
        }
    }

    /// By when a renewal that is asked for now has to be answered.
    ///
    /// # Errors
    /// The term is over: nothing is to be asked any more.
    pub fn ask(&self, now: Monotonic) -> Result<Monotonic, Lost> {
        if self.until <= now {
            return Err(Lost::Unanswered);
        }
        Ok(self.until.min(now.plus_ms(ANSWER_MS)))
    }

    /// When to ask next, after the renewal that was asked for at `asked_at`.
    ///
    /// # Errors
    /// A later term has begun.
    pub fn answered(
        &mut self,
        asked_at: Monotonic,
        now: Monotonic,
        renewal: Renewal,
    ) -> Result<Monotonic, Lost> {
        let wait_ms = match renewal {
            Renewal::Renewed => {
                *self = Self::asked(asked_at);
                LEADER_RENEW_MS
            }
            Renewal::Refused => return Err(Lost::Fenced),
            Renewal::Unanswered => RENEW_AGAIN_MS,
        };
        Ok(self.until.min(now.plus_ms(wait_ms)))
    }
}
