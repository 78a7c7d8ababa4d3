//! Fair queueing in virtual time: who of the waiting users is served next.
//!
//! A user who begins to wait gets a tag, the later of the farm's virtual time and the end of what it was served before; a
//! claim's finish tag is that plus `cost / weight`, and the smallest is served first. Virtual time moves while jobs run, by
//! what is charged for them over the weights of all who wait or run: as far as each would come were the farm shared out drop
//! by drop (weighted fair queueing: Demers, Keshav, Shenker 1989; generalized processor sharing: Parekh, Gallager 1993).
//!
//! - A newcomer begins at the present virtual time, so that a stream of newcomers, whatever they pay, is passed by whoever
//!   waits (docs/adr/0007).
//! - A user whose jobs cannot run, or who has as many running as its tier allows, does not stand: its tag is lifted to
//!   virtual time when it stands again, so that nobody gathers claims.
//! - The charge is what the render is predicted to take on its node. It is corrected when the render ends, and what was not
//!   run is given back; loads are the farm's cost.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::UserId;
use flowai_actors::state::Tier;

use super::jobs::JobIx;
use super::lanes::LaneIx;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct UserIx(u32);

/// Virtual seconds: GPU-seconds over weight.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Virtual(pub(super) f64);

impl Ord for Virtual {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Virtual {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Virtual {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Virtual {}

#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) id: UserId,
    pub(super) tag: Virtual,
    /// Of the job that it stands with or runs.
    weight: u32,
    pub(super) running: u32,
    /// Jobs that are neither running nor ended.
    pub(super) waiting: u32,
    pub(super) lanes: Vec<LaneIx>,
    /// Of them, those that may be served now.
    standing: u32,
    /// The number of its last start, of all; zero before the first.
    pub(super) served: u64,
    /// The running job that the start bound began: one at a time.
    pub(super) forced: Option<JobIx>,
    /// What its lanes are filed by.
    pub(super) filed: Filed,
}

/// Of a user, what decides in which sets its lanes are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Filed {
    /// Whether its lanes are capped, by the tier of their first jobs.
    pub(super) is_capped: [bool; Tier::ALL.len()],
    pub(super) has_forced: bool,
}

impl User {
    fn is_idle(&self) -> bool {
        self.running == 0 && self.waiting == 0
    }

    /// Its part of the farm's weights.
    #[cfg(test)]
    pub(super) fn counted_weight(&self) -> u64 {
        if self.counts() {
            u64::from(self.weight)
        } else {
            0
        }
    }

    /// Whether a part of the farm is its.
    fn counts(&self) -> bool {
        self.running > 0 || self.standing > 0
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Shares {
    now: Virtual,
    at: Monotonic,
    users: Vec<Option<User>>,
    free: Vec<UserIx>,
    by_id: HashMap<UserId, UserIx>,
    /// Sum of the weights of all who stand or run.
    weights: u64,
    /// Jobs that run, by when the time is over that was charged for them: what is charged is what moves virtual time, so that a
    /// wrong prediction changes no order.
    working: BTreeSet<(Monotonic, JobIx)>,
    until: HashMap<JobIx, Monotonic>,
    starts: u64,
    /// Users who left with a tag beyond virtual time, which they would begin at when they come back.
    left: BinaryHeap<Reverse<(Virtual, UserIx)>>,
}

impl Shares {
    pub(super) fn now(&self) -> Virtual {
        self.now
    }

    /// Sum of the weights of all who stand or run.
    pub(super) fn weights(&self) -> u64 {
        self.weights
    }

    pub(super) fn find(&self, id: UserId) -> Option<UserIx> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn get(&self, ix: UserIx) -> Option<&User> {
        self.users.get(ix.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, ix: UserIx) -> Option<&mut User> {
        self.users.get_mut(ix.0 as usize)?.as_mut()
    }

    pub(super) fn user(&mut self, id: UserId) -> UserIx {
        if let Some(ix) = self.find(id) {
            return ix;
        }
        let ix = self.free.pop().unwrap_or(UserIx(self.users.len() as u32));
        let user = User {
            id,
            tag: self.now,
            weight: 0,
            running: 0,
            waiting: 0,
            lanes: Vec::new(),
            standing: 0,
            served: 0,
            forced: None,
            filed: Filed::default(),
        };
        self.by_id.insert(id, ix);
        match self.users.get_mut(ix.0 as usize) {
            Some(slot) => *slot = Some(user),
            None => self.users.push(Some(user)),
        }
        ix
    }

    /// Time passes.
    pub(super) fn advance(&mut self, at: Monotonic) {
        while let Some((until, job)) = self.working.first().copied()
            && until <= at
        {
            self.advance_evenly(until);
            self.working.remove(&(until, job));
            self.until.remove(&job);
        }
        self.advance_evenly(at);
        self.forget_the_past();
    }

    /// As long as the same jobs work.
    fn advance_evenly(&mut self, at: Monotonic) {
        let passed_s = at.since(self.at).as_secs_f64();
        self.at = self.at.max(at);
        if self.weights > 0 {
            self.now.0 += passed_s * self.working.len() as f64 / self.weights as f64;
        }
    }

    /// One more lane of the user may be served, with a job of this weight.
    pub(super) fn stand(&mut self, ix: UserIx, weight: u32) {
        let now = self.now;
        self.count(ix, weight, |user| user.standing += 1);
        if let Some(user) = self.get_mut(ix).filter(|user| user.standing == 1) {
            user.tag = user.tag.max(now);
        }
    }

    /// One lane less.
    pub(super) fn sit(&mut self, ix: UserIx) {
        self.count(ix, 0, |user| user.standing -= 1);
    }

    /// A waiting job of this weight runs, for so many GPU-seconds.
    pub(super) fn run(&mut self, ix: UserIx, weight: u32, job: JobIx, charged: f64) {
        let until = self.at.plus_ms((1_000.0 * charged) as u64);
        self.working.insert((until, job));
        self.until.insert(job, until);
        self.count(ix, weight, |user| {
            user.waiting -= 1;
            user.running += 1;
        });
    }

    /// A running job does not run any more.
    pub(super) fn rest(&mut self, ix: UserIx, job: JobIx) {
        if let Some(until) = self.until.remove(&job) {
            self.working.remove(&(until, job));
        }
        self.count(ix, 0, |user| {
            user.waiting += 1;
            user.running -= 1;
        });
    }

    /// `weight`: with which the user counts if it did not before.
    fn count(&mut self, ix: UserIx, weight: u32, change: impl FnOnce(&mut User)) {
        let Some(user) = self.get_mut(ix) else { return };
        let before = user.counts();
        change(user);
        let after = user.counts();
        match (before, after) {
            (false, true) => {
                user.weight = weight;
                self.weights += u64::from(weight);
            }
            (true, false) => {
                let weight = u64::from(user.weight);
                self.weights -= weight;
            }
            (true, true) | (false, false) => {}
        }
    }

    /// A job of `cost` GPU-seconds and `weight` starts.
    pub(super) fn charge(&mut self, ix: UserIx, cost: f64, weight: u32) {
        self.starts += 1;
        let starts = self.starts;
        if let Some(user) = self.get_mut(ix) {
            user.served = starts;
        }
        self.correct(ix, cost, weight);
    }

    /// So much more is charged, or less.
    pub(super) fn correct(&mut self, ix: UserIx, cost: f64, weight: u32) {
        if let Some(user) = self.get_mut(ix) {
            user.tag.0 += cost / f64::from(weight);
        }
    }

    /// A running job took so many GPU-seconds more than was charged, or less. What it took beyond has not moved virtual time yet,
    /// which would fall behind all who are served: newcomers begin there.
    pub(super) fn took(&mut self, ix: UserIx, more: f64, weight: u32) {
        self.correct(ix, more, weight);
        if more > 0.0 && self.weights > 0 {
            self.now.0 += more / self.weights as f64;
        }
    }

    /// To be called when a user may have nothing left.
    pub(super) fn leave(&mut self, ix: UserIx) {
        let now = self.now;
        let Some(user) = self.get(ix).filter(|user| user.is_idle()) else {
            return;
        };
        if user.tag > now {
            self.left.push(Reverse((user.tag, ix)));
        } else {
            self.remove(ix);
        }
    }

    fn forget_the_past(&mut self) {
        while let Some(Reverse((tag, ix))) = self.left.peek().copied()
            && tag <= self.now
        {
            self.left.pop();
            let now = self.now;
            let is_over = self
                .get(ix)
                .is_some_and(|user| user.is_idle() && user.tag <= now);
            if is_over {
                self.remove(ix);
            }
        }
    }

    fn remove(&mut self, ix: UserIx) {
        if let Some(user) = self.users.get_mut(ix.0 as usize).and_then(Option::take) {
            self.by_id.remove(&user.id);
            self.free.push(ix);
        }
    }
}
