//! A batch of the leader's changes, each compared with the row it changes: the rules of `flowai_store::journal`.

use flowai_actors::checkpoint::CheckpointFile;
use flowai_actors::credits::Millicredits;
use flowai_actors::ids::{Epoch, JobId, UserId};
use flowai_actors::messages::Holding;
#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};
use flowai_actors::state::{EventKind, JobState};
use flowai_store::journal::{Batch, Change, Unfinished, Written};

use super::{AttemptRow, CheckpointRow, Moved, PRICE_MC, Row, Store, count_waiting};

impl Store {
    /// Commits a batch in the term `epoch`. Answers in the order of the batch.
    ///
    /// # Errors
    /// The epoch that counts, when it is another one: nothing is written then.
    pub fn commit(&mut self, epoch: Epoch, batch: &Batch) -> Result<Vec<Written>, Epoch> {
        let held = self.leader.epoch;
        #[cfg(feature = "planted-bugs")]
        let held = if planted::is(Bug::NoFencing) {
            epoch.get()
        } else {
            held
        };
        if held != epoch.get() {
            return Err(Epoch::new(held));
        }
        let changes = batch.changes();
        let written = changes.iter().map(|change| self.write(epoch, change));
        Ok(written.collect())
    }

    /// Whether this very attempt was settled.
    pub fn was_settled(&self, held: &Holding) -> bool {
        let attempt = self.attempt(held);
        attempt.is_some_and(|attempt| attempt.outcome == Some("done"))
    }

    fn attempt(&self, held: &Holding) -> Option<&AttemptRow> {
        let place = held.at.attempt.get().checked_sub(1)?;
        let attempt = self.jobs.get(&held.at.job)?.attempts.get(place as usize)?;
        let is_its_own = attempt.node == held.node && attempt.generation == held.generation.get();
        is_its_own.then_some(attempt)
    }

    fn write(&mut self, epoch: Epoch, change: &Change) -> Written {
        let job = change.job();
        let Some(row) = self.jobs.get_mut(&job) else {
            return Written::Stale;
        };
        let from = row.state;
        let Some(event) = move_row(row, epoch, change) else {
            let owner = self.written_before(epoch, change);
            #[cfg(feature = "planted-bugs")]
            if owner.is_some()
                && matches!(change, Change::Settle { .. })
                && planted::is(Bug::DoubleCapture)
            {
                self.ledger.capture(job, PRICE_MC);
            }
            return owner.map_or(Written::Stale, Written::Before);
        };
        let (owner, to) = (row.owner, row.state);
        count_waiting(&mut self.waiting, owner, from, to);
        if let Some(kind) = event {
            self.append(job, kind);
        }
        if to.is_end() {
            self.unfinished.remove(&job);
            self.settle_hold(job, change);
        }
        self.moved.push(Moved {
            job,
            from: Some(from),
            to,
            term: Some(epoch.get()),
        });
        Written::Now(owner)
    }

    fn settle_hold(&mut self, job: JobId, change: &Change) {
        match change {
            Change::Settle { .. } => self.ledger.capture(job, PRICE_MC),
            Change::Cancel { steps, .. } => {
                let price = Millicredits::new(PRICE_MC.unsigned_abs());
                let captured_mc = price.captured_of_cancelled(*steps).get().cast_signed();
                if captured_mc > 0 {
                    self.ledger.capture(job, captured_mc);
                }
                self.ledger.release(job);
            }
            #[cfg(feature = "planted-bugs")]
            Change::Fail { .. } if planted::is(Bug::HoldLeaks) => {}
            _ => self.ledger.release(job),
        }
    }

    /// Whether the row is already as a change that moved nothing would have made it.
    fn written_before(&self, epoch: Epoch, change: &Change) -> Option<UserId> {
        let mut held = match change {
            // Ended by its owner, who needs no leader for it.
            Change::CancelWaiting { .. } => return None,
            // Its row is read again, and says so.
            Change::FailWaiting { .. } => return None,
            Change::Assign(held) | Change::Adopt(held) => held.clone(),
            Change::Cancel { held, .. }
            | Change::Keep { held, .. }
            | Change::Settle { held, .. }
            | Change::Requeue { held, .. }
            | Change::Fail { held, .. }
            | Change::Quarantine { held, .. } => held.clone(),
        };
        if matches!(change, Change::Assign(_) | Change::Adopt(_)) {
            held.at.epoch = epoch;
        }
        let row = self.jobs.get(&held.at.job)?;
        let is_so = row.state == next_state(change)
            && row.attempt == held.at.attempt.get()
            && row.epoch == held.at.epoch.get()
            && row.generation == held.generation.get();
        let attempt = row.attempts.get((row.attempt.checked_sub(1)?) as usize)?;
        (is_so && attempt.node == held.node).then_some(row.owner)
    }
}

/// The job's state once the change is written.
fn next_state(change: &Change) -> JobState {
    match change {
        Change::Assign(_) | Change::Adopt(_) | Change::Keep { .. } => JobState::Running,
        Change::Settle { .. } => JobState::Done,
        Change::Requeue { .. } => JobState::Queued,
        Change::Fail { .. } | Change::FailWaiting { .. } => JobState::Failed,
        Change::Cancel { .. } | Change::CancelWaiting { .. } => JobState::Cancelled,
        Change::Quarantine { .. } => JobState::Quarantined,
    }
}

/// Changes the row, if it is what the change compares it with, and says which event tells of it. `None`: it is not.
fn move_row(row: &mut Row, epoch: Epoch, change: &Change) -> Option<Option<EventKind>> {
    let event = match change {
        Change::Assign(held) => {
            let is_next = row.state == JobState::Queued
                && row.attempt + 1 == held.at.attempt.get()
                && !row.cancel_requested;
            if !is_next {
                return None;
            }
            row.attempt = held.at.attempt.get();
            row.epoch = epoch.get();
            row.node = Some(held.node.clone());
            row.generation = held.generation.get();
            row.attempts.push(AttemptRow {
                epoch: row.epoch,
                node: held.node.clone(),
                generation: row.generation,
                outcome: None,
            });
            EventKind::Assigned
        }
        Change::Adopt(held) => {
            if !holds(row, held) {
                return None;
            }
            row.epoch = epoch.get();
            if let Some(attempt) = row.attempts.last_mut() {
                attempt.epoch = row.epoch;
            }
            // Changes nothing for the owner, and no event counts it.
            return Some(None);
        }
        Change::Keep { held, checkpoint } => {
            if !holds(row, held) {
                return None;
            }
            keep(row, held, checkpoint);
            return Some(None);
        }
        Change::FailWaiting { attempt, .. } => {
            if row.state != JobState::Queued || row.attempt != attempt.get() {
                return None;
            }
            EventKind::Failed
        }
        Change::CancelWaiting { attempt, .. } => {
            let is_waiting = row.state == JobState::Queued
                && row.attempt == attempt.get()
                && row.cancel_requested;
            if !is_waiting {
                return None;
            }
            EventKind::Cancelled
        }
        Change::Settle { held, .. } => {
            end(row, held, "done", false)?;
            row.artefacts.push(held.at.attempt.get());
            EventKind::Done
        }
        Change::Cancel { held, .. } => {
            end(row, held, "stopped", false)?;
            EventKind::Cancelled
        }
        Change::Requeue {
            held,
            outcome,
            checkpoint,
            ..
        } => {
            let (name, is_death) = match outcome {
                Unfinished::Lost => ("lost", true),
                Unfinished::Failed => ("failed", false),
                Unfinished::Stopped => ("stopped", false),
            };
            end(row, held, name, is_death)?;
            match (outcome, checkpoint) {
                (Unfinished::Failed, _) => row.checkpoint = None,
                (_, Some(checkpoint)) => keep(row, held, checkpoint),
                (_, None) => {}
            }
            EventKind::Retrying
        }
        Change::Fail { held, .. } => {
            end(row, held, "failed", false)?;
            EventKind::Failed
        }
        Change::Quarantine { held, .. } => {
            end(row, held, "lost", true)?;
            EventKind::Quarantined
        }
    };
    row.state = next_state(change);
    row.seq += 1;
    Some(Some(event))
}

fn holds(row: &Row, held: &Holding) -> bool {
    row.state == JobState::Running
        && row.attempt == held.at.attempt.get()
        && row.epoch == held.at.epoch.get()
        && row.node.as_ref() == Some(&held.node)
        && row.generation == held.generation.get()
}

fn end(row: &mut Row, held: &Holding, outcome: &'static str, is_death: bool) -> Option<()> {
    if !holds(row, held) {
        return None;
    }
    row.node = None;
    row.node_deaths += u32::from(is_death);
    if let Some(attempt) = row.attempts.last_mut() {
        attempt.outcome = Some(outcome);
    }
    Some(())
}

/// The newest checkpoint stays.
fn keep(row: &mut Row, held: &Holding, file: &CheckpointFile) {
    let attempt = held.at.attempt.get();
    let is_older = |kept: &CheckpointRow| (kept.attempt, kept.file.step) > (attempt, file.step);
    if !row.checkpoint.as_ref().is_some_and(is_older) {
        row.checkpoint = Some(CheckpointRow {
            attempt,
            file: file.clone(),
        });
    }
}
