//! Whether engines and rows agree: an engine that works is not given up, and once nothing fails any more, what the rows say is at work is
//! at work, and a node whose engine is free is free.

use flowai_actors::ids::{Attempt, JobId};
use flowai_actors::state::JobState;

use super::checks::Check;
use super::store::Row;
use super::world::World;

/// A beat of its node tells the leader. Well below the time after which an attempt is taken back for want of progress, which would hide
/// that none did.
const UNWORKED_MS_MAX: u64 = 60_000;

impl World {
    /// Looked at now and then.
    pub(super) fn look_at_work(&mut self) {
        if !self.is_healed {
            return;
        }
        let running = self.store.rows();
        let running = running.filter(|(_, row)| row.state == JobState::Running);
        let idle = running.filter(|(job, row)| !self.is_worked_on(*job, row));
        let idle: Vec<(JobId, u32)> = idle.map(|(job, row)| (job, row.attempt)).collect();
        self.unworked.retain(|unworked, _| idle.contains(unworked));
        for (job, attempt) in idle {
            let since = *self.unworked.entry((job, attempt)).or_insert(self.now);
            let for_ms = self.now - since;
            self.checks
                .require(Check::EveryJobEnds, for_ms < UNWORKED_MS_MAX, || {
                    format!("for {for_ms} ms nobody works on attempt {attempt} of {job}, which is running")
                });
        }
    }

    fn is_worked_on(&self, job: JobId, row: &Row) -> bool {
        let slot = row.node.as_ref().and_then(|node| self.slot_of(node));
        let process = slot.map(|slot| &self.processes[self.slots[slot].process]);
        process.is_some_and(|process| {
            let at = process.machine.running();
            let is_it =
                at.is_some_and(|at| (at.job, at.attempt) == (job, Attempt::new(row.attempt)));
            process.is_alive && process.generation.get() == row.generation && is_it
        })
    }

    /// A process ends because its engine hangs.
    pub(super) fn check_hung(&mut self, process: usize) {
        let process = &self.processes[process];
        let (id, hangs) = (process.id.clone(), process.engine_hangs());
        self.checks.require(Check::EveryJobEnds, hangs, || {
            format!("{id} gives up an engine that works, and with it a job")
        });
    }

    /// When every job has ended: a node that believes in one would be given no other.
    pub(super) fn look_at_nodes_at_end(&mut self) {
        let mut newest = self.slots.iter().map(|slot| &self.processes[slot.process]);
        let stuck = newest.find_map(|process| {
            let goes_on = process.is_alive && !process.is_frozen;
            let at = process.machine.running().filter(|_| goes_on)?;
            process.is_engine_free().then(|| (process.id.clone(), at))
        });
        self.checks
            .require(Check::EveryJobEnds, stuck.is_none(), || {
                format!("long after all has ended a node with a free engine believes in a job: {stuck:?}")
            });
    }
}
