//! Fair queueing in virtual time: who of the waiting users is served next.
//!
//! A user who begins to wait gets a tag, the later of the farm's virtual time and the end of what it was served before; a
//! claim's finish tag is that plus `cost / weight`, and the smallest is served first. Each start moves virtual time by its
//! cost over the weights of all who stood for it: as far as it would come were the farm shared out to them drop by drop.
//! (Weighted fair queueing: Demers, Keshav, Shenker 1989; Parekh, Gallager 1993.)
//!
//! - A newcomer begins at the present virtual time, so that a stream of newcomers, whatever they pay, carries it past the
//!   finish tag of whoever waits: with `n` users of weight `w` always waiting beside it, a job of weight 1 starts within
//!   about `w n` starts of its own cost. Virtual time that jumped to the served finish tag instead would put a paying
//!   newcomer behind all free users who came before it.
//! - A claim that virtual time has passed is due. Due claims start in the order of waiting and carry nothing over, so that
//!   neither a user who was away nor one whose jobs could not run gathers claims.
//! - In overload shares alone starve for long, since a light claim is one of many: of every [`FORCED_START_EVERY`] starts
//!   one goes to the user who has waited longest, once that is longer than [`START_BOUND_MS`]. Whoever stands behind `k`
//!   users who wait longer therefore starts within `FORCED_START_EVERY * (k + 1)` starts from then on.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{GpuSeconds, UserId};
use flowai_actors::limits::{FORCED_START_EVERY, START_BOUND_MS};
#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};

use super::event::WaitingJob;

/// Virtual seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Virtual(f64);

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

/// Since when a user waits: began to, or was served last. It runs on while none of the user's jobs may start, because
/// `USER_RUNNING_MAX` of them run or no node offers their model: then the next start comes early, and the one after it waits
/// like all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Since {
    at: Monotonic,
    /// Orders what happened at one moment.
    turn: u64,
}

#[derive(Debug, Clone, Copy)]
struct Standing {
    tag: Virtual,
    since: Since,
    /// The turn of the last start; zero when there was none that still counts.
    served: u64,
}

/// In which order claims are served. A due one's is the farm's virtual time, then since when its user waits; among equal
/// finish tags beyond it the least recently served comes first.
type Order = (Virtual, u64, Since);

#[derive(Debug, Clone, Default)]
pub(super) struct Shares {
    now: Virtual,
    /// Where each user stands: those who wait, and those who were served beyond the farm's virtual time.
    standings: BTreeMap<UserId, Standing>,
    turns: u64,
    starts_since_forced: u32,
}

/// What a candidate's next job would cost it.
#[derive(Debug, Clone, Copy)]
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

    /// Virtual seconds that the job takes when this many weights share the farm.
    fn length(&self, weights: u64) -> f64 {
        self.cost.0.max(0.0) / weights.max(1) as f64
    }
}

impl Shares {
    /// Chooses whose turn it is among the claims that stand beside each other, and charges it. Users who wait keep their standing
    /// although the farm's virtual time passes it.
    pub(super) fn serve_next(
        &mut self,
        claims: &[Claim],
        now: Monotonic,
        is_waiting: impl Fn(UserId) -> bool,
    ) -> Option<Claim> {
        let overdue = self.overdue(claims, now);
        let claim = self.next(claims, now)?;
        self.starts_since_forced = if overdue.is_some() {
            0
        } else {
            self.starts_since_forced.saturating_add(1)
        };
        self.charge(&claim, weights(claims), now);
        let passed = self.now;
        self.standings
            .retain(|user, standing| standing.tag > passed || is_waiting(*user));
        Some(claim)
    }

    /// Whom [`Shares::serve_next`] would choose, without charging anybody.
    pub(super) fn next(&self, claims: &[Claim], now: Monotonic) -> Option<Claim> {
        self.overdue(claims, now).or_else(|| self.first(claims))
    }

    fn first(&self, claims: &[Claim]) -> Option<Claim> {
        claims.iter().min_by_key(|claim| self.order(claim)).copied()
    }

    fn order(&self, claim: &Claim) -> Order {
        let (finish, standing) = (self.finish_tag(claim), self.standing(claim.user));
        let served = if finish > self.now {
            standing.served
        } else {
            0
        };
        (finish, served, standing.since)
    }

    fn overdue(&self, claims: &[Claim], now: Monotonic) -> Option<Claim> {
        #[cfg(feature = "planted-bugs")]
        if planted::is(Bug::AgingNeverFires) {
            return None;
        }
        if self.starts_since_forced < FORCED_START_EVERY - 1 {
            return None;
        }
        let longest = claims
            .iter()
            .min_by_key(|claim| self.standing(claim.user).since)?;
        self.is_overdue(longest.user, now).then_some(*longest)
    }

    fn is_overdue(&self, user: UserId, now: Monotonic) -> bool {
        self.standing(user).since.at.plus_ms(START_BOUND_MS) <= now
    }

    /// The user had nothing waiting and now has.
    pub(super) fn join(&mut self, user: UserId, now: Monotonic) {
        let before = self.standing(user);
        let standing = Standing {
            tag: before.tag.max(self.now),
            since: self.turn(now),
            ..before
        };
        self.standings.insert(user, standing);
    }

    fn charge(&mut self, claim: &Claim, weights: u64, now: Monotonic) {
        let since = self.turn(now);
        let standing = Standing {
            tag: self.finish_tag(claim),
            since,
            served: since.turn,
        };
        self.standings.insert(claim.user, standing);
        self.now = Virtual(self.now.0 + claim.length(weights));
    }

    fn turn(&mut self, now: Monotonic) -> Since {
        self.turns += 1;
        Since {
            at: now,
            turn: self.turns,
        }
    }

    fn standing(&self, user: UserId) -> Standing {
        let standing = self.standings.get(&user);
        standing.copied().unwrap_or(Standing {
            tag: self.now,
            since: Since::default(),
            served: 0,
        })
    }

    /// Never before the farm's virtual time: a claim that is due gathers nothing.
    fn finish_tag(&self, claim: &Claim) -> Virtual {
        let finish = self.standing(claim.user).tag.0 + claim.length(u64::from(claim.weight));
        Virtual(finish).max(self.now)
    }
}

fn weights(claims: &[Claim]) -> u64 {
    claims.iter().map(|claim| u64::from(claim.weight)).sum()
}

/// Turns to come by the shares alone, were every claim served as soon as its turn comes. Whoever had a turn stands again with
/// its next claim; each turn costs the logarithm of the users.
#[derive(Debug)]
pub(super) struct Turns {
    shares: Shares,
    now: Monotonic,
    claims: HashMap<UserId, Claim>,
    weights: u64,
    /// Those that virtual time has passed move to `due`, since their order changes then.
    coming: BinaryHeap<Reverse<(Order, UserId)>>,
    due: BinaryHeap<Reverse<(Since, UserId)>>,
}

impl Turns {
    pub(super) fn new(shares: &Shares, claims: impl IntoIterator<Item = Claim>) -> Self {
        let mut turns = Self {
            shares: shares.clone(),
            now: Monotonic::default(),
            claims: HashMap::new(),
            weights: 0,
            coming: BinaryHeap::new(),
            due: BinaryHeap::new(),
        };
        claims.into_iter().for_each(|claim| turns.stand(claim));
        turns
    }

    fn stand(&mut self, claim: Claim) {
        let order = self.shares.order(&claim);
        self.coming.push(Reverse((order, claim.user)));
        self.weights += u64::from(claim.weight);
        self.claims.insert(claim.user, claim);
    }

    /// Whose turn it is; `next` is what that user claims afterwards.
    pub(super) fn turn(&mut self, next: impl FnOnce(UserId) -> Option<Claim>) -> Option<UserId> {
        while let Some(Reverse(((finish, _, since), user))) = self.coming.peek().copied()
            && finish <= self.shares.now
        {
            self.coming.pop();
            self.due.push(Reverse((since, user)));
        }
        let due = self.due.pop().map(|Reverse((_, user))| user);
        let user = due.or_else(|| self.coming.pop().map(|Reverse((_, user))| user))?;
        let claim = self.claims.remove(&user)?;
        self.shares.charge(&claim, self.weights, self.now);
        self.weights -= u64::from(claim.weight);
        if let Some(claim) = next(user) {
            self.stand(claim);
        }
        Some(user)
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
