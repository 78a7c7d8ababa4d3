//! The decisions of a session, without clock or database: which stream gets which event, and when progress is due.

use std::collections::HashMap;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::JobId;
use flowai_actors::limits::PROGRESS_INTERVAL_MS;
use flowai_actors::messages::LiveState;
use flowai_store::events::Event;

use super::messages::Subject;

/// How far a stream has been served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) subject: Subject,
    /// The user's count of the newest event considered for this stream.
    pub(super) user_seq: i64,
    /// For a job's stream: the job's count of the newest event sent.
    pub(super) job_seq: i64,
}

impl Cursor {
    /// Moves on to an event; whether the stream gets it. Events come in order, and each may come more than once.
    pub(super) fn take(&mut self, event: &Event) -> bool {
        if event.user_seq <= self.user_seq {
            return false;
        }
        self.user_seq = event.user_seq;
        match self.subject {
            Subject::User => true,
            Subject::Job(job) if job == event.job && event.seq > self.job_seq => {
                self.job_seq = event.seq;
                true
            }
            Subject::Job(_) => false,
        }
    }

    pub(super) fn concerns(&self, job: JobId) -> bool {
        match self.subject {
            Subject::User => true,
            Subject::Job(own) => own == job,
        }
    }
}

/// What of a job is conflated on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Progress,
    Position,
}

impl Kind {
    fn of(live: &LiveState) -> Self {
        match live {
            LiveState::Progress { .. } => Self::Progress,
            LiveState::Position { .. } => Self::Position,
        }
    }
}

/// When the next state may go out, if one goes out now that could since `due`. Slots keep their pace: were they counted from now,
/// one state that comes late would hold up all that follow it in time.
fn slot_after(due: Monotonic, now: Monotonic) -> Monotonic {
    let next = due.plus_ms(PROGRESS_INTERVAL_MS);
    if next > now {
        next
    } else {
        now.plus_ms(PROGRESS_INTERVAL_MS)
    }
}

/// Keeps only the newest of each job, and lets it out at most every [`PROGRESS_INTERVAL_MS`].
#[derive(Debug, Default)]
pub(super) struct Conflation {
    jobs: HashMap<(JobId, Kind), Held>,
}

#[derive(Debug)]
struct Held {
    /// When the next one may go out.
    due: Monotonic,
    /// `None` when the newest is out already.
    newest: Option<LiveState>,
}

impl Conflation {
    /// Takes a new state. `Some` goes out now.
    pub(super) fn offer(
        &mut self,
        job: JobId,
        live: LiveState,
        now: Monotonic,
    ) -> Option<LiveState> {
        let held = self.jobs.entry((job, Kind::of(&live))).or_insert(Held {
            due: now,
            newest: None,
        });
        if now < held.due {
            held.newest = Some(live);
            return None;
        }
        held.due = slot_after(held.due, now);
        held.newest = None;
        Some(live)
    }

    /// What goes out now of all that was held.
    pub(super) fn flush(&mut self, now: Monotonic) -> Vec<(JobId, LiveState)> {
        let mut out = Vec::new();
        for ((job, _), held) in &mut self.jobs {
            if held.due > now {
                continue;
            }
            if let Some(live) = held.newest.take() {
                held.due = slot_after(held.due, now);
                out.push((*job, live));
            }
        }
        // What is out and may go out again at once need not be remembered.
        self.jobs
            .retain(|_, held| held.newest.is_some() || held.due > now);
        out
    }

    /// When the next held state is due.
    pub(super) fn next_due(&self) -> Option<Monotonic> {
        let held = self.jobs.values().filter(|held| held.newest.is_some());
        held.map(|held| held.due).min()
    }

    /// A job has changed its state: progress of before must not follow.
    pub(super) fn forget(&mut self, job: JobId) {
        self.jobs.retain(|(of, _), _| *of != job);
    }
}
