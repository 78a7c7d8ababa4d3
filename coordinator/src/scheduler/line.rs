//! The line as those who wait in it see it.

use std::collections::HashMap;

use flowai_actors::ids::{JobId, ModelId, UserId};
use flowai_actors::limits::USER_RUNNING_MAX;

use super::event::WaitingJob;
use super::shares::{Claim, Turns};
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
    /// A node that offers both the model and the keyframe model registers.
    BothModels,
    /// The pause after a failure passes, or another node registers.
    Retry,
}

impl WaitsFor {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "waits for a free node",
            Self::OwnJobs => "waits for one of your running jobs to end",
            Self::Model => "waits for a node that offers the model",
            Self::BothModels => {
                "waits for a node that offers both the model and the keyframe model"
            }
            Self::Retry => "waits a moment before it is tried again",
        }
    }
}

/// Which models some node offers together: the clip's, and the keyframe's before it.
type Offered<'a> = HashMap<(&'a ModelId, Option<&'a ModelId>), bool>;

impl Scheduler {
    /// The first `most` places, in the order in which the jobs would start were each served as soon as its turn comes.
    pub fn line(&self, most: usize) -> Vec<Place> {
        let mut queues: HashMap<UserId, _> = self
            .waiting()
            .iter()
            .map(|(user, jobs)| (*user, jobs.iter().copied().peekable()))
            .collect();
        let heads = self.waiting().values().filter_map(|jobs| jobs.front());
        let mut turns = Turns::new(self.shares(), heads.filter_map(|job| self.claim_of(*job)));
        // Many jobs have few models.
        let mut offered = HashMap::new();
        let mut line = Vec::new();
        for position in (1..).take(most) {
            let mut served = None;
            let user = turns.turn(|user| {
                let queue = queues.get_mut(&user)?;
                served = queue.next();
                self.claim_of(*queue.peek()?)
            });
            let (Some(user), Some(job)) = (user, served) else {
                break;
            };
            line.push(Place {
                user,
                job,
                position,
                waits_for: self.waits_for(user, job, &mut offered),
            });
        }
        line
    }

    fn claim_of(&self, job: JobId) -> Option<Claim> {
        self.waiting_job(job).map(Claim::of)
    }

    fn waits_for<'a>(&'a self, user: UserId, job: JobId, offered: &mut Offered<'a>) -> WaitsFor {
        let is_offered = |waiting: &'a WaitingJob| {
            let models = (&waiting.model, waiting.keyframe_model.as_ref());
            *offered
                .entry(models)
                .or_insert_with(|| self.is_offered(waiting))
        };
        let waiting = self.waiting_job(job);
        if !waiting.is_some_and(is_offered) {
            match waiting.and_then(|waiting| waiting.keyframe_model.as_ref()) {
                None => WaitsFor::Model,
                Some(_) => WaitsFor::BothModels,
            }
        } else if self.running_of(user) >= USER_RUNNING_MAX {
            WaitsFor::OwnJobs
        } else if self.pauses(job) {
            WaitsFor::Retry
        } else {
            WaitsFor::Node
        }
    }
}
