//! The checks, named as in the reliability page, each with the invariants that it speaks for.

use std::collections::BTreeMap;
use std::fmt;

use flowai_actors::ids::{Attempt, JobId, UserId};
use flowai_actors::limits::{JOB_ASSIGNMENTS_MAX, MESSAGE_BYTES_MAX};
use flowai_actors::state::JobState;
use serde::Serialize;

use super::store::{Hold, Moved, PRICE_MC, Row, Store};

/// Around a body on the link, at most: ids, epoch, times and lengths.
const FRAME_BYTES: usize = 100;

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Check {
    /// Whoever was told that a job is accepted finds its row; a retry gets the same job (INV-1, INV-4).
    AckedExists,
    /// Every job ends within its time once nothing fails any more, and a node that is gone is missed within its own (INV-5).
    EveryJobEnds,
    /// Where one node fails what it is given, and nothing else fails, every good job becomes a clip.
    GoodInputBecomesClips,
    /// Such a node is soon given nothing more for a while.
    BadNodeIsLeftAlone,
    /// One delivered clip a job, and no row moves under an ended term or to what may not follow (INV-2, INV-3).
    DeliveredOnce,
    /// Nothing is made or lost, a delivered job is paid once, any other costs nothing (INV-3, INV-6).
    LedgerBalances,
    /// What is delivered lies in the object store (INV-3).
    ArtefactIsReal,
    /// A user has no more running jobs than the cap, and nothing else passes its bound (INV-8).
    BoundsHeld,
    /// No message is larger than the link takes (INV-7).
    MessageFits,
    /// Nobody waits past the start bound by more than a turn of those before them.
    StartBound,
    /// An attempt is one process's, nothing is told before it is committed, nobody renews another's lease, and an attempt is
    /// taken only from a process that has stopped by itself (INV-2).
    Lease,
}

impl Check {
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckedExists => "acked_exists",
            Self::EveryJobEnds => "every_job_ends",
            Self::GoodInputBecomesClips => "good_input_becomes_clips",
            Self::BadNodeIsLeftAlone => "bad_node_is_left_alone",
            Self::DeliveredOnce => "delivered_once",
            Self::LedgerBalances => "ledger_balances",
            Self::ArtefactIsReal => "artefact_is_real",
            Self::BoundsHeld => "bounds_held",
            Self::MessageFits => "message_fits",
            Self::StartBound => "start_bound",
            Self::Lease => "lease",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A check that does not hold, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub check: Check,
    pub seen: String,
}

/// What the checks remember of what has happened.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// Queued jobs of each user.
    waiting: BTreeMap<UserId, u32>,
    epochs: BTreeMap<JobId, u32>,
    /// The process that each attempt was begun by.
    begun: BTreeMap<(JobId, Attempt), usize>,
    broken: Option<Broken>,
}

impl Checks {
    /// The first check that did not hold: what breaks after it may be its consequence.
    pub(super) fn broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    pub(super) fn require(&mut self, check: Check, holds: bool, seen: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            self.broken = Some(Broken {
                check,
                seen: seen(),
            });
        }
    }

    /// One transaction has moved jobs. `is_uploaded`: whether an attempt's files lie in the object store.
    pub(super) fn moved(
        &mut self,
        store: &Store,
        moved: &[Moved],
        is_uploaded: impl Fn(JobId, u32) -> bool,
    ) {
        for moved in moved {
            self.moved_one(store, *moved, &is_uploaded);
        }
        self.balances(store);
    }

    fn moved_one(&mut self, store: &Store, moved: Moved, is_uploaded: impl Fn(JobId, u32) -> bool) {
        let Some(row) = store.row(moved.job) else {
            return;
        };
        let Moved {
            job,
            from,
            to,
            term,
        } = moved;
        if let Some(term) = term {
            let newest = store.leader.epoch;
            self.require(Check::DeliveredOnce, term == newest, || {
                format!(
                    "{job} became {} under term {term}, and {newest} leads",
                    to.as_str()
                )
            });
        }
        // Adoption and the wish to cancel leave the state as it is.
        let is_allowed = from.is_none_or(|from| from == to && !to.is_end() || from.may_become(to));
        self.require(Check::DeliveredOnce, is_allowed, || {
            format!("{job} became {} out of {from:?}", to.as_str())
        });
        let epoch = self.epochs.insert(job, row.epoch).unwrap_or(0);
        self.require(Check::DeliveredOnce, epoch <= row.epoch, || {
            format!("the epoch of {job} fell from {epoch} to {}", row.epoch)
        });
        self.require(
            Check::BoundsHeld,
            row.attempt <= JOB_ASSIGNMENTS_MAX,
            || format!("{job} was assigned {} times", row.attempt),
        );
        self.count_waiting(row, from, to);
        self.whole(job, row);
        self.account(job, row, to, store.ledger.of(job));
        if from != Some(JobState::Done) && to == JobState::Done {
            self.delivered(job, &row.artefacts, is_uploaded);
        }
    }

    /// Those that come back into the queue are not counted against the bound: it is for what is submitted.
    fn count_waiting(&mut self, row: &Row, from: Option<JobState>, to: JobState) {
        let (owner, most) = (row.owner, row.tier.queued_max());
        let waiting = self.waiting.entry(owner).or_insert(0);
        if from == Some(JobState::Queued) {
            *waiting = waiting.saturating_sub(1);
        }
        if to == JobState::Queued {
            *waiting += 1;
        }
        let waiting = *waiting;
        let is_full = from.is_none() && waiting > most;
        self.require(Check::BoundsHeld, !is_full, || {
            format!("{owner} submits its waiting job {waiting}, {most} are allowed")
        });
    }

    fn account(&mut self, job: JobId, row: &Row, state: JobState, hold: Hold) {
        let expected = match state {
            JobState::Queued | JobState::Running => Hold {
                held: PRICE_MC,
                ..Hold::default()
            },
            JobState::Done => Hold {
                captured: PRICE_MC,
                captures: 1,
                ..Hold::default()
            },
            // Who stops a running job pays for the steps that were done, and who stops one that never ran for nothing.
            JobState::Cancelled if hold.captures == 1 && row.attempt > 0 => Hold {
                captured: hold.captured.clamp(1, PRICE_MC),
                released: PRICE_MC - hold.captured,
                captures: 1,
                held: 0,
            },
            JobState::Failed | JobState::Cancelled | JobState::Quarantined => Hold {
                released: PRICE_MC,
                ..Hold::default()
            },
        };
        self.require(Check::LedgerBalances, hold == expected, || {
            format!("{job} is {}, and of its price {hold:?}", state.as_str())
        });
    }

    fn delivered(
        &mut self,
        job: JobId,
        attempts: &[u32],
        is_uploaded: impl Fn(JobId, u32) -> bool,
    ) {
        self.require(Check::DeliveredOnce, attempts.len() == 1, || {
            format!("{job} was delivered by attempts {attempts:?}")
        });
        for attempt in attempts {
            self.require(Check::ArtefactIsReal, is_uploaded(job, *attempt), || {
                format!(
                    "attempt {attempt} of {job} is delivered, and its files are not in the store"
                )
            });
        }
    }

    /// A process begins to render an attempt.
    pub(super) fn begun(&mut self, job: JobId, attempt: Attempt, process: usize) {
        let first = *self.begun.entry((job, attempt)).or_insert(process);
        self.require(Check::Lease, first == process, || {
            format!("attempt {attempt} of {job} is begun by process {process} and by {first}")
        });
    }

    /// Somebody sends this body, encoded as in an envelope.
    pub(super) fn sent(&mut self, body: &impl Serialize) {
        let bytes = serde_json::to_vec(body).map(|encoded| encoded.len());
        let fits = matches!(bytes, Ok(bytes) if bytes + FRAME_BYTES <= MESSAGE_BYTES_MAX);
        self.require(Check::MessageFits, fits, || {
            format!("a message of {bytes:?} bytes, {MESSAGE_BYTES_MAX} are allowed with its frame")
        });
    }

    /// The sums over all jobs and accounts, which the ledger keeps with every movement.
    fn balances(&mut self, store: &Store) {
        let sum = store.ledger.sum();
        self.require(Check::LedgerBalances, sum == 0, || {
            format!("the ledger's balances add up to {sum}")
        });
        let (held, unfinished) = (store.ledger.held, store.unfinished().len());
        let expected = PRICE_MC * unfinished as i64;
        self.require(Check::LedgerBalances, held == expected, || {
            format!("the ledger holds {held}, {unfinished} unfinished jobs {expected}")
        });
    }

    /// A row agrees with its attempts.
    fn whole(&mut self, job: JobId, row: &Row) {
        let state = row.state.as_str();
        let is_running = row.state == JobState::Running;
        self.require(
            Check::DeliveredOnce,
            is_running == row.node.is_some(),
            || format!("{job} is {state} and held by {:?}", row.node),
        );
        let (told, kept) = (row.attempt as usize, row.attempts.len());
        self.require(Check::DeliveredOnce, kept == told, || {
            format!("{job} has {kept} attempts and says {told}")
        });
        let open = row
            .attempts
            .iter()
            .filter(|attempt| attempt.outcome.is_none());
        let open = open.count();
        self.require(
            Check::DeliveredOnce,
            open == usize::from(is_running),
            || format!("{job} is {state} and has {open} open attempts"),
        );
    }

    /// Every row, moved or not: one that changes without a move is seen by this alone.
    pub(super) fn look_at_all(&mut self, store: &Store) {
        for (job, row) in store.rows() {
            self.whole(job, row);
            self.account(job, row, row.state, store.ledger.of(job));
        }
        self.balances(store);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_the_link_would_refuse_is_found() {
        let quotes = 2;
        for (bytes, is_found) in [
            (MESSAGE_BYTES_MAX - FRAME_BYTES - quotes, false),
            (MESSAGE_BYTES_MAX - FRAME_BYTES - quotes + 1, true),
        ] {
            let mut checks = Checks::default();
            checks.sent(&"x".repeat(bytes));
            let found = checks.broken().map(|broken| broken.check);
            assert_eq!(found, is_found.then_some(Check::MessageFits));
        }
    }
}
