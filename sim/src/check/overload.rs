//! A world with far too much work, in which nothing fails: a start bound has to fire.

use flowai_actors::ids::JobId;
use flowai_actors::limits::FORCED_START_EVERY;
use flowai_actors::state::{Class, Tier};
use uuid::Uuid;

use super::checks::Check;
use super::plan::{Kind, Nature, Plan, Wish, user};
use super::world::{Occurrence, World};

/// Users of a tier with weight who always wait.
const USERS: usize = 40;

/// Of the one who pays nothing.
const BOUND_MS: u64 = match Tier::Free.start_bound_ms(Class::Interactive) {
    Some(bound_ms) => bound_ms,
    None => panic!("a job that somebody waits for has a bound"),
};

/// One who pays nothing among many who pay much and never stop asking.
pub(super) fn plan() -> Plan {
    let wish = |at_ms, owner: usize, tier| Wish {
        at_ms,
        job: JobId::from_uuid(Uuid::nil()),
        owner: user(owner),
        tier,
        class: Class::Interactive,
        after: None,
        nature: Nature::Good,
        steps: 1,
        step_ms: 9_000,
        cancel_after_ms: None,
    };
    let mut wishes: Vec<Wish> = (1..=USERS)
        .flat_map(|owner| [owner, owner])
        .map(|owner| wish(1_000, owner, Tier::Studio))
        .collect();
    wishes.push(wish(60_000, 0, Tier::Free));
    Plan::calm(Kind::Overload, 1, wishes, 2 * BOUND_MS)
}

impl World {
    /// In an overload whoever starts a job wants the next one.
    pub(super) fn ask_again(&mut self, job: JobId) {
        let Some(row) = self.store.row(job) else {
            return;
        };
        let (owner, tier) = (row.owner, row.tier);
        let wish = self.plan.wishes.iter().find(|wish| wish.owner == owner);
        let Some(wish) = wish.cloned() else {
            return;
        };
        let count = self.plan.wishes.len();
        let next = Wish {
            at_ms: self.now + 500,
            tier,
            ..wish
        };
        self.plan.wishes.push(next.numbered(count as u64));
        self.users.expect_another();
        self.at(self.now + 500, Occurrence::Wish(count));
    }

    /// Whoever has waited longest must begin once the bound has passed, a turn of the others later.
    pub(super) fn look_at_waits(&mut self) {
        if self.plan.kind != Kind::Overload {
            return;
        }
        let wish = &self.plan.wishes[0];
        let service_ms = u64::from(wish.steps) * wish.step_ms + 4_000;
        let turns_ms = 3 * u64::from(FORCED_START_EVERY) * service_ms;
        for job in self.store.unfinished() {
            let Some(asked_ms) = self.users.asked_ms(job) else {
                continue;
            };
            let Some(row) = self.store.row(job) else {
                continue;
            };
            let Some(bound_ms) = row.tier.start_bound_ms(row.class) else {
                continue;
            };
            // Those who pay have short bounds and are late all the time here, one behind the other: oldest first, one of ten starts.
            let waits = row.attempt == 0 && row.tier == Tier::Free;
            let patience_ms = bound_ms + turns_ms;
            let waited_ms = self.now.saturating_sub(asked_ms);
            self.checks.require(
                Check::StartBound,
                !waits || waited_ms <= patience_ms,
                || format!("{job} has waited {} s and has not begun", waited_ms / 1_000),
            );
        }
    }
}
