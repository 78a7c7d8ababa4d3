//! What ends with time: leases, claims of an earlier term, and pauses.

use flowai_actors::clock::Monotonic;
use flowai_store::journal::Unfinished;

use super::event::Effect;
use super::jobs::{Job, JobIx};
use super::nodes::NodeIx;
use super::state::Scheduler;

/// Why an attempt is given up that nobody claims under a new leader.
pub const NOT_BACK: &str = "its node did not come back to the new leader";

impl Scheduler {
    /// Takes the attempt from nodes whose lease ran out, and from those that a new leader never heard of.
    pub(super) fn expire(&mut self, effects: &mut Vec<Effect>) {
        let now = self.now;
        if self.wake_at.is_none_or(|at| now < at) {
            return;
        }
        // A pause may be over as well.
        self.changed();
        let silent: Vec<NodeIx> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.lease_until <= now)
            .map(|(ix, _)| ix)
            .collect();
        for ix in silent {
            // While it is known what was charged for it.
            if let Some(running) = self.nodes.get(ix).and_then(|node| node.running) {
                self.lose(running.job, "its node fell silent", effects);
            }
            self.set_node(ix, None);
        }
        // Dialling may take longer than this, so it proves no death and counts as none. Only a next process of the node that
        // comes sooner tells of one.
        let is_over = |ix: &JobIx| {
            let held = self.jobs.get(*ix).and_then(Job::holder);
            held.is_none_or(|held| held.lost_at.is_some_and(|lost_at| lost_at <= now))
        };
        let unclaimed = self.unclaimed.iter().map(|(_, ix)| *ix);
        let over: Vec<JobIx> = unclaimed.filter(is_over).collect();
        for ix in over {
            let reason = NOT_BACK.to_owned();
            if self.jobs.get(ix).is_some_and(|job| job.holder().is_some()) {
                self.requeue(ix, Unfinished::Stopped, reason, None, effects);
            }
        }
        self.wake_pausing();
        self.expire_jobs(effects);
        self.wake_at = self.next_due();
    }

    /// Free nodes look again at what had to wait for a time.
    fn wake_pausing(&mut self) {
        let now = self.now;
        let refitted = self.kinds.expire_memory(now);
        self.refit(refitted);
        let over: Vec<JobIx> = self
            .pausing
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, job)| *job)
            .collect();
        self.pausing.retain(|(at, _)| now < *at);
        let kinds: Vec<_> = over
            .into_iter()
            .filter_map(|job| Some(self.jobs.get(job)?.kind))
            .collect();
        self.dirty_kinds.extend(kinds);
        if self.trust_due.is_some_and(|at| at <= now) {
            let free: Vec<NodeIx> = self
                .nodes
                .iter()
                .filter(|(_, node)| node.is_free())
                .map(|(ix, _)| ix)
                .collect();
            self.dirty_nodes.extend(free);
        }
        self.trust_due = self.trust.next_due(now);
    }

    fn next_due(&self) -> Option<Monotonic> {
        let leases = self.nodes.iter().map(|(_, node)| node.lease_until);
        let claims = self
            .unclaimed
            .iter()
            .filter_map(|(_, ix)| self.jobs.get(*ix)?.holder()?.lost_at);
        let pauses = self.pausing.first().map(|(at, _)| *at);
        leases
            .chain(claims)
            .chain(pauses)
            .chain(self.trust_due)
            .chain([self.next_deadlines])
            .min()
    }
}
