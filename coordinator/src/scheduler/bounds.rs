//! The start bound: whoever waits longer than its tier promises is started by a tenth of all starts.
//!
//! A rule that always served the oldest would become first come first served in overload, which whoever floods the queue wins.
//! So forced starts come from a token bucket, one user has one at a time, and they are charged like all others.

use std::collections::BTreeSet;

use flowai_actors::clock::Monotonic;
use flowai_actors::limits::{FORCED_START_BURST, FORCED_START_EVERY};
#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};
use flowai_actors::state::{Class, Tier};

use super::jobs::JobIx;
use super::kinds::Kind;
use super::lanes::LaneIx;
use super::nodes::NodeIx;
use super::state::Scheduler;

/// What a tier promises, ms, and since when a lane's first job waits: of those with one promise the oldest comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bound {
    pub(super) within_ms: u64,
    pub(super) since: Monotonic,
}

impl Bound {
    pub(super) fn ends_at(self) -> Monotonic {
        self.since.plus_ms(self.within_ms)
    }
}

/// Lanes whose first jobs have a start bound.
#[derive(Debug, Clone, Default)]
pub(super) struct Bounds(BTreeSet<(Bound, LaneIx)>);

impl Bounds {
    pub(super) fn insert(&mut self, bound: Bound, lane: LaneIx) {
        self.0.insert((bound, lane));
    }

    pub(super) fn remove(&mut self, bound: Bound, lane: LaneIx) {
        self.0.remove(&(bound, lane));
    }

    /// The first `most` lanes of each promise whose bounds end by then.
    pub(super) fn ending_by(
        &self,
        at: Monotonic,
        most: usize,
    ) -> impl Iterator<Item = (Bound, LaneIx)> {
        let promises = Tier::ALL
            .into_iter()
            .flat_map(|tier| Class::ALL.map(|class| tier.start_bound_ms(class)));
        let promises: BTreeSet<u64> = promises.flatten().collect();
        promises.into_iter().flat_map(move |within_ms| {
            let since = Monotonic::default();
            let oldest = (Bound { within_ms, since }, LaneIx::FIRST);
            let of_promise = self.0.range(oldest..);
            let of_promise = of_promise.take_while(move |(bound, _)| {
                bound.within_ms == within_ms && bound.ends_at() <= at
            });
            of_promise.take(most).copied()
        })
    }
}

/// Overdue lanes of one promise that are looked at: those before the first that may run hold a job which no longer may, here.
const LOOKED_AT_MAX: usize = 8;

#[derive(Debug, Clone)]
pub(super) struct ForcedStarts {
    /// In starts: a forced one takes [`FORCED_START_EVERY`].
    credit: u32,
    forced: u64,
}

impl Default for ForcedStarts {
    fn default() -> Self {
        Self {
            credit: FORCED_START_EVERY,
            forced: 0,
        }
    }
}

impl ForcedStarts {
    pub(super) fn started(&mut self, is_forced: bool) {
        if is_forced {
            self.forced += 1;
            self.credit = self.credit.saturating_sub(FORCED_START_EVERY);
        } else {
            self.credit = (self.credit + 1).min(FORCED_START_EVERY * FORCED_START_BURST);
        }
    }

    pub(super) fn forced(&self) -> u64 {
        self.forced
    }

    fn may_force(&self) -> bool {
        self.credit >= FORCED_START_EVERY
    }
}

impl Scheduler {
    /// The job that waits longest beyond its bound, of those that this node can run.
    pub(super) fn overdue(&self, node: NodeIx) -> Option<JobIx> {
        #[cfg(feature = "planted-bugs")]
        if planted::is(Bug::AgingNeverFires) {
            return None;
        }
        if !self.forced_starts.may_force() {
            return None;
        }
        let group = self.nodes.get(node)?.group;
        let kinds = self.kinds.waiting_for(group);
        let overdue = kinds.filter_map(|(_, kind)| self.overdue_of(kind, node));
        overdue.min().map(|(_, job)| job)
    }

    fn overdue_of(&self, kind: &Kind, node: NodeIx) -> Option<(Monotonic, JobIx)> {
        if !self.trusts(node, kind.needs) {
            return None;
        }
        let late = kind.bounds.ending_by(self.now, LOOKED_AT_MAX);
        let may_start = late.filter_map(|(bound, lane)| {
            let lane = self.lanes.get(lane)?;
            let is_served = self.shares.get(lane.user)?.forced.is_some();
            let job = *lane.jobs.front()?;
            (!is_served && self.may_run(lane, job, node)).then_some((bound.since, job))
        });
        may_start.min()
    }
}
