//! Attempts of an earlier term: their nodes have one lease to say that they still work on them.

use flowai_actors::ids::{Attempt, Generation};
use flowai_actors::limits::NODE_LEASE_MS;

use super::durations::Cold;
use super::event::Recovered;
use super::jobs::{Holder, JobIx, Place};
use super::nodes::{NodeIx, Running};
use super::state::Scheduler;

impl Scheduler {
    pub(super) fn recover(&mut self, recovered: Recovered) {
        let Recovered {
            waiting,
            node,
            generation,
            cancel_requested,
        } = recovered;
        if self.knows(waiting.job) {
            return;
        }
        let ix = self.take_in(waiting);
        let lost_at = self.now.plus_ms(NODE_LEASE_MS);
        self.wake_by(lost_at);
        self.changed();
        let node = self.nodes.named(&node);
        let Some(job) = self.jobs.get_mut(ix) else {
            return;
        };
        job.place = Place::Running(Holder {
            node,
            generation,
            lost_at: Some(lost_at),
        });
        if cancel_requested {
            job.story().cancel_asked = true;
        }
        let (owner, tier) = (job.owner, job.tier);
        self.unclaimed.insert((node, ix));
        let charged = self.jobs.get(ix).map_or(0.0, |job| self.cost_of(job));
        self.shares.run(owner, tier.weight(), ix, charged);
        let load = &mut self.load[tier as usize];
        load.waiting -= 1;
        load.running += 1;
        self.rekey_user(owner);
    }

    /// Whether the node's word agrees with the rows; from then on its own lease counts.
    pub(super) fn adopt(
        &mut self,
        ix: JobIx,
        attempt: Attempt,
        node: NodeIx,
        generation: Generation,
    ) -> bool {
        let Some(job) = self.jobs.get_mut(ix).filter(|job| job.attempt == attempt) else {
            return false;
        };
        match &mut job.place {
            Place::Running(held) if held.node == node && held.generation == generation => {
                held.lost_at = None;
                self.unclaimed.remove(&(node, ix));
                true
            }
            Place::Running(_) | Place::Lane(_) | Place::Parked => false,
        }
    }

    /// An attempt of an earlier term, for which nobody was charged in this one.
    pub(super) fn adopted_run(&mut self, job: JobIx, attempt: Attempt) -> Running {
        let (mut cost, mut whole_s) = (0.0, 0.0);
        if let Some((known, owner)) = self.jobs.get(job).map(|job| (job, job.owner)) {
            cost = self.cost_of(known);
            whole_s = self.whole_s(known);
            self.shares.correct(owner, cost, known.tier.weight());
            self.rekey_user(owner);
        }
        Running {
            job,
            attempt,
            since: self.now,
            charged: cost,
            expected_s: cost,
            whole_s,
            is_whole: false,
            load_s: 0.0,
            cold: Cold::default(),
            progress: None,
            quickest_s: None,
            was_slow: false,
            is_stopping: false,
            is_leaving: false,
        }
    }
}
