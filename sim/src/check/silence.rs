//! A node that is gone is missed in time.

use flowai_actors::ids::{Epoch, JobId};
use flowai_actors::state::JobState;

use super::checks::Check;
use super::store::Row;
use super::world::World;

/// Invariant 5: one failure at a time.
const MISSED_WITHIN_MS: u64 = 15_000;

impl World {
    /// Looked at before the process goes on, or the next one of its machine begins.
    pub(super) fn check_missed(&mut self, process: usize) {
        let gone = &self.processes[process];
        let Some(gone_at) = gone.gone_at else {
            return;
        };
        let undisturbed_ms = self.now.saturating_sub(gone_at.max(self.calm_since));
        if undisturbed_ms < MISSED_WITHIN_MS || !self.is_led() {
            return;
        }
        // Whose rows somebody else holds, nobody can take from it.
        let is_free = |row: &Row| self.cuts.held.get(&row.owner).is_none_or(|held| *held == 0);
        let is_held = |row: &Row| {
            row.state == JobState::Running
                && is_free(row)
                && row.node.as_ref() == Some(&gone.id)
                && row.generation == gone.generation.get()
        };
        let held = self.store.rows().find(|(_, row)| is_held(row));
        let held: Option<JobId> = held.map(|(job, _)| job);
        let id = gone.id.clone();
        self.checks
            .require(Check::EveryJobEnds, held.is_none(), || {
                format!("{id} is gone for {undisturbed_ms} ms, and still has {held:?}")
            });
    }

    fn is_led(&self) -> bool {
        let newest = Epoch::new(self.store.leader.epoch);
        let mut coordinators = self.coordinators.iter();
        let is_at_work =
            coordinators.any(|own| own.is_alive && !own.is_frozen && own.epoch() == Some(newest));
        let has_store = self.cuts.store_refuses == 0 && self.cuts.store.iter().all(|cut| *cut == 0);
        is_at_work && has_store
    }
}
