//! Fair queueing in virtual time: who of the waiting users is served next.
//!
//! A user who begins to wait gets a tag, the later of the farm's virtual time and the end of what it was served before; a
//! claim's finish tag is that plus `cost / weight`. The smallest finish tag is served first; then the farm's virtual time
//! moves to the served claim's start and the user's tag to its finish. A user who was away gathers no claim, one who waits
//! keeps its place while the others pay, and a heavier weight pays less for the same render. (Weighted and start-time fair
//! queueing: Demers, Keshav, Shenker 1989; Goyal, Vin, Cheng 1996.)

use std::collections::{BTreeMap, HashMap};

use flowai_actors::ids::{GpuSeconds, UserId};

use super::event::WaitingJob;

/// Virtual seconds.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
struct Virtual(f64);

#[derive(Debug, Clone, Default)]
pub(super) struct Shares {
    now: Virtual,
    /// Where each user stands: those who wait, and those who were served beyond the farm's virtual time.
    tags: BTreeMap<UserId, Virtual>,
}

/// What a candidate's next job would cost it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Claim {
    pub user: UserId,
    pub cost: GpuSeconds,
    pub weight: u32,
}

impl Claim {
    pub(super) fn of(job: &WaitingJob) -> Self {
        Self {
            user: job.owner,
            cost: job.cost,
            weight: job.tier.weight(),
        }
    }
}

impl Shares {
    /// The claim that is served next. Ties are broken by user id, so that equal events give equal effects.
    pub(super) fn first<'a>(&self, claims: impl IntoIterator<Item = &'a Claim>) -> Option<Claim> {
        let earlier = |a: &&Claim, b: &&Claim| {
            let tags = self.finish_tag(a).0.total_cmp(&self.finish_tag(b).0);
            tags.then_with(|| a.user.cmp(&b.user))
        };
        claims.into_iter().min_by(earlier).copied()
    }

    /// The user had nothing waiting and now has.
    pub(super) fn join(&mut self, user: UserId) {
        let start = self.start_tag(user);
        self.tags
            .insert(user, if start > self.now { start } else { self.now });
    }

    /// The claim was served. Users who wait keep their place although the farm's virtual time passes it.
    pub(super) fn serve(&mut self, claim: &Claim, is_waiting: impl Fn(UserId) -> bool) {
        let (start, finish) = (self.start_tag(claim.user), self.finish_tag(claim));
        if start > self.now {
            self.now = start;
        }
        self.tags.insert(claim.user, finish);
        let now = self.now;
        self.tags
            .retain(|user, tag| *tag > now || is_waiting(*user));
    }

    fn start_tag(&self, user: UserId) -> Virtual {
        self.tags.get(&user).copied().unwrap_or(self.now)
    }

    fn finish_tag(&self, claim: &Claim) -> Virtual {
        let cost = claim.cost.0.max(0.0) / f64::from(claim.weight.max(1));
        Virtual(self.start_tag(claim.user).0 + cost)
    }
}

/// Running jobs by user.
#[derive(Debug, Clone, Default)]
pub(super) struct Running(HashMap<UserId, u32>);

impl Running {
    pub(super) fn of(&self, user: UserId) -> u32 {
        self.0.get(&user).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, user: UserId) {
        *self.0.entry(user).or_insert(0) += 1;
    }

    pub(super) fn remove(&mut self, user: UserId) {
        if let Some(count) = self.0.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&user);
            }
        }
    }
}
