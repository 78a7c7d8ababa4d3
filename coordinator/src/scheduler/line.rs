//! The line as those who wait in it see it.

use std::collections::BTreeMap;

use flowai_actors::ids::{JobId, UserId};
use flowai_actors::limits::USER_RUNNING_MAX;

use super::shares::Claim;
use super::state::Scheduler;

/// A waiting job's place. A forecast: arrivals and ends of other jobs change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub user: UserId,
    pub job: JobId,
    /// 1 starts next.
    pub position: u32,
    pub waits_for: WaitsFor,
}

/// What has to happen before a job can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    /// A node becomes free.
    Node,
    /// One of its owner's running jobs ends.
    OwnJobs,
    /// A node that offers the model registers.
    Model,
}

impl WaitsFor {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "waits for a free node",
            Self::OwnJobs => "waits for one of your running jobs to end",
            Self::Model => "waits for a node that offers the model",
        }
    }
}

impl Scheduler {
    /// The first `most` places, in the order in which the jobs would start were each served as soon as its turn comes.
    pub fn line(&self, most: usize) -> Vec<Place> {
        let mut shares = self.shares().clone();
        let mut queues: BTreeMap<UserId, _> = self
            .waiting()
            .iter()
            .map(|(user, jobs)| (*user, jobs.iter().peekable()))
            .collect();
        let mut claims: BTreeMap<UserId, Claim> = BTreeMap::new();
        let mut line = Vec::new();
        for position in (1..).take(most) {
            for (user, jobs) in &mut queues {
                let next = jobs.peek().and_then(|job| self.waiting_job(**job));
                match next {
                    Some(job) => claims.insert(*user, Claim::of(job)),
                    None => claims.remove(user),
                };
            }
            let Some(claim) = shares.first(claims.values()) else {
                break;
            };
            let Some(job) = queues.get_mut(&claim.user).and_then(Iterator::next) else {
                break;
            };
            shares.serve(&claim, |user| queues.contains_key(&user));
            line.push(Place {
                user: claim.user,
                job: *job,
                position,
                waits_for: self.waits_for(claim.user, *job),
            });
        }
        line
    }

    fn waits_for(&self, user: UserId, job: JobId) -> WaitsFor {
        let model = self.waiting_job(job).map(|job| &job.model);
        if !model.is_some_and(|model| self.is_offered(model)) {
            WaitsFor::Model
        } else if self.running_of(user) >= USER_RUNNING_MAX {
            WaitsFor::OwnJobs
        } else {
            WaitsFor::Node
        }
    }
}
