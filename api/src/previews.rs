//! Which preview of each running job is the newest, as the leader told it, for those who wait for one. Bounded, and lost with
//! the process: the next preview says more.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowai_actors::ids::{JobId, UserId};
use flowai_actors::preview::PreviewReady;
use tokio::sync::watch;

/// Jobs remembered at once: every running one of a large farm.
const JOBS_MAX: usize = 20_000;
/// A job that nobody waits for and that had no preview for so long has most likely ended.
const FRESH: Duration = Duration::from_secs(120);

/// Written by the link, waited for by requests.
#[derive(Debug, Default)]
pub(crate) struct PreviewBoard {
    jobs: Mutex<HashMap<JobId, Entry>>,
}

#[derive(Debug)]
struct Entry {
    newest: watch::Sender<Option<PreviewReady>>,
    at: Instant,
}

impl Entry {
    fn is_wanted(&self) -> bool {
        self.at.elapsed() < FRESH || self.newest.receiver_count() > 0
    }
}

impl PreviewBoard {
    /// Takes what the leader said. A late word changes nothing.
    pub(crate) fn note(&self, ready: PreviewReady) {
        let mut jobs = self.jobs();
        let Some(entry) = entry(&mut jobs, ready.job) else {
            return;
        };
        entry.at = Instant::now();
        entry.newest.send_if_modified(|newest| {
            let is_newer = newest.is_none_or(|newest| newest.number() < ready.number());
            if is_newer {
                *newest = Some(ready);
            }
            is_newer
        });
    }

    /// The next preview of a job of this user that is newer than number `after`. Waits for ever when none comes.
    pub(crate) async fn newer(&self, user: UserId, job: JobId, after: u64) -> PreviewReady {
        let newest = entry(&mut self.jobs(), job).map(|entry| entry.newest.subscribe());
        let is_newer = |ready: &Option<PreviewReady>| {
            ready.is_some_and(|ready| ready.user == user && ready.number() > after)
        };
        if let Some(mut newest) = newest
            && let Ok(ready) = newest.wait_for(is_newer).await
            && let Some(ready) = *ready
        {
            return ready;
        }
        std::future::pending().await
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Entry>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` when too many jobs are remembered already.
fn entry(jobs: &mut HashMap<JobId, Entry>, job: JobId) -> Option<&mut Entry> {
    if jobs.len() >= JOBS_MAX && !jobs.contains_key(&job) {
        jobs.retain(|_, entry| entry.is_wanted());
        if jobs.len() >= JOBS_MAX {
            return None;
        }
    }
    Some(jobs.entry(job).or_insert_with(|| Entry {
        newest: watch::Sender::new(None),
        at: Instant::now(),
    }))
}

#[cfg(test)]
mod tests {
    use flowai_actors::ids::Attempt;

    use super::*;

    fn ready(user: UserId, job: JobId, attempt: u32, step: u32) -> PreviewReady {
        PreviewReady {
            user,
            job,
            attempt: Attempt::new(attempt),
            step,
        }
    }

    async fn soon(wait: impl Future<Output = PreviewReady>) -> Option<(u32, u32)> {
        let found = tokio::time::timeout(Duration::from_millis(50), wait).await;
        found.ok().map(|ready| (ready.attempt.get(), ready.step))
    }

    #[tokio::test]
    async fn only_the_newest_is_given_and_only_to_its_owner() {
        let (user, job) = (UserId::generate(), JobId::generate());
        let board = PreviewBoard::default();
        assert_eq!(soon(board.newer(user, job, 0)).await, None);
        for (attempt, step) in [(1, 4), (2, 1), (1, 9)] {
            board.note(ready(user, job, attempt, step));
        }
        let shown = ready(user, job, 2, 1).number();
        assert_eq!(soon(board.newer(user, job, 0)).await, Some((2, 1)));
        assert_eq!(soon(board.newer(user, job, shown)).await, None);
        assert_eq!(
            soon(board.newer(UserId::generate(), job, 0)).await,
            None,
            "a stranger sees nothing"
        );
    }

    #[tokio::test]
    async fn who_waits_hears_of_the_next() {
        let (user, job) = (UserId::generate(), JobId::generate());
        let board = PreviewBoard::default();
        let (found, ()) = tokio::join!(board.newer(user, job, 0), async {
            tokio::task::yield_now().await;
            board.note(ready(user, job, 1, 3));
        });
        assert_eq!(found.step, 3);
    }
}
