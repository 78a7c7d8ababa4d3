//! The database as the leader sees it: rows in memory that change by the same rules as those of PostgreSQL.
//!
//! Each method is one transaction. `tests/the_model_store_is_postgres.rs` applies the same random changes to this and to the real
//! one and compares every outcome and row.

mod journal;
mod ledger;
mod reads;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use flowai_actors::checkpoint::CheckpointFile;
use flowai_actors::ids::{Epoch, Generation, JobId, NodeId, UserId};
use flowai_actors::limits::{LEADER_TERM_MS, USER_QUEUED_MAX};
use flowai_actors::spec::RenderSpec;
use flowai_actors::state::{Class, EventKind, JobState, Tier};

pub use ledger::{Hold, Ledger};
pub use reads::id_of;

/// Milli-credits that every job costs here.
pub const PRICE_MC: i64 = 1_000;

/// A row of `job_state`, with what of `job` and `attempt` belongs to it.
#[derive(Debug, Clone)]
pub struct Row {
    pub owner: UserId,
    pub tier: Tier,
    pub class: Class,
    /// On the database's clock.
    pub created_ms: u64,
    /// The job that it starts after.
    pub after: Option<JobId>,
    pub spec: Rc<RenderSpec>,
    pub state: JobState,
    /// The newest attempt, 0 before the first.
    pub attempt: u32,
    pub epoch: u32,
    pub node: Option<NodeId>,
    pub generation: u32,
    pub node_deaths: u32,
    pub cancel_requested: bool,
    /// Of the job's newest event.
    pub seq: i64,
    /// The first is attempt 1.
    pub attempts: Vec<AttemptRow>,
    /// The attempt whose clip was delivered.
    pub artefacts: Vec<u32>,
    pub checkpoint: Option<CheckpointRow>,
}

/// A row of `checkpoint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRow {
    pub attempt: u32,
    pub file: CheckpointFile,
}

/// A row of `attempt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRow {
    pub epoch: u32,
    pub node: NodeId,
    pub generation: u32,
    pub outcome: Option<&'static str>,
}

/// A row of `job_event`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    pub owner: UserId,
    pub user_seq: i64,
    pub job: JobId,
    pub seq: i64,
    pub kind: EventKind,
}

/// The row of the leader's lease.
#[derive(Debug, Clone, Default)]
pub struct LeaderRow {
    pub epoch: u32,
    /// The coordinator that took the newest term.
    pub holder: Option<usize>,
    /// On the database's clock.
    pub expires_ms: u64,
}

/// A job as it is submitted.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub job: JobId,
    pub owner: UserId,
    pub tier: Tier,
    pub class: Class,
    /// One of the owner's that is there.
    pub after: Option<JobId>,
    pub spec: Rc<RenderSpec>,
    /// The caller's idempotency key.
    pub key: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    Queued,
    /// The same request was answered with this job before.
    Replayed(JobId),
    TooMany,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    NotFound,
    Now,
    Requested,
    AlreadyAsked,
    AlreadyEnded,
}

/// What one transaction did to a job, for whoever checks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    pub job: JobId,
    pub from: Option<JobState>,
    pub to: JobState,
    /// Of the leader that wrote it; `None` when the owner did.
    pub term: Option<u32>,
}

#[derive(Debug, Default)]
pub struct Store {
    pub leader: LeaderRow,
    pub ledger: Ledger,
    jobs: BTreeMap<JobId, Row>,
    unfinished: BTreeSet<JobId>,
    /// Queued jobs of each user.
    waiting: BTreeMap<UserId, u32>,
    keys: BTreeMap<(UserId, u64), JobId>,
    nodes: BTreeMap<NodeId, Generation>,
    streams: BTreeMap<UserId, i64>,
    events: Vec<EventRow>,
    moved: Vec<Moved>,
}

impl Store {
    pub fn row(&self, job: JobId) -> Option<&Row> {
        self.jobs.get(&job)
    }

    pub fn rows(&self) -> impl Iterator<Item = (JobId, &Row)> {
        self.jobs.iter().map(|(job, row)| (*job, row))
    }

    pub fn unfinished(&self) -> impl ExactSizeIterator<Item = JobId> {
        self.unfinished.iter().copied()
    }

    pub fn events(&self) -> &[EventRow] {
        &self.events
    }

    /// What has happened to jobs since this was asked last.
    pub fn take_moved(&mut self) -> Vec<Moved> {
        std::mem::take(&mut self.moved)
    }

    /// Whether the newest term still runs, and who holds it.
    pub fn look(&self, now_ms: u64) -> Option<usize> {
        self.leader
            .holder
            .filter(|_| self.leader.expires_ms > now_ms)
    }

    pub fn take_over(&mut self, now_ms: u64, holder: usize) -> Option<Epoch> {
        if self.leader.expires_ms > now_ms {
            return None;
        }
        self.leader = LeaderRow {
            epoch: self.leader.epoch + 1,
            holder: Some(holder),
            expires_ms: now_ms + LEADER_TERM_MS,
        };
        Some(Epoch::new(self.leader.epoch))
    }

    /// `false` when a later term has begun.
    pub fn renew(&mut self, now_ms: u64, epoch: Epoch) -> bool {
        let is_newest = self.leader.epoch == epoch.get();
        if is_newest {
            self.leader.expires_ms = now_ms + LEADER_TERM_MS;
        }
        is_newest
    }

    pub fn give_up(&mut self, now_ms: u64, epoch: Epoch) {
        if self.leader.epoch == epoch.get() && self.leader.expires_ms > now_ms {
            self.leader.expires_ms = now_ms;
        }
    }

    /// # Errors
    /// The newer generation that is known.
    pub fn register(&mut self, node: &NodeId, generation: Generation) -> Result<(), Generation> {
        let known = self.nodes.entry(node.clone()).or_insert(generation);
        *known = (*known).max(generation);
        if *known == generation {
            Ok(())
        } else {
            Err(*known)
        }
    }

    pub fn submit(&mut self, now_ms: u64, new: &NewJob) -> Submitted {
        if let Some(job) = self.keys.get(&(new.owner, new.key)) {
            return Submitted::Replayed(*job);
        }
        if self
            .waiting
            .get(&new.owner)
            .is_some_and(|count| *count >= USER_QUEUED_MAX)
        {
            return Submitted::TooMany;
        }
        *self.waiting.entry(new.owner).or_insert(0) += 1;
        self.jobs.insert(
            new.job,
            Row {
                owner: new.owner,
                tier: new.tier,
                class: new.class,
                created_ms: now_ms,
                after: new.after,
                spec: new.spec.clone(),
                state: JobState::Queued,
                attempt: 0,
                epoch: 0,
                node: None,
                generation: 0,
                node_deaths: 0,
                cancel_requested: false,
                seq: 1,
                attempts: Vec::new(),
                artefacts: Vec::new(),
                checkpoint: None,
            },
        );
        self.unfinished.insert(new.job);
        self.keys.insert((new.owner, new.key), new.job);
        self.ledger.hold(new.job, PRICE_MC);
        self.append(new.job, EventKind::Queued);
        self.moved.push(Moved {
            job: new.job,
            from: None,
            to: JobState::Queued,
            term: None,
        });
        Submitted::Queued
    }

    /// The owner wants a job no more.
    pub fn cancel(&mut self, owner: UserId, job: JobId) -> Cancelled {
        let Some(row) = self.jobs.get_mut(&job).filter(|row| row.owner == owner) else {
            return Cancelled::NotFound;
        };
        let from = row.state;
        let (to, kind, cancelled) = match from {
            JobState::Queued => (JobState::Cancelled, EventKind::Cancelled, Cancelled::Now),
            JobState::Running if row.cancel_requested => return Cancelled::AlreadyAsked,
            JobState::Running => (from, EventKind::Cancelling, Cancelled::Requested),
            JobState::Done | JobState::Failed | JobState::Cancelled | JobState::Quarantined => {
                return Cancelled::AlreadyEnded;
            }
        };
        row.state = to;
        row.cancel_requested = true;
        row.seq += 1;
        count_waiting(&mut self.waiting, owner, from, to);
        if to.is_end() {
            self.unfinished.remove(&job);
            self.ledger.release(job);
        }
        self.append(job, kind);
        self.moved.push(Moved {
            job,
            from: Some(from),
            to,
            term: None,
        });
        cancelled
    }

    /// Forgets the checkpoint of a job that has ended; that of an unfinished one stays, whoever asks.
    pub fn forget_checkpoint(&mut self, job: JobId) {
        if let Some(row) = self.jobs.get_mut(&job).filter(|row| row.state.is_end()) {
            row.checkpoint = None;
        }
    }

    /// The next event of a job's owner, with the job's present number.
    fn append(&mut self, job: JobId, kind: EventKind) {
        let Some(row) = self.jobs.get(&job) else {
            return;
        };
        let user_seq = self.streams.entry(row.owner).or_insert(0);
        *user_seq += 1;
        self.events.push(EventRow {
            owner: row.owner,
            user_seq: *user_seq,
            job,
            seq: row.seq,
            kind,
        });
    }
}

fn count_waiting(waiting: &mut BTreeMap<UserId, u32>, owner: UserId, from: JobState, to: JobState) {
    let count = waiting.entry(owner).or_insert(0);
    *count += u32::from(to == JobState::Queued);
    *count -= u32::from(from == JobState::Queued);
}
