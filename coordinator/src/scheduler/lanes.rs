//! Where jobs wait: a lane holds those of one user that can run on the same nodes, first come first served. Only its first
//! job is a candidate, so that a long queue costs a decision nothing.
//!
//! A job that may not go to every node of its kind (it failed on some, or has a checkpoint of one device class), or to none for a while,
//! has a lane of its own, so that it holds up nobody.

use std::collections::{HashMap, VecDeque};

use flowai_actors::state::{Class, Tier};

use super::bounds::Bound;
use super::jobs::{Arrival, JobIx};
use super::needs::KindIx;
use super::shares::{UserIx, Virtual};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LaneIx(u32);

impl LaneIx {
    pub(super) const FIRST: Self = Self(0);
}

/// In which order lanes are served: by the finish tags of their first jobs; of equal ones, that whose user was served least
/// recently, then by the jobs' arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) finish: Virtual,
    pub(super) served: u64,
    pub(super) arrival: Arrival,
    pub(super) lane: LaneIx,
}

#[derive(Debug, Clone)]
pub(super) struct Lane {
    pub(super) user: UserIx,
    pub(super) kind: KindIx,
    /// `None` for that of a single choosy job.
    class: Option<Class>,
    /// In the order of arrival.
    pub(super) jobs: VecDeque<JobIx>,
    /// Baseline GPU-seconds of all of them.
    pub(super) backlog_s: f64,
    /// How many of them came under each tier: an account may have moved up meanwhile.
    pub(super) tiers: Tiers,
    /// How it stands in its kind's order.
    pub(super) entry: Option<Entry>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// As it was filed: at most what it is ([`Scheduler::as_it_is`](super::state::Scheduler)).
    pub(super) claim: Claim,
    /// Virtual seconds from its user's tag to the claim's finish, as predicted when the user was last looked at.
    pub(super) length: f64,
    pub(super) is_capped: bool,
    pub(super) bound: Option<Bound>,
    /// It counts among those who stand for a node.
    pub(super) stands: bool,
}

/// Jobs by the tier under which they came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tiers([u32; Tier::ALL.len()]);

impl Tiers {
    pub(super) fn of(&self, tier: Tier) -> u32 {
        self.0[tier as usize]
    }

    pub(super) fn sum(&self) -> u32 {
        self.0.iter().sum()
    }

    pub(super) fn of_each(count: impl Fn(Tier) -> u32) -> Self {
        Self(Tier::ALL.map(count))
    }

    pub(super) fn add(&mut self, tier: Tier) {
        self.0[tier as usize] += 1;
    }

    pub(super) fn remove(&mut self, tier: Tier) {
        self.0[tier as usize] -= 1;
    }

    pub(super) fn add_all(&mut self, others: Self) {
        for (count, other) in self.0.iter_mut().zip(others.0) {
            *count += other;
        }
    }

    pub(super) fn remove_all(&mut self, others: Self) {
        for (count, other) in self.0.iter_mut().zip(others.0) {
            *count -= other;
        }
    }
}

impl Lane {
    /// Whether nodes have to be asked one by one if its job may go to them.
    pub(super) fn is_choosy(&self) -> bool {
        self.class.is_none()
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Lanes {
    slots: Vec<Option<Lane>>,
    free: Vec<LaneIx>,
    by_key: HashMap<(UserIx, KindIx, Class), LaneIx>,
}

impl Lanes {
    pub(super) fn get(&self, ix: LaneIx) -> Option<&Lane> {
        self.slots.get(ix.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, ix: LaneIx) -> Option<&mut Lane> {
        self.slots.get_mut(ix.0 as usize)?.as_mut()
    }

    /// At most so many from this place on, and the place to go on from, if any are left.
    pub(super) fn part(
        &self,
        from: LaneIx,
        most: usize,
    ) -> (impl Iterator<Item = &Lane>, Option<LaneIx>) {
        let from = from.0 as usize;
        let end = (from + most).min(self.slots.len());
        let slots = self.slots.get(from..end).unwrap_or_default();
        let next = (end < self.slots.len()).then_some(LaneIx(end as u32));
        (slots.iter().flatten(), next)
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (LaneIx, &Lane)> {
        let numbered = self.slots.iter().zip(0..);
        numbered.filter_map(|(slot, ix)| Some((LaneIx(ix), slot.as_ref()?)))
    }

    /// The lane of such jobs, and whether it is new. `class`: `None` for a choosy job.
    pub(super) fn of(
        &mut self,
        user: UserIx,
        kind: KindIx,
        class: Option<Class>,
    ) -> (LaneIx, bool) {
        if let Some(ix) = class.and_then(|class| self.by_key.get(&(user, kind, class))) {
            return (*ix, false);
        }
        let ix = self.free.pop().unwrap_or(LaneIx(self.slots.len() as u32));
        let lane = Lane {
            user,
            kind,
            class,
            jobs: VecDeque::new(),
            backlog_s: 0.0,
            tiers: Tiers::default(),
            entry: None,
        };
        match self.slots.get_mut(ix.0 as usize) {
            Some(slot) => *slot = Some(lane),
            None => self.slots.push(Some(lane)),
        }
        if let Some(class) = class {
            self.by_key.insert((user, kind, class), ix);
        }
        (ix, true)
    }

    pub(super) fn remove(&mut self, ix: LaneIx) {
        let Some(lane) = self.slots.get_mut(ix.0 as usize).and_then(Option::take) else {
            return;
        };
        if let Some(class) = lane.class {
            self.by_key.remove(&(lane.user, lane.kind, class));
        }
        self.free.push(ix);
    }
}
