//! The newest progress and queue position of each job, as the leader told it: state that no row holds. Bounded, and lost
//! with the process: the leader tells it again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowai_actors::ids::{JobId, UserId};
use flowai_actors::messages::{Live, LiveState};

/// Jobs remembered at once: every queued and running one of a large farm.
const JOBS_MAX: usize = 20_000;
/// What nobody has repeated for so long says nothing any more.
const FRESH: Duration = Duration::from_secs(120);

/// What is known of a job beside its rows.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Always a [`LiveState::Progress`].
    pub progress: Option<LiveState>,
    /// Always a [`LiveState::Position`].
    pub position: Option<LiveState>,
}

/// Written by the link, read by everybody.
#[derive(Debug, Default)]
pub struct LiveBoard {
    jobs: Mutex<HashMap<JobId, Entry>>,
}

#[derive(Debug)]
struct Entry {
    user: UserId,
    known: Known,
    at: Instant,
}

impl LiveBoard {
    /// Takes what the leader said.
    pub fn note(&self, live: &Live) {
        let mut jobs = self.jobs();
        if jobs.len() >= JOBS_MAX && !jobs.contains_key(&live.job) {
            jobs.retain(|_, entry| entry.at.elapsed() < FRESH);
        }
        if jobs.len() >= JOBS_MAX && !jobs.contains_key(&live.job) {
            return;
        }
        let entry = jobs.entry(live.job).or_insert_with(|| Entry {
            user: live.user,
            known: Known::default(),
            at: Instant::now(),
        });
        entry.at = Instant::now();
        match live.live {
            // Who renders waits no longer.
            LiveState::Progress { .. } => {
                entry.known = Known {
                    progress: Some(live.live.clone()),
                    position: None,
                };
            }
            LiveState::Position { .. } => entry.known.position = Some(live.live.clone()),
        }
    }

    /// What was said of one job of this user.
    pub fn of(&self, user: UserId, job: JobId) -> Known {
        let jobs = self.jobs();
        jobs.get(&job)
            .filter(|entry| entry.user == user && entry.at.elapsed() < FRESH)
            .map(|entry| entry.known.clone())
            .unwrap_or_default()
    }

    /// A job has ended: nothing said before counts.
    pub fn forget(&self, job: JobId) {
        self.jobs().remove(&job);
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Entry>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
