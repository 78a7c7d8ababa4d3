//! The start bound: whoever waits longer than its tier promises is started by a tenth of all starts.
//!
//! A rule that always served the oldest would become first come first served in overload, which whoever floods the queue wins.
//! So forced starts come from a token bucket, one user has one at a time, and they are charged like all others.

use std::collections::BTreeSet;

use flowai_actors::clock::Monotonic;
use flowai_actors::limits::{CHOOSY_CANDIDATES_MAX, FORCED_START_BURST, FORCED_START_EVERY};
#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};
use flowai_actors::state::{Class, Tier};

use super::jobs::JobIx;
use super::kinds::Kind;
use super::lanes::LaneIx;
use super::needs::KindIx;
use super::nodes::NodeIx;
use super::state::Scheduler;

/// Why a job starts now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Its turn has come, or it may pass whose turn it is.
    Turn,
    /// It waits longer than was promised.
    Overdue,
    /// Another job made room for it, so that the promise is kept.
    Reserved,
}

/// What was promised to a lane's first job, and since when it waits: of those with one promise the oldest comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bound {
    promise: Promise,
    pub(super) since: Monotonic,
}

/// Of which a tier and class promises how soon a job starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Promise {
    tier: Tier,
    class: Class,
}

impl Promise {
    const COUNT: usize = Tier::ALL.len() * Class::ALL.len();

    const fn index(self) -> usize {
        self.tier as usize * Class::ALL.len() + self.class as usize
    }

    /// Those that a job may have.
    fn all() -> impl Iterator<Item = Self> {
        let of_tier = |tier| Class::ALL.map(|class| Self { tier, class });
        let all = Tier::ALL.into_iter().flat_map(of_tier);
        all.filter(|promise| promise.within_ms().is_some())
    }

    fn within_ms(self) -> Option<u64> {
        self.tier.start_bound_ms(self.class)
    }
}

impl Bound {
    /// `None` where nothing is promised.
    pub(super) fn of(tier: Tier, class: Class, since: Monotonic) -> Option<Self> {
        let promise = Promise { tier, class };
        promise.within_ms().map(|_| Self { promise, since })
    }

    pub(super) fn ends_at(self) -> Monotonic {
        self.since
            .plus_ms(self.promise.within_ms().unwrap_or(u64::MAX))
    }
}

/// Lanes whose first jobs have a start bound, and whose users have no forced one running.
#[derive(Debug, Clone, Default)]
pub(super) struct Bounds([BTreeSet<(Monotonic, LaneIx)>; Promise::COUNT]);

impl Bounds {
    pub(super) fn insert(&mut self, bound: Bound, lane: LaneIx) {
        self.0[bound.promise.index()].insert((bound.since, lane));
    }

    pub(super) fn remove(&mut self, bound: Bound, lane: LaneIx) {
        self.0[bound.promise.index()].remove(&(bound.since, lane));
    }

    /// For each promise the lanes whose bounds end by then, the oldest first and at most [`CHOOSY_CANDIDATES_MAX`]: those that are
    /// looked at in vain hold a job that may not go to every node.
    pub(super) fn ending_by(
        &self,
        at: Monotonic,
    ) -> impl Iterator<Item = impl Iterator<Item = (Bound, LaneIx)>> {
        Promise::all().map(move |promise| {
            let of_promise = self.0[promise.index()].iter();
            let bounds = of_promise.map(move |(since, lane)| {
                let since = *since;
                (Bound { promise, since }, *lane)
            });
            bounds
                .take_while(move |(bound, _)| bound.ends_at() <= at)
                .take(CHOOSY_CANDIDATES_MAX)
        })
    }
}

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
    pub(super) fn started(&mut self, cause: Cause) {
        match cause {
            Cause::Overdue => {
                self.forced += 1;
                self.credit = self.credit.saturating_sub(FORCED_START_EVERY);
            }
            Cause::Turn | Cause::Reserved => {
                self.credit = (self.credit + 1).min(FORCED_START_EVERY * FORCED_START_BURST);
            }
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
        let overdue = kinds.filter_map(|(ix, kind)| self.overdue_of(ix, kind, node));
        overdue.min().map(|(_, job)| job)
    }

    fn overdue_of(&self, ix: KindIx, kind: &Kind, node: NodeIx) -> Option<(Monotonic, JobIx)> {
        if !self.may_take(node, ix) {
            return None;
        }
        let late = kind.bounds.ending_by(self.now);
        let may_start = late.filter_map(|mut of_promise| {
            of_promise.find_map(|(bound, lane)| {
                let lane = self.lanes.get(lane)?;
                let job = *lane.jobs.front()?;
                self.may_run(lane, job, node).then_some((bound.since, job))
            })
        });
        may_start.min()
    }
}
