//! Users and the api between them and the database: they submit, cancel, and ask again under the same key when no answer came.

use std::collections::BTreeMap;
use std::rc::Rc;

use flowai_actors::ids::{JobId, Sha256, UserId};
#[cfg(feature = "planted-bugs")]
use flowai_actors::planted::{self, Bug};
use flowai_actors::spec::RenderSpec;
use flowai_actors::state::JobState;
use rand::Rng;

use super::checks::{Check, Checks};
use super::coordinator::Heard as CoordinatorHeard;
use super::plan::{Nature, Plan, Wish};
use super::store::{Cancelled, NewJob, Store, Submitted};
use super::world::{Occurrence, World};

/// A user who hears nothing asks again after this.
const PATIENCE_MS: u64 = 3_000;

/// A request at the database.
#[derive(Debug, Clone)]
pub(super) enum ApiCall {
    Submit { wish: usize },
    Cancel { wish: usize, job: JobId },
}

/// What users know.
#[derive(Debug, Default)]
pub(super) struct Users {
    /// Which job each wish was told to be.
    told: BTreeMap<usize, JobId>,
    asked: BTreeMap<JobId, u64>,
    natures: BTreeMap<JobId, (Nature, u64)>,
    ends: BTreeMap<JobId, JobState>,
    wishes: usize,
}

impl Users {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            wishes: plan.wishes.len(),
            ..Self::default()
        }
    }

    /// Whether each was answered.
    pub(super) fn have_all(&self) -> bool {
        self.told.len() == self.wishes
    }

    pub(super) fn expect_another(&mut self) {
        self.wishes += 1;
    }

    pub(super) fn asked_ms(&self, job: JobId) -> Option<u64> {
        self.asked.get(&job).copied()
    }

    /// What comes of a job, and how long its steps take.
    pub(super) fn nature(&self, job: JobId) -> (Nature, u64) {
        self.natures
            .get(&job)
            .copied()
            .unwrap_or((Nature::Good, 1_000))
    }

    pub(super) fn moved(&mut self, job: JobId, to: JobState) {
        if to.is_end() {
            self.ends.insert(job, to);
        }
    }

    /// In an overload: whether the one who pays nothing was served.
    pub(super) fn poorest_has_begun(&self, store: &Store) -> bool {
        let poorest = UserId::from_uuid(uuid::Uuid::nil());
        let mut own = store.rows().filter(|(_, row)| row.owner == poorest);
        own.any(|(_, row)| row.attempt > 0)
    }

    pub(super) fn look_at_end(&self, store: &Store, checks: &mut Checks) {
        for job in self.told.values() {
            checks.require(Check::AckedExists, store.row(*job).is_some(), || {
                format!("{job} was acknowledged and has no row")
            });
        }
        for (job, end) in &self.ends {
            let now = store.row(*job).map(|row| row.state);
            checks.require(Check::DeliveredOnce, now == Some(*end), || {
                format!("{job} had ended as {end:?} and is {now:?}")
            });
        }
    }

    /// Whether each job became a clip.
    pub(super) fn look_for_clips(&self, checks: &mut Checks) {
        let mut ends = self.ends.iter();
        let without = ends.find(|(_, end)| **end != JobState::Done);
        checks.require(Check::GoodInputBecomesClips, without.is_none(), || {
            format!("a bad node cost a good job its clip: {without:?}")
        });
    }
}

impl World {
    pub(super) fn wish(&mut self, wish: usize) {
        if self.users.told.contains_key(&wish) {
            return;
        }
        let delay = self.delay();
        self.after(delay, Occurrence::Api(ApiCall::Submit { wish }));
        self.after(PATIENCE_MS, Occurrence::Wish(wish));
    }

    pub(super) fn api(&mut self, call: ApiCall) {
        match call {
            ApiCall::Submit { wish } => self.submit(wish),
            ApiCall::Cancel { wish, job } => self.cancel(wish, job),
        }
    }

    /// Whether the database takes a statement of the api.
    fn api_is_served(&mut self) -> bool {
        let is_refused = self.chance(self.plan.statement_refused);
        self.cuts.store_refuses == 0 && !is_refused
    }

    fn submit(&mut self, number: usize) {
        let wish = self.plan.wishes[number].clone();
        #[cfg(feature = "planted-bugs")]
        if planted::is(Bug::AckBeforeCommit) {
            self.acknowledge(number, &wish, wish.job);
        }
        if !self.api_is_served() {
            return;
        }
        let new = NewJob {
            job: wish.job,
            owner: wish.owner,
            tier: wish.tier,
            class: wish.class,
            after: wish
                .after
                .and_then(|after| self.users.told.get(&after).copied()),
            spec: Rc::new(RenderSpec {
                steps: wish.steps,
                ..RenderSpec::small(self.model.0.clone(), Sha256::from_bytes([1; 32]))
            }),
            key: number as u64,
        };
        let job = match self.store.submit(self.now, &new) {
            Submitted::Queued => {
                self.users
                    .natures
                    .insert(wish.job, (wish.nature, wish.step_ms));
                self.users.asked.insert(wish.job, self.now);
                self.ring(wish.job);
                wish.job
            }
            Submitted::Replayed(job) => job,
            // Full is an answer: its user comes back later.
            Submitted::TooMany => return,
        };
        // Written, and nobody heard of it: the user asks again under the same key.
        if !self.chance(self.plan.commit_unknown) {
            self.acknowledge(number, &wish, job);
        }
    }

    fn acknowledge(&mut self, number: usize, wish: &Wish, job: JobId) {
        let before = self.users.told.insert(number, job);
        self.checks.require(
            Check::AckedExists,
            before.is_none_or(|before| before == job),
            || format!("one request was answered with {before:?} and with {job}"),
        );
        let (store, checks) = (&self.store, &mut self.checks);
        checks.require(Check::AckedExists, store.row(job).is_some(), || {
            format!("{job} is acknowledged and has no row")
        });
        if let Some(after_ms) = wish.cancel_after_ms.filter(|_| before.is_none()) {
            let cancel = ApiCall::Cancel { wish: number, job };
            self.after(after_ms, Occurrence::Api(cancel));
        }
    }

    fn cancel(&mut self, number: usize, job: JobId) {
        let owner = self.plan.wishes[number].owner;
        if !self.api_is_served() {
            let again = ApiCall::Cancel { wish: number, job };
            return self.after(PATIENCE_MS, Occurrence::Api(again));
        }
        match self.store.cancel(owner, job) {
            Cancelled::Requested | Cancelled::AlreadyAsked => self.ring(job),
            Cancelled::Now | Cancelled::AlreadyEnded | Cancelled::NotFound => {}
        }
    }

    /// The doorbell at whoever leads: a hint that may get lost.
    fn ring(&mut self, job: JobId) {
        if self.chance(self.plan.doorbell_lost) {
            return;
        }
        let delay = self.rng.random_range(1..=self.plan.delay_ms_max);
        let leading: Vec<(usize, u32)> = self.leading().collect();
        for (index, process) in leading {
            let heard = CoordinatorHeard::Rang(job);
            self.after(
                delay,
                Occurrence::Coordinator {
                    index,
                    process,
                    heard,
                },
            );
        }
    }
}
