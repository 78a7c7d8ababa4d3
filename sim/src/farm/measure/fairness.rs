//! Who fell behind whom.

use std::collections::{BTreeSet, HashMap};

use flowai_actors::state::Tier;

use super::super::{Ms, UserIx};
use super::{Fairness, quantile};

/// Users who were backlogged for less say nothing about shares.
const BACKLOG_MIN_MS: Ms = 600_000;

#[derive(Debug, Default)]
pub(super) struct Ledger {
    users: HashMap<UserIx, Account>,
    /// By tier.
    backlogged: HashMap<Tier, BTreeSet<UserIx>>,
    pairs: HashMap<(UserIx, UserIx), Lag>,
    gaps_s: Vec<f64>,
    eligible: Eligible,
}

#[derive(Debug)]
struct Account {
    tier: Tier,
    waiting: u32,
    running: u32,
    service_s: f64,
    since: Ms,
    /// Of stretches that are over, and the service in them.
    backlog_ms: Ms,
    in_backlog_s: f64,
}

/// How far the first of two users was ahead of the second while both were backlogged: least and most.
#[derive(Debug, Clone, Copy)]
struct Lag {
    least: f64,
    most: f64,
}

impl Account {
    /// Whether it could be given a start.
    fn is_eligible(&self) -> bool {
        self.waiting > 0 && self.running < self.tier.running_max()
    }
}

/// Who could have been given a start while another was.
#[derive(Debug, Default)]
struct Eligible {
    /// By who is behind and who is ahead: the least lead so far, and the most that it grew from a least.
    leads: HashMap<UserIx, HashMap<UserIx, (f64, f64)>>,
    gaps_s: Vec<f64>,
}

impl Eligible {
    fn moves(&mut self, behind: UserIx, ahead: UserIx, lead: f64, by: f64) {
        let leads = self.leads.entry(behind).or_default();
        let (least, most) = leads.entry(ahead).or_insert((lead, 0.0));
        *least = least.min(lead + by);
        *most = most.max(lead + by - *least);
    }

    /// It waits no more.
    fn leaves(&mut self, user: UserIx) {
        self.is_full(user);
        let ended = self
            .leads
            .values_mut()
            .filter_map(|leads| leads.remove(&user));
        self.gaps_s.extend(ended.map(|(_, most)| most));
    }

    /// It runs as many as it may.
    fn is_full(&mut self, user: UserIx) {
        let ended = self.leads.remove(&user).unwrap_or_default();
        self.gaps_s
            .extend(ended.into_values().map(|(_, most)| most));
    }

    fn sorted(&self) -> Vec<f64> {
        let open = self.leads.values().flat_map(HashMap::values);
        let open = open.map(|(_, most)| *most);
        let mut gaps_s: Vec<f64> = self.gaps_s.iter().copied().chain(open).collect();
        gaps_s.sort_by(f64::total_cmp);
        gaps_s
    }
}

impl Ledger {
    pub(super) fn waits(&mut self, user: UserIx, tier: Tier, now: Ms) {
        let account = self.account(user, tier);
        account.waiting += 1;
        if account.waiting == 1 {
            account.since = now;
            self.backlogged.entry(tier).or_default().insert(user);
        }
    }

    /// One of its clips waits no more.
    pub(super) fn starts(&mut self, user: UserIx, now: Ms) {
        let Some(account) = self.users.get_mut(&user) else {
            return;
        };
        account.waiting -= 1;
        if account.waiting > 0 {
            return;
        }
        account.backlog_ms += now - account.since;
        self.eligible.leaves(user);
        let Some(backlogged) = self.backlogged.get_mut(&account.tier) else {
            return;
        };
        backlogged.remove(&user);
        let ended = backlogged
            .iter()
            .filter_map(|other| self.pairs.remove(&pair(user, *other)));
        self.gaps_s.extend(ended.map(|lag| lag.most - lag.least));
    }

    /// A clip of its began, after [`Ledger::starts`] of it.
    pub(super) fn runs(&mut self, user: UserIx) {
        if let Some(account) = self.users.get_mut(&user) {
            account.running += 1;
            if !account.is_eligible() {
                self.eligible.is_full(user);
            }
        }
    }

    pub(super) fn rests(&mut self, user: UserIx) {
        if let Some(account) = self.users.get_mut(&user) {
            account.running -= 1;
        }
    }

    /// Every start, before [`Ledger::starts`] of the same clip. Negative: what was charged and not run.
    pub(super) fn charge(&mut self, user: UserIx, tier: Tier, seconds: f64) {
        let before = self
            .users
            .get(&user)
            .map_or(0.0, |account| account.service_s);
        let backlogged = self.backlogged.entry(tier).or_default();
        if backlogged.contains(&user) {
            for other in backlogged.iter().filter(|other| **other != user) {
                let theirs = self
                    .users
                    .get(other)
                    .map_or(0.0, |account| account.service_s);
                let sign = if user < *other { 1.0 } else { -1.0 };
                let at = sign * (before - theirs);
                let lag = self.pairs.entry(pair(user, *other)).or_insert(Lag {
                    least: at,
                    most: at,
                });
                let now = at + sign * seconds;
                lag.least = lag.least.min(now);
                lag.most = lag.most.max(now);
            }
            let is_eligible = self.users.get(&user).is_some_and(Account::is_eligible);
            for other in backlogged.iter().filter(|other| **other != user) {
                let Some(theirs) = self.users.get(other) else {
                    continue;
                };
                let lead = before - theirs.service_s;
                if theirs.is_eligible() {
                    self.eligible.moves(*other, user, lead, seconds);
                }
                if is_eligible {
                    self.eligible.moves(user, *other, -lead, -seconds);
                }
            }
        }
        let account = self.account(user, tier);
        account.service_s += seconds;
        if account.waiting > 0 {
            account.in_backlog_s += seconds;
        }
    }

    fn account(&mut self, user: UserIx, tier: Tier) -> &mut Account {
        self.users.entry(user).or_insert(Account {
            tier,
            waiting: 0,
            running: 0,
            service_s: 0.0,
            since: 0,
            backlog_ms: 0,
            in_backlog_s: 0.0,
        })
    }

    pub(super) fn figures(&self, mean_job_s: f64, longest_job_s: f64) -> Fairness {
        let open = self.pairs.values().map(|lag| lag.most - lag.least);
        let mut gaps_s: Vec<f64> = self.gaps_s.iter().copied().chain(open).collect();
        gaps_s.sort_by(f64::total_cmp);
        let gap_s = quantile::of(&gaps_s, 1.0);
        let eligible_s = self.eligible.sorted();
        let eligible_gap_s = quantile::of(&eligible_s, 1.0);
        Fairness {
            gap_s,
            gap_jobs: gap_s / mean_job_s,
            gap_longest_jobs: gap_s / longest_job_s,
            gap_p99_s: quantile::of(&gaps_s, 0.99),
            pairs: gaps_s.len() as u32,
            eligible_gap_jobs: eligible_gap_s / mean_job_s,
            eligible_gap_longest_jobs: eligible_gap_s / longest_job_s,
            eligible_gap_p99_jobs: quantile::of(&eligible_s, 0.99) / mean_job_s,
            jain: self.jain(),
        }
    }

    fn jain(&self) -> Option<f64> {
        let backlogged = self
            .users
            .values()
            .filter(|account| account.backlog_ms >= BACKLOG_MIN_MS);
        let mut rates: Vec<f64> = backlogged
            .map(|account| {
                account.in_backlog_s / account.backlog_ms as f64 / f64::from(account.tier.weight())
            })
            .collect();
        // Sums of floats depend on their order.
        rates.sort_by(f64::total_cmp);
        let sum: f64 = rates.iter().sum();
        let squares: f64 = rates.iter().map(|rate| rate * rate).sum();
        (rates.len() > 1 && squares > 0.0).then(|| sum * sum / (rates.len() as f64 * squares))
    }
}

fn pair(a: UserIx, b: UserIx) -> (UserIx, UserIx) {
    (a.min(b), a.max(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: UserIx = UserIx(1);
    const B: UserIx = UserIx(2);
    const C: UserIx = UserIx(3);

    fn start(ledger: &mut Ledger, user: UserIx, seconds: f64) {
        ledger.charge(user, Tier::Free, seconds);
        ledger.starts(user, 0);
    }

    #[test]
    fn a_gap_is_counted_only_while_both_wait() {
        let mut ledger = Ledger::default();
        for user in [A, A, A, A, B, B] {
            ledger.waits(user, Tier::Free, 0);
        }
        ledger.waits(C, Tier::Pro, 0);
        start(&mut ledger, A, 10.0);
        start(&mut ledger, A, 10.0);
        start(&mut ledger, B, 5.0);
        start(&mut ledger, B, 5.0);
        // B waits no more: what A gets now is no gap.
        start(&mut ledger, A, 100.0);
        let figures = ledger.figures(10.0, 100.0);
        assert_eq!(
            (figures.gap_s, figures.gap_jobs, figures.pairs),
            (20.0, 2.0, 1)
        );
    }

    #[test]
    fn whoever_runs_as_many_as_it_may_does_not_fall_behind() {
        let mut ledger = Ledger::default();
        for user in [A, A, A, A, B, B] {
            ledger.waits(user, Tier::Free, 0);
        }
        start(&mut ledger, A, 10.0);
        start(&mut ledger, A, 10.0);
        start(&mut ledger, B, 5.0);
        ledger.runs(B);
        start(&mut ledger, A, 100.0);
        let figures = ledger.figures(10.0, 100.0);
        assert_eq!((figures.eligible_gap_jobs, figures.gap_s), (2.0, 115.0));
        ledger.rests(B);
        start(&mut ledger, A, 30.0);
        assert_eq!(ledger.figures(10.0, 100.0).eligible_gap_jobs, 3.0);
    }

    #[test]
    fn service_from_before_both_waited_is_no_gap() {
        let mut ledger = Ledger::default();
        for _ in 0..9 {
            ledger.waits(A, Tier::Free, 0);
        }
        (0..7).for_each(|_| start(&mut ledger, A, 10.0));
        ledger.waits(B, Tier::Free, 0);
        start(&mut ledger, A, 10.0);
        start(&mut ledger, B, 10.0);
        assert_eq!(ledger.figures(10.0, 100.0).gap_s, 10.0);
    }
}
