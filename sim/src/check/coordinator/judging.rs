//! What of its decisions is held against the invariants.

use std::collections::BTreeMap;

use flowai_actors::ids::{Attempt, Epoch, JobId, NodeId};
use flowai_actors::messages::BeatAnswer;
use flowai_coordinator::core::{Event, ReplyId};
use flowai_coordinator::scheduler::{NOT_BACK, Rival};
use flowai_store::journal::{Batch, Change, Unfinished};

use crate::check::checks::Check;
use crate::check::world::World;

/// Of a farm whose starts beyond caps are judged.
const CAPS_NODES_MAX: usize = 64;

impl World {
    /// Whoever runs as many as its tier allows is given another node only where nobody who runs fewer could use it. Jobs that came
    /// with the same event may have come after the start, and so may those that started after another one.
    pub(super) fn check_caps(&mut self, index: usize, arriving: &[JobId]) {
        // Counting everybody anew with every event is for small farms.
        if self.plan.nodes > CAPS_NODES_MAX {
            return;
        }
        let Some(leader) = self.coordinators[index].leader() else {
            return;
        };
        let scheduler = leader.state.scheduler();
        let running: BTreeMap<JobId, (Attempt, NodeId)> = scheduler
            .unfinished()
            .filter_map(|(job, attempt, node)| Some((job, (attempt, node?.clone()))))
            .collect();
        let mut found = None;
        for (job, (attempt, node)) in &running {
            let is_new = leader
                .running
                .get(job)
                .is_none_or(|(before, _)| before < attempt);
            let row = self.store.row(*job);
            let Some(row) = row.filter(|_| is_new) else {
                continue;
            };
            let own = scheduler
                .unfinished()
                .filter(|(_, _, node)| node.is_some())
                .filter(|(other, ..)| scheduler.owner_of(*other) == Some(row.owner))
                .count() as u32;
            if own <= row.tier.running_max() {
                continue;
            }
            let could_run = |rival: &Rival| {
                let came_before = self
                    .store
                    .row(rival.job)
                    .is_some_and(|row| row.after.is_none())
                    && !arriving.contains(&rival.job);
                rival.running < rival.tier.running_max() && rival.user != row.owner && came_before
            };
            let rival = scheduler.rivals_for(node).into_iter().find(could_run);
            found = found.or(rival.map(|rival| (*job, node.clone(), own, rival)));
        }
        leader.running = running;
        self.checks.require(Check::BoundsHeld, found.is_none(), || {
            format!("c{index} starts beyond its user's cap what others could run: {found:?}")
        });
    }

    /// An attempt is taken from a node that fell silent, or did not come to a new leader, only when that node has stopped by itself:
    /// its own lease is shorter, and so is that of the leader before.
    pub(super) fn check_losses(&mut self, index: usize, epoch: Epoch, batch: &Batch) {
        // Of a term that has ended it is refused, whatever it says.
        if epoch.get() != self.store.leader.epoch {
            return;
        }
        for change in batch.changes() {
            // What a node may not have taken is given to another, and fenced where it has.
            let held = match change {
                Change::Requeue {
                    held,
                    outcome,
                    reason,
                    ..
                } if *outcome == Unfinished::Lost || reason == NOT_BACK => held,
                Change::Quarantine { held, .. } => held,
                _ => continue,
            };
            let Some(slot) = self.slot_of(&held.node) else {
                continue;
            };
            let process = &self.processes[self.slots[slot].process];
            let at_work = process.generation == held.generation
                && process.is_at_work_on(held.at.job, held.at.attempt);
            self.checks.require(Check::Lease, !at_work, || {
                format!(
                    "c{index} takes attempt {} of {} from {}, which works on it and believes in its lease",
                    held.at.attempt, held.at.job, held.node
                )
            });
        }
    }

    /// A lease is renewed by its holder only.
    pub(super) fn check_renewal(&mut self, index: usize, reply: ReplyId, answer: BeatAnswer) {
        let Some(leader) = self.coordinators[index].leader() else {
            return;
        };
        let Some((process, _)) = leader.replies.get(&reply) else {
            return;
        };
        let process = &self.processes[*process];
        let newest = leader.admitted.get(&process.slot).copied();
        let is_renewed = matches!(answer, BeatAnswer::Renewed { .. });
        let is_old = newest.is_some_and(|newest| process.generation < newest);
        self.checks
            .require(Check::Lease, !(is_renewed && is_old), || {
                format!(
                    "a beat of generation {} of {} renews the lease of generation {newest:?}",
                    process.generation, process.id
                )
            });
    }

    /// Asks who leads at the end what it still holds in memory.
    pub(in crate::check) fn compare_memory(&mut self) {
        let newest = self.store.leader.epoch;
        for index in 0..self.coordinators.len() {
            if self.coordinators[index].epoch() == Some(Epoch::new(newest)) {
                self.turn_replies += 1;
                self.lead(
                    index,
                    Event::FarmAsked {
                        reply: ReplyId(self.turn_replies),
                        after: None,
                    },
                );
            }
        }
    }
}
