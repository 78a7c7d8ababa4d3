//! The leader's lease row, taken and held. Who may take it is for the database's clock to say; when to stand down without an
//! answer, for the own one: a term counts from when it was asked for, so it ends here before another can begin.

pub(crate) mod tenure;

use std::future::Future;
use std::time::Duration;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::Epoch;
use flowai_actors::limits::LEADER_WATCH_MS;
use flowai_store::database::{Database, DatabaseError};
use flowai_store::leader::{self, LeaderView};
use tokio::time::Instant;

use tenure::{ANSWER_MS, Lost, Renewal, Tenure};

const WATCH: Duration = Duration::from_millis(LEADER_WATCH_MS);
const ANSWER: Duration = Duration::from_millis(ANSWER_MS);

/// Who this coordinator is in the lease row.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// Unique for each process.
    pub(crate) holder: String,
    /// Where nodes and api instances reach its link.
    pub(crate) address: String,
}

/// A term that was won.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) epoch: Epoch,
    /// When the winning question was sent.
    pub(crate) asked_at: Instant,
}

/// Waits until this candidate leads. `seen` hears of each look at the row.
pub(crate) async fn win(
    database: &Database,
    candidate: &Candidate,
    seen: impl Fn(&LeaderView),
) -> Term {
    loop {
        match tokio::time::timeout(ANSWER, look(database, candidate, &seen)).await {
            Ok(Ok(Some(term))) => return term,
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "lease row cannot be looked at, trying again");
            }
            Err(_) => tracing::warn!("lease row was not read in time, trying again"),
        }
        tokio::time::sleep(WATCH).await;
    }
}

async fn look(
    database: &Database,
    candidate: &Candidate,
    seen: &impl Fn(&LeaderView),
) -> Result<Option<Term>, DatabaseError> {
    let view = leader::look(database).await?;
    seen(&view);
    if view.is_held {
        return Ok(None);
    }
    let asked_at = Instant::now();
    let epoch = leader::take_over(database, &candidate.holder, &candidate.address).await?;
    if epoch.is_some() {
        fail::fail_point!("after_take_over");
    }
    Ok(epoch.map(|epoch| Term { epoch, asked_at }))
}

/// Renews the holder's term until it is lost.
pub(crate) async fn hold(database: &Database, term: Term, holder: &str) -> Lost {
    let renew = || leader::renew(database, term.epoch, holder);
    hold_by(term.asked_at, renew).await
}

async fn hold_by<R>(asked_at: Instant, renew: impl Fn() -> R) -> Lost
where
    R: Future<Output = Result<bool, DatabaseError>>,
{
    let now = || Monotonic::from_millis(asked_at.elapsed().as_millis() as u64);
    let at = |time: Monotonic| asked_at + Duration::from_millis(time.as_millis());
    let mut tenure = Tenure::asked(Monotonic::default());
    loop {
        let asked = now();
        let deadline = match tenure.ask(asked) {
            Ok(deadline) => at(deadline),
            Err(lost) => return lost,
        };
        let renewal = match tokio::time::timeout_at(deadline, renew()).await {
            Ok(Ok(true)) => Renewal::Renewed,
            Ok(Ok(false)) => Renewal::Refused,
            Ok(Err(error)) => {
                tracing::warn!(%error, "lease was not renewed, trying again");
                Renewal::Unanswered
            }
            Err(_) => {
                tracing::warn!("lease was not renewed in time, trying again");
                Renewal::Unanswered
            }
        };
        match tenure.answered(asked, now(), renewal) {
            Ok(next) => tokio::time::sleep_until(at(next)).await,
            Err(lost) => return lost,
        }
    }
}

/// Lets a standby take over at once. A later term is not touched: the row is compared.
pub(crate) async fn give_up(database: &Database, epoch: Epoch, holder: &str) {
    match tokio::time::timeout(ANSWER, leader::give_up(database, epoch, holder)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "term was not given up; it ends by itself"),
        Err(_) => tracing::warn!("term was not given up in time; it ends by itself"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::{pending, ready};

    use flowai_actors::limits::{LEADER_RENEW_MS, LEADER_TERM_MS};

    use super::*;

    const RENEW: Duration = Duration::from_millis(LEADER_RENEW_MS);
    const TERM: Duration = Duration::from_millis(LEADER_TERM_MS);

    type Answer = Result<bool, DatabaseError>;

    /// Answers one renewal after the other as told, and none after the last. Gives how the term was lost, and when.
    async fn held(answers: Vec<Answer>) -> (Lost, Duration) {
        let start = Instant::now();
        let answers = RefCell::new(answers.into_iter());
        let lost = hold_by(start, || {
            let answer = answers.borrow_mut().next();
            async {
                match answer {
                    Some(answer) => ready(answer).await,
                    None => pending().await,
                }
            }
        });
        (lost.await, start.elapsed())
    }

    fn outage() -> Answer {
        Err(DatabaseError::Unreachable(sqlx::Error::PoolTimedOut))
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_hears_nothing_of_the_database_stands_down_within_its_term() {
        assert_eq!(held(Vec::new()).await, (Lost::Unanswered, TERM));
        let refusals = (0..100).map(|_| outage()).collect();
        assert_eq!(held(refusals).await, (Lost::Unanswered, TERM));
        // The term counts from when the last renewal that was answered had been asked for.
        let (lost, after) = held(vec![Ok(true), Ok(true)]).await;
        assert_eq!((lost, after), (Lost::Unanswered, RENEW + TERM));
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_outlives_a_short_outage() {
        let answers = vec![outage(), outage(), Ok(true), outage(), Ok(true), Ok(false)];
        let (lost, after) = held(answers).await;
        assert_eq!(lost, Lost::Fenced);
        assert!(after < TERM, "{after:?}");
    }
}
